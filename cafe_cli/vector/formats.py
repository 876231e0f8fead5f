"""The vector formats that are read, and those that are not: services, and programs that would run.

pyogrio opens whatever its GDAL knows. What a local file describes is therefore looked at before,
and the driver that opened it after.
"""

import re

from cafe_cli.errors import InputError
from cafe_cli.raster.formats import check_sources
from cafe_cli.system.atomic_write import is_file_name
from cafe_cli.system.named_files import files_behind

FORMATS = frozenset((
    "GPKG", "ESRI Shapefile", "GeoJSON", "GeoJSONSeq", "TopoJSON", "ESRIJSON", "JSONFG",
    "FlatGeobuf", "GML", "KML", "LIBKML", "OpenFileGDB", "FileGDB", "PGeo", "Parquet", "Arrow",
    "SQLite", "MapInfo File", "DXF", "CAD", "DGN", "GPX", "CSV", "OGR_VRT", "OSM", "S57", "MVT",
    "PMTiles", "MBTiles", "JML", "GeoRSS", "OGR_GMT", "GMT", "Idrisi", "EDIGEO", "VFK", "SXF",
    "LVBAG", "NAS", "AVCBin", "AVCE00", "AIVector", "ODS", "XLSX", "WAsP", "Selafin",
    "MiraMonVector", "PCIDSK", "OGR_PDS", "PDS4", "netCDF", "SOSI",
))  # fmt: skip
"""Names of GDAL's drivers that read files only."""

_RUNS = re.compile(r"\s*(?:GPSBABEL|ADBC|MEM):", re.IGNORECASE)


def check_name_and_sources(path: str) -> None:
    """Refuse, before it is opened, what would run a program or lead to a server unannounced.

    Raises
    ------
    InputError
        See `cafe_cli.raster.formats.check_sources`; or the name is that of a driver which runs
        programs or reads the memory of this process.
    """
    if _RUNS.match(path):
        raise InputError(
            f"{path} would run a program or load a library: save what it gives in a file, and name "
            "that"
        )
    for file in [path] if is_file_name(path) else files_behind([path]):
        check_sources(file)


def check_format(path: str, driver: str) -> None:
    """Refuse a local file that a driver of services opened.

    Raises
    ------
    InputError
        The message names the driver.
    """
    if is_file_name(path) and driver not in FORMATS:
        raise InputError(
            f"{path} is of a format that is not read ({driver}); convert it, e.g. ogr2ogr "
            f"OUT.gpkg {path}, and name that"
        )
