"""What a vector file holds: whether GDAL can read it, and its layers."""

import os
from dataclasses import dataclass
from typing import Any, TypeAlias
from xml.sax.saxutils import escape, quoteattr  # nosec B406  # parses nothing

import pyogrio
import pyogrio.raw
from pyogrio.errors import DataLayerError, DataSourceError, GeometryError
from rasterio.crs import CRS

from cafe_cli.errors import GridError, InputError
from cafe_cli.raster.containers import opens_as_raster
from cafe_cli.raster.geodesy import GDAL_ERRORS
from cafe_cli.system.atomic_write import is_file_name
from cafe_cli.system.gdal_options import set_gdal_options
from cafe_cli.system.untrusted import check_file, check_name
from cafe_cli.vector.formats import check_format, check_name_and_sources
from cafe_cli.vector.queries import check_source, check_views

set_gdal_options()

READ_ERRORS = (DataSourceError, DataLayerError, UnicodeDecodeError)

_DRIVERS = {
    ".gpkg": "GPKG", ".shp": "ESRI Shapefile", ".shz": "ESRI Shapefile",
    ".geojson": "GeoJSON", ".json": "GeoJSON", ".geojsonl": "GeoJSONSeq", ".geojsons": "GeoJSONSeq",
    ".ndjson": "GeoJSONSeq", ".topojson": "TopoJSON", ".fgb": "FlatGeobuf", ".gml": "GML",
    ".kml": "KML", ".kmz": "LIBKML", ".gdb": "OpenFileGDB", ".mdb": "PGeo", ".parquet": "Parquet",
    ".geoparquet": "Parquet", ".feather": "Arrow", ".arrow": "Arrow", ".sqlite": "SQLite",
    ".tab": "MapInfo File", ".mif": "MapInfo File", ".dxf": "DXF", ".dwg": "CAD", ".dgn": "DGN",
    ".gpx": "GPX", ".gpkg.zip": "GPKG", ".shp.zip": "ESRI Shapefile", ".gdb.zip": "OpenFileGDB",
}  # fmt: skip
"""Driver of GDAL by the suffix of a vector file."""

_EITHER = (".gpkg", ".gpkg.zip", ".zip", ".gdb", ".gdb.zip", ".sqlite", ".tar", ".tgz", ".tar.gz")
"""Suffixes of files that hold vectors, rasters or both."""

_Source: TypeAlias = str | bytes


@dataclass(frozen=True)
class Layer:
    """Metadata of a layer of a vector file, known before its features are read.

    Attributes
    ----------
    source : str or bytes
        What pyogrio opens: the file, or the text of a virtual data source (see `_virtual`).
    """

    path: str
    name: str
    crs: CRS | None
    columns: tuple[str, ...]
    source: str | bytes


def is_vector(path: str) -> bool:
    """Whether a file of labels holds vectors: by its suffix, or where that is open by its content.

    A file that cannot be looked into is taken for vectors if its suffix is one of vectors.
    """
    plain = path.split("?")[0].rstrip("/").lower()
    named = plain.endswith(tuple(_DRIVERS))
    if plain.endswith(_EITHER) and is_file_name(path) and os.path.exists(path):
        return _has_layers(path) or (named and not opens_as_raster(path))
    return named


def find_layer(path: str, layer: str | None) -> Layer:
    """Return the named layer of a vector file, or the only one with geometries.

    Raises
    ------
    InputError
        The file is missing or damaged, or this GDAL has no driver for it; it lacks that layer, or
        has several and none is named.
    """
    names = [name for name, kind in list_layers(path) if kind is not None]
    listed = ", ".join(names)
    if not names:
        raise InputError(f"{path} has no layer with geometries")
    if layer is None and len(names) > 1:
        raise InputError(f"{path} has several layers, set labels.layer to one of: {listed}")
    if layer is not None and layer not in names:
        raise InputError(f"{path} has no layer {layer!r}; it has: {listed}")
    name = layer or names[0]
    check_views(path, name)
    source, info = _open_layer(path, name)
    if isinstance(source, str):
        check_format(path, str(info["driver"]))
    columns = tuple(str(c) for c in info["fields"])
    return Layer(path, name, _crs(path, info["crs"]), columns, source)


def only_polygon_layer(path: str) -> str | None:
    """Return the only layer that may hold polygons; if None, `find_layer` raises the error.

    Raises
    ------
    InputError
        There are several.
    """
    drawn = {layer: kind for layer, kind in list_layers(path) if kind is not None}
    names = [n for n, kind in drawn.items() if "Point" not in kind and "Line" not in kind]
    names = names or list(drawn)
    if len(names) > 1:
        raise InputError(
            f"{path} has several layers ({', '.join(names)}); copy the one that holds the area to "
            f"a file of its own: ogr2ogr area.gpkg {path} LAYER"
        )
    return names[0] if names else None


def list_layers(path: str) -> list[tuple[str, str | None]]:
    """Return name and geometry type of each layer; None for a table without geometries.

    Raises
    ------
    InputError
        The file is missing or damaged, or this GDAL has no driver for it.
    """
    check_name(path)
    if is_file_name(path):
        check_file(path)
        if not os.path.exists(path):
            raise InputError(f"{path} does not exist")
    check_name_and_sources(path)
    check_source(path)
    check_views(path)
    _check_driver(path)
    try:
        rows = pyogrio.list_layers(path).tolist()
    except GeometryError as error:
        return _list_by_query(path, error)
    except READ_ERRORS as error:
        reason = first_sentence(error)
        if ".gpkg" in path and "not recognized" in reason:
            reason += "; if it holds rasters, make them GeoTIFFs with gdal_translate"
        raise InputError(f"cannot open {path} as vectors: {reason}") from error
    return [(str(name), None if kind is None else str(kind)) for name, kind in rows]


def layer_bounds(layer: Layer) -> Any:
    """Return the extent of a layer in its CRS: (left, bottom, right, top); None if it is empty."""
    try:
        info = pyogrio.read_info(layer.source, layer=layer.name, force_total_bounds=True)
    except READ_ERRORS as error:
        raise read_error(layer.path, error) from error
    return info["total_bounds"]


def read_error(path: str, error: Exception) -> InputError:
    """Return the error for a file that opens, but cannot be read."""
    return InputError(
        f"cannot read {path}: {first_sentence(error)}; the file is truncated or damaged"
    )


def first_sentence(error: Exception) -> str:
    """Return the message of an error of pyogrio without its hints."""
    return " ".join(str(error).split()).split("; It might help")[0].rstrip(".;")


def _has_layers(path: str) -> bool:
    try:
        return any(kind is not None for _, kind in list_layers(path))
    except InputError:
        return False


def _check_driver(path: str) -> None:
    """Refuse a file whose format needs a driver that is not built into pyogrio's GDAL."""
    plain = path.split("?")[0].rstrip("/").lower()
    driver = next((d for suffix, d in _DRIVERS.items() if plain.endswith(suffix)), None)
    if driver is not None and driver not in pyogrio.list_drivers():
        suffix = os.path.splitext(plain)[1]
        raise InputError(
            f"this GDAL has no driver for {suffix} files ({driver}); convert {path} with one that "
            f"has it, e.g. ogr2ogr labels.gpkg {os.path.basename(path.rstrip('/'))}"
        )


def _list_by_query(path: str, error: Exception) -> list[tuple[str, str | None]]:
    """List the layers of a file if pyogrio refuses the geometry type that one of them declares."""
    queries = (
        "SELECT table_name FROM gpkg_contents WHERE data_type = 'features'",
        "SELECT f_table_name FROM geometry_columns",
    )
    for query in queries:
        try:
            _, _, _, columns = pyogrio.raw.read(path, sql=query, read_geometry=False)
        except READ_ERRORS:
            continue
        return [(str(name), "Unknown") for name in columns[0]]
    stem = os.path.splitext(os.path.basename(path))[0]
    try:
        pyogrio.read_info(_virtual(path, stem), layer=stem)
    except READ_ERRORS:
        raise InputError(
            f"{path} has a layer of a geometry type that is not read here "
            f"({first_sentence(error)}); convert it, e.g. ogr2ogr -nlt MULTIPOLYGON OUT.gpkg {path}"
        ) from error
    return [(stem, "Unknown")]


def _open_layer(path: str, layer: str) -> tuple[_Source, dict[str, Any]]:
    """Return what to open a layer by, and what it declares."""
    try:
        try:
            return path, pyogrio.read_info(path, layer=layer)
        except GeometryError:
            source = _virtual(path, layer)
            return source, pyogrio.read_info(source, layer=layer)
    except READ_ERRORS as error:
        raise read_error(path, error) from error


def _virtual(path: str, layer: str) -> bytes:
    """Return a virtual data source (OGR VRT) of a layer, for which any geometry type is declared.

    pyogrio reads no layer that declares surfaces of patches or triangles (PolyhedralSurface, TIN).
    """
    return (
        f"<OGRVRTDataSource><OGRVRTLayer name={quoteattr(layer)}>"
        f'<SrcDataSource relativeToVRT="0">{escape(path)}</SrcDataSource>'
        f"<SrcLayer>{escape(layer)}</SrcLayer><GeometryType>wkbUnknown</GeometryType>"
        "</OGRVRTLayer></OGRVRTDataSource>"
    ).encode()


def _crs(path: str, text: str | None) -> CRS | None:
    """Parse the CRS that pyogrio reports; a GeoPackage may declare it undefined."""
    if not text or '"Undefined ' in text[:40]:
        return None
    try:
        return CRS.from_user_input(text)
    except GDAL_ERRORS as error:
        raise GridError(f"{path} has a CRS that cannot be read: {text[:80]}") from error
