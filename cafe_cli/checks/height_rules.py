"""Rules for heights: findings about values, voids, units and heights above ground."""

from collections.abc import Iterator
from functools import partial

import numpy as np
from scipy.ndimage import label

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
            f"heights without a unit in a CRS that counts in {crs_unit} are taken for metres; if "
            "they are feet, set height.unit to 'foot' or 'us-foot'"
        )
    elif settings.kind == "ndsm" and whole and top > 30:
        likely = "decimetre" if top <= 400 else "centimetre"
        yield _warning(
            f"whole numbers ({dtype}) up to {heights.max():.0f} without a unit are taken for "
            f"metres above ground; they look like {likely}s: set height.unit = '{likely}'"
        )
    elif settings.kind == "ndsm" and top > 60:
        yield _too_tall(top)
    elif whole:
        yield _note(
            f"whole numbers ({dtype}) without a unit are taken for metres; if they are finer, set "
            "height.unit to 'decimetre' or 'centimetre'"
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
            "as heights above ground are: for those, set height.kind = 'ndsm'"
        )


def check_above_ground(p1: float, p50: float, p99: float) -> Iterator[Finding]:
    """Check percentiles of the heights above ground, metres, after the ground was subtracted."""
    if p99 > 60:
        yield _too_tall(p99)
    if p50 > 10:
        yield _note(
            f"half of the pixels lie more than {p50:.1f} m above ground: forest, or the ground is "
            "too low; give a terrain model (scenes.dtm, --dtm) if there is one"
        )
    if p1 < -3:
        yield _warning(
            f"1 % of the pixels lie more than {-p1:.1f} m below ground: pits in the surface model, "
            "or a terrain model of another place, unit or vertical datum"
        )


def _too_tall(top: float) -> Finding:
    return _warning(
        f"1 % of the pixels lie more than {top:.0f} m above ground, more than most towns have: if "
        "the heights are feet, decimetres or centimetres, set height.unit"
    )


def void_shares(void: Mask) -> tuple[float, float]:
    """Return the share of a raster that is void, and that of its largest gap.

    Neither counts voids that touch the border: rotated rasters always have them.
    """
    gaps, count = label(void)
    sizes = np.bincount(gaps.ravel(), minlength=count + 1)
    border = np.concatenate([gaps[0], gaps[-1], gaps[:, 0], gaps[:, -1]])
    sizes[[0, *np.unique(border)]] = 0
    return float(sizes.sum() / void.size), float(sizes.max() / void.size)


def check_voids(total: float, inside: float, largest: float, fill: float) -> Iterator[Finding]:
    """Check the shares of a height raster that are void.

    Parameters
    ----------
    total, inside : float
        Shares with and without the voids that touch the border.
    largest : float
        Width in metres of the largest gap inside.
    fill : float
        Metres up to which gaps are filled.
    """
    if inside > 0.02:
        yield (_warning if inside > 0.3 else _note)(
            f"{percent(inside)} of the heights are void, the largest gap is about {largest:.0f} m "
            f"wide; they are filled up to height.fill = {fill:g} m from the next height, and "
            "unknown to the model beyond"
        )
    if total - inside > 0.5:
        yield _warning(f"{percent(total - inside)} of the raster is void around the heights")
