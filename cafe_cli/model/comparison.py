"""Whether pixel values and heights of two sources mean the same, told from their percentiles.

Bands are compared as a whole: other ground, light or season makes one band brighter and another
darker, another scaling makes all of them larger or smaller by the same factor and keeps their
contrast. Of 24 real scenes no two differ by a factor above 1.7 in most bands and all percentiles.
This module is free of torch.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations
from statistics import median

import numpy as np
from numpy.typing import NDArray

from cafe_cli.config.schema import HeightSettings
from cafe_cli.model.distribution import Percentiles

_CERTAIN, _DOUBTFUL = 3.0, 1.6  # factors between the values of most bands
_ANYWAY = 12.0  # a factor that is another scaling even without contrast, or in 8 bits
_CONTRAST = 0.6  # of the other contrast: a lake or a snow field has less
_OTHER_SPREAD = 6.0  # factor between the ranges of values that do not overlap
_SCALES = (
    (1.6, "0 to 1", 1), (255, "8 bit", 255), (1023, "10 bit", 1023), (2047, "11 bit", 2047),
    (4095, "12 bit, or reflectance x 10,000", 4095),
    (16_383, "reflectance x 10,000, or 14 bit", 10_000), (65_535, "16 bit", 65_535),
)  # fmt: skip
"""Highest value of a scaling, its name, and the value that stands for it in ``gdal_translate``."""
_GDAL_TYPES = {"uint8": "Byte", "uint16": "UInt16", "uint32": "UInt32"}
_ORDERS_OF = 4  # bands, of which all orders are tried
_SAME_GROUND = 0.1  # deviation of the logarithms of percentiles between two halves of a site
_REORDERED = 0.5  # share of the deviation that another order of the bands leaves
_KINDS = {
    "ndsm": "if they are absolute, set height.kind = 'dsm' (--height-kind dsm)",
    "dsm": "if they are above ground already, set height.kind = 'ndsm' (--height-kind ndsm), else "
    "surface and terrain model differ in unit, vertical datum or place",
}
_UNIT = "if they are in feet, decimetres or centimetres, set height.unit (--height-unit)"
_ABOVE_GROUND = "they look like heights above ground: absolute heights are needed"
_TALLEST = 200.0  # metres above ground that 1 % of no scene exceeds
_TALL, _OTHER_UNIT = 60.0, 6.0  # metres, times as tall: towers, or decimetres
_MOUNTAIN, _DEEP = 100.0, 20.0  # metres above and below ground that half of no scene reaches
_FLAT = 0.5  # metres around zero of the lowest quarter of heights above ground


@dataclass(frozen=True)
class Mismatch:
    """A difference between two sources.

    Attributes
    ----------
    certain : bool
        Whether they cannot mean the same; otherwise the ground may be the reason.
    found, known : str
        What is peculiar about the one source, and about the other.
    remedy : str
        What to do about it if it is no property of the ground.
    """

    certain: bool
    found: str
    known: str
    remedy: str


def compare_values(
    found: Sequence[Percentiles], known: Sequence[Percentiles], dtypes: tuple[str, str]
) -> Mismatch | None:
    """Compare the pixel values of two sources, band by band.

    Parameters
    ----------
    found, known : sequence of Percentiles
        Of the same bands.
    dtypes : (str, str)
        Data types of the one and the other.

    Returns
    -------
    Mismatch or None
        None if the values are of one scaling.
    """
    pairs = [*zip(found, known, strict=True)]
    factor = median(_factor(*pair) for pair in pairs)
    factor = max(factor, 1 / factor)
    certain = _is_rescaled(pairs, factor, dtypes) or all(_is_apart(*pair) for pair in pairs)
    ours, theirs = _scale(found), _scale(known)
    if not certain and (factor < _DOUBTFUL or ours == theirs):
        return None
    remedy = "scale both alike with gdal_translate -scale"
    if ours[1] and theirs[1] and ours != theirs:
        kind = _GDAL_TYPES.get(dtypes[1], dtypes[1].capitalize())
        remedy = f"gdal_translate -scale 0 {ours[1]} 0 {theirs[1]} -ot {kind} scales it alike"
    return Mismatch(certain, _describe_range(found), _describe_range(known), remedy)


def _factor(found: Percentiles, known: Percentiles) -> float:
    """Return by what factor one band is larger at least, or smaller at least; 1 if neither."""
    values = [(getattr(found, p), getattr(known, p)) for p in ("p50", "p75", "p99")]
    if min(map(min, values)) <= 0:
        return 1.0
    ratios: list[float] = [a / b for a, b in values]
    return max(1.0, min(ratios)) if ratios[0] > 1 else min(1.0, max(ratios))


def _is_rescaled(
    pairs: Sequence[tuple[Percentiles, Percentiles]], factor: float, dtypes: tuple[str, str]
) -> bool:
    if factor >= _ANYWAY:
        return True
    if factor < _CERTAIN or dtypes == ("uint8", "uint8"):
        return False
    return _CONTRAST <= median(_contrast(a) / _contrast(b) for a, b in pairs) <= 1 / _CONTRAST


def _contrast(band: Percentiles) -> float:
    """Return the logarithm of the brightest to the darkest values; those up to 0 count as dark."""
    dark = band.p1 if band.p1 > 0 else band.p99 / 100
    return math.log(max(band.p99 / dark, 1.01)) if band.p99 > 0 else 1.0


def _is_apart(found: Percentiles, known: Percentiles) -> bool:
    """Whether a band with negative values, which have no ratio, is of another order of size."""
    if min(found.p1, known.p1) >= 0 or known.p0_1 <= found.p50 <= known.p99_9:
        return False
    ours, theirs = (max(p.p99 - p.p1, 1e-9) for p in (found, known))
    beyond = max(known.p0_1 - found.p50, found.p50 - known.p99_9)
    return (
        beyond > known.p99_9 - known.p0_1 or not 1 / _OTHER_SPREAD < ours / theirs < _OTHER_SPREAD
    )


def _scale(bands: Sequence[Percentiles]) -> tuple[str, int]:
    """Return the likely scaling of values, and its highest value; empty and 0 if none is likely."""
    top, low = max(b.p99_9 for b in bands), min(b.p0_1 for b in bands)
    if low < -0.05 * top or top <= 0:
        return "", 0
    return next(((name, most) for limit, name, most in _SCALES if top <= limit), ("", 0))


def _describe_range(bands: Sequence[Percentiles]) -> str:
    low, high = min(b.p0_1 for b in bands), max(b.p99_9 for b in bands)
    name = _scale(bands)[0]
    digits = ".0f" if high >= 1000 else ".4g"
    return f"{low:{digits}} to {high:{digits}}" + (f" ({name})" if name else "")


def find_order(
    found: Sequence[Percentiles], known: Sequence[Percentiles]
) -> tuple[int, ...] | None:
    """Return the order, from 0, in which the bands of one source are by far more like the other's.

    Only sources of about the same ground and light are so much alike that an order shows; None
    otherwise, and if the order is the same.
    """
    if not 2 <= len(found) == len(known) <= _ORDERS_OF:
        return None
    ours, theirs = _logarithms(found), _logarithms(known)
    if ours is None or theirs is None:
        return None
    distances = {
        order: float((ours[[*order]] - theirs).std()) for order in permutations(range(len(found)))
    }
    same, best = distances[(*range(len(found)),)], min(distances, key=distances.__getitem__)
    return best if distances[best] < min(_SAME_GROUND, _REORDERED * same) else None


def _logarithms(bands: Sequence[Percentiles]) -> NDArray[np.float64] | None:
    """Return the logarithms of percentiles, (bands, n); None if there are any of no value."""
    values = np.array([[getattr(b, p) for p in ("p1", "p25", "p50", "p75", "p99")] for b in bands])
    return np.log(values) if (values > 0).all() else None


def compare_heights(
    found: Percentiles,
    known: Percentiles,
    settings: HeightSettings,
    ground: str,
    *,
    unit_known: bool = True,
) -> Mismatch | None:
    """Compare the heights of two sources that are read alike, in metres.

    Parameters
    ----------
    found, known : Percentiles
    settings : HeightSettings
        How the first was read.
    ground : {"dtm", "estimate", "none"}
        What was subtracted from the first.
    unit_known : bool
        Whether settings or the raster say in which unit the first is.

    Returns
    -------
    Mismatch or None
        None if both are of one kind and unit.
    """
    if settings.kind == "dsm" and ground == "none":
        flat = abs(found.p1) < _FLAT and abs(found.p25) < _FLAT
        above_ground = flat and known.p1 > found.p99 + 1
        return _height_mismatch(found, known, _ABOVE_GROUND) if above_ground else None
    if _is_beyond(found, known):
        # Absolute heights begin far above zero, heights in centimetres do not.
        from_zero = not unit_known and abs(found.p1) < found.p50 / 4
        return _height_mismatch(found, known, _UNIT if from_zero else _KINDS[settings.kind])
    if found.p99 > max(_TALLEST, known.p99_9) and ground != "estimate":
        return _height_mismatch(found, known, _UNIT)
    if settings.kind == "ndsm" and found.p1 > known.p50 + 2:
        return _height_mismatch(found, known, _KINDS["ndsm"], certain=False)
    if not unit_known and found.p99 > max(_TALL, _OTHER_UNIT * known.p99):
        return _height_mismatch(found, known, _UNIT, certain=False)
    return None


def _is_beyond(found: Percentiles, known: Percentiles) -> bool:
    """Whether nearly all heights lie above, or below, those of the other."""
    above = found.p1 > known.p99 + 1 or found.p50 > max(_MOUNTAIN, known.p99_9)
    return above or found.p99 < known.p1 - 1 or found.p50 < known.p0_1 - _DEEP


def _height_mismatch(
    found: Percentiles, known: Percentiles, remedy: str, certain: bool = True
) -> Mismatch:
    ours, theirs = (f"{p.p1:.1f} to {p.p99:.1f} m" for p in (found, known))
    return Mismatch(certain, ours, theirs, remedy)
