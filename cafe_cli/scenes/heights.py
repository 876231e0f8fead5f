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
from cafe_cli.scenes.valley_floor import RADIUS_CELLS, UNKNOWN, find_floor, height_above

_WHOLE = 25_000_000  # cells up to which the ground is estimated below a whole surface model
_MOST_CELLS = 100_000_000
_MOST_MARGIN = 1024  # pixels around a window
_REACH = 5  # windows of the ground filter around a scene, where the surface model is larger

Values = NDArray[np.float32]


@dataclass(frozen=True)
class GroundSurface:
    """A ground surface: metres, (height, width), on a coarser grid of its own; NaN if unknown."""

    surface: Values
    grid: Grid


@dataclass(frozen=True)
class SceneGround:
    """What is computed once for a scene, before its heights are read.

    Attributes
    ----------
    estimate : GroundSurface or None
        The estimated ground; None where it comes from a terrain model or none is subtracted.
    floor : GroundSurface or None
        The floors of the valleys; None unless the network sees the height above them.
    """

    estimate: GroundSurface | None
    floor: GroundSurface | None = None

    @classmethod
    def of(cls, rasters: HeightRasters, scene: Grid) -> "SceneGround":
        """Compute what the heights of a scene need.

        Parameters
        ----------
        rasters : HeightRasters
        scene : Grid
            Grid of the scene, or of its optical rasters.

        Raises
        ------
        GridError
            The scene is too large for the ground filter.
        """
        estimate = ground_below(rasters, scene) if rasters.ground == "estimate" else None
        if not rasters.shows_valleys:
            return cls(estimate)
        return cls(estimate, floor_below(rasters, scene, estimate))


class HeightPixels(NamedTuple):
    """Heights of a window.

    Attributes
    ----------
    height : ndarray of float32, (height, width)
        Metres.
    valid : ndarray of bool, (height, width)
    skipped : ndarray of bool, (height, width), or None
        Pixels that could not be read, none of them valid; None if all could be.
    above_floor : ndarray of float32, (height, width), or None
        Metres of the ground above the floor of its valley, `valley_floor.UNKNOWN` where that is not
        known; None unless ``height.valley_radius`` asks for it.
    """

    height: Values
    valid: Mask
    skipped: Mask | None = None
    above_floor: Values | None = None

    def planes(self) -> Values:
        """Return the heights that a network sees, (planes, height, width), 0 where not valid."""
        if self.above_floor is None:
            return self.height[None]
        return np.stack([self.height, np.where(self.valid, self.above_floor, np.float32(0))])


class HeightReader:
    """Reads heights on the grid of a scene. Not to be shared between threads.

    Parameters
    ----------
    rasters : HeightRasters
    grid : Grid
        Grid of the scene.
    ground : SceneGround, optional
        If None, it is computed when first needed.

    Raises
    ------
    GridError
        Only some of the rasters have a CRS.
    """

    def __init__(
        self,
        rasters: HeightRasters,
        grid: Grid,
        ground: SceneGround | None = None,
    ) -> None:
        self._stack, self._rasters, self._grid, self._given = ExitStack(), rasters, grid, ground
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
        return HeightPixels(height, valid, pixels.skipped, pixels.above_floor)

    def close(self) -> None:
        """Close the rasters."""
        self._stack.close()

    def _above_ground(self, window: Window) -> HeightPixels:
        path = self._rasters.surface[0].path
        height, valid, lost, _ = _in_metres(self._surface, self._rasters, window, path)
        above_floor = None
        if self._rasters.ground != "none":
            ground, known, unread, _ = self._read_ground(window)
            height = height - ground
            valid &= known
            lost = either(lost, unread)
            if self._rasters.shows_valleys:
                floor, near = read_warped(self._floor, window)
                both = known & near
                above_floor = height_above(np.where(both, floor[0], np.float32(np.nan)), ground)
        elif self._rasters.settings.valley_radius:
            above_floor = np.full_like(height, UNKNOWN)
        known_heights = height if valid.all() else np.where(valid, height, np.float32(0))
        return HeightPixels(known_heights, valid, lost, above_floor)

    def _read_ground(self, window: Window) -> HeightPixels:
        if self._terrain is not None:
            name = self._rasters.terrain[0].path
            return _in_metres(self._terrain, self._rasters, window, name, terrain=True)
        values, valid = read_warped(self._estimate, window)
        return HeightPixels(values[0], valid)

    @cached_property
    def _ground(self) -> SceneGround:
        return self._given or SceneGround.of(self._rasters, self._grid)

    @cached_property
    def _estimate(self) -> RasterReader:
        return self._open(self._ground.estimate)

    @cached_property
    def _floor(self) -> RasterReader:
        return self._open(self._ground.floor)

    def _open(self, ground: GroundSurface | None) -> RasterReader:
        if ground is None:
            raise ValueError("the ground that was given is that of other height settings")
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
    if grid.width * grid.height > _MOST_CELLS:
        raise GridError(
            f"{surface[0].path} has {grid.width} x {grid.height} ground cells of {settings.cell} "
            f"m, more than {_MOST_CELLS:,}; raise height.cell or set height.ground = 'none'"
        )
    lowest = _read_cells(rasters, grid, Resampling.min)
    ground_filter = GroundFilter(
        cell=settings.cell, pixel=own.gsd, max_window=settings.max_window, slope=settings.slope
    )
    return GroundSurface(estimate_ground(lowest, ground_filter), grid)


def floor_below(
    rasters: HeightRasters, scene: Grid, estimate: GroundSurface | None
) -> GroundSurface:
    """Return the floors of the valleys below a scene, see `valley_floor`.

    Parameters
    ----------
    rasters : HeightRasters
    scene : Grid
        Grid of the scene, or of its optical rasters.
    estimate : GroundSurface or None
        The ground that was estimated; if None, it is the terrain model.

    Raises
    ------
    GridError
        The scene is too large for cells of a tenth of ``height.valley_radius``.
    """
    cell = rasters.settings.valley_radius / RADIUS_CELLS
    if estimate is not None:
        grid = _ground_grid(estimate.grid, cell)
        with (
            in_memory_raster(estimate.surface, estimate.grid) as source,
            open_warped(source, grid, Resampling.average) as view,
        ):
            values, valid = read_warped(view, grid.extent)
        return GroundSurface(find_floor(np.where(valid, values[0], np.float32(np.nan))), grid)
    terrain = rasters.terrain
    grid = _ground_grid(union_grid(terrain), cell)
    near = enclosing_window(terrain[0].path, scene, grid).expand(RADIUS_CELLS)
    grid = grid.at(near.intersection(grid.extent) or near)
    if grid.width * grid.height > _MOST_CELLS:
        raise GridError(
            f"{terrain[0].path} has {grid.width} x {grid.height} cells of {cell:g} m, more than "
            f"{_MOST_CELLS:,}; raise height.valley_radius"
        )
    return GroundSurface(find_floor(_read_cells(rasters, grid, Resampling.average, True)), grid)


def _read_cells(
    rasters: HeightRasters, grid: Grid, resampling: Resampling, terrain: bool = False
) -> Values:
    """Read a whole surface or terrain model on a grid of cells: metres, NaN where void."""
    members, settings = rasters.surface, rasters.settings
    if terrain:
        members, settings = rasters.terrain, terrain_settings(settings)
    skipped = rasters.skipped and rasters.skipped.on_grid()  # on a grid of its own
    with closing(_height_view(members, grid, resampling, settings, skipped)) as view:
        found = _in_metres(view, rasters, grid.extent, members[0].path, terrain)
    if rasters.skipped and found.skipped is not None:
        rasters.skipped.add_area(None)
    return np.where(found.valid, found.height, np.float32(np.nan))


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
