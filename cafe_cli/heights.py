"""A height raster on another grid: in metres, above the ground, with a mask.

The ground is estimated once over the whole raster, so that a height does not depend on the window
that is read.
"""

import math
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.enums import Resampling
from rasterio.io import DatasetReader
from rasterio.vrt import WarpedVRT

from cafe_cli import raster
from cafe_cli.config import HeightSettings
from cafe_cli.errors import GridError, InputError
from cafe_cli.grid import Grid
from cafe_cli.ground import GroundFilter, estimate_ground
from cafe_cli.windows import Window

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
_PLAUSIBLE = (-1_000.0, 10_000.0)
_PROBE = 1024  # pixels along each side of the decimated look at a height raster
_MAX_GROUND_CELLS = 100_000_000


@dataclass(frozen=True)
class Ground:
    """The ground surface below a whole height raster: metres, (height, width) on its own grid."""

    surface: NDArray[np.float32]
    grid: Grid


@dataclass(frozen=True)
class Heights:
    """Heights shown on a grid. `metres` is what one unit of the raster is; `ground` may be None."""

    path: str
    surface: WarpedVRT
    ground: WarpedVRT | None
    metres: float

    @classmethod
    def of(
        cls,
        stack: ExitStack,
        surface: DatasetReader,
        grid: Grid,
        settings: HeightSettings,
        ground: Ground | None,
    ) -> Self:
        """Show an open raster on a grid; `ground` is estimated where it is None and asked for.

        Raises
        ------
        InputError
            A unit that is not known, heights that cannot be, or none at all.
        GridError
            A CRS on one side only, or a raster too large for the ground filter.
        """
        metres = _unit_metres(surface, settings)
        _check_heights(surface, settings, metres)
        view = _height_view(stack, surface, grid, Resampling.bilinear, settings)
        below = None
        if estimates_ground(settings):
            ground = ground or _estimate(stack, surface, settings, metres)
            source = stack.enter_context(raster.in_memory(ground.surface, ground.grid))
            below = stack.enter_context(raster.aligned(source, grid, Resampling.bilinear))
        return cls(surface.name, view, below, metres)

    def read(self, window: Window) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Read heights (height, width) in metres, 0 where not valid, and where they are valid.

        Raises
        ------
        InputError
            Voids that nobody declared, or a damaged file.
        """
        values, valid = raster.read_aligned(self.surface, window)
        height = values[0] * np.float32(self.metres)
        valid &= np.isfinite(height)
        if valid.any() and not _plausible(height[valid]):
            raise InputError(
                f"{self.path} has voids that nobody declared: heights below "
                f"{_PLAUSIBLE[0]:.0f} or above {_PLAUSIBLE[1]:.0f} m; say what marks them with "
                "height.nodata (--height-nodata), or set height.unit"
            )
        if self.ground is not None:
            ground, known = raster.read_aligned(self.ground, window)
            height = height - ground[0]
            valid &= known
        return np.where(valid, height, np.float32(0)), valid


def estimates_ground(settings: HeightSettings) -> bool:
    """Whether the settings ask for the ground to be estimated."""
    return settings.kind == "dsm" and settings.ground == "estimate"


def ground_below(path: str, settings: HeightSettings) -> Ground:
    """Estimate the ground below a height raster, to be used by several `Heights` of it."""
    with ExitStack() as stack:
        surface = stack.enter_context(raster.open_raster(path))
        metres = _unit_metres(surface, settings)
        _check_heights(surface, settings, metres)
        return _estimate(stack, surface, settings, metres)


def _unit_metres(surface: DatasetReader, settings: HeightSettings) -> float:
    """Return metres per unit of the heights."""
    if settings.unit != "auto":
        return METRES[settings.unit]
    named = (surface.units[0] or "").strip().lower()
    if named and named not in _UNIT_NAMES:
        raise InputError(
            f"{surface.name} gives its heights in {named!r}, which is no unit known here; "
            f"set height.unit to one of {', '.join(METRES)}"
        )
    return METRES[_UNIT_NAMES.get(named, "metre")]


def _height_view(
    stack: ExitStack,
    surface: DatasetReader,
    grid: Grid,
    resampling: Resampling,
    settings: HeightSettings,
) -> WarpedVRT:
    view = raster.aligned(surface, grid, resampling, nodata=settings.nodata, dtype="float32")
    return stack.enter_context(view)


def _check_heights(surface: DatasetReader, settings: HeightSettings, metres: float) -> None:
    """Refuse heights that cannot be: voids coded as a number that nobody declared."""
    heights = raster.read_decimated(surface, _PROBE, settings.nodata)
    found = heights[np.isfinite(heights)]
    if not found.size:
        raise InputError(f"{surface.name} holds no valid height")
    _check_plausible(surface.name, found * metres, metres)


def _check_plausible(name: str, heights: NDArray[np.floating], metres: float) -> None:
    if heights.size and not _plausible(heights):
        low, high = float(heights.min()), float(heights.max())
        void = _as_written((low if low < _PLAUSIBLE[0] else high) / metres)
        raise InputError(
            f"{name} holds heights from {low:.6g} to {high:.6g} m; if {void} marks voids, say so "
            f"with height.nodata = {void} (--height-nodata), or set height.unit"
        )


def _plausible(heights: NDArray[np.floating]) -> bool:
    return bool(heights.min() >= _PLAUSIBLE[0] and heights.max() <= _PLAUSIBLE[1])


def _as_written(value: float) -> str:
    """Write a number so that it can be given back as nodata: as an integer, or to the last bit."""
    whole = round(value)
    close = math.isclose(value, whole, rel_tol=1e-6)
    return str(whole) if close and abs(whole) < 10**7 else str(np.float32(value))


def _estimate(
    stack: ExitStack, surface: DatasetReader, settings: HeightSettings, metres: float
) -> Ground:
    """Estimate the ground on the lowest heights of coarse cells, over the whole raster."""
    grid = _ground_grid(Grid.of(surface), settings.cell)
    if grid.width * grid.height > _MAX_GROUND_CELLS:
        raise GridError(
            f"{surface.name} has {grid.width} x {grid.height} ground cells of {settings.cell} m, "
            f"more than {_MAX_GROUND_CELLS:,}; raise height.cell or set height.ground = 'none'"
        )
    view = _height_view(stack, surface, grid, Resampling.min, settings)
    values, valid = raster.read_aligned(view, grid.extent)
    valid &= np.isfinite(values[0])
    lowest = np.where(valid, values[0] * np.float32(metres), np.float32(np.nan))
    _check_plausible(surface.name, lowest[valid], metres)
    ground_filter = GroundFilter(
        cell=settings.cell,
        pixel=Grid.of(surface).gsd,
        max_window=settings.max_window,
        slope=settings.slope,
    )
    return Ground(estimate_ground(lowest, ground_filter), grid)


def _ground_grid(grid: Grid, cell: float) -> Grid:
    """Return the coarse grid, one cell larger on every side so that it covers every pixel."""
    if grid.crs is not None and grid.crs.is_geographic:
        zone, south = int((grid.footprint.centroid.x + 180) // 6) + 1, grid.footprint.centroid.y < 0
        utm = CRS.from_epsg((32700 if south else 32600) + min(zone, 60))
        outline = grid.footprint_in(utm)
        return Grid.covering(utm, outline.bounds, cell, margin=1)
    return Grid.covering(grid.crs, grid.bounds, cell / grid.unit_metres, margin=1)
