"""Rules for heights: findings about values, voids, units and heights above ground."""

from collections.abc import Iterator
from functools import partial

import numpy as np
import scipy  # loads its parts when they are first used

from cafe_cli.config.schema import HeightSettings
from cafe_cli.findings import Finding
from cafe_cli.raster.reader import Array, Mask
from cafe_cli.text import percent

_error, _warning, _note = (partial(Finding, level) for level in ("error", "warning", "note"))


def check_heights(
    values: Array,
    settings: HeightSettings,
    metres: float = 1.0,
    *,
    dtype: str = "float32",
    unit_known: bool = False,
    crs_unit: str = "metre",
) -> Iterator[Finding]:
    """Check whether heights are plausible for the kind and unit in the settings.

    Parameters
    ----------
    values : ndarray, (n,)
        Stored values of the raster, without voids, declared or not.
    settings : HeightSettings
    metres : float
        Metres per unit of the raster.
    dtype : str
        Data type of the raster.
    unit_known : bool
        Whether the raster names the unit of its heights, or its vertical CRS does.
    crs_unit : str
        Unit of its CRS.
    """
    if not values.size:
        yield _error("holds no valid height: everything is nodata")
        return
    heights = values * metres
    if heights.min() == heights.max():
        yield _warning(f"every height is {heights[0]:g} m: there is nothing to learn from it")
        return
    doubts = list(_check_kind(heights, settings))
    yield from doubts
    if settings.unit == "auto" and not unit_known and not doubts:
        yield from _check_unit(heights, settings, dtype, crs_unit)


def _check_unit(
    heights: Array, settings: HeightSettings, dtype: str, crs_unit: str
) -> Iterator[Finding]:
    top = float(np.percentile(heights, 99))
    whole = np.dtype(dtype).kind in "iu"
    if "foot" in crs_unit.lower() or "feet" in crs_unit.lower():
        yield _warning(
            f"the heights state no unit and are read as metres, but their CRS is in {crs_unit}; "
            "if they are feet, set height.unit to 'foot' or 'us-foot'"
        )
    elif settings.kind == "ndsm" and whole and top > 30:
        likely = "decimetre" if top <= 400 else "centimetre"
        yield _warning(
            f"the heights are integers ({dtype}) up to {heights.max():.0f} without a unit, read "
            f"as metres above ground; they look like {likely}s: set height.unit = '{likely}'"
        )
    elif settings.kind == "ndsm" and top > 60:
        yield _too_tall(top)
    elif whole:
        yield _note(
            f"the heights are integers ({dtype}) without a unit, read as metres; if their unit is "
            "smaller, set height.unit to 'decimetre' or 'centimetre'"
        )


def _check_kind(heights: Array, settings: HeightSettings) -> Iterator[Finding]:
    low = float(np.percentile(heights, 5))
    if settings.kind == "ndsm" and low > 10:
        yield _warning(
            f"height.kind is 'ndsm' (above ground), but 95 % of the heights are above {low:.1f} m: "
            "absolute heights need height.kind = 'dsm'"
        )
    if settings.kind == "ndsm" and low < -2:
        yield _warning(
            f"height.kind is 'ndsm' (above ground), but 5 % of the heights are below {low:.1f} m"
        )
    flat = float((np.abs(heights) <= 0.3).mean())
    if settings.kind == "dsm" and settings.ground != "none" and flat > 0.5 and low > -1:
        yield _warning(
            f"height.kind is 'dsm', but {percent(flat)} of the heights are within 0.3 m of zero, "
            "as is usual for heights above ground: if they are, set height.kind = 'ndsm'"
        )


def check_above_ground(
    p1: float, p50: float, p99: float, ground: str = "estimate", given: bool = False
) -> Iterator[Finding]:
    """Check the heights above ground, after the ground was subtracted.

    Parameters
    ----------
    p1, p50, p99 : float
        Their percentiles, metres.
    ground : {"dtm", "estimate", "none"}
        Where the ground comes from.
    given : bool
        Whether there is a terrain model, be it used or not.
    """
    if p99 > 60:
        yield _too_tall(p99)
    if p50 > 10:
        why = _too_low(ground, given)
        yield _note(f"half of the pixels lie more than {p50:.1f} m above ground: forest, or {why}")
    if p1 < -3:
        other = "a terrain model of another place, unit or vertical datum"
        cause = other if ground == "dtm" else "an estimate of the ground that is too high"
        yield _warning(
            f"1 % of the pixels lie more than {-p1:.1f} m below ground: pits in the surface model, "
            f"or {cause}"
        )


def _too_low(ground: str, given: bool) -> str:
    """Say what may be wrong with a ground that is too low, and what helps."""
    if ground == "dtm":
        return "the terrain model is of another place, unit or vertical datum"
    if given:
        return "the estimate is too low; use the terrain model (height.ground = 'dtm')"
    return "the ground is too low; give a terrain model (scenes.dtm, --dtm) if there is one"


def _too_tall(top: float) -> Finding:
    return _warning(
        f"1 % of the pixels lie more than {top:.0f} m above ground, which is more than in most "
        "towns: if the heights are feet, decimetres or centimetres, set height.unit"
    )


def largest_gap(void: Mask) -> float:
    """Return the share of a raster that is its largest void.

    Voids that touch the border do not count: rotated rasters always have them.
    """
    gaps, count = scipy.ndimage.label(void)
    sizes = np.bincount(gaps.ravel(), minlength=count + 1)
    border = np.concatenate([gaps[0], gaps[-1], gaps[:, 0], gaps[:, -1]])
    sizes[[0, *np.unique(border)]] = 0
    return float(sizes.max() / void.size)


def check_voids(share: float, largest: float, fill: float) -> Iterator[Finding]:
    """Check the share of the image that has no height.

    Parameters
    ----------
    share : float
        Share of the valid pixels of the image, after voids were filled.
    largest : float
        Width in metres of the largest gap between heights; 0 if there is none.
    fill : float
        Metres up to which gaps are filled.
    """
    if share > 0.02:
        widest = (
            f", the largest gap between heights is about {largest:.0f} m wide" if largest else ""
        )
        yield (_warning if share > 0.3 else _note)(
            f"{percent(share)} of the image has no height{widest}; voids are filled up to "
            f"height.fill = {fill:g} m from the nearest height, and stay nodata beyond"
        )
