"""Read rasters on another grid: locate them on it, and warp them unless their pixels coincide."""

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
from cafe_cli.raster.geodesy import GDAL_ERRORS
from cafe_cli.raster.grid import Grid, describe_crs
from cafe_cli.raster.image_view import ImageView
from cafe_cli.raster.reader import (
    Array,
    Mask,
    gdal_message,
    image_bands,
    open_raster,
    read_valid,
    read_window,
)
from cafe_cli.raster.storage import RasterReader
from cafe_cli.raster.window import Window

# Rasters without CRS are assumed to share one plane; any projected CRS can stand in for it.
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
    """Open a view that warps a raster to another grid; its alpha band (0: no data) is the mask.

    Pixels without data are left out of interpolations.

    Parameters
    ----------
    dataset : DatasetReader
        If it has no alpha band, the view has one as its last band.
    grid : Grid
    resampling : Resampling
    nodata : float, optional
        Replaces the raster's own.
    dtype : str, optional
        Working data type.
    source : Grid, optional
        Replaces the grid that the raster declares.

    Raises
    ------
    GridError
        A CRS on one side only, or no transformation between the two.
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
    if nodata is not None and np.dtype(dataset.dtypes[0]).kind == "f":
        nodata = float(np.dtype(dataset.dtypes[0]).type(nodata))  # 1e20 is another float32
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
    """Read a window of a view of `open_warped`.

    Returns values (bands, height, width), of all bands but the mask if `bands` is None, and the
    validity mask (height, width).
    """
    stack = read_window(view, window, [*(bands or data_bands(view)), mask_band(view)])
    return stack[:-1], stack[-1] > 0


def mask_band(view: WarpedVRT) -> int:
    """Return the number, from 1, of the mask band of a view of `open_warped`."""
    return int(view.colorinterp.index(ColorInterp.alpha)) + 1


def data_bands(view: WarpedVRT) -> list[int]:
    """Return the numbers, from 1, of the bands of a view of `open_warped` but for its mask."""
    mask = mask_band(view)
    return [b for b in range(1, view.count + 1) if b != mask]


@contextmanager
def in_memory_raster(values: NDArray[np.float32], grid: Grid) -> Iterator[DatasetReader]:
    """Open an array (height, width) as a raster in memory."""
    with MemoryFile() as memory:
        profile = {"crs": grid.crs, "transform": grid.transform, "dtype": values.dtype}
        size = {"width": grid.width, "height": grid.height, "count": 1}
        with memory.open(driver="GTiff", **size, **profile) as dataset:
            dataset.write(values, 1)
        with memory.open() as dataset:
            yield dataset


_SNAP = 1e-3  # pixels by which grids with the same pixels may differ


def enclosing_window(name: str, grid: Grid, base: Grid) -> Window:
    """Return the window of `base` that encloses a raster.

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
        A CRS on one side only, or no transformation between the two.
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
    corners = [~base.transform @ corner for corner in edge.exterior.coords]
    if not np.isfinite(corners).all():
        raise GridError(f"{name} lies outside the area of {describe_crs(base.crs)}; check both")
    return pixels_around(corners)


def pixels_around(points: Sequence[tuple[float, float]]) -> Window:
    """Return the smallest window with all points (column, row), to a thousandth of a pixel."""
    columns, rows = zip(*points, strict=True)
    left, top = (math.floor(min(values) + _SNAP) for values in (columns, rows))
    right, bottom = (math.ceil(max(values) - _SNAP) for values in (columns, rows))
    return Window.from_bounds(left, top, max(right, left + 1), max(bottom, top + 1))


def locate(name: str, grid: Grid, base: Grid) -> tuple[Window, bool]:
    """Return the window of `base` that encloses a raster, and whether their pixels coincide."""
    box = enclosing_window(name, grid, base)
    if base.at(box).same_pixels(grid):
        return box, True
    # With a margin, because the outline of a warped raster is approximate.
    return box.expand(2 + max(box.width, box.height) // 100), False


@contextmanager
def open_on_grid(
    path: str,
    grid: Grid,
    exact: bool,
    resampling: Resampling,
    *,
    view: ImageView | None = None,
    **options: Any,
) -> Iterator[RasterReader]:
    """Open a raster for `read_on_grid`: unchanged if its pixels are the grid's, else warped.

    `exact` comes from `locate`; with `view`, the raster is read as an image; `options` are those of
    `open_warped`.
    """
    with open_raster(path, view) as dataset:
        if exact:
            yield dataset
            return
        with open_warped(dataset, grid, resampling, **options) as warped:
            yield warped


def read_on_grid(
    reader: RasterReader,
    box: Window,
    window: Window,
    bands: Sequence[int] | None = None,
    nodata: float | None = None,
) -> tuple[Array, Mask]:
    """Read a window of a grid from a raster that `open_on_grid` opened.

    Parameters
    ----------
    reader : RasterReader
    box : Window
        Where the raster lies on the grid, from `locate`.
    window : Window
    bands : sequence of int, optional
        From 1; all but an alpha band if None.
    nodata : float, optional
        Replaces the raster's own if the raster is not warped.

    Returns
    -------
    values : ndarray, (bands, height, width)
    valid : ndarray of bool, (height, width)
    """
    if isinstance(reader, WarpedVRT):
        return read_warped(reader, window, bands)
    own = window.relative_to(box)
    bands = bands or image_bands(reader, None)
    return read_window(reader, own, bands), read_valid(reader, own, bands, nodata)
