"""The outline of a raster in longitude and latitude, as GeoJSON and STAC want it."""

import numpy as np
from rasterio.warp import transform
from shapely import MultiPolygon, Polygon, box
from shapely.affinity import translate
from shapely.geometry.polygon import orient

from cafe_cli.raster.geodesy import GDAL_ERRORS
from cafe_cli.raster.grid import Grid

_EDGE = 16  # pieces of each edge of a footprint, which is curved in degrees
_STRAIGHT = 1e-6  # degrees that a point of it may lie beside


def footprint(grid: Grid) -> Polygon | MultiPolygon | None:
    """Return the outline of a grid in longitude and latitude (WGS 84); None if it has no CRS.

    It is counterclockwise, and divided at the antimeridian where it crosses that, as GeoJSON wants.
    """
    if grid.crs is None:
        return None
    share = np.linspace(0, 1, _EDGE, endpoint=False)
    columns = grid.width * np.concatenate([share, 0 * share + 1, 1 - share, 0 * share])
    rows = grid.height * np.concatenate([0 * share, share, 0 * share + 1, 1 - share])
    a, b, c, d, e, f = grid.transform[:6]
    x, y = a * columns + b * rows + c, d * columns + e * rows + f
    try:
        longitude, latitude = map(np.asarray, transform(grid.crs, "EPSG:4326", x, y))
    except GDAL_ERRORS:
        return None
    if not (np.isfinite(longitude).all() and np.isfinite(latitude).all()):
        return None
    crosses = np.ptp(longitude) > 180  # degrees: a map is no half of the Earth
    longitude = np.where(crosses & (longitude < 0), longitude + 360, longitude)
    ring = Polygon(np.column_stack([longitude.round(7), latitude.round(7)])).simplify(_STRAIGHT)
    if not crosses:
        return orient(ring)
    east = ring.intersection(box(0, -90, 180, 90))
    west = translate(ring.intersection(box(180, -90, 360, 90)), -360)
    return MultiPolygon([orient(east), orient(west)])


def bounding_box(shape: Polygon | MultiPolygon) -> list[float]:
    """Return west, south, east, north; west is greater than east across the antimeridian."""
    if isinstance(shape, Polygon):
        return list(shape.bounds)
    east, west = (part.bounds for part in shape.geoms)
    return [east[0], min(east[1], west[1]), west[2], max(east[3], west[3])]
