"""Find undeclared nodata values among heights, such as -9999, 9999 or 0.

Water is what such a value is most easily confused with: lakes and the sea are often stored at one
height, too. Water has shores, a hole has an edge all round: `_is_hole` tells them apart.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import scipy  # loads its parts when they are first used
from numpy.typing import NDArray

from cafe_cli.text import percent

PLAUSIBLE = (-1_000.0, 10_000.0)
"""Range of heights on Earth in metres; a height outside is an undeclared void."""

FAR = 300.0
"""Metres without any height between two heights of one survey, if one of them is no height."""

_DEEP = 50.0  # metres by which the edge of a hole stands out all round, and no shore does
_STEP = 2.0  # metres by which the edge of a hole differs from it nearly everywhere
_FEW = 0.001  # share of the heights from which a value is worth a warning
_MOST_CODES = 8
_ANY_SHAPE = np.ones((3, 3), bool)

Values: TypeAlias = NDArray[np.float64]


@dataclass(frozen=True)
class VoidCode:
    """A value that marks voids, or may do so.

    Attributes
    ----------
    value : float
        As stored in the raster.
    share : float
        Share of the heights that have it.
    certain : bool
        Whether it cannot be a height. If not, it may be one.
    """

    value: float
    share: float
    certain: bool


def is_code(value: float) -> bool:
    """Whether a stored value is one that programs write for "no data".

    These are 0, -1, numbers of nines (-99, 9999, -99.99), powers of ten from 1000 or -100, and
    the limits of integers and of float32.
    """
    size, whole = abs(value), round(abs(value))
    if size > 1e15 or value in (0, -1):
        return True
    digits = f"{size:.6g}".replace(".", "")
    if len(digits) > 1 and set(digits) == {"9"}:
        return True
    if not math.isclose(size, whole, rel_tol=1e-6):
        return False
    if whole >= (100 if value < 0 else 1000) and str(whole).rstrip("0") == "1":
        return True
    return any(abs(whole - 2**bits) <= 1 for bits in (15, 31)) or whole in (255, 65535, 2**32 - 1)


def find_height_codes(
    parts: Sequence[Values], metres: Callable[[Any], Any], above_ground: bool
) -> list[VoidCode]:
    """Find undeclared voids in parts of a height raster.

    Parameters
    ----------
    parts : sequence of ndarray, (height, width)
        Stored values; NaN where they are known to be void.
    metres : callable
        Converts stored values to metres.
    above_ground : bool
        Whether the heights are those above ground, so that 0 is the ground.
    """
    values = np.concatenate([part[np.isfinite(part)] for part in parts])
    codes: list[VoidCode] = []
    while (code := _find_extreme(parts, values, metres, above_ground)) is not None:
        codes.append(code)
        values = values[values != code.value]
        if not is_code(code.value) or len(codes) == _MOST_CODES:
            return codes  # another unit, rather than a value that marks voids
    for value in (0.0, -1.0):
        if (code := _judge(value, parts, values, metres, above_ground)) is not None:
            codes.append(code)
            values = values[values != value]
    return codes


def _find_extreme(
    parts: Sequence[Values], values: Values, metres: Callable[[Any], Any], above_ground: bool
) -> VoidCode | None:
    """Return the lowest or the highest value if it marks voids."""
    if values.size:
        for value in (float(values.min()), float(values.max())):
            code = _judge(value, parts, values, metres, above_ground)
            if code is not None:
                return code
    return None


def _judge(
    value: float,
    parts: Sequence[Values],
    values: Values,
    metres: Callable[[Any], Any],
    above_ground: bool,
) -> VoidCode | None:
    """Say whether one value marks voids; `values` are all that are not known to do so."""
    same = values == value
    share = float(same.mean()) if values.size else 0.0
    if not PLAUSIBLE[0] <= float(metres(value)) <= PLAUSIBLE[1]:
        return VoidCode(value, share, True) if share else None
    if not 0 < share < 1 or not is_code(value) or (above_ground and value == 0):
        return None
    heights, level = metres(values[~same]), float(metres(value))
    gap = float(np.abs(heights - level).min())
    if gap > FAR and value != 0:
        return VoidCode(value, share, True)
    if share < _FEW:
        return None
    edge = _edge_heights(parts, value, metres) - level
    if value not in (0, -1) and edge.size and np.percentile(np.abs(edge), 5) > _DEEP:
        return VoidCode(value, share, True)
    low_land = value == 0 and share > 0.5  # flat ground at 0, rather than half of it void
    hole = not low_land and _is_hole(edge, _quantum(heights))
    above = value == 0 and float(np.percentile(heights, 1)) > 20
    sunk = above_ground and value < 0 and gap >= 0.5 and level < heights.min()
    return VoidCode(value, share, False) if hole or above or sunk else None


def _edge_heights(parts: Sequence[Values], value: float, metres: Callable[[Any], Any]) -> Values:
    """Return the heights in metres of the pixels next to those with a value, (n,)."""
    found = []
    for part in parts:
        same = part == value
        if same.any():
            edge = scipy.ndimage.binary_dilation(same, _ANY_SHAPE) & ~same & np.isfinite(part)
            found.append(metres(part[edge]))
    return np.concatenate(found) if found else np.zeros(0)


def _is_hole(edge: Values, quantum: float) -> bool:
    """Whether an area of one height is a hole, from the heights of its edge above its own.

    Water begins where the shore does, at its own height, and no shore lies below it.
    """
    if not edge.size:
        return False
    below = float((edge < -max(0.5, 2.5 * quantum)).mean())
    return below > 0.1 or float(np.percentile(np.abs(edge), 5)) > max(_STEP, 2.5 * quantum)


def _quantum(heights: Values) -> float:
    """Return the step in metres to which heights are rounded."""
    some = np.unique(heights[:: max(1, heights.size // 50_000)])
    steps = np.diff(some)
    return float(steps[steps > 1e-4].min(initial=math.inf)) if steps.size else 0.0


def describe_height_codes(
    codes: Sequence[VoidCode], heights: Values, path: str, others: Sequence[float], options: bool
) -> Iterator[tuple[bool, str]]:
    """Put what `find_height_codes` found into words.

    Parameters
    ----------
    codes : sequence of VoidCode
    heights : ndarray, (n,)
        The heights without them, in metres.
    path : str
    others : sequence of float
        Values that are declared and do occur.
    options : bool
        Whether cafe's options apply: they do to surface models, not to terrain models.

    Yields
    ------
    certain : bool
    message : str
    """
    beside = ""
    if heights.size:
        beside = f", beside heights from {heights.min():.1f} to {heights.max():.1f} m"
    for certain in (True, False):
        some = [code for code in codes if code.certain is certain]
        if not some:
            continue
        listed = " and ".join(f"{as_written(c.value)} ({percent(c.share)})" for c in some)
        remedy = declare_heights([c.value for c in some], path, others, options)
        unit = ", else set height.unit" if certain and options else ""
        what = (
            "that look like undeclared nodata" if certain else "in areas like holes, not like water"
        )
        yield (
            certain,
            f"{path} has heights {what}: {listed}{beside}; if they mark voids, {remedy}{unit}",
        )


def declare_heights(
    codes: Sequence[float], path: str, others: Sequence[float], options: bool
) -> str:
    """Return how to declare values of a height raster as voids, beside `others` declared."""
    values = [*map(as_written, dict.fromkeys([*others, *codes]))]
    if len(values) > 1:
        return (
            f"make them one: gdal_calc.py -A {path} --outfile NEW.tif --NoDataValue={values[0]} "
            f'--calc "where(isin(A,[{",".join(values)}]),{values[0]},A)"'
        )
    edit = f"gdal_edit.py -a_nodata {values[0]} {path}"
    if not options:
        return f"declare them with {edit}"
    return f"declare them with height.nodata = {values[0]} (--height-nodata) or {edit}"


def as_written(value: float) -> str:
    """Write a number so that it can be passed as nodata: as an integer, or as an exact float32."""
    whole = round(value)
    close = math.isclose(value, whole, rel_tol=1e-6)
    return str(whole) if close and abs(whole) < 10**7 else str(np.float32(value))
