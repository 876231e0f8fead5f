"""Write GeoTIFFs: tiles, and Cloud Optimized GeoTIFFs with class names and colours."""

import errno
import functools
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import rasterio
import rasterio.shutil
from rasterio.io import DatasetReader, DatasetWriter, MemoryFile

from cafe_cli.classes import NODATA, ClassTable
from cafe_cli.errors import ConfigError, InputError, LabelError, OutputError
from cafe_cli.raster.cog import to_cog
from cafe_cli.raster.geodesy import GDAL_ERRORS
from cafe_cli.raster.grid import Grid
from cafe_cli.raster.header import read_tags
from cafe_cli.raster.readback import CheckedWriter, check_copy
from cafe_cli.raster.reader import Array, Mask, declared_nodata, gdal_message
from cafe_cli.system.atomic_write import check_outputs, remove, replace_atomically
from cafe_cli.system.output_group import replace_together
from cafe_cli.system.untrusted import parse_json

_FULL = 1_000_000  # bytes; with less free space, a failed write means a full disk
_RESAMPLING = "NEAREST|AVERAGE|BILINEAR|CUBIC|CUBICSPLINE|LANCZOS|MODE|RMS"
_LOSSLESS = "NONE|LZW|DEFLATE|ZSTD|LZMA"
_BLOCKS = "128|256|512|1024|2048|4096"

_SIDE_FILES = (".aux.xml", ".ovr", ".msk", ".msk.ovr")
HEIGHT_NODATA = -9999.0

SUFFIXES = (".tif", ".tiff")
"""Ends of the names of rasters that are written."""

CREATION_OPTIONS = {
    "BIGTIFF": "YES|NO|IF_NEEDED|IF_SAFER",
    "BLOCKSIZE": _BLOCKS,
    "COMPRESS": _LOSSLESS,
    "GEOTIFF_VERSION": "AUTO|1.0|1.1",
    "LEVEL": "1 to 22",
    "NUM_THREADS": "ALL_CPUS|1 to 999",
    "OVERVIEWS": "AUTO|NONE",
    "OVERVIEW_COMPRESS": f"AUTO|{_LOSSLESS}",
    "OVERVIEW_RESAMPLING": _RESAMPLING,
    "PREDICTOR": "YES|NO|STANDARD",
    "SPARSE_OK": "YES|NO|TRUE|FALSE",
    "STATISTICS": "AUTO|YES|NO|TRUE|FALSE",
}
"""Options of GDAL's COG driver that change the storage of a map but not its values, and the values
that they accept. GDAL only warns of unknown options, and some invalid values crash it."""


def write_geotiff(path: Path, values: Array, grid: Grid, **profile: Any) -> None:
    """Write a small raster (bands, height, width) as a whole.

    Raises
    ------
    OutputError
        It cannot be written: missing folder, no permission, full disk.
    """
    predictor = 3 if values.dtype.kind == "f" else 2
    # The fastest height of strips. With one strip per band GDAL would compress while closing the
    # file, during which rasterio holds the GIL.
    layout = {"interleave": "band", "blockysize": min(grid.height, 64)}
    profile = {"predictor": predictor, **layout, **_compression(), **profile}
    mask: Mask | None = profile.pop("mask", None)
    colormap = profile.pop("colormap", None)
    # Through memory, because GDAL does not report a full disk, not even when closing the file.
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), MemoryFile() as memory:
        options = _profile(grid, len(values), values.dtype.name, **profile)
        with memory.open(**options) as dataset:
            if colormap:
                dataset.write_colormap(1, colormap)  # before pixels: it changes how they are stored
            dataset.write(values)
            if mask is not None:
                dataset.write_mask(mask)
        try:
            path.write_bytes(memory.getbuffer())
        except OSError as error:
            raise OutputError(f"cannot write {path}: {error.strerror}") from error


@functools.cache
def _compression() -> dict[str, Any]:
    """Return the compression of tiles: zstd if this GDAL has it, else deflate.

    At the same file size, zstd at level 1 takes a fifth of the time of deflate at level 6.
    """
    try:
        with MemoryFile() as memory:
            memory.open(driver="GTiff", width=1, height=1, count=1, dtype="uint8", compress="zstd")
    except GDAL_ERRORS:
        return {"compress": "deflate", "zlevel": 6}
    return {"compress": "zstd", "zstd_level": 1}


def _profile(grid: Grid, count: int, dtype: str, **profile: Any) -> dict[str, Any]:
    size = {"width": grid.width, "height": grid.height, "count": count}
    place = {"crs": grid.crs, "transform": grid.transform, "dtype": dtype}
    # By default GDAL interprets the fourth of four uint8 bands as alpha.
    defaults = {"driver": "GTiff", "compress": "deflate", "bigtiff": "if_safer", "alpha": "no"}
    return {**defaults, **size, **place, **profile}


@contextmanager
def create_cog(
    path: Path,
    grid: Grid,
    overwrite: bool,
    classes: ClassTable | None,
    overviews: str | None = None,
    **tags: str,
) -> Iterator[DatasetWriter]:
    """Write a uint8 raster window by window, and convert it to a Cloud Optimized GeoTIFF.

    Nodata is 255. With `classes` it is a label raster with a colour table; its class names are in
    the tags and, as GDAL's category names, in ``PATH.aux.xml``. `overviews` is their resampling, by
    default ``mode`` for label rasters and ``average`` for others. The file appears under its name
    only when complete.

    Raises
    ------
    OutputError
        The output exists, or cannot be written.
    """
    check_file(path)
    with replace_together([path, *side_files(path)], overwrite) as new:
        with _cog_writer(path, new[path], grid, classes, overviews, **tags) as dataset:
            yield dataset
        if classes:
            _write_categories(new[categories_path(path)], classes)


@contextmanager
def _cog_writer(
    path: Path,
    cog: Path,
    grid: Grid,
    classes: ClassTable | None,
    overviews: str | None = None,
    **tags: str,
) -> Iterator[DatasetWriter]:
    """Write the file `cog`, which is to be renamed to `path`; see `create_cog`."""
    profile = _profile(grid, 1, "uint8", nodata=NODATA)
    with _converted(path, cog, profile, overviews or ("mode" if classes else "average")) as dataset:
        if classes:
            dataset.write_colormap(1, classes.colormap)
        dataset.update_tags(**tags, **class_tags(classes))
        yield dataset


@contextmanager
def create_height_cog(
    path: Path, grid: Grid, overwrite: bool, description: str, texts: Mapping[Path, str]
) -> Iterator[DatasetWriter]:
    """Write heights in metres window by window: float32, nodata `HEIGHT_NODATA`.

    `description` is that of the band, whose unit is ``metre``. The file appears together with the
    text files `texts`. See `create_cog`.
    """
    check_file(path)
    profile = _profile(grid, 1, "float32", nodata=HEIGHT_NODATA, predictor=3)
    with replace_together([path, *side_files(path), *texts], overwrite) as new:
        with _converted(path, new[path], profile, "average", predictor="yes") as dataset:
            dataset.units = ["metre"]
            dataset.set_band_description(1, description)
            yield dataset
        for text_file, text in texts.items():
            new[text_file].write_text(text, encoding="utf-8")


@contextmanager
def _converted(
    path: Path, cog: Path, profile: dict[str, Any], overviews: str, **options: str
) -> Iterator[DatasetWriter]:
    """Write a plain GeoTIFF, and convert it to the COG `cog`, which errors call `path`."""
    # Sparse: blocks that are never written take no space and are nodata.
    blocks = {"tiled": True, "blockxsize": 512, "blockysize": 512, "sparse_ok": True, "zlevel": 1}
    plain = cog.with_name(f".{path.name}.strips.tif")
    try:
        with CheckedWriter(plain, **profile, **blocks) as dataset:
            yield dataset
        dataset.check_written(plain)
        _to_cog(plain, cog, overviews, **options)
    except GDAL_ERRORS as error:
        raise _write_error(path, error) from error
    finally:
        remove(plain)


@contextmanager
def create_map(
    labels: Path,
    confidence: Path | None,
    grid: Grid,
    overwrite: bool,
    classes: ClassTable | None,
    texts: Mapping[Path, str],
) -> Iterator[tuple[DatasetWriter, DatasetWriter | None]]:
    """Write a label raster and, unless None, a raster of its confidence in per cent.

    Both appear together, with their side files and the text files `texts`, when all are complete.
    See `create_cog`.
    """
    rasters = [labels, confidence] if confidence else [labels]
    paths = [*rasters, *(side for path in rasters for side in side_files(path)), *texts]
    with replace_together(paths, overwrite) as new:
        with ExitStack() as stack:
            writer = stack.enter_context(_cog_writer(labels, new[labels], grid, classes, "mode"))
            second = confidence and _cog_writer(confidence, new[confidence], grid, None)
            yield writer, stack.enter_context(second) if second else None
        if classes:
            _write_categories(new[categories_path(labels)], classes)
        for path, text in texts.items():
            new[path].write_text(text, encoding="utf-8")


def side_files(path: Path) -> list[Path]:
    """Return the files that GDAL reads with a GeoTIFF: they go with it, or are replaced with it."""
    return [path.with_name(f"{path.name}{suffix}") for suffix in _SIDE_FILES]


def check_rasters(
    outputs: Sequence[Path], inputs: Sequence[str], overwrite: bool, others: Sequence[Path] = ()
) -> None:
    """Refuse rasters to write that are no files, exist, or are an input, with their side files.

    Parameters
    ----------
    outputs : sequence of Path
    inputs : sequence of str
        Any names that GDAL understands.
    overwrite : bool
        Whether outputs may exist.
    others : sequence of Path
        More files that are written with the first output.

    Raises
    ------
    ConfigError, OutputError
        See `check_file`, `check_name` and `cafe_cli.system.atomic_write.check_outputs`.
    """
    for path in outputs:
        check_file(path)
        check_name(path)
    sides = {side: path for path in outputs for side in side_files(path)}
    check_outputs(outputs, inputs, overwrite, {**sides, **dict.fromkeys(others, outputs[0])})


def check_name(path: Path) -> None:
    """Refuse a file name that does not end like that of a GeoTIFF, the only format written.

    Raises
    ------
    ConfigError
    """
    if path.suffix.lower() not in SUFFIXES:
        raise ConfigError(
            f"{path}: rasters are written as GeoTIFF, with a name that ends in "
            f"{' or '.join(SUFFIXES)}: {path.with_suffix('.tif')}; gdal_translate converts it"
        )


def check_file(path: Path) -> None:
    """Refuse a folder for an output."""
    if path.is_dir():
        raise OutputError(f"{path} is a folder; name a file")


def class_tags(classes: ClassTable | None) -> dict[str, str]:
    """Return a class table as raster tags that `read_classes` understands; none without one."""
    return {"CLASSES": json.dumps(classes.as_json())} if classes else {}


def read_classes(dataset: DatasetReader) -> ClassTable | None:
    """Return the class table that `create_cog` stored in a label raster, None without one."""
    stored = read_tags(dataset).get("CLASSES")
    try:
        return ClassTable.from_json(parse_json(stored)) if stored else None
    except (ConfigError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{dataset.name}: the CLASSES tag is damaged: {error}") from error


def check_nodata(dataset: DatasetReader, classes: ClassTable) -> None:
    """Refuse a map whose nodata value is one of its classes: the class would be lost.

    Raises
    ------
    LabelError
        The message names both.
    """
    nodata = declared_nodata(dataset)
    if nodata is not None and nodata in range(len(classes)):
        name = classes.names[int(nodata)]
        raise LabelError(
            f"{dataset.name} declares {nodata:g} as nodata, which is also its class {name!r}: if "
            f"these pixels are {name!r}, remove that with gdal_edit.py -unsetnodata MAP, "
            "otherwise give them another value with "
            f"gdalwarp -srcnodata {nodata:g} -dstnodata {NODATA} MAP NEW"
        )


def convert_to_cog(
    source: Path, cog: Path, overviews: str, options: Mapping[str, str], path: Path
) -> None:
    """Convert a raster that GDAL can open, e.g. a VRT, to a Cloud Optimized GeoTIFF.

    Parameters
    ----------
    source, cog : Path
    overviews : str
        Resampling of the overviews.
    options : mapping
        Creation options that replace the defaults; see `check_creation_options`.
    path : Path
        The name of the file in errors.

    Raises
    ------
    OutputError
        It cannot be written.
    """
    try:
        _to_cog(source, cog, overviews, **options)
    except GDAL_ERRORS as error:
        raise _write_error(path, error) from error


def check_creation_options(options: Mapping[str, str]) -> None:
    """Refuse creation options that are not in `CREATION_OPTIONS` or that this GDAL cannot write.

    Raises
    ------
    ConfigError
        The message names the option.
    """
    for name, value in options.items():
        if (known := CREATION_OPTIONS.get(name.upper())) is None:
            raise ConfigError(f"--co {name}={value}: choose from {', '.join(CREATION_OPTIONS)}")
        if not _is_one_of(value, known):
            raise ConfigError(f"--co {name}={value}: it can be {known.replace('|', ', ')}")
    given = {name.upper(): value for name, value in options.items()}
    if given and (failure := _try_options(given)):
        said = " ".join(f"--co {name}={value}" for name, value in options.items())
        raise ConfigError(f"{said}: this GDAL cannot write that: {failure}")


def _is_one_of(value: str, known: str) -> bool:
    """Whether a value is one of alternatives like ``A|B|1 to 9``."""
    *words, last = known.split("|")
    if span := re.fullmatch(r"(\d+) to (\d+)", last):
        low, high = map(int, span.groups())
        return value.upper() in words or (value.isdecimal() and low <= int(value) <= high)
    return value.upper() in (*words, last)


def _try_options(options: Mapping[str, str]) -> str | None:
    """Write one pixel with creation options (upper case); return the error message, if any."""
    pixel = {"driver": "GTiff", "width": 1, "height": 1, "count": 1, "dtype": "uint8"}
    compress = options.get("COMPRESS", "DEFLATE").upper()
    try:
        with MemoryFile() as memory, MemoryFile() as copy:
            with memory.open(**pixel):
                pass
            rasterio.shutil.copy(memory.name, copy.name, driver="COG", **options)
            with copy.open() as written:
                used = written.compression.value.upper() if written.compression else "NONE"
    except GDAL_ERRORS as error:
        return gdal_message(error)
    return None if used == compress or "COMPRESS" not in options else f"it takes {used} instead"


def _write_error(path: Path, error: BaseException) -> OutputError:
    full = shutil.disk_usage(path.absolute().parent).free < _FULL
    why = os.strerror(errno.ENOSPC) if full else gdal_message(error)
    return OutputError(f"cannot write {path}: {why}")


def _to_cog(source: Path, target: Path, overviews: str, **options: str) -> None:
    given = {name.lower(): value for name, value in options.items()}
    defaults = {
        "compress": "deflate", "overview_resampling": overviews, "blocksize": 512,
        "num_threads": "ALL_CPUS", "bigtiff": "if_safer",
    }  # fmt: skip
    to_cog(source, target, {**defaults, **given})
    check_copy(source, target)


def write_sidecar(path: Path, classes: ClassTable | None) -> None:
    """Write GDAL's sidecar file with category names; remove the side files of a replaced raster."""
    for side in side_files(path):
        if classes is None or side != categories_path(path):
            remove(side)
    if classes is not None:
        with replace_atomically(categories_path(path)) as temporary:
            _write_categories(temporary, classes)


def categories_path(path: Path) -> Path:
    """Return GDAL's side file that holds the category names of a raster."""
    return path.with_name(f"{path.name}.aux.xml")


def _write_categories(path: Path, classes: ClassTable) -> None:
    rows = "".join(f"<Category>{escape(name)}</Category>" for name in classes.names)
    path.write_text(
        '<PAMDataset><PAMRasterBand band="1">'
        f"<CategoryNames>{rows}</CategoryNames></PAMRasterBand></PAMDataset>\n",
        encoding="utf-8",
    )
