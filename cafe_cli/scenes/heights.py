"""Heights on the grid of a scene: in metres, above the ground, with a mask.

The height of a pixel does not depend on the window that is read: the ground is estimated once for
the scene, and voids are filled from the heights around them, inside the window or not.
"""

import math
from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.enums import Resampling
from rasterio.fill import fillnodata

from cafe_cli.config.schema import HeightSettings
from cafe_cli.errors import ConfigError, GridError
from cafe_cli.raster.grid import Grid
from cafe_cli.raster.mosaic_view import Member, MosaicView, union_grid
from cafe_cli.raster.reader import Mask
from cafe_cli.raster.skipped import Skipped
from cafe_cli.raster.skipping import either
from cafe_cli.raster.storage import RasterReader
from cafe_cli.raster.warp import (
    enclosing_window,
    in_memory_raster,
    open_warped,
    read_warped,
)
from cafe_cli.raster.window import Window
from cafe_cli.scenes.ground_filter import GroundFilter, estimate_ground
from cafe_cli.scenes.height_rasters import HeightRasters, check_plausible, terrain_settings

_WHOLE = 25_000_000  # cells up to which the ground is estimated below a whole surface model
_MAX_GROUND_CELLS = 100_000_000
_MOST_MARGIN = 1024  # pixels around a window
_REACH = 5  # windows of the ground filter around a scene, where the surface model is larger

Values = NDArray[np.float32]


@dataclass(frozen=True)
class GroundSurface:
    """An estimated ground surface: metres, (height, width), on a coarser grid of its own."""

    surface: Values
    grid: Grid


class HeightPixels(NamedTuple):
    """Heights of a window.

    Attributes
    ----------
    height : ndarray of float32, (height, width)
        Metres.
    valid : ndarray of bool, (height, width)
    skipped : ndarray of bool, (height, width), or None
        Pixels that could not be read, none of them valid; None if all could be.
    """

    height: Values
    valid: Mask
    skipped: Mask | None = None


class HeightReader:
    """Reads heights on the grid of a scene. Not to be shared between threads.

    Parameters
    ----------
    rasters : HeightRasters
    grid : Grid
        Grid of the scene.
    ground : GroundSurface, optional
        From `ground_below`; if None, it is estimated when first needed.

    Raises
    ------
    GridError
        Only some of the rasters have a CRS.
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
            self._terrain = self._view(rasters.terrain, terrain_settings(rasters.settings))
        self._margin = fill_margin(rasters.settings.fill, grid)

    def read(self, window: Window) -> tuple[Values, Mask]:
        """Read heights (height, width) in metres, 0 where not valid, and where they are valid.

        Raises
        ------
        InputError
            There are undeclared voids, or a file is damaged.
        """
        pixels = self.read_or_skip(window)
        return pixels.height, pixels.valid

    def read_or_skip(self, window: Window) -> HeightPixels:
        """Read heights; say also which could not be read. They are not filled from others."""
        pixels = self._above_ground(window)
        if not self._margin or pixels.valid.all():
            return pixels
        around = window.expand(self._margin)
        found = self._above_ground(around)
        inside = window.slices(around)
        filled, known = _fill(found.height, found.valid, self._margin)
        height, valid = filled[inside], known[inside]
        if pixels.skipped is not None:
            valid = valid & ~pixels.skipped
            height = np.where(valid, height, np.float32(0))
        return HeightPixels(height, valid, pixels.skipped)

    def close(self) -> None:
        """Close the rasters."""
        self._stack.close()

    def _above_ground(self, window: Window) -> HeightPixels:
        path = self._rasters.surface[0].path
        height, valid, lost = _in_metres(self._surface, self._rasters, window, path)
        if self._rasters.ground != "none":
            ground, known, unread = self._read_ground(window)
            height = height - ground
            valid &= known
            lost = either(lost, unread)
        return HeightPixels(
            height if valid.all() else np.where(valid, height, np.float32(0)), valid, lost
        )

    def _read_ground(self, window: Window) -> HeightPixels:
        if self._terrain is not None:
            name = self._rasters.terrain[0].path
            return _in_metres(self._terrain, self._rasters, window, name, terrain=True)
        values, valid = read_warped(self._estimate, window)
        return HeightPixels(values[0], valid)

    @cached_property
    def _estimate(self) -> RasterReader:
        ground = self._ground or ground_below(self._rasters, self._grid)
        source = self._stack.enter_context(in_memory_raster(ground.surface, ground.grid))
        return self._stack.enter_context(open_warped(source, self._grid, Resampling.bilinear))

    def _view(self, members: Sequence[Member], settings: HeightSettings) -> MosaicView:
        view = _height_view(
            members, self._grid, Resampling.bilinear, settings, self._rasters.skipped
        )
        self._stack.callback(view.close)
        return view


def fill_margin(fill: float, grid: Grid) -> int:
    """Return the pixels around a window from which voids up to `fill` metres are filled.

    Raises
    ------
    ConfigError
        They are so many that memory and time of a window would not be bounded.
    """
    margin = math.ceil(fill / grid.gsd)
    if margin > _MOST_MARGIN:
        raise ConfigError(
            f"height.fill = {fill:g} m is {margin:,} pixels of {grid.gsd:.3g} m, which would be "
            f"read around every window; at most {_MOST_MARGIN:,} are: set it to "
            f"{_MOST_MARGIN * grid.gsd:.3g} m or less, or resample the scene with tile.gsd"
        )
    return margin


def ground_below(rasters: HeightRasters, scene: Grid) -> GroundSurface:
    """Estimate the ground from the lowest heights of coarse cells.

    The ground is estimated below the whole surface model, whatever part of it the scene shows. If
    that is more than 25 million cells, it is estimated below the scene and five windows around it.

    Parameters
    ----------
    rasters : HeightRasters
    scene : Grid
        Grid of the scene, or of its optical rasters.

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
    skipped = rasters.skipped and rasters.skipped.on_grid()  # on a grid of its own
    lowest_view = _height_view(surface, grid, Resampling.min, settings, skipped)
    with closing(lowest_view) as view:
        heights, valid, lost = _in_metres(view, rasters, grid.extent, surface[0].path)
    if rasters.skipped and lost is not None:
        rasters.skipped.add_area(None)
    lowest = np.where(valid, heights, np.float32(np.nan))
    ground_filter = GroundFilter(
        cell=settings.cell, pixel=own.gsd, max_window=settings.max_window, slope=settings.slope
    )
    return GroundSurface(estimate_ground(lowest, ground_filter), grid)


def _ground_grid(grid: Grid, cell: float) -> Grid:
    """Return a grid of square cells in metres that is one cell larger than `grid` on every side."""
    if grid.crs is not None and grid.crs.is_geographic:
        zone, south = int((grid.footprint.centroid.x + 180) // 6) + 1, grid.footprint.centroid.y < 0
        utm = CRS.from_epsg((32700 if south else 32600) + min(zone, 60))
        outline_there = grid.footprint_in(utm)
        return Grid.covering(utm, outline_there.bounds, cell, margin=1)
    return Grid.covering(grid.crs, grid.bounds, cell / grid.unit_metres, margin=1)


def _height_view(
    members: Sequence[Member],
    grid: Grid,
    resampling: Resampling,
    settings: HeightSettings,
    skipped: Skipped | None,
) -> MosaicView:
    return MosaicView(
        members, grid, resampling, bands=(1,), nodata=settings.nodata, dtype="float32",
        scaled=True, skipped=skipped,
    )  # fmt: skip


def _in_metres(
    view: MosaicView, rasters: HeightRasters, window: Window, name: str, terrain: bool = False
) -> HeightPixels:
    """Read heights in metres."""
    metres = rasters.terrain_metres if terrain else rasters.metres
    values, valid, lost = view.read_or_skip(window)
    height = values[0] if metres == 1 else values[0] * np.float32(metres)
    valid &= np.isfinite(height)
    check_plausible(name, height if valid.all() else height[valid], rasters, terrain)
    return HeightPixels(height, valid, lost)


def _fill(height: Values, valid: Mask, reach: int) -> tuple[Values, Mask]:
    """Fill voids up to `reach` pixels from the nearest height by inverse distance weighting.

    Heights farther away have no influence, so it is enough to read `reach` pixels around a window.
    """
    if not valid.any():
        return height, valid
    marked = np.where(valid, height, np.float32(np.nan))
    filled = fillnodata(marked, valid.astype(np.uint8), max_search_distance=reach)
    known = np.isfinite(filled)
    return np.where(known, filled, np.float32(0)), known
