"""Where rasters lie on a common grid, and reading them there, however many they are."""

import math
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from affine import Affine
from numpy.typing import NDArray
from rasterio.enums import Resampling
from rasterio.vrt import WarpedVRT

from cafe_cli import raster
from cafe_cli.classes import NODATA, ClassTable
from cafe_cli.errors import ConfigError, GridError
from cafe_cli.grid import GDAL_ERRORS, Grid, describe_crs
from cafe_cli.windows import Window

Bounds: TypeAlias = tuple[float, float, float, float]

_OPEN = 64  # rasters open at a time
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
    everything = _around([_outline(source, base) for source in sources])
    if target.bounds is None:
        extent = everything
    else:
        left, bottom, right, top = target.bounds
        corners = [(left, top), (right, top), (left, bottom), (right, bottom)]
        extent = _around([[~base.transform @ corner for corner in corners]])
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


def _outline(source: Source, base: Grid) -> list[tuple[float, float]]:
    """Return the outline of an input in pixels of `base`."""
    if (source.grid.crs is None) != (base.crs is None):
        raise GridError(
            f"{source.path} is in {describe_crs(source.grid.crs)}, the mosaic in "
            f"{describe_crs(base.crs)}; assign the right CRS, e.g. with gdal_edit.py -a_srs "
            "EPSG:CODE FILE"
        )
    try:
        outline = source.grid.footprint_in(base.crs)
    except GDAL_ERRORS as error:
        raise GridError(
            f"cannot transform {source.path} to {describe_crs(base.crs)}: {error}"
        ) from error
    return [~base.transform @ corner for corner in outline.exterior.coords]


def _around(outlines: Sequence[Sequence[tuple[float, float]]]) -> Window:
    """Return the whole pixels around outlines."""
    corners = np.concatenate([np.asarray(outline) for outline in outlines])
    col, row = (math.floor(v + _SNAP) for v in corners.min(axis=0))
    right, bottom = (math.ceil(v - _SNAP) for v in corners.max(axis=0))
    return Window(col, row, max(right - col, 1), max(bottom - row, 1))


def place(sources: Sequence[Source], grid: Grid) -> list[Piece]:
    """Say where each input lies on the grid of the mosaic."""
    pieces = []
    for source in sources:
        box = _around([_outline(source, grid)])
        exact = grid.at(box).same_pixels(source.grid)
        # The outline of a warped raster is only nearly right; reading too much does no harm.
        margin = 0 if exact else 2 + max(box.width, box.height) // 100
        pieces.append(Piece(source, box.expand(margin), exact))
    return pieces


class OpenRasters:
    """Rasters that stay open between windows; beyond `_OPEN` the one longest unused is closed."""

    def __init__(self, grid: Grid) -> None:
        self._grid = grid
        self._open: OrderedDict[str, tuple[ExitStack, raster.Reader]] = OrderedDict()

    def read(self, path: str, piece: Piece, window: Window) -> NDArray[np.uint8]:
        """Read a window of the mosaic's grid, (height, width); 255 where there is nothing."""
        reader = self._reader(path, piece)
        if isinstance(reader, WarpedVRT):
            values, valid = raster.read_aligned(reader, window)
        else:
            own = Window(
                window.col - piece.box.col, window.row - piece.box.row, window.width, window.height
            )
            values = raster.read(reader, own, [1], fill=NODATA)
            valid = raster.read_valid(reader, own, [1])
        labels: NDArray[np.uint8] = np.where(valid, values[0], np.uint8(NODATA))
        return labels

    def close(self) -> None:
        """Close what is open."""
        while self._open:
            self._close_oldest()

    def _reader(self, path: str, piece: Piece) -> raster.Reader:
        if path not in self._open:
            if len(self._open) >= _OPEN:
                self._close_oldest()
            stack = ExitStack()
            self._open[path] = stack, stack.enter_context(_open(path, piece, self._grid))
        self._open.move_to_end(path)
        return self._open[path][1]

    def _close_oldest(self) -> None:
        _, (stack, _) = self._open.popitem(last=False)
        stack.close()


@contextmanager
def _open(path: str, piece: Piece, grid: Grid) -> Iterator[raster.Reader]:
    with raster.open_raster(path) as dataset:
        if piece.exact:
            yield dataset
            return
        with raster.aligned(dataset, grid, Resampling.nearest) as view:
            yield view
