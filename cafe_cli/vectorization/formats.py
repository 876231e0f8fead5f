"""Write polygons with attributes: GeoPackage, FlatGeobuf, GeoJSON and GeoParquet."""

import errno
import importlib.util
import json
import os
import shutil
import sqlite3
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pyogrio.errors
import pyogrio.raw
import shapely
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.warp import transform

from cafe_cli.classes import LandClass
from cafe_cli.errors import ConfigError, OutputError
from cafe_cli.vector.geopackage import check_geopackage
from cafe_cli.vectorization.style import make_qml, store_style

_GEOMETRY = "geom"  # the geometry column
_FULL = 1_000_000  # bytes; with less free space, a failed write means a full disk
_FAILURES = (
    pyogrio.errors.DataSourceError,
    pyogrio.errors.DataLayerError,
    pyogrio.errors.FeatureError,
    pyogrio.errors.GeometryError,
)
_WGS84 = CRS.from_epsg(4326)


@dataclass(frozen=True)
class Features:
    """Some polygons, and their attributes by name, each with one value per polygon.

    Attributes
    ----------
    geometry : ndarray of shapely geometries, (n,)
    columns : dict
        int32, float64 (NaN: not known) or text.
    """

    geometry: NDArray[Any]
    columns: Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Layer:
    """What all features of a file share."""

    name: str
    crs: CRS | None
    classes: Sequence[LandClass]


Write: TypeAlias = Callable[[Path, Layer, Iterable[Features]], None]


def write_features(path: Path, output: Path, layer: Layer, features: Iterable[Features]) -> None:
    """Write polygons to `path`, in the format that the name of `output` stands for.

    Raises
    ------
    OutputError
        The file cannot be written; the message names `output`.
    """
    try:
        FORMATS[output.suffix.lower()](path, layer, features)
    except (*_FAILURES, OSError, sqlite3.Error) as error:
        full = shutil.disk_usage(path.parent).free < _FULL
        why = os.strerror(errno.ENOSPC) if full else " ".join(str(error).split())
        raise OutputError(f"cannot write {output}: {why}") from error


def check_format(path: Path, crs: CRS | None) -> None:
    """Refuse names of other formats, and formats that cannot be written here.

    Raises
    ------
    ConfigError
    """
    suffix = path.suffix.lower()
    if suffix not in FORMATS:
        raise ConfigError(
            f"{path}: name a file that ends in {', '.join(FORMATS)}; ogr2ogr converts these to "
            "other formats"
        )
    if FORMATS[suffix] is _write_parquet and importlib.util.find_spec("pyarrow") is None:
        raise ConfigError(f"{path}: GeoParquet needs pyarrow: pip install pyarrow")
    if FORMATS[suffix] is _write_geojson and crs is None:
        raise ConfigError(
            f"{path}: GeoJSON holds longitudes and latitudes, and the map has no CRS; give it with "
            "--crs, or write a GeoPackage"
        )


def style_path(output: Path) -> Path | None:
    """Return the file beside an output in which QGIS finds its style; None for a GeoPackage."""
    return None if output.suffix.lower() == ".gpkg" else output.with_suffix(".qml")


def _write_geopackage(path: Path, layer: Layer, features: Iterable[Features]) -> None:
    for number, some in enumerate(features):
        # Version 1.2: QGIS and GDAL of before 2023 warn of later ones.
        options: dict[str, Any] = {
            "layer_options": {"GEOMETRY_NAME": _GEOMETRY}, "dataset_options": {"VERSION": "1.2"},
        } if number == 0 else {}  # fmt: skip
        _write(path, some, "GPKG", layer.crs, layer=layer.name, append=number > 0, **options)
    store_style(path, layer.name, _GEOMETRY, make_qml(layer.classes))
    check_geopackage(path)


def _write_flatgeobuf(path: Path, layer: Layer, features: Iterable[Features]) -> None:
    _write(path, _joined(features), "FlatGeobuf", layer.crs, layer=layer.name)


def _write_geojson(path: Path, layer: Layer, features: Iterable[Features]) -> None:
    """Write RFC 7946: longitudes and latitudes in WGS 84, shells counterclockwise."""
    there = _joined(_in_degrees(features, layer.crs))
    _write(path, there, "GeoJSON", _WGS84, layer=layer.name, layer_options={"RFC7946": "YES"})


def _in_degrees(features: Iterable[Features], crs: CRS | None) -> Iterator[Features]:
    def to_wgs84(points: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.transpose(transform(crs, _WGS84, *points.T))

    for some in features:
        yield Features(shapely.transform(some.geometry, to_wgs84), some.columns)


def _joined(features: Iterable[Features]) -> Features:
    """Return all features as one; these formats are written in one go."""
    parts = [Features(shapely.to_wkb(some.geometry), some.columns) for some in features]
    columns = {n: np.concatenate([part.columns[n] for part in parts]) for n in parts[0].columns}
    return Features(np.concatenate([part.geometry for part in parts]), columns)


def _write(path: Path, some: Features, driver: str, crs: CRS | None, **options: Any) -> None:
    geometry = some.geometry
    if len(geometry) and not isinstance(geometry[0], bytes):
        geometry = shapely.to_wkb(geometry)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="'crs' was not provided")
        pyogrio.raw.write(
            path, geometry, list(some.columns.values()), list(some.columns), driver=driver,
            geometry_type="Polygon", crs=crs.to_wkt() if crs else None, **options,
        )  # fmt: skip


def _write_parquet(path: Path, layer: Layer, features: Iterable[Features]) -> None:
    """Write GeoParquet 1.1, a row group for each part."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    writer = None
    try:
        for some in features:
            arrays = {
                name: pa.array(values, from_pandas=True) for name, values in some.columns.items()
            }
            shapes = pa.array(shapely.to_wkb(some.geometry).tolist(), pa.binary())
            table = pa.table({**arrays, "geometry": shapes})
            schema = table.schema.with_metadata({"geo": json.dumps(_geo(layer.crs))})
            writer = writer or pq.ParquetWriter(path, schema, compression="zstd")
            writer.write_table(table.cast(schema))
    finally:
        if writer:
            writer.close()


def _geo(crs: CRS | None) -> dict[str, Any]:
    """Return the metadata of GeoParquet; without the key ``crs``, readers would assume degrees."""
    column = {
        "encoding": "WKB",
        "geometry_types": ["Polygon"],
        "crs": crs.to_dict(projjson=True) if crs else None,
    }
    return {"version": "1.1.0", "primary_column": "geometry", "columns": {"geometry": column}}


FORMATS: dict[str, Write] = {
    ".gpkg": _write_geopackage,
    ".fgb": _write_flatgeobuf,
    ".geojson": _write_geojson,
    ".parquet": _write_parquet,
}
"""How a file is written, by the end of its name."""
