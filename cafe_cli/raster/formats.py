"""The raster formats that are read, and where a raster may lead: to which files and servers.

A virtual raster names other files, and some formats of GDAL fetch from servers, run programs or
read other processes. What is opened is therefore one of `FORMATS`, and a file leads to a server
only if its name says that it may: see `docs/reliability.md`.
"""

import logging
import os
import re
from functools import cache

from rasterio._path import _parse_path
from rasterio.env import ensure_env_with_credentials
from rasterio.io import DatasetReader

from cafe_cli.errors import InputError
from cafe_cli.system.atomic_write import is_file_name, is_remote
from cafe_cli.system.named_files import files_behind, named_sources

log = logging.getLogger("cafe")

FORMATS = (
    "GTiff", "VRT", "PNG", "JPEG", "GIF", "BIGGIF", "BMP", "WEBP", "JPEGXL", "PNM", "TGA",
    "JP2OpenJPEG", "JP2KAK", "JP2ECW", "JP2MrSID", "JP2Lura", "JPEG2000", "ECW", "MrSID", "BASISU",
    "HFA", "ENVI", "EHdr", "GenBin", "PAux", "MFF", "MFF2", "PCIDSK", "ERS", "RST", "SAGA",
    "RRASTER", "ILWIS", "PCRaster", "ROI_PAC", "ISCE", "GXF", "GSAG", "GSBG", "GS7BG", "ZMap",
    "AAIGrid", "AIG", "GRASSASCIIGrid", "XYZ", "SRTMHGT", "DTED", "USGSDEM", "SDTS", "BT", "HF2",
    "NWT_GRD", "NWT_GRC", "Terragen", "Leveller", "SIGDEM", "LCP", "LOSLAS", "GTX", "NTv2", "BYN",
    "ISG", "ACE2", "JDEM", "SNODAS", "BAG", "S102", "netCDF", "HDF4", "HDF4Image", "HDF5",
    "HDF5Image", "GRIB", "NITF", "GPKG", "MBTiles", "Rasterlite", "OpenFileGDB", "SENTINEL2",
    "DIMAP", "TIL", "Zarr", "BSB", "KRO", "RMF", "MAP", "OZI", "SNAP_TIFF",
)  # fmt: skip
"""Names of GDAL's drivers that read files only. This list may name drivers that a GDAL lacks."""

SERVICES = ("WMS", "WMTS", "WCS")
"""Drivers that fetch from a server: for names that say so (`_SERVICE`) only."""

_SERVICE = re.compile(
    r"\s*(?:(?:WMS|WMTS|WCS|TMS|AGS|IIP):|<(?:GDAL_)?(?:WMS|WMTS|WCS|WCS_GDAL)\b)", re.IGNORECASE
)
_DESCRIPTION = (".xml", ".wms", ".wmts")
"""Suffixes of files that describe a service."""

_VIRTUAL = re.compile(r"\s*<VRT|vrt://|.*\.vrt\b", re.IGNORECASE | re.DOTALL)
_SERVER = re.compile(
    r"/vsi(?:curl|s3|gs|az|adls|oss|swift|webhdfs|hdfs)\w*[/?]|(?:https?|ftps?|s3|gs|az|oss)://",
    re.IGNORECASE,
)
_OTHER_SERVICE = re.compile(
    r"\s*(?:(?:PG|PGEO|MSSQL|MYSQL|OCI|ODBC|EEDAI?|DAAS|PLMOSAIC|PLSCENES|STACIT|STACTA|OGCAPI|OAPIF|"
    r"WFS|CSW|CARTO|AMIGOCLOUD|ES|NGW|ADBC|GPSBABEL|GTI|MEM|RASTERLITE2|TILEDB):|/vsistdin)",
    re.IGNORECASE,
)
_HOST = re.compile(r"://(?:[^/@\s]*@)?([^/:?\s\"']+)")
_DESCRIBES = (b"<GDAL_WM", b"<WMS_", b"<WMT_MS", b"<WCS_", b"<Capabilities")
_RUNS = (
    b"<GDALTileIndex", b"<OGRWFS", b"<OGRCSW", b"<OGROAPIF", b"<MRF_META", b"gdal_streamed_alg",
)  # fmt: skip
"""What is in a file that names other files or servers, or what GDAL is to do."""


def formats_for(name: str) -> list[str]:
    """Return the drivers that may open a raster of a name."""
    found = list(FORMATS)
    if not is_file_name(name) and not _VIRTUAL.match(name):
        found.remove("VRT")  # a file in an archive or on a server that does not say what it is
    if _SERVICE.match(name) or name.lower().endswith(_DESCRIPTION):
        found += SERVICES
    return found


@ensure_env_with_credentials  # type: ignore[untyped-decorator]
def open_dataset(name: str) -> DatasetReader:
    """Open a raster of any name with a driver that may; errors are those of rasterio.

    Raises
    ------
    InputError
        The raster leads where its name does not say that it does; see `check_sources`.
    """
    for path in [name] if is_file_name(name) else files_behind([name]):
        check_sources(path)
    dataset = DatasetReader(_parse_path(name), driver=formats_for(name))
    foreign = dataset.driver == "VRT" and _SERVER.search(name)
    if local := [file for file in dataset.files if is_file_name(file)] if foreign else []:
        dataset.close()
        raise InputError(f"{name} is on a server, but would read {local[0]} of this machine")
    return dataset


def check_sources(path: str) -> None:
    """Refuse a local file that would fetch from a server, or run something, unannounced.

    Parameters
    ----------
    path : str
        A raster, a virtual raster or a virtual data source; its sources are looked into, too.

    Raises
    ------
    InputError
        It is a virtual raster that names a server without being called ``.vrt``, or a service or a
        database; or it describes a service without being called ``.xml``, ``.wms`` or ``.wmts``.
    """
    try:
        stat = os.stat(path)
    except (OSError, ValueError):
        return
    _check_sources(path, stat.st_size, stat.st_mtime_ns)


@cache
def _check_sources(path: str, size: int, changed: int) -> None:
    waiting, known = [path], {path}
    servers = set[str]()
    while waiting:
        file = waiting.pop()
        if _describes_service(file):
            if file != path or not path.lower().endswith(_DESCRIPTION):
                raise _no_pixels(file)
            continue
        for source in named_sources(file):
            if _OTHER_SERVICE.match(source) or _SERVICE.match(source):
                raise InputError(
                    f"{file} names a service or a database, {source[:60]!r}, as a source: save "
                    "what it gives in a file with gdal_translate or ogr2ogr, and name that"
                )
            if _SERVER.search(source):
                if not path.lower().endswith(".vrt"):
                    raise InputError(
                        f"{path} would read from a server, {_host(source)}, and its name does not "
                        "say that it leads elsewhere: if that is meant, rename it to end in .vrt"
                    )
                servers.add(_host(source))
            elif not is_remote(source) and source not in known:
                known.add(source)
                waiting.append(source)
    if servers:
        log.info("%s reads from %s", path, ", ".join(sorted(servers)))


def _describes_service(file: str) -> bool:
    """Whether a file says where to fetch pixels; one that says what to run is refused."""
    try:
        with open(file, "rb") as opened:
            head = opened.read(1024).lstrip(b"\xef\xbb\xbf \t\r\n")
    except OSError:
        return False
    if head.startswith(b"<?xml"):
        head = head.partition(b"?>")[2].lstrip()
    if any(mark in head for mark in _RUNS) and head.startswith((b"<", b"{")):
        raise _no_pixels(file)
    return head.startswith(_DESCRIBES)


def _no_pixels(file: str) -> InputError:
    return InputError(
        f"{file} holds no data: it says where to fetch it, or what to run; save what it gives in "
        "a file with gdal_translate or ogr2ogr, and name that"
    )


def _host(source: str) -> str:
    found = _HOST.search(source)
    return found[1] if found else source.split("?")[0][:40]
