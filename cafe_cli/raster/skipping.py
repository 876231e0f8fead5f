"""Skip the damaged blocks of a file, and continue with the others.

What is skipped depends on the file and the grid only, not on the window that was asked for: where
a window cannot be read, the blocks behind it are read one by one, each as a whole, and those that
fail are skipped. The blocks are those of the file, or of the view that warps it.
"""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
from rasterio.io import DatasetReader
from rasterio.vrt import WarpedVRT

from cafe_cli.raster.reader import Array, Mask, image_bands, read_valid, read_window
from cafe_cli.raster.skipped import Skipped
from cafe_cli.raster.storage import RasterReader, blocks_behind, stored_window
from cafe_cli.raster.warp import data_bands, read_on_grid
from cafe_cli.raster.window import Window


class Pixels(NamedTuple):
    """A window of a grid.

    Attributes
    ----------
    values : ndarray, (bands, height, width)
    valid : ndarray of bool, (height, width)
    skipped : ndarray of bool, (height, width), or None
        Pixels that could not be read, none of them valid; None if all could be.
    """

    values: Array
    valid: Mask
    skipped: Mask | None = None


def either(one: Mask | None, other: Mask | None) -> Mask | None:
    """Return the pixels in one of two masks, of which None has no pixel."""
    if one is None or other is None:
        return other if one is None else one
    return one | other


def read_or_skip(
    reader: RasterReader,
    box: Window,
    window: Window,
    bands: Sequence[int] | None = None,
    nodata: float | None = None,
    skipped: Skipped | None = None,
) -> Pixels:
    """Read a window of a grid, as `cafe_cli.raster.warp.read_on_grid`.

    Parameters
    ----------
    reader, box, window, bands, nodata
        See there.
    skipped : Skipped, optional
        Collects what cannot be read.

    Raises
    ------
    InputError
        The file cannot be read there, and `skipped` is None.
    """
    if skipped is None:
        return Pixels(*read_on_grid(reader, box, window, bands, nodata))
    name = stored_window(reader, window)[0].name
    whole = skipped.attempt(name, lambda: read_on_grid(reader, box, window, bands, nodata))
    if whole is not None:
        return Pixels(*whole)
    return _read_by_block(reader, box, window, bands, nodata, skipped)


def _read_by_block(
    reader: RasterReader,
    box: Window,
    window: Window,
    bands: Sequence[int] | None,
    nodata: float | None,
    skipped: Skipped,
) -> Pixels:
    """Read the blocks behind a window one by one, and skip those that fail."""
    warped = isinstance(reader, WarpedVRT)
    origin = Window(0, 0, 1, 1) if warped else box
    own = window.relative_to(origin)
    bands = bands or (data_bands(reader) if warped else image_bands(reader, None))
    name = stored_window(reader, own)[0].name
    shape = (window.height, window.width)
    values = np.zeros((len(bands), *shape), np.result_type(*(reader.dtypes[b - 1] for b in bands)))
    valid, lost = np.zeros(shape, bool), np.zeros(shape, bool)
    for block in blocks_behind(reader, own, bands[0]):
        there = block.intersection(own) or own
        place, part = there.slices(own), there.slices(block)
        on_grid = block.shift(origin.col, origin.row)
        read = partial(read_on_grid, reader, box, on_grid, bands, nodata)
        found = skipped.attempt(name, read)
        if found is None:
            lost[place] = True
            skipped.add_area(on_grid)
            _record(reader, block, bands, skipped)
        else:
            values[:, *place], valid[place] = found[0][:, *part], found[1][part]
    return Pixels(values, valid, lost)


def _record(reader: RasterReader, block: Window, bands: Sequence[int], skipped: Skipped) -> None:
    """Record which blocks of a file cannot be read behind a block of its reader."""
    source, window = stored_window(reader, block)
    failed = [window]
    if source is not reader:
        behind = blocks_behind(source, window, bands[0])
        failed = [
            b
            for b in behind
            if skipped.attempt(source.name, partial(_probe, source, b, bands)) is None
        ]
    skipped.add(source.name, failed or [window], Window(0, 0, source.width, source.height))


def _probe(source: DatasetReader, block: Window, bands: Sequence[int]) -> Mask:
    read_window(source, block, bands)
    return read_valid(source, block, bands)
