"""The grid of a mosaic: choose it, locate inputs on it, and read them on it."""

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from affine import Affine
from numpy.typing import NDArray
from rasterio.enums import Resampling
from rasterio.vrt import WarpedVRT

from cafe_cli.classes import NODATA, ClassTable
from cafe_cli.errors import ConfigError, GridError
from cafe_cli.mosaic.distances import open_distances
from cafe_cli.raster.grid import Bounds, Grid, describe_crs
from cafe_cli.raster.proximity import find_distant
from cafe_cli.raster.reader import open_raster
from cafe_cli.raster.skipped import Skipped
from cafe_cli.raster.skipping import read_or_skip
from cafe_cli.raster.storage import RasterReader
from cafe_cli.raster.warp import (
    enclosing_window,
    locate,
    open_on_grid,
    pixels_around,
    read_warped,
)
from cafe_cli.raster.window import Window
from cafe_cli.system.open_files import Pool

log = logging.getLogger("cafe")

_MAX_PIXELS = 10**12


@dataclass(frozen=True)
class TargetGrid:
    """Options of the target grid; an option that is None follows from the inputs.

    Parameters
    ----------
    like : str, optional
        Raster that gives CRS and pixel grid; the first input if None.
    resolution : float, optional
        Side of a pixel in units of the CRS.
    bounds : tuple of float, optional
        (left, bottom, right, top) in the CRS, grown to whole pixels; those of all inputs if None.
    """

    like: str | None = None
    resolution: float | None = None
    bounds: Bounds | None = None

    def __post_init__(self) -> None:
        """Refuse an empty area and a resolution that is not positive."""
        if self.resolution is not None and not 0 < self.resolution < math.inf:
            raise ConfigError(f"resolution {self.resolution} is not above 0")
        if self.bounds is not None:
            left, bottom, right, top = self.bounds
            if not (left < right and bottom < top):
                raise ConfigError(
                    f"bounds {left} {bottom} {right} {top} are not left bottom right top"
                )


@dataclass(frozen=True)
class MosaicInput:
    """A label raster, and the rasters of its confidence and probabilities if there are any.

    `model` is the name and the SHA-256 of the model that made it, as its tags say them, "" for what
    is not known.
    """

    path: str
    grid: Grid
    classes: ClassTable | None
    model: tuple[str, str] = ("", "")
    confidence: str | None = None
    probabilities: str | None = None


@dataclass(frozen=True)
class PlacedInput:
    """An input located on the grid of the mosaic; it may reach beyond the grid.

    Attributes
    ----------
    source : MosaicInput
    box : Window
        The window that encloses the input.
    exact : bool
        Whether the pixels of the input coincide with those of the grid; `box` is then its extent.
    """

    source: MosaicInput
    box: Window
    exact: bool


def target_grid(sources: Sequence[MosaicInput], target: TargetGrid) -> Grid:
    """Return the grid of the mosaic: whole pixels of one grid, around all inputs or `bounds`."""
    base = _base_grid(sources[0].grid, target)
    everything = Window.hull([enclosing_window(s.path, s.grid, base) for s in sources])
    if target.bounds is None:
        _check_distances(sources, base)
        extent = everything
    else:
        left, bottom, right, top = target.bounds
        corners = [(left, top), (right, top), (left, bottom), (right, bottom)]
        extent = pixels_around([~base.transform @ corner for corner in corners])
        if extent.intersection(everything) is None:
            raise GridError(
                f"bounds {left} {bottom} {right} {top} hold nothing: the inputs lie within "
                f"{' '.join(f'{b:.10g}' for b in base.at(everything).bounds)} "
                f"in {describe_crs(base.crs)}"
            )
    if extent.width * extent.height > _MAX_PIXELS:
        raise GridError(
            f"the mosaic would have {extent.width} x {extent.height} pixels; check where the "
            "inputs lie, or pass bounds or a coarser resolution"
        )
    return base.at(extent)


def _check_distances(sources: Sequence[MosaicInput], base: Grid) -> None:
    """Refuse inputs far apart, or warn of them where that costs little."""
    found = find_distant([s.path for s in sources], [s.grid for s in sources], base)
    if found and found.level == "error":
        raise GridError(f"{found.message}; --bbox chooses an extent")
    if found:
        log.warning("%s", found.message)


def _base_grid(first: Grid, target: TargetGrid) -> Grid:
    """Return a grid with the pixels of the mosaic, of any extent."""
    base = first
    if target.like is not None:
        with open_raster(target.like) as dataset:
            base = Grid.of(dataset)
    if target.resolution is None:
        return base
    a, b, _, d, e, _ = base.transform[:6]
    scale = Affine.scale(target.resolution / math.hypot(a, d), target.resolution / math.hypot(b, e))
    return Grid(base.crs, base.transform @ scale, base.width, base.height)


def place(sources: Sequence[MosaicInput], grid: Grid) -> list[PlacedInput]:
    """Locate each input on the grid of the mosaic."""
    return [PlacedInput(source, *locate(source.path, source.grid, grid)) for source in sources]


class OpenRasters:
    """The inputs of a mosaic; a bounded number of files stays open between windows.

    With `skipped`, what cannot be read is collected there, and is no error. `most` files are open
    at a time.
    """

    def __init__(self, grid: Grid, skipped: Skipped | None = None, most: int | None = None) -> None:
        self._grid, self._skipped = grid, skipped
        self._pool = Pool[RasterReader](most)
        self._distances = Pool[WarpedVRT](most)  # in memory

    def read(
        self, path: str, placed: PlacedInput, window: Window, bands: Sequence[int] | None = None
    ) -> NDArray[np.uint8]:
        """Read a window of the mosaic's grid, (bands, height, width); 255 where there is nothing.

        `bands` are numbers from 1; the only one if None.
        """
        nearest = Resampling.nearest
        reader = self._pool.get(path, lambda: open_on_grid(path, self._grid, placed.exact, nearest))
        found = read_or_skip(reader, placed.box, window, bands, skipped=self._skipped)
        values: NDArray[np.uint8] = np.where(found.valid, found.values, np.uint8(NODATA))
        return values

    def read_distances(self, path: str, window: Window) -> NDArray[np.float32]:
        """Read how far the pixels of a window lie from the edge of an input, (height, width)."""
        key = f"distances {path}"
        view = self._distances.get(key, lambda: open_distances(path, self._grid))
        values, valid = read_warped(view, window)
        metres: NDArray[np.float32] = np.where(valid, values[0], np.float32(0))
        return metres

    def close(self) -> None:
        """Close the open files."""
        self._pool.close()
        self._distances.close()
