"""A bounding box in any CRS as polygons on the pixels of a scene."""

import math

import numpy as np
import shapely
from rasterio.crs import CRS

from cafe_cli.errors import ConfigError, GridError
from cafe_cli.raster.geodesy import GDAL_ERRORS
from cafe_cli.raster.grid import Bounds, Grid, describe_crs, parse_crs
from cafe_cli.vector.geometry import Geometries, single_parts
from cafe_cli.vector.reprojection import padded_bounds, to_pixels

_DEGREES = "EPSG:4326"


def bbox_polygons(
    bounds: Bounds, grid: Grid, crs: str | None = None, *, name: str = "the scene"
) -> tuple[str, Geometries]:
    """Return the name of a bounding box for errors, and its polygons in pixels, (N,).

    See `cafe_cli.vector.area_of_interest.Area.from_bbox` for the parameters.

    Raises
    ------
    ConfigError
        The bounds are not a box, or the CRS is unknown.
    GridError
        The scene has no CRS but the box has, there is no transformation, or they do not overlap.
    """
    box = f"bbox {_numbers(bounds)}"
    _check_bounds(box, bounds)
    own = _bbox_crs(box, crs, grid, name)
    outline = np.array([shapely.box(*bounds)], object)
    pixels = to_pixels(outline, own, grid, padded_bounds(grid, own), path=box, name=name)
    polygons, _ = single_parts(pixels)
    if not shapely.intersects(polygons, shapely.box(*grid.extent.bounds)).any():
        raise _no_overlap(box, own, bounds, grid, name)
    return box, polygons


def _check_bounds(box: str, bounds: Bounds) -> None:
    left, bottom, right, top = bounds
    if not all(map(math.isfinite, bounds)):
        raise ConfigError(f"{box} is not made of four finite numbers: left bottom right top")
    for low, lower, high, upper in (("left", left, "right", right), ("bottom", bottom, "top", top)):
        if not lower < upper:
            raise ConfigError(
                f"{box} is not left bottom right top: {low} {lower:.10g} is not below {high} "
                f"{upper:.10g}"
            )


def _bbox_crs(box: str, text: str | None, grid: Grid, name: str) -> CRS | None:
    if text is None:
        return grid.crs
    crs = parse_crs(text)
    if grid.crs is None:
        raise GridError(
            f"{name} has no CRS while {box} is in {describe_crs(crs)}; leave out the CRS and give "
            f"the bbox in the raster's own coordinates, {_numbers(grid.bounds)}, or assign the "
            "right one with gdal_edit.py -a_srs EPSG:CODE FILE"
        )
    return crs


def _no_overlap(box: str, crs: CRS | None, bounds: Bounds, grid: Grid, name: str) -> GridError:
    """Return the error for a box that misses a scene; it gives both in the CRS of the box."""
    covered = _covered(grid, crs)
    extent = f", which covers {_numbers(covered)}" if covered else ""
    return GridError(
        f"{box} does not overlap {name}{extent} in {describe_crs(crs)}; "
        f"{_remedy(bounds, grid, crs)}"
    )


def _remedy(bounds: Bounds, grid: Grid, crs: CRS | None) -> str:
    """Return the advice to swap x and y or to name EPSG:4326, if the box would overlap then."""
    left, bottom, right, top = bounds
    swapped = bottom, left, top, right
    if _overlap(swapped, _covered(grid, crs)):
        return f"x comes first: {_numbers(swapped)} does"
    if grid.crs is not None:
        degrees = _covered(grid, CRS.from_user_input(_DEGREES))
        for numbers in (bounds, swapped):
            if _overlap(numbers, degrees):
                return f"in degrees {_numbers(numbers)} does: name their CRS, {_DEGREES}"
    return "check the numbers and their CRS"


def _overlap(bounds: Bounds, others: Bounds | None) -> bool:
    return others is not None and shapely.box(*bounds).intersects(shapely.box(*others))


def _covered(grid: Grid, crs: CRS | None) -> Bounds | None:
    """Return the bounds of a scene in another CRS, None if they cannot be transformed."""
    try:
        left, bottom, right, top = grid.footprint_in(crs).bounds
    except GDAL_ERRORS:
        return None
    return (left, bottom, right, top) if math.isfinite(left + bottom + right + top) else None


def _numbers(bounds: Bounds) -> str:
    return " ".join(f"{number:.10g}" for number in bounds)
