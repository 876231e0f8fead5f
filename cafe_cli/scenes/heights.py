"""Height rasters on another grid: in metres, above the ground, with a mask.

What a pixel's height is does not depend on the window that is read: the ground is estimated once
for the scene, and voids are filled from what lies around them, inside the window or not.
"""

import math
from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.enums import Resampling
from rasterio.fill import fillnodata

from cafe_cli.config.schema import HeightSettings
from cafe_cli.errors import BandError, ConfigError, GridError, InputError
from cafe_cli.raster.grid import Grid
from cafe_cli.raster.mosaic_view import Member, MosaicView, union_grid
from cafe_cli.raster.reader import (
    RasterReader,
    image_bands,
    open_raster,
    read_decimated,
    sample_band,
)
from cafe_cli.raster.warp import (
    enclosing_window,
    in_memory_raster,
    open_warped,
    read_warped,
)
from cafe_cli.raster.window import Window
from cafe_cli.scenes.ground_filter import GroundFilter, estimate_ground
from cafe_cli.system.atomic_write import stamps

METRES = {
    "metre": 1.0,
    "foot": 0.3048,
    "us-foot": 1200 / 3937,
    "decimetre": 0.1,
    "centimetre": 0.01,
}
_UNIT_NAMES = {
    "m": "metre", "metre": "metre", "meter": "metre", "metres": "metre", "meters": "metre",
    "ft": "foot", "foot": "foot", "feet": "foot", "us survey foot": "us-foot",
    "us-ft": "us-foot", "ftus": "us-foot", "dm": "decimetre", "cm": "centimetre",
}  # fmt: skip
# Heights on Earth; what lies outside is a void that nobody declared.
PLAUSIBLE = (-1_000.0, 10_000.0)
_PROBE = 1024  # pixels along each side of the decimated look at a height raster without data
_WHOLE = 25_000_000  # ground cells up to which the ground below a whole raster is estimated
_MAX_GROUND_CELLS = 100_000_000
_REACH = 5  # windows of the ground filter around a scene, where the raster is larger than that

_checked = set[tuple[object, ...]]()  # rasters as they were, and the settings

Values = NDArray[np.float32]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class GroundSurface:
    """An estimated ground surface: metres, (height, width) on a grid of its own."""

    surface: Values
    grid: Grid


@dataclass(frozen=True)
class HeightRasters:
    """Surface and terrain models that were inspected, and how their values become heights.

    Attributes
    ----------
    surface, terrain : tuple of Member
        Rasters of the surface model, and of the terrain model if there is one.
    settings : HeightSettings
    ground : {"dtm", "estimate", "none"}
        Where the ground below the heights comes from.
    metres, terrain_metres : float
        Metres per unit of both models.
    """

    surface: tuple[Member, ...]
    terrain: tuple[Member, ...]
    settings: HeightSettings
    ground: str
    metres: float
    terrain_metres: float = 1.0


def inspect_heights(
    surface: tuple[Member, ...], terrain: tuple[Member, ...], settings: HeightSettings
) -> HeightRasters:
    """Check surface and terrain models, on a sample of their pixels.

    Raises
    ------
    InputError
        A unit that is not known, heights that cannot be, or none at all.
    BandError
        An image instead of heights.
    ConfigError
        ``ground = "dtm"`` without a terrain model.
    """
    ground = ground_source(settings, bool(terrain))
    metres = metres_per_unit(surface[0], settings)
    check_heights(surface, settings)
    if ground != "dtm":
        return HeightRasters(surface, terrain, settings, ground, metres)
    own = _terrain_settings(settings)
    check_heights(terrain, own)
    return HeightRasters(
        surface, terrain, settings, ground, metres, metres_per_unit(terrain[0], own)
    )


def _terrain_settings(settings: HeightSettings) -> HeightSettings:
    """Return the settings of a terrain model: the nodata value is that of the surface model."""
    return settings.model_copy(update={"nodata": None})


class HeightReader:
    """Reads heights on the grid of a scene. Not to be shared between threads.

    Parameters
    ----------
    rasters : HeightRasters
    grid : Grid
        Grid of the scene.
    ground : GroundSurface, optional
        From `ground_below`; estimated when it is needed first if None.

    Raises
    ------
    GridError
        A CRS on one side only.
    """

    def __init__(
        self,
        rasters: HeightRasters,
        grid: Grid,
        ground: GroundSurface | None = None,
    ) -> None:
        self._stack, self._rasters, self._grid, self._ground = ExitStack(), rasters, grid, ground
        self._surface = self._view(rasters.surface, rasters.settings)
        self._terrain = None
        if rasters.ground == "dtm":
            self._terrain = self._view(rasters.terrain, _terrain_settings(rasters.settings))
        self._margin = math.ceil(rasters.settings.fill / grid.gsd)

    def read(self, window: Window) -> tuple[Values, Mask]:
        """Read heights (height, width) in metres, 0 where not valid, and where they are valid.

        Raises
        ------
        InputError
            Voids that nobody declared, or a damaged file.
        """
        height, valid = self._above_ground(window)
        if not self._margin or valid.all():
            return height, valid
        around = window.expand(self._margin)
        height, valid = _fill(*self._above_ground(around), self._margin)
        inside = window.slices(around)
        return height[inside], valid[inside]

    def close(self) -> None:
        """Close what is open."""
        self._stack.close()

    def _above_ground(self, window: Window) -> tuple[Values, Mask]:
        path = self._rasters.surface[0].path
        height, valid = _in_metres(self._surface, self._rasters.metres, window, path)
        if self._rasters.ground != "none":
            ground, known = self._read_ground(window)
            height = height - ground
            valid &= known
        return height if valid.all() else np.where(valid, height, np.float32(0)), valid

    def _read_ground(self, window: Window) -> tuple[Values, Mask]:
        if self._terrain is not None:
            metres = self._rasters.terrain_metres
            return _in_metres(self._terrain, metres, window, "the terrain model")
        values, valid = read_warped(self._estimate, window)
        return values[0], valid

    @cached_property
    def _estimate(self) -> RasterReader:
        ground = self._ground or ground_below(self._rasters, self._grid)
        source = self._stack.enter_context(in_memory_raster(ground.surface, ground.grid))
        return self._stack.enter_context(open_warped(source, self._grid, Resampling.bilinear))

    def _view(self, members: Sequence[Member], settings: HeightSettings) -> MosaicView:
        view = _height_view(members, self._grid, Resampling.bilinear, settings)
        self._stack.callback(view.close)
        return view


def ground_source(settings: HeightSettings, has_terrain: bool) -> str:
    """Return where the ground comes from: ``dtm``, ``estimate``, or ``none`` to be taken off.

    Raises
    ------
    ConfigError
        ``ground = "dtm"`` without a terrain model.
    """
    if settings.kind == "ndsm":
        return "none"
    if settings.ground == "dtm" and not has_terrain:
        raise ConfigError(
            "height.ground is 'dtm', but there is no terrain model: name one with scenes.dtm "
            "(--dtm), or let the ground be estimated"
        )
    return ("dtm" if has_terrain else "estimate") if settings.ground == "auto" else settings.ground


def metres_per_unit(member: Member, settings: HeightSettings) -> float:
    """Return metres per unit of the heights: as set, of the raster, of its vertical CRS, or 1.

    Raises
    ------
    InputError
        The raster names a unit that is not known.
    """
    if settings.unit != "auto":
        return METRES[settings.unit]
    named = member.unit.lower()
    if named and named not in _UNIT_NAMES:
        raise InputError(
            f"{member.path} gives its heights in {named!r}, which is no unit known here; "
            f"set height.unit to one of {', '.join(METRES)}"
        )
    return METRES[_UNIT_NAMES[named]] if named else _vertical_unit(member.grid.crs)


def _vertical_unit(crs: CRS | None) -> float:
    """Return metres per unit of the vertical axis of a compound CRS, 1 where there is none."""
    parts = crs.to_dict(projjson=True).get("components", []) if crs else []
    for part in parts:
        axes = part.get("coordinate_system", {}).get("axis", [])
        if part.get("type") == "VerticalCRS" and axes:
            unit = axes[0].get("unit", "metre")
            return float(unit["conversion_factor"]) if isinstance(unit, dict) else 1.0
    return 1.0


def check_heights(members: Sequence[Member], settings: HeightSettings) -> None:
    """Refuse heights that cannot be: voids coded as a number that nobody declared.

    A sample of the pixels is looked at, once for rasters that do not change; `HeightReader.read`
    checks the others.

    Raises
    ------
    InputError
        The message names the number, or that there is no height at all.
    BandError
        An image instead of heights: several bands.
    """
    key = (*stamps(m.path for m in members).items(), settings)
    if len(key) > len(members) and key in _checked:
        return
    found = 0
    for member in members:
        metres = metres_per_unit(member, settings)
        with open_raster(member.path) as dataset:
            if len(bands := image_bands(dataset, None)) > 1:
                raise BandError(
                    f"{member.path} has {len(bands)} bands, heights have one; if it is no image, "
                    "take the band of the heights: gdal_translate -b N"
                )
            heights = sample_band(dataset, settings.nodata)
            if not np.isfinite(heights).any() and len(members) == 1:
                heights = read_decimated(dataset, _PROBE, settings.nodata).ravel()
        heights = member.scaled(heights[np.isfinite(heights)]) * metres
        _check_plausible(member.path, heights, metres)
        found += heights.size
    if not found and len(members) == 1:
        raise InputError(f"{members[0].path} holds no valid height")
    _checked.add(key)


def _in_metres(source: MosaicView, metres: float, window: Window, name: str) -> tuple[Values, Mask]:
    values, valid = source.read(window)
    height = values[0] if metres == 1 else values[0] * np.float32(metres)
    valid &= np.isfinite(height)
    _check_plausible(name, height if valid.all() else height[valid], metres)
    return height, valid


def _check_plausible(name: str, heights: NDArray[np.floating], metres: float) -> None:
    if not heights.size:
        return
    low, high = float(heights.min()), float(heights.max())
    if low < PLAUSIBLE[0] or high > PLAUSIBLE[1]:
        void = as_written((low if low < PLAUSIBLE[0] else high) / metres)
        raise InputError(
            f"{name} has voids that nobody declared: it holds heights from {low:.6g} to "
            f"{high:.6g} m; if {void} marks voids, say so with height.nodata = {void} "
            f"(--height-nodata) or gdal_edit.py -a_nodata {void} FILE; or set height.unit"
        )


def as_written(value: float) -> str:
    """Write a number so that it can be given back as nodata: as an integer, or to the last bit."""
    whole = round(value)
    close = math.isclose(value, whole, rel_tol=1e-6)
    return str(whole) if close and abs(whole) < 10**7 else str(np.float32(value))


def _fill(height: Values, valid: Mask, reach: int) -> tuple[Values, Mask]:
    """Fill voids up to `reach` pixels from the next height, by inverse distance.

    Only those heights enter that lie within reach, so a window with that much around it is enough.
    """
    if not valid.any():
        return height, valid
    marked = np.where(valid, height, np.float32(np.nan))
    filled = fillnodata(marked, valid.astype(np.uint8), max_search_distance=reach)
    known = np.isfinite(filled)
    return np.where(known, filled, np.float32(0)), known


def _height_view(
    members: Sequence[Member], grid: Grid, resampling: Resampling, settings: HeightSettings
) -> MosaicView:
    nodata = settings.nodata
    return MosaicView(
        members, grid, resampling, bands=(1,), nodata=nodata, dtype="float32", scaled=True
    )


def ground_below(rasters: HeightRasters, scene: Grid) -> GroundSurface:
    """Estimate the ground on the lowest heights of coarse cells.

    Below the whole surface model, whatever part of it the scene shows; only where that is larger
    than 25 million cells, below the scene and five windows of the filter around it.

    Parameters
    ----------
    rasters : HeightRasters
    scene : Grid

    Raises
    ------
    GridError
        The scene itself is too large for the ground filter.
    """
    surface, settings = rasters.surface, rasters.settings
    own = union_grid(surface)
    grid = _ground_grid(own, settings.cell)
    if grid.width * grid.height > _WHOLE:
        near = enclosing_window(surface[0].path, scene, grid)
        near = near.expand(math.ceil(_REACH * settings.max_window / settings.cell))
        grid = grid.at(near.intersection(grid.extent) or near)
    if grid.width * grid.height > _MAX_GROUND_CELLS:
        raise GridError(
            f"{surface[0].path} has {grid.width} x {grid.height} ground cells of {settings.cell} "
            f"m, more than {_MAX_GROUND_CELLS:,}; raise height.cell or set height.ground = 'none'"
        )
    with closing(_height_view(surface, grid, Resampling.min, settings)) as view:
        heights, valid = _in_metres(view, rasters.metres, grid.extent, surface[0].path)
    lowest = np.where(valid, heights, np.float32(np.nan))
    ground_filter = GroundFilter(
        cell=settings.cell, pixel=own.gsd, max_window=settings.max_window, slope=settings.slope
    )
    return GroundSurface(estimate_ground(lowest, ground_filter), grid)


def _ground_grid(grid: Grid, cell: float) -> Grid:
    """Return the coarse grid, one cell larger on every side so that it covers every pixel."""
    if grid.crs is not None and grid.crs.is_geographic:
        zone, south = int((grid.footprint.centroid.x + 180) // 6) + 1, grid.footprint.centroid.y < 0
        utm = CRS.from_epsg((32700 if south else 32600) + min(zone, 60))
        outline_there = grid.footprint_in(utm)
        return Grid.covering(utm, outline_there.bounds, cell, margin=1)
    return Grid.covering(grid.crs, grid.bounds, cell / grid.unit_metres, margin=1)
