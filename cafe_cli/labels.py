"""From the values or colours of a label raster, and the features of vectors, to class ids."""

import csv
import functools
import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
import shapely
from numpy.typing import NDArray

from cafe_cli.classes import NODATA, ClassTable, LandClass
from cafe_cli.config import LabelSettings
from cafe_cli.errors import ConfigError, InputError, LabelError
from cafe_cli.grid import Grid
from cafe_cli.vectors import (
    Features,
    Value,
    covering,
    pieces,
    read_features,
    refuse_empty,
    warn_once,
)
from cafe_cli.windows import Window

Meanings: TypeAlias = dict[int | str, int]
"""Class id by label value, 255 where it is ignored; texts that are whole numbers are int."""

IGNORE = "ignore"
NONE = "(none)"
"""What a feature without a value is listed as, and can be named as."""


@dataclass
class Decoded:
    """Class ids of one window.

    Attributes
    ----------
    ids : ndarray of uint8, (height, width)
        255 where there is no label.
    odd : Counter
        Pixels per value (or ``#rrggbb``) that no class and no ignored value names exactly. Values
        have become 255; colours have become the nearest one.
    """

    ids: NDArray[np.uint8]
    odd: "Counter[int | str]" = field(default_factory=Counter)


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
        Colour labels that are not three bands of uint8, or class values in more than one.
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


def label_key(value: Value) -> int | str:
    """Return a label value as `Meanings` have it: "5" and 5 are one, and so is 5.0."""
    text = NONE if value is None else str(value).strip() or NONE
    return int(text.split(".")[0]) if re.fullmatch(r"-?(0|[1-9][0-9]*)(\.0)?", text) else text


def meanings(classes: ClassTable, settings: LabelSettings) -> Meanings:
    """Return what label values mean: by the table, or by the values and names of the classes.

    Raises
    ------
    ConfigError
        Values of two classes that are the same, as 5 and "5".
    InputError
        See `read_table`.
    """
    if settings.table is not None:
        known = read_table(settings.table, classes)
    else:
        known = {**{c.name: c.id for c in classes}, **_values(classes)}
    return known | dict.fromkeys(map(label_key, settings.ignore), NODATA)


def read_table(path: str, classes: ClassTable) -> Meanings:
    """Read a CSV file with the columns ``value`` and ``class``: what label values mean.

    A class is a name or an id; empty or ``ignore`` is none (255). Other columns are left alone;
    semicolons and tabs separate as well as commas.

    Raises
    ------
    InputError
        The file is missing or no text.
    LabelError
        It lacks a column or rows, names an unknown class, or a value twice.
    """
    try:
        changed = os.stat(path).st_mtime_ns
    except OSError as error:
        raise InputError(f"cannot read labels.table {path}: {error.strerror}") from error
    return dict(_parse_table(path, changed, classes))


def _listed(classes: ClassTable) -> str:
    return f"the classes are {', '.join(classes.names)}"


def _values(classes: ClassTable) -> Meanings:
    known: Meanings = {}
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
def _parse_table(path: str, changed: int, classes: ClassTable) -> Meanings:
    """Parse a table; `changed` makes it read again when the file is another."""
    rows = _rows(path)
    header = [name.strip().lower() for name in rows[0][1]] if rows else []
    if not {"value", "class"} <= set(header):
        raise LabelError(
            f"labels.table {path} needs the columns value and class in its first line, which has: "
            f"{', '.join(header) or 'nothing'}"
        )
    known: Meanings = {}
    seen: dict[int | str, int] = {}
    for line, cells in rows[1:]:
        row = dict(zip(header, cells, strict=False))
        value = label_key(row["value"])
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


def _rows(path: str) -> list[tuple[int, list[str]]]:
    """Return the rows of a CSV file that hold anything, with the number of their line."""
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            first = file.readline()
            file.seek(0)
            reader = csv.reader(file, delimiter=max(",;\t", key=first.count))
            return [(reader.line_num, row) for row in reader if "".join(row).strip()]
    except OSError as error:
        raise InputError(f"cannot read labels.table {path}: {error.strerror}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"labels.table {path} is no CSV text in UTF-8: {error}") from error


def _class_id(text: str, classes: ClassTable, where: str) -> int:
    name = text.strip()
    if name in classes.names:
        return classes.names.index(name)
    if name in ("", IGNORE):
        return NODATA
    if label_key(name) in range(len(classes)):
        return int(label_key(name))
    raise LabelError(f"labels.table {where}: {name!r} is no class; {_listed(classes)}")


def _lookup(
    raw: NDArray[np.generic],
    valid: NDArray[np.bool_],
    classes: ClassTable,
    settings: LabelSettings,
) -> Decoded:
    meaning = meanings(classes, settings)
    values, where = np.unique(np.where(valid, raw, raw.dtype.type(0)), return_inverse=True)
    table = np.array([meaning.get(v, NODATA) for v in values.tolist()], np.uint8)
    ids = np.where(valid, table[where.reshape(raw.shape)], np.uint8(NODATA))
    counts = np.bincount(where.ravel()[valid.ravel()], minlength=len(values)).tolist()
    odd = {v: n for v, n in zip(values.tolist(), counts, strict=True) if n and v not in meaning}
    return Decoded(ids, Counter(odd))


def _nearest_color(
    raw: NDArray[np.generic],
    valid: NDArray[np.bool_],
    classes: ClassTable,
    settings: LabelSettings,
) -> Decoded:
    # Lossy label images have thousands of colours but far fewer than pixels: measure each once.
    red, green, blue = raw.astype(np.int64)
    packed, where, counts = np.unique(
        (red << 16 | green << 8 | blue)[valid], return_inverse=True, return_counts=True
    )
    ignored = [LandClass(0, "", color).rgb for color in settings.ignore_colors]
    palette = np.array([*classes.palette.tolist(), *ignored], np.int64)
    colors = np.stack([packed >> 16, packed >> 8 & 255, packed & 255], axis=-1)
    distance = ((colors[:, None] - palette) ** 2).sum(axis=-1)
    nearest = distance.argmin(axis=1)
    ids = np.full(valid.shape, NODATA, np.uint8)
    ids[valid] = np.where(nearest < len(classes), nearest, NODATA).astype(np.uint8)[where]
    inexact = distance[np.arange(len(packed)), nearest] > 0
    odd = {f"#{c:06x}": int(n) for c, n in zip(packed[inexact], counts[inexact], strict=True)}
    return Decoded(ids, Counter(odd))


class VectorLabels:
    """The features of vector files on the grid of a scene; threads may share it.

    Attributes
    ----------
    counts : Counter
        Features per value of their attribute, ``(none)`` where they have none.
    """

    def __init__(self, features: Sequence[Features], extent: Window) -> None:
        keys = [label_key(value) for file in features for value in file.values]
        self.counts: Counter[int | str] = Counter(keys)
        self._extent = extent
        self._values = list(self.counts)
        codes = {value: code for code, value in enumerate(self._values)}
        every = [np.array([], object), *(file.geometries for file in features)]
        self._pieces, source = pieces(np.concatenate(every))
        self._codes = np.array([codes[key] for key in keys], np.intp)[source]
        self._tree = shapely.STRtree(self._pieces)

    @classmethod
    def of(
        cls, paths: Sequence[str], grid: Grid, settings: LabelSettings, name: str = "the raster"
    ) -> "VectorLabels":
        """Read the features of files, in their order; `name` is the raster in errors.

        Raises
        ------
        InputError
            See `cafe_cli.vectors.read_features`. Where no file has a feature inside the raster,
            though at its place, that is an error unless ``unlabelled`` ground has a class.
        """
        attribute, layer = settings.attribute, settings.layer
        files = [
            read_features(path, grid, attribute, layer, name=name, required=False) for path in paths
        ]
        empty = [file.path for file in files if not len(file.geometries)]
        if len(empty) == len(files):
            for path in paths:
                refuse_empty(path, grid, layer, name, gaps=settings.unlabelled != IGNORE)
        elif empty:
            warn_once(f"no feature of {', '.join(empty)} lies inside {name}")
        return cls(files, grid.extent)

    def read(self, window: Window, classes: ClassTable, settings: LabelSettings) -> Decoded:
        """Return the class ids of a window, 255 outside the scene.

        Raises
        ------
        ConfigError
            ``labels.unlabelled`` or ``labels.priority`` names no class.
        InputError
            See `meanings`.
        """
        ids = np.full((window.height, window.width), NODATA, np.uint8)
        inside = window.intersection(self._extent)
        if inside is None:
            return Decoded(ids)
        decoded = self._read(inside, classes, settings)
        ids[inside.slices(window)] = decoded.ids
        return Decoded(ids, decoded.odd)

    def _read(self, window: Window, classes: ClassTable, settings: LabelSettings) -> Decoded:
        edges = window.col, window.row, window.col + window.width, window.row + window.height
        hits = np.sort(self._tree.query(shapely.box(*edges)))
        used, codes = np.unique(self._codes[hits], return_inverse=True)
        values = [self._values[code] for code in used.tolist()]
        meaning = meanings(classes, settings)
        ids = np.array([meaning.get(value, NODATA) for value in values], np.uint8)
        order = np.argsort(_ranks(classes, settings)[ids[codes]], kind="stable")
        top = covering(self._pieces[hits[order]], window, settings.all_touched)
        # -1, where there is no feature, is the last of each of these.
        shown = np.append(codes[order], len(values))[top]
        counts = np.bincount(shown.ravel(), minlength=len(values) + 1).tolist()
        odd = {v: n for v, n in zip(values, counts, strict=False) if n and v not in meaning}
        return Decoded(np.append(ids, _unlabelled(classes, settings))[shown], Counter(odd))


def _ranks(classes: ClassTable, settings: LabelSettings) -> NDArray[np.intp]:
    """Return by id, 0 to 255, how high a class lies: 0 unless it has priority."""
    ranks = np.zeros(NODATA + 1, np.intp)
    for rank, name in enumerate(reversed(settings.priority), start=1):
        if name not in classes.names:
            raise ConfigError(
                f"labels.priority names {name!r}, which is no class; {_listed(classes)}"
            )
        ranks[classes.names.index(name)] = rank
    return ranks


def _unlabelled(classes: ClassTable, settings: LabelSettings) -> np.uint8:
    if settings.unlabelled == IGNORE:
        return np.uint8(NODATA)
    if settings.unlabelled not in classes.names:
        raise ConfigError(
            f"labels.unlabelled is {settings.unlabelled!r}, which is neither {IGNORE!r} nor a "
            f"class; {_listed(classes)}"
        )
    return np.uint8(classes.names.index(settings.unlabelled))
