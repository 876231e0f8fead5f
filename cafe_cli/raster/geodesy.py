"""Distances on the ground: metres per unit of a CRS, and points as geocentric coordinates.

The unit of a projected CRS is a metre in its plane. On the ground it is a metre only where the
scale of the projection is 1: nearly so in UTM and national grids, but at 60 degrees north a unit of
Web Mercator is half a metre.
"""

import math
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from rasterio._err import CPLE_BaseError
from rasterio.crs import CRS
from rasterio.errors import CRSError, RasterioError
from rasterio.warp import transform

GDAL_ERRORS = (CRSError, RasterioError, CPLE_BaseError, SystemError)
"""Exceptions that rasterio raises where GDAL fails; the last two escape it unwrapped."""

Point: TypeAlias = tuple[float, float]
"""Coordinates (x, y) in a CRS: easting and northing, or longitude and latitude."""

_METRES_PER_DEGREE = 111_320.0
_RADIUS, _ECCENTRICITY_SQUARED = 6_378_137.0, 0.006_694_379_990_141  # of WGS 84, metres
_STEP = 50.0  # units of a CRS, to both sides of a point where the scale is measured
_FARTHEST = 1e8  # metres from the origin of a projection; the earth is 4e7 around
_TOLERANCE = 0.005  # UTM and national grids differ by less from 1, and stay as they are


def unit_metres(crs: CRS | None, point: Point) -> float:
    """Return the metres on the ground per unit of a CRS near a point, as the root of an area.

    For a projection, that is its linear unit times its scale, unless the scale is within 0.5 % of
    1. Without a CRS, for an engineering CRS, and where a projection has no scale, the scale is 1.
    """
    if crs is None:
        return 1.0
    unit = float(crs.units_factor[1])  # metres or radians; defined for engineering CRSs too
    if crs.is_geographic:
        shrinking = math.sqrt(max(math.cos(point[1] * unit), 1e-6))
        return _METRES_PER_DEGREE * shrinking * math.degrees(unit)
    scale = _scale(crs, point, unit) if crs.is_projected else 1.0
    return unit if abs(scale - 1) < _TOLERANCE else unit * scale


def to_geocentric(crs: CRS, points: Sequence[Point]) -> NDArray[np.float64] | None:
    """Return points of a CRS as geocentric X, Y, Z in metres, (n, 3); None if there are none.

    The straight line between two of them shows how far apart they are, at poles and across the date
    line too.
    """
    try:
        found = transform(crs, CRS.from_epsg(4326), *zip(*points, strict=True))
    except GDAL_ERRORS:
        return None
    longitude, latitude = np.radians(found[:2])
    normal = _RADIUS / np.sqrt(1 - _ECCENTRICITY_SQUARED * np.sin(latitude) ** 2)
    xyz = np.stack(
        [
            normal * np.cos(latitude) * np.cos(longitude),
            normal * np.cos(latitude) * np.sin(longitude),
            normal * (1 - _ECCENTRICITY_SQUARED) * np.sin(latitude),
        ],
        axis=1,
    )
    return xyz if np.isfinite(xyz).all() else None


def _scale(crs: CRS, point: Point, unit: float) -> float:
    """Return the scale of a projection: metres on the ground per metre of its plane."""
    x, y = point
    if not max(abs(x), abs(y)) * unit < _FARTHEST:  # PROJ turns round the earth to get there
        return 1.0
    around = [(x - _STEP, y), (x + _STEP, y), (x, y - _STEP), (x, y + _STEP)]
    corners = to_geocentric(crs, around)
    if corners is None:
        return 1.0
    area = np.linalg.norm(np.cross(corners[1] - corners[0], corners[3] - corners[2]))
    scale = math.sqrt(float(area)) / (2 * _STEP * unit)
    return scale if scale > 0 else 1.0
