"""Decode labels: class ids from the values or colours of label rasters and features."""

import functools
import os
import re
from collections import Counter
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from cafe_cli.classes import NODATA, ClassTable, LandClass
from cafe_cli.config.schema import LabelSettings
from cafe_cli.errors import ConfigError, InputError, LabelError
from cafe_cli.system.tables import read_csv
from cafe_cli.text import list_some
from cafe_cli.vector.features import AttributeValue

ValueToClass: TypeAlias = dict[int | str, int]
"""Class id by label value, 255 if it is ignored; texts that are whole numbers are int keys."""

IGNORE = "ignore"
NONE = "(none)"
"""Name of features without a value, in messages and in settings."""


@dataclass
class Decoded:
    """Class ids of one window.

    Attributes
    ----------
    ids : ndarray of uint8, (height, width)
        255 where there is no label.
    unknown_values : Counter
        Pixels per value (or ``#rrggbb``) that no class has and that is not ignored. Unknown
        values became 255, unknown colours the class of the nearest colour.
    """

    ids: NDArray[np.uint8]
    unknown_values: "Counter[int | str]" = field(default_factory=Counter)


def list_unknown(values: "Counter[int | str]", most: int = 8) -> str:
    """List values for a message, the most frequent first: ``7 (30 px), 9 (1 px) and 2 more``."""
    return list_some([f"{value} ({n:,} px)" for value, n in values.most_common()], most)


def decode(
    raw: NDArray[np.generic],
    valid: NDArray[np.bool_],
    classes: ClassTable,
    settings: LabelSettings,
) -> Decoded:
    """Turn a label window (bands, height, width) into class ids.

    Raises
    ------
    LabelError
        Colour labels are not three bands of uint8, or class values have several bands.
    """
    if settings.encoding == "colors":
        if len(raw) < 3:
            raise LabelError(
                f"labels.encoding is 'colors', but the label raster has {len(raw)} band(s); "
                "set it to 'ids'"
            )
        if raw.dtype != np.uint8:
            raise LabelError(f"colour labels have to be uint8, these are {raw.dtype}")
        return _nearest_color(raw[:3], valid, classes, settings)
    if len(raw) > 1:
        raise LabelError(
            f"labels.encoding is 'ids', but the label raster has {len(raw)} bands; "
            "set it to 'colors'"
        )
    return _lookup(raw[0], valid, classes, settings)


def label_key(value: AttributeValue) -> int | str:
    """Return a label value as a key of `ValueToClass`: 5 for "5", 5 and 5.0."""
    text = NONE if value is None else str(value).strip() or NONE
    return int(text.split(".")[0]) if re.fullmatch(r"-?(0|[1-9][0-9]*)(\.0)?", text) else text


def value_to_class(classes: ClassTable, settings: LabelSettings) -> ValueToClass:
    """Return the class of each label value: by the table, or by the values and names of classes.

    Raises
    ------
    ConfigError
        Two classes have the same value, such as 5 and "5".
    InputError
        See `read_table`.
    """
    if settings.table is not None:
        known = read_table(settings.table, classes)
    else:
        known = {**{c.name: c.id for c in classes}, **_values_of_classes(classes)}
    return known | dict.fromkeys(map(label_key, settings.ignore), NODATA)


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
    try:
        changed = os.stat(path).st_mtime_ns
    except OSError as error:
        raise InputError(f"cannot read labels.table {path}: {error.strerror}") from error
    return dict(_parse_table(path, changed, classes))


def list_classes(classes: ClassTable) -> str:
    """List the classes for a message."""
    return f"the classes are {', '.join(classes.names)}"


def _values_of_classes(classes: ClassTable) -> ValueToClass:
    known: ValueToClass = {}
    for land in classes:
        for value in land.values:
            other = known.setdefault(label_key(value), land.id)
            if other != land.id:
                raise ConfigError(
                    f"label value {value!r} belongs to two classes, {classes[other].name} and "
                    f"{land.name}: numbers and texts of numbers are the same"
                )
    return known


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
    seen: dict[int | str, int] = {}
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
    if name in classes.names:
        return classes.names.index(name)
    if name in ("", IGNORE):
        return NODATA
    if label_key(name) in range(len(classes)):
        return int(label_key(name))
    raise LabelError(f"labels.table {where}: {name!r} is no class; {list_classes(classes)}")


def _lookup(
    raw: NDArray[np.generic],
    valid: NDArray[np.bool_],
    classes: ClassTable,
    settings: LabelSettings,
) -> Decoded:
    """Decode values (height, width) through a lookup table."""
    classes_by_value = value_to_class(classes, settings)
    if raw.dtype.kind == "f":
        valid = valid & np.isfinite(raw)  # NaN is nodata, declared or not
    everywhere = bool(valid.all())
    known = raw if everywhere else np.where(valid, raw, raw.dtype.type(0))
    if raw.dtype.kind in "iu" and raw.dtype.itemsize <= 2:  # counting is faster than sorting
        lowest = int(np.iinfo(raw.dtype.name).min)
        values = np.arange(lowest, lowest + 256**raw.dtype.itemsize)
        where = known if lowest == 0 else known.astype(np.int64) - lowest
    else:
        values, where = np.unique(known, return_inverse=True)
        where = where.reshape(raw.shape)
    counts = np.bincount(where.ravel() if everywhere else where[valid], minlength=len(values))
    table = np.array([classes_by_value.get(v, NODATA) for v in values.tolist()], np.uint8)
    ids = table[where] if everywhere else np.where(valid, table[where], np.uint8(NODATA))
    found = zip(values[counts > 0].tolist(), counts[counts > 0].tolist(), strict=True)
    return Decoded(ids, Counter({v: n for v, n in found if v not in classes_by_value}))


def _nearest_color(
    raw: NDArray[np.generic],
    valid: NDArray[np.bool_],
    classes: ClassTable,
    settings: LabelSettings,
) -> Decoded:
    """Decode colours (3, height, width) to the class of the nearest one, in RGB."""
    red, green, blue = raw.astype(np.uint32)
    packed = red << 16 | green << 8 | blue
    ignored = [LandClass(0, "", color).rgb for color in settings.ignore_colors]
    palette = np.array([*classes.palette.tolist(), *ignored], np.int64)
    class_ids = np.append(np.arange(len(classes)), [NODATA] * len(ignored)).astype(np.uint8)
    ids = np.full(valid.shape, NODATA, np.uint8)
    rest = valid.copy()
    for color, id_ in zip(palette @ [1 << 16, 1 << 8, 1], class_ids, strict=True):
        exact = packed == color
        ids[exact & valid] = id_
        rest &= ~exact
    # Lossy label images have far fewer colours than pixels, so decode each colour once.
    colors, where, counts = np.unique(packed[rest], return_inverse=True, return_counts=True)
    parts = np.stack([colors >> 16, colors >> 8 & 255, colors & 255], axis=-1).astype(np.int64)
    distance = ((parts[:, None] - palette) ** 2).sum(axis=-1)
    ids[rest] = class_ids[distance.argmin(axis=1)][where]
    unknown = {f"#{c:06x}": int(n) for c, n in zip(colors, counts, strict=True)}
    return Decoded(ids, Counter(unknown))
