"""From the values or colours of a label raster to class ids."""

from collections import Counter
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from cafe_cli.classes import NODATA, ClassTable, LandClass
from cafe_cli.config import LabelSettings
from cafe_cli.errors import LabelError


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


def _lookup(
    raw: NDArray[np.generic],
    valid: NDArray[np.bool_],
    classes: ClassTable,
    settings: LabelSettings,
) -> Decoded:
    meaning = {value: c.id for c in classes for value in c.values}
    meaning |= dict.fromkeys(settings.ignore, NODATA)
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
