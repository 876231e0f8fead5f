"""Read a split file: the CSV table of scenes, and the names of splits in tables and polygons."""

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from cafe_cli.errors import ConfigError, InputError
from cafe_cli.splits.assign import SPLITS, Split
from cafe_cli.system.tables import read_csv
from cafe_cli.text import did_you_mean, list_some

_NAMES: dict[str, Split] = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
    "testing": "test",
}
_SCENE = "scene"  # the column with the names of scenes


def is_table(path: str) -> bool:
    """Whether a split file is a CSV table, by its suffix; other files hold polygons."""
    return path.lower().endswith((".csv", ".tsv", ".txt"))


def split_of(value: object) -> Split | None:
    """Return the split that a value names, in any case or a short form; None if it names none."""
    return _NAMES.get(str(value).strip().lower())


def name_counts(values: Iterable[object]) -> str:
    """List values for a message, the most frequent first: ``'b' (3), 'a' (1) and 2 more``."""
    counts = Counter(values)
    return list_some([f"{value!r} ({n:,})" for value, n in counts.most_common()])


def parse_splits(values: Iterable[object], source: str) -> list[Split | None]:
    """Return the split that each value names; None for an empty value (None, NaN, blanks).

    Raises
    ------
    InputError
        A value names no split; `source` is its origin in the message.
    """
    values = list(values)
    splits = [split_of(value) for value in values]
    unknown = [v for v, s in zip(values, splits, strict=True) if s is None and not _is_empty(v)]
    if unknown:
        raise InputError(
            f"{source} has values that are not a split: {name_counts(unknown)}; write "
            f"{', '.join(SPLITS)} or nothing"
        )
    return splits


def read_table(
    path: Path, column: str, scenes: Sequence[str], others: bool = False
) -> dict[str, Split]:
    """Read the split of each scene from a table.

    Parameters
    ----------
    path : Path
        Text in UTF-8 with commas, semicolons or tabs, and a header.
    column : str
        The column with the splits; the column ``scene`` has the names of scenes.
    scenes : sequence of str
        Names of the scenes of the config.
    others : bool
        Whether the table may name other scenes, too.

    Returns
    -------
    dict
        The split by scene; scenes without a line or with an empty split are left out.

    Raises
    ------
    InputError
        The file cannot be read, has no column ``scene``, values that are no split, or names scenes
        twice or that do not exist.
    ConfigError
        The table has no column `column`.
    """
    table = read_csv(path, "split.file")
    header = table.header
    if not header:
        raise InputError(f"{path} is empty; it has to hold a table of scenes")
    if _SCENE not in header:
        raise InputError(f"{path} has no column {_SCENE!r}: {_columns(_SCENE, header)}")
    if column not in header:
        raise ConfigError(f"split.column: {path} has no {column!r}: {_columns(column, header)}")
    rows = table.records(pad=True)
    if not rows:
        raise InputError(f"{path} names no scene below its header")
    names = [row[_SCENE] for row in rows]
    _check_names(path, names, names if others else scenes)
    splits = parse_splits([row[column] for row in rows], f"column {column!r} of {path}")
    pairs = zip(names, splits, strict=True)
    return {name: split for name, split in pairs if split and name in scenes}


def _is_empty(value: object) -> bool:
    return value is None or value != value or not str(value).strip()


def _columns(wanted: str, header: list[str]) -> str:
    """List the columns for a message, with the most similar name."""
    near = did_you_mean(wanted, header)
    return f"the columns are {', '.join(header)}" + (f"; {near}" if near else "")


def _check_names(path: Path, names: list[str], scenes: Sequence[str]) -> None:
    """Refuse scenes that are named twice, or that do not exist."""
    times = Counter(names)
    if twice := [name for name in names if times[name] > 1]:
        raise InputError(f"{path} names scenes more than once: {name_counts(twice)}")
    known = set(scenes)
    if unknown := [name for name in names if name not in known]:
        listed, found = list_some([repr(name) for name in unknown]), list_some(scenes)
        raise InputError(f"{path} names scenes that do not exist: {listed}; found: {found}")
