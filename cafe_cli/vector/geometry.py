"""Split, repair, snap and subdivide geometries in pixel coordinates."""

from typing import TypeAlias

import numpy as np
import shapely
from numpy.typing import NDArray

Geometries: TypeAlias = NDArray[np.object_]

# Snapping steps per pixel. Binary fractions stay exact when they are shifted into a window, so that
# a pixel does not depend on the window in which it is rasterized.
_STEPS = 65_536
_VERTICES = 512  # per piece; GDAL visits every vertex of a polygon for every row of a window


def subdivide(geometries: Geometries) -> tuple[Geometries, NDArray[np.int64]]:
    """Split geometries in pixel coordinates into pieces that are fast to rasterize in a window.

    Returns
    -------
    pieces : ndarray of shapely geometries, (M,)
        Single geometries; polygons of many vertices are cut along edges of pixels.
    source : ndarray of int64, (M,)
        Index into `geometries` of each piece, ascending.
    """
    parts, source = single_parts(geometries)
    done: list[tuple[Geometries, NDArray[np.int64]]] = []
    while len(parts):
        cut = _is_large(parts)
        done.append((parts[~cut], source[~cut]))
        parts, source = _halves(parts[cut], source[cut])
    if not done:
        return parts, source
    parts = np.concatenate([p for p, _ in done])
    source = np.concatenate([s for _, s in done])
    order = np.argsort(source, kind="stable")
    return snap(parts[order]), source[order]


def single_parts(geometries: Geometries) -> tuple[Geometries, NDArray[np.int64]]:
    """Return the single parts of geometries, (M,), and the index of the geometry of each, (M,)."""
    parts, source = shapely.get_parts(geometries, return_index=True)
    while (shapely.get_type_id(parts) > shapely.GeometryType.POLYGON).any():
        parts, index = shapely.get_parts(parts, return_index=True)
        source = source[index]
    some = ~shapely.is_empty(parts)
    return parts[some], source[some].astype(np.int64)


def make_valid(parts: Geometries) -> Geometries:
    """Repair invalid geometries by the even-odd rule, as in rasterizing."""
    parts, broken = parts.copy(), ~shapely.is_valid(parts)
    parts[broken] = shapely.make_valid(parts[broken])
    return parts


def _is_large(parts: Geometries) -> NDArray[np.bool_]:
    polygon = shapely.get_type_id(parts) == shapely.GeometryType.POLYGON
    sides = np.diff(shapely.bounds(parts).reshape(-1, 2, 2), axis=1)[:, 0]
    large = sides.max(axis=1) >= 16 if len(parts) else np.zeros(0, bool)
    cut: NDArray[np.bool_] = polygon & large & (shapely.get_num_coordinates(parts) > _VERTICES)
    return cut


def _halves(parts: Geometries, source: NDArray[np.int64]) -> tuple[Geometries, NDArray[np.int64]]:
    """Cut polygons in two across their longer side."""
    parts = make_valid(parts)
    left, top, right, bottom = shapely.bounds(parts).T
    wide = right - left > bottom - top
    column = np.where(wide, np.round((left + right) / 2), right)
    row = np.where(wide, bottom, np.round((top + bottom) / 2))
    boxes = (
        shapely.box(left, top, column, row),
        shapely.box(np.where(wide, column, left), np.where(wide, top, row), right, bottom),
    )
    halves = [shapely.intersection(parts, half) for half in boxes]
    found, index = single_parts(np.concatenate(halves))
    # Cuts that touch a polygon, or overlaps of a polygon with itself, leave points and lines.
    area = shapely.get_type_id(found) == shapely.GeometryType.POLYGON
    return found[area], np.tile(source, 2)[index[area]]


def snap(geometries: Geometries) -> Geometries:
    """Round pixel coordinates to multiples of 1/65,536, which are exact in every window."""
    rounded: Geometries = shapely.transform(geometries, lambda xy: np.round(xy * _STEPS) / _STEPS)
    return rounded
