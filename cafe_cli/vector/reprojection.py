"""Transform vector geometries from any CRS to the pixel coordinates of a raster."""

import math

import numpy as np
import shapely
from affine import Affine
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.warp import transform

from cafe_cli.errors import GridError
from cafe_cli.raster.geodesy import GDAL_ERRORS, Point, unit_metres
from cafe_cli.raster.grid import Bounds, Grid, describe_crs
from cafe_cli.vector.geometry import Geometries, make_valid, single_parts, snap

_TICKS = 65  # points along each side of a raster from which bounds are transformed
_MOST_SEGMENTS = 10_000_000  # of all edges; with more, the coordinates are taken for damaged


def padded_bounds(grid: Grid, crs: CRS | None) -> Bounds | None:
    """Return the bounds of a raster in another CRS with a margin, None if it has none there.

    A lattice of points all over the raster is transformed, because the extremes of a raster that
    holds a pole lie inside, not on its outline.
    """
    ticks = np.linspace(0, 1, _TICKS)
    lattice = np.array(np.meshgrid(ticks * grid.width, ticks * grid.height)).reshape(2, -1)
    points = _transform_points(_apply_affine(grid.transform, lattice), grid.crs, crs)
    if points is None:
        return None
    (left, bottom), (right, top) = points.min(axis=1).tolist(), points.max(axis=1).tolist()
    margin = max(right - left, top - bottom) / _TICKS + _segment_length(
        grid, crs, ((left + right) / 2, (bottom + top) / 2)
    )
    return left - margin, bottom - margin, right + margin, top + margin


def to_pixels(
    geometries: Geometries,
    crs: CRS | None,
    grid: Grid,
    box: Bounds | None,
    *,
    path: str,
    name: str,
) -> Geometries:
    """Transform geometries (N,) to snapped pixel coordinates of a grid.

    Parameters
    ----------
    geometries : ndarray of shapely geometries, (N,)
    crs : CRS or None
        CRS of the geometries; None if the raster has none either.
    grid : Grid
    box : tuple of float or None
        From `padded_bounds`, in `crs`. If the CRSs differ, geometries are clipped to this box.
    path, name : str
        Names of the vector file and of the raster in errors.

    Raises
    ------
    GridError
        Some coordinates cannot be transformed.
    """
    if crs is not None and crs != grid.crs:
        moved = _reproject(geometries, crs, grid, box)
        if moved is None:
            raise GridError(
                f"cannot transform {path} from {describe_crs(crs)} to {describe_crs(grid.crs)}, "
                f"the CRS of {name}; check its CRS and cut away what lies far off"
            )
        geometries = moved
    pixels = _apply_affine(~grid.transform, shapely.get_coordinates(geometries).T)
    return snap(shapely.set_coordinates(geometries, pixels.T))


def _reproject(
    geometries: Geometries, crs: CRS, grid: Grid, box: Bounds | None
) -> Geometries | None:
    """Clip geometries to a box and transform them; None where that is impossible.

    Long edges are subdivided first, since a straight line is a curve in another CRS.
    """
    parts, source = single_parts(geometries)
    if box:
        parts, source = _clip(parts, source, box)
    left, bottom, right, top = box or shapely.total_bounds(geometries).tolist()
    length = _segment_length(grid, crs, ((left + right) / 2, (bottom + top) / 2))
    if shapely.length(parts).sum() > _MOST_SEGMENTS * length:
        return None
    parts = _segmentize(parts, length)
    xy = _transform_points(shapely.get_coordinates(parts).T, crs, grid.crs)
    if xy is None:
        return None
    return _regroup(shapely.set_coordinates(parts, xy.T), source, len(geometries))


def _clip(
    parts: Geometries, source: NDArray[np.int64], box: Bounds
) -> tuple[Geometries, NDArray[np.int64]]:
    """Clip single geometries to a box, because projections are undefined far from their area."""
    low, high = np.hsplit(shapely.bounds(parts), 2)
    beyond = ((low < box[:2]) | (high > box[2:])).any(axis=1)
    found, index = single_parts(shapely.intersection(make_valid(parts[beyond]), shapely.box(*box)))
    alike = shapely.get_dimensions(found) == shapely.get_dimensions(parts[beyond])[index]
    parts = np.concatenate([parts[~beyond], found[alike]])
    source = np.concatenate([source[~beyond], source[beyond][index[alike]]])
    order = np.argsort(source, kind="stable")
    return parts[order], source[order]


def _segmentize(parts: Geometries, length: float) -> Geometries:
    """Subdivide edges longer than `length`.

    This works ring by ring, because shapely's own `segmentize` repairs polygons and drops one half
    of a bow tie.
    """
    parts, areas = parts.copy(), shapely.get_dimensions(parts) == 2
    rings, index = shapely.get_rings(parts[areas], return_index=True)
    parts[areas] = shapely.polygons(shapely.segmentize(rings, length), indices=index)
    parts[~areas] = shapely.segmentize(parts[~areas], length)
    return parts


def _regroup(parts: Geometries, source: NDArray[np.int64], count: int) -> Geometries:
    """Collect parts into `count` geometries by the index in `source`; empty if there are none."""
    whole = np.full(count, shapely.GeometryCollection(), object)
    used, index, many = np.unique(source, return_inverse=True, return_counts=True)
    whole[used] = shapely.geometrycollections(parts, indices=index)
    alone = many == 1
    whole[used[alone]] = parts[alone[index]]
    return whole


def _transform_points(
    points: NDArray[np.float64], crs: CRS | None, target: CRS | None
) -> NDArray[np.float64] | None:
    """Transform points (2, N) between CRSs; None where any point cannot be transformed."""
    if crs == target:
        return points
    try:
        moved = np.array(transform(crs, target, *points))
    except GDAL_ERRORS:
        return None
    # GDAL reports the first twenty failures only; further points become infinite silently.
    return moved if np.isfinite(moved).all() else None


def _apply_affine(affine: Affine, points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Apply an affine transform to points (2, N)."""
    x, y = points
    return np.stack(
        [affine.a * x + affine.b * y + affine.c, affine.d * x + affine.e * y + affine.f]
    )


def _segment_length(grid: Grid, crs: CRS | None, point: Point) -> float:
    """Return the longest edge that may stay straight in another CRS, in units of `crs` at a point.

    Projected lines curve about as strongly as the earth: an edge of 1000 m times the root of the
    pixel size in metres deviates from its chord by a fiftieth of a pixel.
    """
    return 1000 * math.sqrt(grid.gsd) / unit_metres(crs, point)
