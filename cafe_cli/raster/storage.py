"""How a raster is stored: the blocks behind a window, and the window of a file behind a view."""

import math
from collections.abc import Iterator
from typing import TypeAlias

import numpy as np
import rasterio.warp
from rasterio.io import DatasetReader
from rasterio.vrt import WarpedVRT

from cafe_cli.raster.header import READ_ERRORS
from cafe_cli.raster.window import Window

RasterReader: TypeAlias = DatasetReader | WarpedVRT

_LARGEST = 16_000_000  # pixels of a block that is read as a whole
_PART = 2048  # pixels along each side of the parts of larger ones
_POINTS = 5  # along each side of a window, of those that are transformed
_AROUND = 2  # pixels around a window that an interpolation needs


def blocks_behind(reader: RasterReader, window: Window, band: int) -> Iterator[Window]:
    """Yield the blocks of a band that share pixels with a window, as windows of the raster.

    Large blocks come in parts. The blocks do not depend on the window but for which of them are
    yielded.
    """
    height, width = reader.block_shapes[band - 1]
    part = _PART if height * width > _LARGEST else max(height, width)
    if (inside := window.intersection(_extent(reader))) is None:
        return
    for top, rows in _along(inside.row, inside.bottom, height, part, reader.height):
        for left, columns in _along(inside.col, inside.right, width, part, reader.width):
            yield Window(left, top, columns, rows)


def _along(first: int, last: int, block: int, part: int, length: int) -> Iterator[tuple[int, int]]:
    """Yield start and length of the parts of blocks that overlap [first, last)."""
    for start in range(first // block * block, last, block):
        end = min(start + block, length)
        for begin in range(start, end, part):
            if begin < last and min(begin + part, end) > first:
                yield begin, min(part, end - begin)


def stored_window(reader: RasterReader, window: Window) -> tuple[DatasetReader, Window]:
    """Return the raster behind a reader, and its pixels that a window of the reader shows.

    Of a view that warps, these are the pixels around the window; all of them where the window has
    no coordinates in the CRS of the raster.
    """
    if not isinstance(reader, WarpedVRT):
        return reader, window
    source: DatasetReader = reader.src_dataset
    whole = _extent(source)
    columns, rows = np.meshgrid(
        np.linspace(window.col, window.right, _POINTS),
        np.linspace(window.row, window.bottom, _POINTS),
    )
    xs, ys = reader.transform @ (columns.ravel(), rows.ravel())
    try:
        places = np.array(rasterio.warp.transform(reader.crs, reader.src_crs, xs, ys))
    except READ_ERRORS:
        return source, whole
    if not np.isfinite(places).all():
        return source, whole
    columns, rows = ~reader.src_transform @ places
    left, top = (math.floor(values.min()) - _AROUND for values in (columns, rows))
    right, bottom = (math.ceil(values.max()) + _AROUND for values in (columns, rows))
    return source, Window.from_bounds(left, top, right, bottom).intersection(whole) or whole


def _extent(reader: RasterReader) -> Window:
    return Window(0, 0, reader.width, reader.height)
