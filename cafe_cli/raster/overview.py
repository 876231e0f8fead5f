"""Read rasters as one small picture of a grid, each pixel of which is the mean of many."""

from collections.abc import Sequence
from contextlib import closing

import numpy as np
from rasterio.enums import Resampling

from cafe_cli.raster.grid import Grid
from cafe_cli.raster.joining import common_dtype
from cafe_cli.raster.mosaic_view import Member, MosaicView
from cafe_cli.raster.reader import Array, Mask
from cafe_cli.raster.window import blocks
from cafe_cli.system.threads import ProgressCallback

_BLOCK = 1024  # side in pixels of the blocks that are read


def read_overview(
    members: Sequence[Member],
    grid: Grid,
    factor: int,
    *,
    bands: int | None = None,
    nodata: float | None = None,
    progress: ProgressCallback = lambda done, total: None,
) -> tuple[Array, Mask]:
    """Read rasters at pixels `factor` times as large as those of a grid.

    A pixel is the mean of those in it that have data. They are read block by block, as everything
    else reads them: GDAL's own means take voids for zeros in some data types.

    Parameters
    ----------
    members : sequence of Member
    grid : Grid
    factor : int
    bands : int, optional
        Bands that are read at most.
    nodata : float, optional
        Replaces the nodata value of the rasters.
    progress : callable
        Called with the number of blocks done and of all.

    Returns
    -------
    values : ndarray, (bands, ceil(height / factor), ceil(width / factor))
        Of the data type of the rasters; 0 where there is no data.
    valid : ndarray of bool, of the same height and width

    Raises
    ------
    InputError
        A file is truncated or damaged.
    GridError
        Only some of the rasters have a CRS.
    """
    dtype = common_dtype(members)
    count = len(members[0].bands) if bands is None else min(bands, len(members[0].bands))
    shape = -(-grid.height // factor), -(-grid.width // factor)
    sums, known = np.zeros((count, *shape)), np.zeros(shape)
    side = max(_BLOCK // factor, 1) * factor  # a block begins with a cell
    windows = [*blocks(grid.width, grid.height, side)]
    with closing(MosaicView(members, grid, Resampling.nearest, nodata=nodata)) as view:
        for done, window in enumerate(windows, start=1):
            values, valid = view.read(window)
            values = values[:count].astype(np.float64)
            valid = valid & np.isfinite(values).all(axis=0)
            top, left = window.row // factor, window.col // factor
            counts = _sum_cells(valid.astype(np.float64), factor)
            here = slice(top, top + len(counts)), slice(left, left + counts.shape[1])
            sums[:, *here] = _sum_cells(np.where(valid, values, 0), factor)
            known[here] = counts
            progress(done, len(windows))
    means = sums / np.maximum(known, 1)
    if np.dtype(dtype).kind in "iu":
        means = np.rint(means)
    return means.astype(dtype), known > 0


def _sum_cells(values: Array, factor: int) -> Array:
    """Sum values (..., height, width) over cells; those at the end may be cut off."""
    rows, columns = (np.arange(0, n, factor) for n in values.shape[-2:])
    sums: Array = np.add.reduceat(np.add.reduceat(values, rows, axis=-2), columns, axis=-1)
    return sums
