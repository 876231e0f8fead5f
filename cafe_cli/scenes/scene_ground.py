"""The ground below a scene and the floors of its valleys, computed before heights are read."""

import math
from contextlib import closing
from dataclasses import dataclass

import numpy as np
from rasterio.crs import CRS
from rasterio.enums import Resampling

from cafe_cli.errors import GridError
from cafe_cli.raster.grid import Grid
from cafe_cli.raster.mosaic_view import union_grid
from cafe_cli.raster.warp import enclosing_window, in_memory_raster, open_warped, read_warped
from cafe_cli.scenes.ground_filter import GroundFilter, estimate_ground
from cafe_cli.scenes.height_pixels import Values, height_view, read_in_metres
from cafe_cli.scenes.height_rasters import HeightRasters, terrain_settings
from cafe_cli.scenes.valley_floor import RADIUS_CELLS, find_floor

_WHOLE = 25_000_000  # cells up to which the ground is estimated below a whole surface model
_MOST_CELLS = 100_000_000
_REACH = 5  # windows of the ground filter around a scene, where the surface model is larger


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
        """Compute what the heights of a scene need; see `ground_below` and `floor_below`."""
        estimate = ground_below(rasters, scene) if rasters.ground == "estimate" else None
        if not rasters.settings.shows_valleys:
            return cls(estimate)
        return cls(estimate, floor_below(rasters, scene, estimate))


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
    with closing(height_view(members, grid, resampling, settings, skipped)) as view:
        found = read_in_metres(view, rasters, grid.extent, members[0].path, terrain)
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
