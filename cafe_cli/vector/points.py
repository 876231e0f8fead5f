"""Read and write points with their attributes."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pyogrio.raw
import shapely
from numpy.typing import NDArray
from rasterio.crs import CRS

from cafe_cli.errors import GridError, InputError, OutputError
from cafe_cli.raster.grid import Grid
from cafe_cli.vector.features import AttributeValue, check_crs, read_layer, to_attribute_value
from cafe_cli.vector.geopackage import check_geopackage
from cafe_cli.vector.layers import (
    READ_ERRORS,
    find_layer,
    first_sentence,
    list_layers,
    read_error,
)
from cafe_cli.vector.reprojection import to_pixels

Columns: TypeAlias = Mapping[str, Sequence[Any] | NDArray[Any]]
"""Attributes to write: arrays of numbers, or sequences of texts and None."""

_POINTS = ("Point", "MultiPoint")


@dataclass(frozen=True)
class PointFeatures:
    """The points of a file, in its order.

    Attributes
    ----------
    path : str
    pixels : ndarray of int64, (N, 2)
        Column and row of the pixel of a grid that holds each point; it may lie beyond the grid.
    columns : dict
        The attributes of every point, as `cafe_cli.vector.features.Features` has them.
    """

    path: str
    pixels: NDArray[np.int64]
    columns: dict[str, list[AttributeValue]]


def holds_points(path: str, layer: str | None = None) -> bool:
    """Whether the layer of a vector file declares points, by its geometry type."""
    kinds = {name: kind for name, kind in list_layers(path) if kind is not None}
    if layer is None and len(kinds) != 1:
        return False
    kind = kinds.get(layer or next(iter(kinds)), "")
    return kind.removeprefix("2.5D ").removeprefix("3D ").split(" ")[0] in _POINTS


def read_points(
    path: str, grid: Grid, layer: str | None = None, *, name: str = "the raster"
) -> PointFeatures:
    """Read all points of a vector file, and find their pixels.

    A point on the edge of two pixels lies in the right or the lower one.

    Parameters
    ----------
    path : str
        A file, a URL or any name that GDAL opens as vectors, in any CRS.
    grid : Grid
        That of the raster.
    layer : str, optional
        May be None if there is only one.
    name : str
        The raster in errors.

    Raises
    ------
    InputError
        The file is missing or damaged, lacks the layer, or a feature is not one point.
    GridError
        Only file or raster has a CRS, or there is no transformation.
    """
    source = find_layer(path, layer)
    check_crs(source, grid, name)
    geometries, values = read_layer(source, source.columns, None, name)
    if not len(geometries):
        raise GridError(f"{path} has no point; check the file and its layer")
    points, index = shapely.get_parts(geometries, return_index=True)
    single = shapely.get_type_id(points) == shapely.GeometryType.POINT
    if not single.all() or len(np.unique(index)) != len(points):
        raise InputError(
            f"{path} holds features that are not one point each; split them with "
            f"ogr2ogr -explodecollections OUT.gpkg {path}"
        )
    placed = to_pixels(points, source.crs, grid, None, path=path, name=name)
    pixels = np.floor(shapely.get_coordinates(placed)).astype(np.int64)
    return PointFeatures(path, pixels, dict(zip(source.columns, values, strict=True)))


def read_table(path: str, layer: str) -> dict[str, list[AttributeValue]] | None:
    """Return the columns of a layer without geometries, None where the file has no such table.

    Raises
    ------
    InputError
        The file is damaged.
    """
    if (layer, None) not in list_layers(path):
        return None
    try:
        meta, _, _, data = pyogrio.raw.read(path, layer=layer, read_geometry=False)
    except READ_ERRORS as error:
        raise read_error(path, error) from error
    columns = zip(meta["fields"], data, strict=True)
    return {str(name): [to_attribute_value(v) for v in values.tolist()] for name, values in columns}


def write_points(
    path: Path,
    xy: NDArray[np.float64],
    columns: Columns,
    crs: CRS | None,
    tables: Mapping[str, Columns],
) -> None:
    """Write a GeoPackage with a layer ``points``, and tables without geometries.

    Parameters
    ----------
    path : Path
        Must not exist.
    xy : ndarray of float64, (N, 2)
        Coordinates in `crs`.
    columns : mapping
        Attributes of the points, N of each.
    crs : CRS or None
    tables : mapping
        Columns by the name of the table.

    Raises
    ------
    OutputError
        The file cannot be written.
    """
    wkt = None if crs is None else crs.to_wkt()
    layers: list[tuple[str, Any, Columns, str | None]] = [
        ("points", shapely.to_wkb(shapely.points(xy)), columns, wkt),
        *((name, None, table, None) for name, table in tables.items()),
    ]
    for layer, geometry, values, projection in layers:
        with warnings.catch_warnings():
            # A map without CRS has points without one: pyogrio warns of that.
            warnings.filterwarnings("ignore", "'crs' was not provided", UserWarning)
            try:
                pyogrio.raw.write(
                    path,
                    geometry,
                    [_as_column(column) for column in values.values()],
                    list(values),
                    layer=layer,
                    driver="GPKG",
                    geometry_type=None if geometry is None else "Point",
                    crs=projection,
                )
            except READ_ERRORS as error:
                raise OutputError(f"cannot write {path}: {first_sentence(error)}") from error
    try:
        check_geopackage(path)
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error}") from error


def _as_column(values: Sequence[Any] | NDArray[Any]) -> NDArray[Any]:
    """Return a column as pyogrio writes it: text as objects, so that None stays null."""
    texts = any(value is None or isinstance(value, str) for value in values)
    return np.array(values, object if texts else None)
