"""Read the features of vector files that intersect a raster, in its pixel coordinates."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import pyogrio.raw
import shapely
from affine import Affine
from numpy.typing import NDArray

from cafe_cli.errors import GridError, LabelError
from cafe_cli.findings import warn_once
from cafe_cli.raster.grid import FARTHEST, Bounds, Grid, check_overlap, describe_crs
from cafe_cli.text import did_you_mean
from cafe_cli.vector.geometry import Geometries
from cafe_cli.vector.layers import READ_ERRORS, Layer, find_layer, layer_bounds, read_error
from cafe_cli.vector.reprojection import padded_bounds, to_pixels
from cafe_cli.vector.wkb import as_polygons

AttributeValue: TypeAlias = int | float | str | None

_EDGE = 1e-3  # pixels


@dataclass(frozen=True)
class Features:
    """The features of a file that intersect a raster, in the order of the file.

    Attributes
    ----------
    path : str
    geometries : ndarray of shapely geometries, (N,)
        In pixel coordinates of the raster: (column, row), (0, 0) at the corner of its first pixel.
    values : list, N
        The attribute of each feature: None where it is null or blank, int for whole numbers.
    """

    path: str
    geometries: Geometries
    values: list[AttributeValue]


def read_features(
    path: str,
    grid: Grid,
    attribute: str | None = None,
    layer: str | None = None,
    *,
    name: str = "the raster",
    required: bool = True,
) -> Features:
    """Read the features of a vector file that intersect a raster.

    Parameters
    ----------
    path : str
        A file, a URL or any name that GDAL opens as vectors, in any CRS.
    grid : Grid
        Grid of the raster.
    attribute, layer : str, optional
        Names; may be None if there is only one. Without attributes every value is None.
    name : str
        Name of the raster in errors.
    required : bool
        Whether to raise an error if no feature intersects the raster.

    Raises
    ------
    InputError
        The file is missing, damaged, holds no vectors or lacks the layer.
    LabelError
        The layer lacks the attribute, or has several and none is named.
    GridError
        Only file or raster has a CRS, there is no transformation, or no feature intersects.
    """
    source = find_layer(path, layer)
    check_crs(source, grid, name)
    column = _find_column(source, attribute)
    box = padded_bounds(grid, source.crs)
    geometries, values = read_layer(source, [column] if column else [], box, name)
    pixels = to_pixels(geometries, source.crs, grid, box, path=path, name=name)
    # Neighbouring map sheets share edges: a feature that only touches the raster's edge is outside.
    extent = shapely.box(_EDGE, _EDGE, grid.width - _EDGE, grid.height - _EDGE)
    shapely.prepare(extent)
    inside = np.flatnonzero(shapely.intersects(extent, pixels))
    if required and not len(inside):
        refuse_empty(path, grid, layer, name)
    column_values = values[0] if values else [None] * len(pixels)
    return Features(path, pixels[inside], [column_values[i] for i in inside])


def refuse_empty(
    path: str, grid: Grid, layer: str | None, name: str, *, gaps: bool = False
) -> None:
    """Raise the error for a file none of whose features intersects a raster.

    With `gaps`, raise it only if the extents of file and raster are disjoint, too, as with a wrong
    CRS: a map may have a gap where the scene lies.

    Raises
    ------
    GridError
        The message gives both extents in the CRS of the raster if they are disjoint.
    """
    source = find_layer(path, layer)
    bounds = layer_bounds(source)
    if bounds is None or not np.isfinite(bounds).all():
        raise GridError(f"{path} has no feature with a geometry; check the file and its layer")
    left, bottom, right, top = bounds
    if source.crs and source.crs.is_geographic and np.abs(bounds).max() > 360:
        raise GridError(
            f"{path} is in {describe_crs(source.crs)}, but coordinates such as {left:.10g}, "
            f"{bottom:.10g} are not degrees (GeoJSON is in EPSG:4326 unless it says otherwise); "
            f"assign the right one, e.g. ogr2ogr -a_srs EPSG:CODE OUT.gpkg {path}"
        )
    if np.abs(bounds).max() >= FARTHEST:
        raise GridError(
            f"{path} has coordinates such as {left:.10g}, {bottom:.10g}, which lie nowhere on "
            "Earth; the file is damaged, or its CRS is not what it says"
        )
    place = Affine(right - left, 0, left, 0, bottom - top, top)
    check_overlap(path, Grid(source.crs, place, 1, 1), name, grid)
    if not gaps:
        raise GridError(
            f"no feature of {path} lies inside {name}, although their extents overlap; check that "
            "it is the right file"
        )


def check_crs(source: Layer, grid: Grid, name: str) -> None:
    """Refuse a layer and a raster, called `name`, of which only one has a CRS."""
    if source.crs is None and grid.crs is not None:
        raise GridError(
            f"{source.path} has no CRS while {name} is in {describe_crs(grid.crs)}; "
            f"assign the right one, e.g. ogr2ogr -a_srs EPSG:CODE OUT.gpkg {source.path}"
        )
    if source.crs is not None and grid.crs is None:
        raise GridError(
            f"{name} has no CRS while {source.path} is in {describe_crs(source.crs)}; assign the "
            "right one with scenes.crs or gdal_edit.py -a_srs EPSG:CODE FILE; features in the "
            f"raster's own coordinates lose theirs with ogr2ogr -a_srs NONE OUT.shp {source.path}"
        )


def _find_column(source: Layer, attribute: str | None) -> str | None:
    listed = ", ".join(source.columns)
    if attribute is None and len(source.columns) > 1:
        raise LabelError(
            f"{source.path} has several attributes, set labels.attribute to the one that holds the "
            f"class: {listed}"
        )
    if attribute is None:
        return next(iter(source.columns), None)
    if attribute not in source.columns:
        near = did_you_mean(attribute, source.columns)
        hint = f"{near} It has: " if near else "it has: "
        raise LabelError(
            f"{source.path} has no attribute {attribute!r}; {hint}{listed or 'no attributes'}"
        )
    return attribute


def read_layer(
    source: Layer, columns: Sequence[str], box: Bounds | None, name: str
) -> tuple[Geometries, list[list[AttributeValue]]]:
    """Read the features with a geometry that intersect a box, and their values by columns."""
    try:
        meta, _, wkb, data = pyogrio.raw.read(
            source.source,
            layer=source.name,
            columns=list(columns),
            force_2d=True,
            bbox=box,
            datetime_as_string=True,
        )
    except READ_ERRORS as error:
        raise read_error(source.path, error) from error
    given = np.flatnonzero([geometry is not None for geometry in wkb])
    geometries = _from_wkb(wkb[given])
    kept = _have_finite_coordinates(geometries)
    broken = ~(kept | shapely.is_empty(geometries))
    if broken.any():
        warn_once(
            name, f"{source.path}: {broken.sum()} features with broken geometries are left out"
        )
    order = {str(field): column for field, column in zip(meta["fields"], data, strict=True)}
    found = [order[column].tolist() for column in columns]
    return geometries[kept], [[to_attribute_value(v[i]) for i in given[kept]] for v in found]


def _from_wkb(wkb: NDArray[np.object_]) -> Geometries:
    """Parse geometries; None where that fails."""
    geometries: Geometries = shapely.from_wkb(wkb, on_invalid="ignore")
    unknown = shapely.is_missing(geometries)
    geometries[unknown] = shapely.from_wkb(
        [as_polygons(one) for one in wkb[unknown]], on_invalid="ignore"
    )
    return geometries


def _have_finite_coordinates(geometries: Geometries) -> NDArray[np.bool_]:
    """Return which geometries are neither missing nor empty and have finite coordinates, (N,)."""
    sound: NDArray[np.bool_] = ~(shapely.is_missing(geometries) | shapely.is_empty(geometries))
    xy, index = shapely.get_coordinates(geometries, return_index=True)
    sound[index[~np.isfinite(xy).all(axis=1)]] = False
    return sound


def to_attribute_value(value: object) -> AttributeValue:
    """Convert a value of a column to a number or a text; None for null, NaN and blanks."""
    if isinstance(value, float):
        whole = int(value) if value.is_integer() else value
        return None if math.isnan(value) else whole
    if isinstance(value, int):
        return int(value)  # True is 1
    return None if value is None else str(value).strip() or None
