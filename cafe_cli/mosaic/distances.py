"""Distance of pixels from the edge of their raster, where a map is least reliable."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from affine import Affine
from rasterio.enums import Resampling
from rasterio.vrt import WarpedVRT
from scipy.ndimage import distance_transform_edt

from cafe_cli.classes import NODATA
from cafe_cli.raster.grid import Grid
from cafe_cli.raster.reader import open_raster, read_decimated
from cafe_cli.raster.warp import in_memory_raster, open_warped

_SIDE = 512  # pixels along the longer side of the view in which distances are measured


@contextmanager
def open_distances(path: str, grid: Grid) -> Iterator[WarpedVRT]:
    """Open the distance of a label raster's pixels from its edge, on a grid.

    The edge is that of the raster or of its pixels with a class, whichever is nearer. It is found
    in a view of at most 512 x 512 pixels, so that distances are right to about two of its pixels,
    and holes that the view does not show are none.

    Parameters
    ----------
    path : str
    grid : Grid

    Yields
    ------
    WarpedVRT
        Metres (units of the plane without a CRS), for `cafe_cli.raster.warp.read_warped`.
    """
    with open_raster(path) as dataset:
        own, view = Grid.of(dataset), read_decimated(dataset, _SIDE)
    inside = np.pad(np.isfinite(view) & (view != NODATA), 1)
    height, width = view.shape
    across, down = own.width / width, own.height / height
    distances = distance_transform_edt(inside, sampling=(down * own.gsd, across * own.gsd))
    coarse = Grid(own.crs, own.transform @ Affine.scale(across, down), width, height)
    values = distances[1:-1, 1:-1].astype(np.float32)
    with (
        in_memory_raster(values, coarse) as memory,
        open_warped(memory, grid, Resampling.bilinear) as warped,
    ):
        yield warped
