"""Rasterize geometries in pixel coordinates; a pixel does not depend on the window read."""

from collections.abc import Sequence

import numpy as np
import rasterio.features
import shapely
from affine import Affine
from numpy.typing import NDArray

from cafe_cli.raster.window import Window
from cafe_cli.vector.geometry import Geometries, single_parts

_CORNER = 1e-9  # pixels; a shorter stretch of a line only passes a corner of the pixel


def rasterize_indices(
    geometries: Geometries, window: Window, all_touched: bool = False
) -> NDArray[np.int32]:
    """Return the index of the geometry at each pixel of a window, (height, width), -1 for none.

    Geometries are in pixel coordinates; later ones lie on top. A polygon covers the pixels whose
    centres lie inside it; with `all_touched`, all pixels that it overlaps. Lines and points always
    cover the pixels that they pass through.
    """
    shape = (window.height, window.width)
    drawn = np.flatnonzero(~(shapely.is_missing(geometries) | shapely.is_empty(geometries)))
    if not len(drawn):
        return np.full(shape, -1, np.int32)
    place = Affine.translation(window.col, window.row)
    shapes = zip(geometries[drawn], drawn.tolist(), strict=True)
    top: NDArray[np.int32] = rasterio.features.rasterize(
        shapes, shape, fill=-1, transform=place, dtype="int32"
    )
    if all_touched:
        rows, columns, index = _touched(geometries[drawn], window)
        np.maximum.at(top, (rows, columns), drawn[index].astype(np.int32))
    return top


def rasterize(
    geometries: Geometries,
    values: Sequence[int],
    window: Window,
    all_touched: bool = False,
    fill: int = 255,
) -> NDArray[np.uint8]:
    """Rasterize one value per geometry in a window: (height, width), `fill` where there is none.

    See `rasterize_indices`.
    """
    return np.array([*values, fill], np.uint8)[rasterize_indices(geometries, window, all_touched)]


def _touched(
    geometries: Geometries, window: Window
) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.intp]]:
    """Return row, column and geometry index, (N,) each, of the pixels that edges and lines cross.

    This replaces ALL_TOUCHED of GDAL 3.10, which writes out of bounds where a line ends on the edge
    of the raster.
    """
    start, step, source = _segments(geometries, window)
    # Between two crossings with grid lines, a segment lies in a single pixel.
    number, share = _crossings(start, step, (window.width, window.height))
    number, length = number[1:], np.where(np.diff(number), 0, np.diff(share))
    middle = start[number] + (share[1:] - length / 2)[:, None] * step[number]
    column, row = np.floor(middle).astype(np.intp).T
    kept = length * np.abs(step[number]).max(axis=1) > _CORNER
    kept &= (column >= 0) & (column < window.width) & (row >= 0) & (row < window.height)
    return row[kept], column[kept], source[number[kept]]


def _segments(
    geometries: Geometries, window: Window
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.intp]]:
    """Return start and extent (N, 2) of the segments near a window, and their geometries, (N,).

    Polygon edges along pixel edges are left out: the adjacent pixels inside the polygon are covered
    by its interior or crossed by another edge.
    """
    parts, whole = single_parts(geometries)
    areas = shapely.get_dimensions(parts) == 2
    lines, part = shapely.get_parts(
        np.where(areas, shapely.boundary(parts), parts), return_index=True
    )
    xy, line = shapely.get_coordinates(lines, return_index=True)
    xy -= (window.col, window.row)
    first = np.flatnonzero(line[1:] == line[:-1])
    start, end = xy[first], xy[first + 1]
    source = part[line[first]]
    near = (np.minimum(start, end) <= (window.width, window.height)).all(axis=1)
    near &= (np.maximum(start, end) >= 0).all(axis=1)
    along = ((start == end) & (start == np.round(start))).any(axis=1)
    near &= ~(along & areas[source])
    return start[near], (end - start)[near], whole[source[near]]


def _crossings(
    start: NDArray[np.float64], step: NDArray[np.float64], size: tuple[int, int]
) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """Return where segments begin, cross grid lines of a window, and end.

    Returns
    -------
    number : ndarray of int, (M,)
        Index of the segment, ascending.
    share : ndarray of float64, (M,)
        Position along the segment, 0 to 1, ascending within each.
    """
    every = np.arange(len(start))
    numbers, shares = [every, every], [np.zeros(len(start)), np.ones(len(start))]
    for axis, most in enumerate(size):
        at, along = start[:, axis], step[:, axis]
        low = np.clip(np.ceil(np.minimum(at, at + along)), 0, None).astype(int)
        high = np.clip(np.floor(np.maximum(at, at + along)), None, most).astype(int)
        count = np.where(along == 0, 0, np.maximum(high - low + 1, 0))
        number = np.repeat(every, count)
        line = np.arange(len(number)) - np.repeat(count.cumsum() - count, count) + low[number]
        numbers.append(number)
        shares.append((line - at[number]) / along[number])
    number, share = np.concatenate(numbers), np.concatenate(shares)
    order = np.lexsort((share, number))
    return number[order], share[order]
