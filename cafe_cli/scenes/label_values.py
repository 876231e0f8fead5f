"""Which class a label value stands for: by the values and names of the classes, or by a table."""

import functools
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from cafe_cli.classes import NODATA, ClassTable
from cafe_cli.config.schema import LabelSettings
from cafe_cli.errors import ConfigError, InputError, LabelError
from cafe_cli.system.tables import read_csv
from cafe_cli.text import did_you_mean
from cafe_cli.vector.features import AttributeValue

Key: TypeAlias = int | str
"""A label value; texts that are whole numbers are ints."""

ValueToClass: TypeAlias = dict[Key, int]
"""Class id by label value or range of values, 255 if it is ignored."""

IGNORE = "ignore"
NONE = "(none)"
"""Name of features without a value, in messages and in settings."""
OTHERS = "*"
"""In settings, every value that nothing else names."""

_NUMBER = r"-?\d+(?:\.\d+)?"
_RANGE = re.compile(rf"({_NUMBER})\.\.({_NUMBER})")
_FROM_TABLE = " (labels.table)"
_IGNORED = "labels.ignore"


@dataclass(frozen=True)
class _Span:
    """Numbers from `low` to `high`, both included, and what they belong to: `owner` in messages."""

    low: float
    high: float
    text: str
    class_id: int
    owner: str


@dataclass(frozen=True)
class ClassOfValue:
    """The class of each label value.

    Attributes
    ----------
    exact : mapping
        Class id by value; 255 if the value is ignored.
    ranges : tuple
        Ranges of numbers with their class ids.
    explicit : frozenset
        Values that the user gave to a class, by `values` or a table.
    names : mapping
        Class id by name in lower case, without names that several classes have then.
    ignores_by_default : bool
        Whether 255 is ignored because nothing says otherwise.
    """

    exact: Mapping[Key, int]
    ranges: tuple[_Span, ...]
    explicit: frozenset[Key]
    names: Mapping[str, int]
    ignores_by_default: bool

    def find(self, value: Key) -> int | None:
        """Return the class id of a value, 255 if it is ignored, None if it is unknown."""
        known = self.exact.get(value)
        if known is None and isinstance(value, str):
            known = self.names.get(value.casefold())
        if known is None and self.ranges:
            known = self._find_range(value)
        return self.exact.get(OTHERS) if known is None else known

    def is_explicit(self, value: Key) -> bool:
        """Whether the user gave the value to a class, alone or in a range."""
        return value in self.explicit or self._find_range(value) not in (None, NODATA)

    def _find_range(self, value: Key) -> int | None:
        if isinstance(value, str) and not re.fullmatch(_NUMBER, value):
            return None
        number = float(value)
        found = (span.class_id for span in self.ranges if span.low <= number <= span.high)
        return next(found, None)


def label_key(value: AttributeValue) -> Key:
    """Return a label value as a key of `ValueToClass`: 5 for "5", 5 and 5.0."""
    text = NONE if value is None else str(value).strip() or NONE
    return int(text.split(".")[0]) if re.fullmatch(r"-?(0|[1-9][0-9]*)(\.0)?", text) else text


def value_to_class(classes: ClassTable, settings: LabelSettings) -> ClassOfValue:
    """Return the class of each label value: by the table, or by the values and names of classes.

    Raises
    ------
    ConfigError
        A value belongs to two classes, or to a class and to ``labels.ignore``.
    InputError
        See `read_table`.
    """
    table = settings.table and (settings.table, _changed(settings.table))
    return _build(classes, settings.ignore, table or None)


def read_table(path: str, classes: ClassTable) -> ValueToClass:
    """Read the class of each label value from a CSV file with the columns ``value`` and ``class``.

    A class is a name or an id; empty or ``ignore`` is none (255). Other columns are ignored;
    columns may be separated by commas, semicolons or tabs.

    Raises
    ------
    InputError
        The file is missing or is not CSV.
    LabelError
        The table lacks a column or rows, names an unknown class, or a value twice.
    """
    return dict(_parse_table(path, _changed(path), classes))


def find_class(name: str, classes: ClassTable) -> int | None:
    """Return the id of a class by its name; the case is ignored where that is unambiguous."""
    if name in classes.names:
        return classes.names.index(name)
    return _folded(classes).get(name.casefold())


def unlabelled_class(classes: ClassTable, settings: LabelSettings) -> int:
    """Return the class id of ground without a label, 255 unless ``labels.unlabelled`` is a class.

    Raises
    ------
    ConfigError
        It names no class.
    """
    if settings.unlabelled == IGNORE:
        return NODATA
    if (found := find_class(settings.unlabelled, classes)) is None:
        raise ConfigError(
            f"labels.unlabelled is {settings.unlabelled!r}, which is neither {IGNORE!r} nor a "
            f"class; {list_classes(classes)}"
        )
    return found


def ignore_more(
    settings: LabelSettings, classes: ClassTable | None, values: Sequence[Key]
) -> LabelSettings:
    """Return settings that ignore more values, besides those that they ignore by default."""
    if not values:
        return settings
    ignored = settings.ignore
    if ignored is None:
        default = classes is None or value_to_class(classes, settings).ignores_by_default
        ignored = (NODATA,) if default else ()
    return settings.model_copy(update={"ignore": (*ignored, *values)})


def list_classes(classes: ClassTable) -> str:
    """List the classes for a message."""
    return f"the classes are {', '.join(classes.names)}"


def suggest_name(values: Iterable[Key], classes: ClassTable) -> str:
    """Return a hint such as ``; for tres, did you mean 'tree'?``, empty without a similar name."""
    known = [*classes.names, *(v for c in classes for v in c.values if isinstance(v, str))]
    for value in values:
        if isinstance(value, str) and (near := did_you_mean(value, known)):
            return f"; for {value}, {near}"
    return ""


@functools.lru_cache(maxsize=8)
def _build(
    classes: ClassTable,
    ignore: tuple[Key, ...] | None,
    table: tuple[str, int] | None,
) -> ClassOfValue:
    """Build the lookup; `table` is a path and its modification time."""
    rows = list(_explicit_rows(classes, table))
    ignored = [(label_key(v), NODATA, _IGNORED) for v in ignore or ()]
    spans = [s for s in map(_span, [*rows, *ignored]) if s]
    _check_spans(spans)
    taken = [s for s in spans if s.class_id != NODATA]
    exact: ValueToClass = {} if table else _implicit(classes, taken)
    exact |= _texts(rows) | {key: class_id for key, class_id, _ in rows if isinstance(key, int)}
    _texts([*rows, *ignored])
    exact |= {key: NODATA for key, _, _ in ignored}
    ranges = tuple(span for span in spans if ".." in span.text)
    explicit = frozenset(key for key, class_id, _ in rows if class_id != NODATA)
    names = {} if table else _folded(classes)
    found = ClassOfValue(exact, ranges, explicit, names, False)
    if ignore is not None or NODATA in exact or found._find_range(NODATA) is not None:
        return found
    return ClassOfValue(exact | {NODATA: NODATA}, ranges, explicit, names, True)


def _implicit(classes: ClassTable, taken: list[_Span]) -> ValueToClass:
    """Return names, and the ids of classes without values that no other class has as a value."""
    known: ValueToClass = {c.name: c.id for c in classes}
    for land in classes:
        if not land.values and not any(s.low <= land.id <= s.high for s in taken):
            known[land.id] = land.id
    return known


_Row: TypeAlias = tuple[Key, int, str]
"""A value or range as a key, its class id, and its owner in messages."""


def _explicit_rows(classes: ClassTable, table: tuple[str, int] | None) -> Iterable[_Row]:
    """Return what the user gave to a class, or ignores in the table."""
    if table is None:
        return [(label_key(v), c.id, c.name) for c in classes for v in c.values]
    owners = {i: name + _FROM_TABLE for i, name in enumerate(classes.names)}
    known = _parse_table(*table, classes)
    return [(key, i, owners.get(i, IGNORE + _FROM_TABLE)) for key, i in known.items()]


def _span(row: _Row) -> _Span | None:
    """Return a number or a range as a span, None for other texts."""
    key, class_id, owner = row
    if isinstance(key, str) and (ends := _RANGE.fullmatch(key)):
        low, high = map(float, ends.groups())
        if low > high:
            raise ConfigError(f"label values {key} of {owner}: write the lower number first")
        return _Span(low, high, key, class_id, owner)
    if isinstance(key, str) and not re.fullmatch(_NUMBER, key):
        return None
    return _Span(float(key), float(key), str(key), class_id, owner)


def _check_spans(spans: list[_Span]) -> None:
    """Refuse numbers that belong to two classes, or to a class and to ``labels.ignore``."""
    widest: _Span | None = None
    for span in sorted(spans, key=lambda s: s.low):
        if widest is not None and span.low <= widest.high and span.class_id != widest.class_id:
            raise _twice((widest.text, widest.owner), (span.text, span.owner))
        if widest is None or span.high > widest.high:
            widest = span


def _texts(rows: list[_Row]) -> ValueToClass:
    """Return the class of each text, ``*`` among them, and refuse texts of two classes."""
    known: dict[Key, tuple[int, str]] = {}
    for key, class_id, owner in rows:
        if isinstance(key, str) and not _RANGE.fullmatch(key):
            other, first = known.setdefault(key, (class_id, owner))
            if other != class_id:
                raise _twice((key, first), (key, owner))
    return {key: class_id for key, (class_id, _) in known.items()}


def _twice(first: tuple[Key, str], second: tuple[Key, str]) -> ConfigError:
    """Return the error for two values, or ranges, that overlap; each with its owner."""
    (value, owner), (ignored, other) = sorted((first, second), key=lambda v: v[1] == _IGNORED)
    if other == _IGNORED:
        within = "" if value == ignored else f" (as {ignored})"
        return ConfigError(
            f"{value} is a value of {owner!r} and in {other}{within}: remove it from one of them"
        )
    if value == ignored:
        return ConfigError(
            f"label value {str(value)!r} belongs to two classes, {owner} and {other}: numbers and "
            "texts of numbers are the same"
        )
    return ConfigError(f"label values {value} of {owner} and {ignored} of {other} overlap")


@functools.lru_cache(maxsize=8)
def _folded(classes: ClassTable) -> dict[str, int]:
    """Return class ids by name in lower case, without names that several classes have then."""
    folded = [name.casefold() for name in classes.names]
    return {name: i for i, name in enumerate(folded) if folded.count(name) == 1}


def _changed(path: str) -> int:
    """Return the modification time of a table in ns."""
    try:
        return os.stat(path).st_mtime_ns
    except OSError as error:
        raise InputError(f"cannot read labels.table {path}: {error.strerror}") from error


@functools.lru_cache(maxsize=8)
def _parse_table(path: str, changed: int, classes: ClassTable) -> ValueToClass:
    """Parse a table; `changed` is part of the cache key, so that a changed file is read again."""
    table = read_csv(path, "labels.table")
    header = [name.lower() for name in table.header]
    if not {"value", "class"} <= set(header):
        raise LabelError(
            f"labels.table {path} needs the columns value and class in its first line, which has: "
            f"{', '.join(header) or 'nothing'}"
        )
    known: ValueToClass = {}
    seen: dict[Key, int] = {}
    for line, cells in table.rows:
        row = dict(zip(header, cells, strict=False))
        value = label_key(row.get("value"))
        if value in seen:
            raise LabelError(
                f"labels.table {path} has the value {value} twice, "
                f"in lines {seen[value]} and {line}"
            )
        seen[value] = line
        known[value] = _class_id(row.get("class", ""), classes, f"{path}, line {line}")
    if not known:
        raise LabelError(f"labels.table {path} has no rows below its header")
    return known


def _class_id(text: str, classes: ClassTable, where: str) -> int:
    name = text.strip()
    if (found := find_class(name, classes)) is not None:
        return found
    if name in ("", IGNORE):
        return NODATA
    if label_key(name) in range(len(classes)):
        return int(label_key(name))
    raise LabelError(f"labels.table {where}: {name!r} is not a class; {list_classes(classes)}")
