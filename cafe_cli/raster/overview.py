"""Read rasters as one small picture of a grid, from overviews where the files have them."""

from collections.abc import Sequence

import numpy as np
from rasterio.enums import Resampling

from cafe_cli.errors import InputError
from cafe_cli.raster.grid import Grid
from cafe_cli.raster.header import READ_ERRORS
from cafe_cli.raster.joining import common_dtype
from cafe_cli.raster.mosaic_view import Member
from cafe_cli.raster.reader import Array, Mask, gdal_message
from cafe_cli.raster.warp import data_bands, locate, mask_band, open_on_grid
from cafe_cli.raster.window import Window


def read_overview(
    members: Sequence[Member],
    grid: Grid,
    factor: int,
    resampling: Resampling,
    *,
    bands: int | None = None,
    nodata: float | None = None,
) -> tuple[Array, Mask]:
    """Read rasters at pixels `factor` times as large as those of a grid; the first wins.

    The views that warp them are read block by block, so that memory does not grow with the rasters.

    Parameters
    ----------
    members : sequence of Member
    grid : Grid
    factor : int
    resampling : Resampling
        From pixels of the grid to those of the picture.
    bands : int, optional
        Bands of each member that are read at most.
    nodata : float, optional
        Replaces the nodata value of the rasters.

    Returns
    -------
    values : ndarray, (bands, ceil(height / factor), ceil(width / factor))
    valid : ndarray of bool, of the same height and width

    Raises
    ------
    InputError
        A file is truncated or damaged.
    GridError
        Only some of the rasters have a CRS.
    """
    shape = -(-grid.height // factor), -(-grid.width // factor)
    count = min(bands or len(members[0].bands), len(members[0].bands))
    values = np.zeros((count, *shape), common_dtype(members))
    valid = np.zeros(shape, bool)
    for member in members:
        box, _ = locate(member.path, member.grid, grid)
        if (part := _align(box, grid, factor)) is None or valid.all():
            continue
        rows, columns = _shrink(part, factor)
        own, known = _read(member, grid, part, (rows, columns), (resampling, count, nodata))
        taken = known & ~valid[rows, columns]
        values[:, rows, columns][:, taken] = own[:, taken]
        valid[rows, columns] |= known
    return values, valid


def _align(box: Window, grid: Grid, factor: int) -> Window | None:
    """Return the part of a grid around a window, whose corner is that of a pixel of the picture."""
    inside = box.intersection(grid.extent)
    if inside is None:
        return None
    left, top = (n // factor * factor for n in (inside.col, inside.row))
    right, bottom = (-(-n // factor) * factor for n in (inside.right, inside.bottom))
    return Window.from_bounds(left, top, right, bottom).intersection(grid.extent)


def _shrink(part: Window, factor: int) -> tuple[slice, slice]:
    """Return the rows and columns of the picture that show a part of the grid."""
    return (
        slice(part.row // factor, -(-part.bottom // factor)),
        slice(part.col // factor, -(-part.right // factor)),
    )


def _read(
    member: Member,
    grid: Grid,
    part: Window,
    place: tuple[slice, slice],
    how: tuple[Resampling, int, float | None],
) -> tuple[Array, Mask]:
    resampling, count, nodata = how
    shape = tuple(s.stop - s.start for s in place)
    options = {"nodata": nodata, "source": member.grid}
    window = ((part.row, part.bottom), (part.col, part.right))
    # Always through a view that warps: it makes an alpha band of whatever marks voids.
    with open_on_grid(
        member.path, grid, False, Resampling.nearest, view=member.view, **options
    ) as reader:
        bands = [*(member.bands or data_bands(reader))][:count]
        try:
            values = reader.read(bands, window=window, out_shape=shape, resampling=resampling)
            mask = reader.read(mask_band(reader), window=window, out_shape=shape)
        except READ_ERRORS as error:
            raise InputError(
                f"cannot read {member.path}: {gdal_message(error)}; the file is truncated or "
                "damaged"
            ) from error
    return values, mask > 0
