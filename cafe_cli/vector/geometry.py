"""Geometries in pixel coordinates: single parts, made valid, snapped, cut into small pieces."""

from typing import TypeAlias

import numpy as np
import shapely
from numpy.typing import NDArray

Geometries: TypeAlias = NDArray[np.object_]

# Steps per pixel. As binary fractions, coordinates survive the shift into any window unchanged, so
# that no pixel depends on the window that it is burnt in.
_STEPS = 65_536
_VERTICES = 512  # GDAL looks at every vertex of a polygon for every row of a window


def subdivide(geometries: Geometries) -> tuple[Geometries, NDArray[np.int64]]:
    """Take geometries in pixel coordinates apart so that each burns fast in a small window.

    Returns
    -------
    pieces : ndarray of shapely geometries, (M,)
        Single geometries. Polygons of many vertices are cut along the edges of pixels.
    source : ndarray of int64, (M,)
        Which of `geometries` each is a piece of; it never falls.
    """
    parts, source = single_parts(geometries)
    done: list[tuple[Geometries, NDArray[np.int64]]] = []
    while len(parts):
        cut = _can_be_cut(parts)
        done.append((parts[~cut], source[~cut]))
        parts, source = _halves(parts[cut], source[cut])
    if not done:
        return parts, source
    parts = np.concatenate([p for p, _ in done])
    source = np.concatenate([s for _, s in done])
    order = np.argsort(source, kind="stable")
    return snap(parts[order]), source[order]


def single_parts(geometries: Geometries) -> tuple[Geometries, NDArray[np.int64]]:
    """Return single geometries, and which of `geometries` each is a part of."""
    parts, source = shapely.get_parts(geometries, return_index=True)
    while (shapely.get_type_id(parts) > shapely.GeometryType.POLYGON).any():
        parts, index = shapely.get_parts(parts, return_index=True)
        source = source[index]
    some = ~shapely.is_empty(parts)
    return parts[some], source[some].astype(np.int64)


def make_valid(parts: Geometries) -> Geometries:
    """Take apart what overlaps itself: twice is outside, as it is when burnt."""
    parts, broken = parts.copy(), ~shapely.is_valid(parts)
    parts[broken] = shapely.make_valid(parts[broken])
    return parts


def _can_be_cut(parts: Geometries) -> NDArray[np.bool_]:
    polygon = shapely.get_type_id(parts) == shapely.GeometryType.POLYGON
    sides = np.diff(shapely.bounds(parts).reshape(-1, 2, 2), axis=1)[:, 0]
    large = sides.max(axis=1) >= 16 if len(parts) else np.zeros(0, bool)
    cut: NDArray[np.bool_] = polygon & large & (shapely.get_num_coordinates(parts) > _VERTICES)
    return cut


def _halves(parts: Geometries, source: NDArray[np.int64]) -> tuple[Geometries, NDArray[np.int64]]:
    """Cut polygons across their longer side."""
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
    # Where the cut only touches a polygon, or it overlapped itself, points and lines are left over.
    area = shapely.get_type_id(found) == shapely.GeometryType.POLYGON
    return found[area], np.tile(source, 2)[index[area]]


def snap(geometries: Geometries) -> Geometries:
    """Round pixel coordinates to fractions that every window shares."""
    rounded: Geometries = shapely.transform(geometries, lambda xy: np.round(xy * _STEPS) / _STEPS)
    return rounded
