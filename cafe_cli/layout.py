"""Where rasters lie on a common grid, and reading them there, however many they are."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from affine import Affine
from numpy.typing import NDArray
from rasterio.enums import Resampling
from rasterio.vrt import WarpedVRT

from cafe_cli import raster
from cafe_cli.classes import NODATA, ClassTable
from cafe_cli.errors import ConfigError, GridError
from cafe_cli.grid import GDAL_ERRORS, Grid, describe_crs
from cafe_cli.pool import Pool
from cafe_cli.windows import Window

Bounds: TypeAlias = tuple[float, float, float, float]

_MAX_PIXELS = 10**12
_SNAP = 1e-3  # pixels by which grids may differ and still be the same


@dataclass(frozen=True)
class Target:
    """The grid of a mosaic; what is None follows from the inputs.

    Parameters
    ----------
    like : str, optional
        Raster whose CRS and pixel grid are taken; those of the first input if None.
    resolution : float, optional
        Side of a pixel in units of the CRS.
    bounds : tuple of float, optional
        (left, bottom, right, top) in the CRS, grown to whole pixels; all inputs if None.
    """

    like: str | None = None
    resolution: float | None = None
    bounds: Bounds | None = None

    def __post_init__(self) -> None:
        """Refuse what is not an area."""
        if self.resolution is not None and not 0 < self.resolution < math.inf:
            raise ConfigError(f"resolution {self.resolution} is not above 0")
        if self.bounds is not None:
            left, bottom, right, top = self.bounds
            if not (left < right and bottom < top):
                raise ConfigError(
                    f"bounds {left} {bottom} {right} {top} are not left bottom right top"
                )


@dataclass(frozen=True)
class Source:
    """An input as it was delivered."""

    path: str
    confidence: str | None
    grid: Grid
    classes: ClassTable | None


@dataclass(frozen=True)
class Piece:
    """An input as it lies on the grid of the mosaic, which it may reach beyond.

    `box` holds all of its pixels; with `exact` it is the raster, pixel by pixel.
    """

    source: Source
    box: Window
    exact: bool


def target_grid(sources: Sequence[Source], target: Target) -> Grid:
    """Return the grid of the mosaic: whole pixels of one grid, around all inputs or `bounds`."""
    base = _base_grid(sources[0].grid, target)
    everything = around([outline(source.path, source.grid, base) for source in sources])
    if target.bounds is None:
        extent = everything
    else:
        left, bottom, right, top = target.bounds
        corners = [(left, top), (right, top), (left, bottom), (right, bottom)]
        extent = around([[~base.transform @ corner for corner in corners]])
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


def _base_grid(first: Grid, target: Target) -> Grid:
    """Return the grid whose pixels the mosaic takes; its extent does not matter."""
    base = first
    if target.like is not None:
        with raster.open_raster(target.like) as dataset:
            base = Grid.of(dataset)
    if target.resolution is None:
        return base
    a, b, _, d, e, _ = base.transform[:6]
    scale = Affine.scale(target.resolution / math.hypot(a, d), target.resolution / math.hypot(b, e))
    return Grid(base.crs, base.transform @ scale, base.width, base.height)


def outline(name: str, grid: Grid, base: Grid) -> list[tuple[float, float]]:
    """Return the outline of a raster in pixels of `base`.

    Raises
    ------
    GridError
        A CRS on one side only, or no way from one to the other.
    """
    if (grid.crs is None) != (base.crs is None):
        raise GridError(
            f"{name} is in {describe_crs(grid.crs)}, what it is joined with in "
            f"{describe_crs(base.crs)}; assign the right CRS, e.g. with gdal_edit.py -a_srs "
            "EPSG:CODE FILE"
        )
    try:
        edge = grid.footprint_in(base.crs)
    except GDAL_ERRORS as error:
        raise GridError(f"cannot transform {name} to {describe_crs(base.crs)}: {error}") from error
    return [~base.transform @ corner for corner in edge.exterior.coords]


def around(outlines: Sequence[Sequence[tuple[float, float]]]) -> Window:
    """Return the whole pixels around outlines in pixels."""
    corners = np.concatenate([np.asarray(outline) for outline in outlines])
    col, row = (math.floor(v + _SNAP) for v in corners.min(axis=0))
    right, bottom = (math.ceil(v - _SNAP) for v in corners.max(axis=0))
    return Window(col, row, max(right - col, 1), max(bottom - row, 1))


def box_on(name: str, grid: Grid, base: Grid) -> tuple[Window, bool]:
    """Return the pixels of `base` that hold a raster, and whether they are its own, one by one."""
    box = around([outline(name, grid, base)])
    if base.at(box).same_pixels(grid):
        return box, True
    # The outline of a warped raster is only nearly right; reading too much does no harm.
    return box.expand(2 + max(box.width, box.height) // 100), False


@contextmanager
def shown(
    path: str, grid: Grid, exact: bool, resampling: Resampling, **options: Any
) -> Iterator[raster.Reader]:
    """Open a raster to be read on a grid: as it is where its pixels are the grid's, else warped.

    `options` are those of `cafe_cli.raster.aligned`.
    """
    with raster.open_raster(path) as dataset:
        if exact:
            yield dataset
            return
        with raster.aligned(dataset, grid, resampling, **options) as view:
            yield view


def read_shown(
    reader: raster.Reader,
    box: Window,
    window: Window,
    bands: Sequence[int] | None = None,
    nodata: float | None = None,
) -> tuple[raster.Array, raster.Mask]:
    """Read a window of the grid from what `shown` opened and `box` says the place of.

    Returns values (bands, height, width) and where they are valid, (height, width). `nodata`
    replaces that of a raster that is read as it is.
    """
    if isinstance(reader, WarpedVRT):
        return raster.read_aligned(reader, window, bands)
    own = Window(window.col - box.col, window.row - box.row, window.width, window.height)
    bands = bands or raster.image_bands(reader, None)
    return raster.read(reader, own, bands), raster.read_valid(reader, own, bands, nodata)


def place(sources: Sequence[Source], grid: Grid) -> list[Piece]:
    """Say where each input lies on the grid of the mosaic."""
    return [Piece(source, *box_on(source.path, source.grid, grid)) for source in sources]


class OpenRasters:
    """The inputs of a mosaic, open between windows."""

    def __init__(self, grid: Grid) -> None:
        self._grid = grid
        self._pool = Pool[raster.Reader]()

    def read(self, path: str, piece: Piece, window: Window) -> NDArray[np.uint8]:
        """Read a window of the mosaic's grid, (height, width); 255 where there is nothing."""
        nearest = Resampling.nearest
        reader = self._pool.get(path, lambda: shown(path, self._grid, piece.exact, nearest))
        values, valid = read_shown(reader, piece.box, window)
        labels: NDArray[np.uint8] = np.where(valid, values[0], np.uint8(NODATA))
        return labels

    def close(self) -> None:
        """Close what is open."""
        self._pool.close()
