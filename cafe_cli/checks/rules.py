"""What looks wrong with a scene: judgements of arrays and numbers, without a file."""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import label

from cafe_cli.checks.coregistration import OffsetConsensus
from cafe_cli.classes import ClassTable
from cafe_cli.config.schema import HeightSettings, LabelSettings
from cafe_cli.findings import Finding
from cafe_cli.raster.grid import Grid
from cafe_cli.scenes.heights import PLAUSIBLE, as_written
from cafe_cli.scenes.label_coding import list_unknown

Pixels = NDArray[Any]
Mask = NDArray[np.bool_]

_BIG = 25_000_000  # pixels from which it matters how a file is laid out
_VOIDS = (
    -999, -9999, -99999, -32767, -32768, 9999, 99999, 32767, 65535, -3.4028234663852886e38,
    3.4028234663852886e38,
)  # fmt: skip

_error, _warning, _note = (partial(Finding, level) for level in ("error", "warning", "note"))


def check_heights(
    values: Pixels,
    settings: HeightSettings,
    metres: float = 1.0,
    *,
    dtype: str = "float32",
    unit_known: bool = False,
    crs_unit: str = "metre",
) -> Iterator[Finding]:
    """Judge whether heights can be what the settings say they are.

    Parameters
    ----------
    values : ndarray, (n,)
        As they stand in the raster, without voids.
    settings : HeightSettings
    metres : float
        What one unit of the raster is.
    dtype : str
        Of the raster.
    unit_known : bool
        Whether the raster names the unit of its heights, or its vertical CRS does.
    crs_unit : str
        What its CRS counts in.
    """
    if not values.size:
        yield _error("holds no valid height: everything is nodata")
        return
    heights = values * metres
    void = _undeclared_void(heights, metres)
    if void is not None:
        yield _undeclared(heights, void, metres)
        return
    if settings.kind == "dsm" and _marks_voids_by_zero(heights):
        others = heights[heights != 0]
        yield _warning(
            f"{_percent((heights == 0).mean())} of the heights are exactly 0, while the others "
            f"begin at {others.min():.1f} m: if 0 marks voids, say so with height.nodata = 0 "
            "(--height-nodata)"
        )
        heights = others
    if heights.min() == heights.max():
        yield _warning(f"every height is {heights[0]:g} m: there is nothing to learn from it")
        return
    doubts = list(_doubts_on_kind(heights, settings))
    yield from doubts
    if settings.unit == "auto" and not unit_known and not doubts:
        yield from _doubts_on_unit(heights, settings, dtype, crs_unit)


def _undeclared_void(heights: Pixels, metres: float) -> float | None:
    """Return a number that marks voids: far from all other heights, or from all on Earth."""
    for void in (float(heights.min()), float(heights.max())):
        if not PLAUSIBLE[0] <= void <= PLAUSIBLE[1]:
            return void
        rest = heights[~np.isclose(heights, void, rtol=1e-6)]
        coded = any(math.isclose(void, v * metres, rel_tol=1e-6) for v in _VOIDS)
        if coded and rest.size and np.abs(rest - void).min() > 300:
            return void
    return None


def _undeclared(heights: Pixels, void: float, metres: float) -> Finding:
    same = np.isclose(heights, void, rtol=1e-6)
    rest = heights[~same]
    beside = f" beside heights from {rest.min():.1f} to {rest.max():.1f} m" if rest.size else ""
    code = as_written(void / metres)
    return _error(
        f"{_percent(same.mean())} of the heights are {code}{beside}: if that marks voids, say so "
        f"with height.nodata = {code} (--height-nodata), else set height.unit"
    )


def _marks_voids_by_zero(heights: Pixels) -> bool:
    """Whether many heights are zero, and no others are anywhere near sea level."""
    zeros = heights == 0
    few = zeros.mean() < 0.001 or zeros.all()
    return not few and bool(np.percentile(heights[~zeros], 1) > 20)


def _doubts_on_unit(
    heights: Pixels, settings: HeightSettings, dtype: str, crs_unit: str
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


def _doubts_on_kind(heights: Pixels, settings: HeightSettings) -> Iterator[Finding]:
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
            f"height.kind is 'dsm', but {_percent(flat)} of the heights are within 0.3 m of zero, "
            "as heights above ground are: for those, set height.kind = 'ndsm'"
        )


def check_above_ground(p1: float, p50: float, p99: float) -> Iterator[Finding]:
    """Judge percentiles of the heights above ground, in metres, once the ground is taken off."""
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
    """Return the share of a raster that is void inside it, and that of its largest gap.

    Voids that reach the border are none of both: rasters that are turned have them by nature.
    """
    gaps, count = label(void)
    sizes = np.bincount(gaps.ravel(), minlength=count + 1)
    border = np.concatenate([gaps[0], gaps[-1], gaps[:, 0], gaps[:, -1]])
    sizes[[0, *np.unique(border)]] = 0
    return float(sizes.sum() / void.size), float(sizes.max() / void.size)


def check_voids(total: float, inside: float, largest: float, fill: float) -> Iterator[Finding]:
    """Judge the shares of a height raster that are void: all in all, and inside of it.

    Parameters
    ----------
    total, inside : float
    largest : float
        Width in metres of the largest gap inside.
    fill : float
        Metres up to which gaps are filled.
    """
    if inside > 0.02:
        yield (_warning if inside > 0.3 else _note)(
            f"{_percent(inside)} of the heights are void, the largest gap is about {largest:.0f} m "
            f"wide; they are filled up to height.fill = {fill:g} m from the next height, and "
            "unknown to the model beyond"
        )
    if total - inside > 0.5:
        yield _warning(f"{_percent(total - inside)} of the raster is void around the heights")


def check_image(values: Pixels, bands: Sequence[int]) -> Iterator[Finding]:
    """Judge the valid pixels (bands, n) of an optical raster; `bands` are their numbers."""
    if not values.size:
        yield _warning("no valid pixel in any of the places looked at")
        return
    for number, band in zip(bands, values, strict=True):
        if band.min() == band.max():
            yield _warning(f"band {number} is {band[0]:g} everywhere: it shows nothing")
    bits = int(values.max()).bit_length() if values.dtype.kind in "iu" else 0
    if values.dtype.itemsize == 2 and 0 < bits <= 12:
        used = next(b for b in (8, 10, 11, 12) if bits <= b)
        yield _note(
            f"{values.dtype.name} of which {used} bits are used (values up to {values.max()}); "
            "every raster given to one model has to be scaled alike"
        )


def margin_shares(
    values: Pixels, valid: Mask, sides: tuple[bool, bool, bool, bool]
) -> dict[float, float]:
    """Find margins of one value in all bands along the border of a raster.

    Parameters
    ----------
    values : ndarray, (bands, height, width)
    valid : ndarray of bool, (height, width)
    sides : tuple of bool
        Which sides of the window are sides of the raster: top, bottom, left, right.

    Returns
    -------
    dict
        Share of the window that is such a margin, for 0 and for the highest value.
    """
    rim = np.zeros(valid.shape, bool)
    rim[[0, -1]] |= np.array(sides[:2])[:, None]
    rim[:, [0, -1]] |= np.array(sides[2:])
    shares = {}
    for value in (0.0, float(np.iinfo(values.dtype).max) if values.dtype.kind in "iu" else 1.0):
        areas, _ = label((values == value).all(axis=0) & valid)
        shares[value] = float(np.isin(areas, np.setdiff1d(areas[rim], [0])).mean())
    return shares


def check_margins(shares: dict[float, float]) -> Iterator[Finding]:
    """Judge the margins of an optical raster: the share of its pixels per value."""
    for value, share in shares.items():
        if share > 0.01:
            yield _warning(
                f"a margin that is {value:g} in every band, {_percent(share)} of the pixels looked "
                "at, counts as image: if it is void, declare it with gdal_edit.py -a_nodata "
                f"{value:g} FILE, or with nearblack -setmask"
            )


def check_labels(
    counts: NDArray[np.int64],
    odd: "Counter[int | str]",
    classes: ClassTable,
    settings: LabelSettings,
) -> Iterator[Finding]:
    """Judge the pixels per class id (K,), and the values or colours that are none exactly."""
    listed = list_unknown(odd)
    if odd and settings.encoding == "ids":
        yield _error(
            f"label values without a class: {listed}; add them to a class with values = [...], or "
            "to labels.ignore"
        )
    elif odd:
        yield _note(f"label colours of no class, which take the nearest one: {listed}")
    elif not counts.any():
        yield _error("no label in any of the places looked at; check labels.encoding and the CRS")
    unseen = [c.name for c in classes if not counts[c.id] and c.name not in settings.absent]
    if counts.any() and unseen:
        yield _note(f"classes that were not seen here: {', '.join(unseen)}")


def pixel_shift(grid: Grid, reference: Grid) -> tuple[float, float] | None:
    """Return by what part of a pixel (columns, rows) a grid lies off the pixels of another.

    None where CRS or pixels differ, so that there is nothing to be off.
    """
    between = ~reference.transform @ grid.transform
    same = np.allclose([between.a, between.b, between.d, between.e], [1, 0, 0, 1], atol=1e-6)
    if grid.crs != reference.crs or not same:
        return None
    column, row = (x - math.floor(x + 0.5) for x in (between.c, between.f))
    return column, row


def check_grid(stream: str, grid: Grid, reference: Grid, share: float) -> Iterator[Finding]:
    """Judge how a raster of heights or labels lies on the image, of which it covers a share."""
    if share < 0.995:
        yield (_warning if share < 0.9 else _note)(f"covers {_percent(share)} of the image")
    shift = pixel_shift(grid, reference)
    if shift and max(map(abs, shift)) > 1e-3:
        how = "taken from the nearest pixel" if stream == "labels" else "interpolated"
        yield _note(
            f"lies {abs(shift[0]):.2f} columns and {abs(shift[1]):.2f} rows off the pixels of the "
            f"image: {stream} values are {how}"
        )
    ratio = grid.gsd / reference.gsd
    if ratio > 4 and stream != "dtm":
        yield (_warning if ratio > 10 else _note)(
            f"pixels of {grid.gsd:.3g} m are {ratio:.1f} times as large as those of the image "
            f"({reference.gsd:.3g} m): outlines will be that coarse"
        )


def check_registration(
    found: OffsetConsensus, columns: float, rows: float, metres: float | None
) -> Iterator[Finding]:
    """Judge whether the heights lie shifted: far enough, and alike in most windows.

    Parameters
    ----------
    found : Agreement
        In pixels of the look.
    columns, rows : float
        The same offset in pixels of the image.
    metres : float, optional
        Its length; None where nobody knows how large a pixel is.
    """
    small = math.hypot(found.columns, found.rows) < 1.5
    if small or (metres or 1.0) < 0.5 or min(found.agree, found.shifted) < 0.6:
        return
    right = f"{abs(columns):.1f} px to the {'right' if columns > 0 else 'left'}"
    down = f"{abs(rows):.1f} px {'down' if rows > 0 else 'up'}"
    length = "" if metres is None else f" ({metres:.1f} m)"
    places = f"{round(found.agree * found.windows)} of {found.windows}"
    yield (_warning if found.windows >= 3 else _note)(
        f"the heights fit the image better when moved {right} and {down}{length}: correlation of "
        f"edges {found.at_zero:.2f}, then {found.at_peak:.2f}, alike in {places} places; compare "
        "them in a GIS, as roofs that lean do the same"
    )


def check_storage(facts: dict[str, Any]) -> Iterator[Finding]:
    """Judge whether a raster can be read by windows, from what `describe_raster` says of it."""
    strips = facts["block"][1] >= facts["width"] > 1024
    if strips and not facts["overviews"] and facts["width"] * facts["height"] > _BIG:
        yield _note(
            f"{facts['width']} x {facts['height']} pixels, neither tiled nor with overviews: every "
            "window reads whole rows; gdal_translate -of COG makes it faster"
        )


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %" if 0.001 <= share <= 0.999 else f"{100 * share:.3g} %"
