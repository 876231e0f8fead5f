"""Rasters inside other files: archives, and the subdatasets of GeoPackage, netCDF and HDF5."""

import os
import tarfile
import zipfile
from collections.abc import Sequence

from rasterio.drivers import raster_driver_extensions

from cafe_cli.errors import InputError
from cafe_cli.raster.formats import open_dataset
from cafe_cli.raster.header import READ_ERRORS
from cafe_cli.system.atomic_write import is_file_name
from cafe_cli.system.untrusted import check_file
from cafe_cli.text import list_some

_MOST_MEMBERS = 32  # of an archive that are opened to see whether they are rasters
_LISTED = 12  # names in a message
_POINT_CLOUDS = (".las", ".laz", ".copc", ".e57", ".ply", ".pcd")
_VECTORS = (
    ".shp", ".geojson", ".geojsonl", ".fgb", ".kml", ".kmz", ".gml", ".parquet", ".geoparquet",
    ".dxf", ".tab", ".mif", ".topojson",
)  # fmt: skip


def only_archived(path: str) -> str | None:
    """Return GDAL's name of the only raster in an archive; None if the file is no archive.

    Archives are ``.zip``, ``.tar`` (also compressed) and a single compressed file (``.gz``).

    Raises
    ------
    InputError
        The archive holds several rasters, which the message names, or none.
    """
    members = _list_archive(path)
    if members is None:
        return None
    known = {f".{suffix}" for suffix in raster_driver_extensions()} - {".xml", ".json", ".txt"}
    likely = [m for m in members if os.path.splitext(m)[1].lower() in known or len(members) == 1]
    rasters = [m for m in likely[:_MOST_MEMBERS] if opens_as_raster(m)] + likely[_MOST_MEMBERS:]
    if not rasters:
        held = list_some([m.rpartition(path)[2].lstrip("/") for m in members], _LISTED)
        raise InputError(
            f"{path} is an archive without a raster that can be opened; it holds: {held}"
        )
    return only_name(path, rasters)


def only_name(path: str, names: Sequence[str]) -> str:
    """Return the only raster in a file.

    Raises
    ------
    InputError
        There are several, which the message names, or none.
    """
    if not names:
        raise InputError(
            f"{path} holds no raster: if it holds vectors, pass it as labels; if it holds other "
            "data, convert it with gdal_translate"
        )
    if len(names) > 1:
        raise InputError(
            f"{path} holds {len(names)} rasters, name one of them as the file: "
            f"{list_some(list(names), _LISTED)}"
        )
    return names[0]


def explain_unreadable(path: str, reason: str) -> str:
    """Return why GDAL cannot open a local file, and what to do about it."""
    if "not recognized" not in reason:
        return reason
    suffix = os.path.splitext(path.rstrip("/"))[1].lower()
    if suffix in _POINT_CLOUDS:
        return (
            "a point cloud is not a raster; make a surface model from it, e.g. with pdal or "
            "lastools"
        )
    if suffix in (".zip", ".tar", ".tgz"):
        return "the archive is truncated or damaged"
    if suffix in _VECTORS:
        return "it holds vectors, which serve as labels and areas only; name a raster"
    if suffix == ".gpkg":
        return "it holds no raster; a GeoPackage of vectors serves as labels and areas only"
    if os.path.isfile(path) and not os.path.getsize(path):
        return "the file is empty"
    if suffix and suffix[1:] not in raster_driver_extensions():
        return (
            f"this GDAL has no driver for {suffix} files; where another GDAL opens it, convert it: "
            f"gdal_translate {path} OUT.tif"
        )
    return f"{reason.rstrip('.')}; the file is damaged or not what its name says"


def _list_archive(path: str) -> list[str] | None:
    """Return GDAL's names of the files in an archive; None if the file is not an archive."""
    if not is_file_name(path) or not os.path.isfile(path):
        return None
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                return _members("/vsizip/", path, archive.namelist())
        if tarfile.is_tarfile(path):
            with tarfile.open(path) as tape:
                return _members("/vsitar/", path, [m.name for m in tape if m.isfile()])
    except (OSError, zipfile.BadZipFile, tarfile.TarError) as error:
        raise InputError(f"cannot read the archive {path}: {error}") from error
    return [f"/vsigzip/{path}"] if path.lower().endswith(".gz") else None


def _members(prefix: str, path: str, names: Sequence[str]) -> list[str]:
    files = sorted(n for n in names if not n.endswith("/") and not n.startswith("__MACOSX/"))
    return [f"{prefix}{path}/{name}" for name in files]


def opens_as_raster(name: str) -> bool:
    """Whether GDAL opens a name as a raster, or as a container of rasters."""
    try:
        if is_file_name(name):
            check_file(name)
        with open_dataset(name):
            return True
    except (InputError, *READ_ERRORS):
        return False
