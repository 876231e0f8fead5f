"""Decode labels: class ids from the values or colours of label rasters and features."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from cafe_cli.classes import NODATA, ClassTable, LandClass
from cafe_cli.config.schema import LabelSettings
from cafe_cli.errors import LabelError
from cafe_cli.scenes.label_values import (
    IGNORE,
    OTHERS,
    ClassOfValue,
    Key,
    label_key,
    suggest_name,
    unlabelled_class,
    value_to_class,
)
from cafe_cli.text import list_some

Mask: TypeAlias = NDArray[np.bool_]

MOST_UNKNOWN = 10_000
"""Unknown values after which nothing more is counted: a raster with more holds no labels."""


@dataclass
class LabelTally:
    """Pixels by value (or ``#rrggbb``) that need a word.

    Attributes
    ----------
    unknown : Counter
        Values that no class has and that are not ignored. Unknown values became 255, unknown
        colours the class of the nearest colour.
    ignored : Counter
        Values in ``labels.ignore``, or without a class in the table.
    declared : Counter
        Values of a class that the raster declares as nodata. They have the class if the user gave
        them to it, by `values`, a colour or a table; they are left out if they are only its id.
    corrected : int
        Pixels that got their class from corrections, those of each layer counted.
    """

    unknown: "Counter[Key]" = field(default_factory=Counter)
    ignored: "Counter[Key]" = field(default_factory=Counter)
    declared: "Counter[Key]" = field(default_factory=Counter)
    corrected: int = 0

    def add(self, other: "LabelTally") -> None:
        """Add the pixels of another tally."""
        self.unknown.update(other.unknown)
        self.ignored.update(other.ignored)
        self.declared.update(other.declared)
        self.corrected += other.corrected


@dataclass
class Decoded:
    """Class ids of one window.

    Attributes
    ----------
    ids : ndarray of uint8, (height, width)
        255 where there is no label.
    tally : LabelTally
    """

    ids: NDArray[np.uint8]
    tally: LabelTally = field(default_factory=LabelTally)


@dataclass(frozen=True)
class Covered:
    """Where a label raster lies, with or without data.

    Attributes
    ----------
    where : ndarray of bool, (height, width)
    nodata : sequence of float
        Values that the raster declares as nodata.
    """

    where: Mask
    nodata: Sequence[float]


def list_values(values: "Counter[Key]", most: int = 8) -> str:
    """List values for a message, the most frequent first: ``7 (30 px), 9 (1 px) and 2 more``."""
    return list_some([f"{value} ({n:,} px)" for value, n in values.most_common()], most)


def explain_unknown(unknown: "Counter[Key]", classes: ClassTable) -> str:
    """Name the unknown values, and what to do about them, for an error message."""
    hint = suggest_name((value for value, _ in unknown.most_common()), classes)
    return (
        f"label values without a class: {list_values(unknown)}{hint}; add them to a class with "
        'values = [...], in which "10..19" is a range and "*" all other values, or to labels.ignore'
    )


def explain_nodata(
    tally: LabelTally, classes: ClassTable, settings: LabelSettings
) -> Iterator[str]:
    """Explain what became of values that are a class's and nodata, or a class's and ignored."""
    known = value_to_class(classes, settings)
    colors = {c.color: c.id for c in classes}
    for value, count in tally.declared.most_common():
        name = classes.names[colors.get(str(value), known.exact.get(value, 0))]
        said = f"{count:,} label pixels are {value}, which their raster declares as nodata"
        if settings.encoding == "colors" or known.is_explicit(value):
            yield f"{said} and the classes give to {name!r}: they count as {name!r}"
        else:
            yield (
                f"{said} and which is the id of {name!r}: they are left out; if they are {name!r}, "
                f"give it values = [{value}], if not, add {value} to labels.ignore"
            )
    if (count := tally.ignored[NODATA]) and known.ignores_by_default and OTHERS in known.exact:
        yield (
            f"{count:,} label pixels are {NODATA}, which labels.ignore leaves out by default, "
            'although a class has "*", all other values: if it has these, set labels.ignore = []'
        )


def needs_cover(nodata: Sequence[float], classes: ClassTable, settings: LabelSettings) -> bool:
    """Whether `decode` has to know where a raster with these nodata values lies."""
    if settings.unlabelled != IGNORE:
        return True
    return any(_class_has(value, classes, settings) for value in nodata)


def decode(
    raw: NDArray[np.generic],
    valid: Mask,
    classes: ClassTable,
    settings: LabelSettings,
    covered: Covered | None = None,
) -> Decoded:
    """Turn a label window into class ids.

    Parameters
    ----------
    raw : ndarray, (bands, height, width)
        Values or colours.
    valid : ndarray of bool, (height, width)
        Where the raster has data.
    classes : ClassTable
    settings : LabelSettings
    covered : Covered, optional
        Given if `needs_cover`; `raw` then has the values of the raster wherever it lies.

    Raises
    ------
    LabelError
        Colour labels are not three bands of uint8, or class values have several bands.
    ConfigError
        See `value_to_class`; ``labels.unlabelled`` names no class.
    """
    colors, tally = settings.encoding == "colors", LabelTally()
    raw = _label_bands(raw, colors)
    if covered is not None:
        valid = valid | _nodata_of_classes(raw, valid, covered, classes, settings, tally)
    if colors:
        ids = _nearest_color(raw, valid, classes, settings, tally)
    else:
        known = value_to_class(classes, settings)
        valid = valid & _has_value(raw[0], known, settings)
        ids = _lookup(raw[0], valid, known, tally)
    if covered is not None and settings.unlabelled != IGNORE:
        ids[covered.where & ~valid] = unlabelled_class(classes, settings)
    return Decoded(ids, tally)


def _label_bands(raw: NDArray[np.generic], colors: bool) -> NDArray[np.generic]:
    """Return the bands that hold the labels, (1 or 3, height, width)."""
    if colors and len(raw) < 3:
        raise LabelError(
            f"labels.encoding is 'colors', but the label raster has {len(raw)} band(s); "
            "set it to 'ids'"
        )
    if colors and raw.dtype != np.uint8:
        raise LabelError(f"colour labels have to be uint8, these are {raw.dtype}")
    if not colors and len(raw) > 1:
        raise LabelError(
            f"labels.encoding is 'ids', but the label raster has {len(raw)} bands; "
            "set it to 'colors'"
        )
    return raw[:3]


def _class_has(
    nodata: float, classes: ClassTable, settings: LabelSettings
) -> tuple[Key, bool] | None:
    """Return a nodata value as a key, and whether the user gave it to a class.

    None if no class has it.
    """
    if settings.encoding == "colors":
        color = "#" + 3 * f"{int(nodata):02x}"
        return (color, True) if color in {c.color for c in classes} else None
    known, key = value_to_class(classes, settings), label_key(nodata)
    if known.is_explicit(key):
        return key, True
    return None if known.exact.get(key, NODATA) == NODATA else (key, False)


def _nodata_of_classes(
    raw: NDArray[np.generic],
    valid: Mask,
    covered: Covered,
    classes: ClassTable,
    settings: LabelSettings,
    tally: LabelTally,
) -> Mask:
    """Count the pixels whose value is nodata and a class's; return those that have the class."""
    found = np.zeros(valid.shape, bool)
    for nodata in covered.nodata:
        if (owned := _class_has(nodata, classes, settings)) is None:
            continue
        key, explicit = owned
        value = raw.dtype.type(nodata) if raw.dtype.kind == "f" else nodata
        here = (raw == value).all(axis=0) & covered.where & ~valid
        if here.any() and (explicit or settings.unlabelled == IGNORE):
            tally.declared[key] += int(here.sum())
        if explicit:
            found |= here
    return found


def _has_value(
    raw: NDArray[np.generic], known: ClassOfValue, settings: LabelSettings
) -> Mask | np.bool_:
    """Return where pixels (height, width) have a value that is to be looked up."""
    has: Mask | np.bool_ = np.True_
    if raw.dtype.kind == "f":
        has = np.isfinite(raw)  # NaN is nodata, declared or not
    if known.ignores_by_default and settings.unlabelled != IGNORE:
        has = has & (raw != NODATA)
    return has


def _lookup(
    raw: NDArray[np.generic], valid: Mask, known: ClassOfValue, tally: LabelTally
) -> NDArray[np.uint8]:
    """Decode values (height, width) through a lookup table, and count unknown and ignored ones."""
    everywhere = bool(valid.all())
    plain = raw if everywhere else np.where(valid, raw, raw.dtype.type(0))
    if raw.dtype.kind in "iu" and raw.dtype.itemsize <= 2:  # counting is faster than sorting
        lowest = int(np.iinfo(raw.dtype.name).min)
        values = np.arange(lowest, lowest + 256**raw.dtype.itemsize)
        where = plain if lowest == 0 else plain.astype(np.int64) - lowest
    else:
        values, where = np.unique(plain, return_inverse=True)
        where = where.reshape(raw.shape)
    counts = np.bincount(where.ravel() if everywhere else where[valid], minlength=len(values))
    table = np.full(len(values), NODATA, np.uint8)
    for i in np.flatnonzero(counts).tolist():
        # As text, a fraction is that of the settings: 1.1 in float32, too.
        key = label_key(str(values[i])) if raw.dtype.kind == "f" else int(values[i])
        class_id = known.find(key)
        if class_id is None:
            tally.unknown[key] += int(counts[i])
        elif class_id == NODATA:
            tally.ignored[key] += int(counts[i])
        else:
            table[i] = class_id
    return table[where] if everywhere else np.where(valid, table[where], np.uint8(NODATA))


def _nearest_color(
    raw: NDArray[np.generic],
    valid: Mask,
    classes: ClassTable,
    settings: LabelSettings,
    tally: LabelTally,
) -> NDArray[np.uint8]:
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
    tally.unknown.update({f"#{c:06x}": int(n) for c, n in zip(colors, counts, strict=True)})
    return ids
