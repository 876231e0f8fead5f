"""Rasters on another grid: where they lie on it, and warped where their pixels are not its own."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.enums import ColorInterp, Resampling
from rasterio.io import DatasetReader, MemoryFile
from rasterio.vrt import WarpedVRT

from cafe_cli.errors import GridError
from cafe_cli.raster.grid import GDAL_ERRORS, Grid, describe_crs
from cafe_cli.raster.reader import (
    Array,
    Mask,
    RasterReader,
    gdal_message,
    image_bands,
    open_raster,
    read_valid,
    read_window,
)
from cafe_cli.raster.window import Window

# Where neither raster has a CRS both are in the same, unnamed plane: any projected CRS stands in.
_PLANE = CRS.from_epsg(3857)


@contextmanager
def open_warped(
    dataset: DatasetReader,
    grid: Grid,
    resampling: Resampling,
    nodata: float | None = None,
    dtype: str | None = None,
    source: Grid | None = None,
) -> Iterator[WarpedVRT]:
    """Show a raster on another grid; its alpha band is the mask (0 = no data), the last if added.

    `nodata` replaces the raster's own; `source` is its grid where it does not say it itself.
    Pixels without data never enter an interpolation.

    Raises
    ------
    GridError
        One of the two has a CRS and the other has none, or no transformation exists.
    """
    name, own = dataset.name, source.crs if source else dataset.crs
    if (own is None) != (grid.crs is None):
        missing, known = (name, grid.crs) if own is None else ("the reference grid", own)
        raise GridError(
            f"{name}: {missing} has no CRS while the other raster is in {describe_crs(known)}; "
            "assign the right one, e.g. with gdal_edit.py -a_srs EPSG:CODE FILE"
        )
    if nodata is None and dataset.nodata is None and np.dtype(dataset.dtypes[0]).kind == "f":
        nodata = math.nan
    options: dict[str, Any] = {} if nodata is None else {"src_nodata": nodata}
    if source is not None and source.transform != dataset.transform:
        options["src_transform"] = source.transform
    if dtype is not None:
        options["dtype"] = dtype
    try:
        view = WarpedVRT(
            dataset,
            src_crs=own or _PLANE,
            crs=grid.crs or _PLANE,
            transform=grid.transform,
            width=grid.width,
            height=grid.height,
            resampling=resampling,
            add_alpha=ColorInterp.alpha not in dataset.colorinterp,
            **options,
        )
    except GDAL_ERRORS as error:
        raise GridError(f"cannot bring {name} onto the grid: {gdal_message(error)}") from error
    with view:
        yield view


def read_warped(
    view: WarpedVRT, window: Window, bands: Sequence[int] | None = None
) -> tuple[Array, Mask]:
    """Read what `aligned` shows: values (bands, height, width) and validity (height, width).

    All bands but the mask, unless some are asked for.
    """
    mask = mask_band(view)
    bands = bands or [b for b in range(1, view.count + 1) if b != mask]
    stack = read_window(view, window, [*bands, mask])
    return stack[:-1], stack[-1] > 0


def mask_band(view: WarpedVRT) -> int:
    """Return which band of what `aligned` shows is the mask."""
    return int(view.colorinterp.index(ColorInterp.alpha)) + 1


@contextmanager
def in_memory_raster(values: NDArray[np.float32], grid: Grid) -> Iterator[DatasetReader]:
    """Hold an array (height, width) as a raster."""
    with MemoryFile() as memory:
        profile = {"crs": grid.crs, "transform": grid.transform, "dtype": values.dtype}
        size = {"width": grid.width, "height": grid.height, "count": 1}
        with memory.open(driver="GTiff", **size, **profile) as dataset:
            dataset.write(values, 1)
        with memory.open() as dataset:
            yield dataset


_SNAP = 1e-3  # pixels by which grids may differ and still be the same


def enclosing_window(name: str, grid: Grid, base: Grid) -> Window:
    """Return the pixels of `base` around a raster.

    Parameters
    ----------
    name : str
        The raster in errors.
    grid : Grid
        That of the raster.
    base : Grid

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
    return pixels_around([~base.transform @ corner for corner in edge.exterior.coords])


def pixels_around(points: Sequence[tuple[float, float]]) -> Window:
    """Return the smallest window with all points (column, row), to a thousandth of a pixel."""
    columns, rows = zip(*points, strict=True)
    left, top = (math.floor(min(values) + _SNAP) for values in (columns, rows))
    right, bottom = (math.ceil(max(values) - _SNAP) for values in (columns, rows))
    return Window.from_bounds(left, top, max(right, left + 1), max(bottom, top + 1))


def locate(name: str, grid: Grid, base: Grid) -> tuple[Window, bool]:
    """Return the pixels of `base` that hold a raster, and whether they are its own, one by one."""
    box = enclosing_window(name, grid, base)
    if base.at(box).same_pixels(grid):
        return box, True
    # The outline of a warped raster is only nearly right; reading too much does no harm.
    return box.expand(2 + max(box.width, box.height) // 100), False


@contextmanager
def open_on_grid(
    path: str, grid: Grid, exact: bool, resampling: Resampling, **options: Any
) -> Iterator[RasterReader]:
    """Open a raster to be read on a grid: as it is where its pixels are the grid's, else warped.

    `options` are those of `cafe_cli.raster.warp.open_warped`.
    """
    with open_raster(path) as dataset:
        if exact:
            yield dataset
            return
        with open_warped(dataset, grid, resampling, **options) as view:
            yield view


def read_on_grid(
    reader: RasterReader,
    box: Window,
    window: Window,
    bands: Sequence[int] | None = None,
    nodata: float | None = None,
) -> tuple[Array, Mask]:
    """Read a window of the grid from what `shown` opened and `box` says the place of.

    Returns values (bands, height, width) and where they are valid, (height, width). `nodata`
    replaces that of a raster that is read as it is.
    """
    if isinstance(reader, WarpedVRT):
        return read_warped(reader, window, bands)
    own = window.relative_to(box)
    bands = bands or image_bands(reader, None)
    return read_window(reader, own, bands), read_valid(reader, own, bands, nodata)
