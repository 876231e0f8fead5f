"""Write GeoTIFFs: tiles, and Cloud Optimized GeoTIFFs with class names and colours."""

import errno
import functools
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import rasterio
from rasterio.enums import ColorInterp
from rasterio.io import DatasetReader, DatasetWriter, MemoryFile

from cafe_cli.classes import NODATA, ClassTable
from cafe_cli.errors import ConfigError, InputError, LabelError, OutputError
from cafe_cli.raster.cog import to_cog
from cafe_cli.raster.geodesy import GDAL_ERRORS
from cafe_cli.raster.grid import Grid
from cafe_cli.raster.header import read_tags
from cafe_cli.raster.output_files import check_file, side_files, stac_path, style_path
from cafe_cli.raster.product import Product
from cafe_cli.raster.readback import CheckedWriter, check_copy
from cafe_cli.raster.reader import Array, Mask, declared_nodata, gdal_message
from cafe_cli.raster.side_files import side_texts
from cafe_cli.raster.value_counts import count_values, statistics_tags
from cafe_cli.raster.window import Window
from cafe_cli.system.atomic_write import remove
from cafe_cli.system.interrupts import undo_when_ended
from cafe_cli.system.output_group import replace_together
from cafe_cli.system.untrusted import parse_json

_FULL = 1_000_000  # bytes; with less free space, a failed write means a full disk
Text: TypeAlias = str | Callable[[Mapping[Path, Path]], str]
"""The text of a file, or a function that makes it of finished files by their later names."""

HEIGHT_NODATA = -9999.0


def write_geotiff(path: Path, values: Array, grid: Grid, **profile: Any) -> None:
    """Write a small raster (bands, height, width) as a whole.

    Parameters
    ----------
    path : Path
    values : ndarray, (bands, height, width)
    grid : Grid
    **profile
        Creation options of rasterio; a `mask` (height, width) of bool; and the `classes` of a label
        raster (uint8, one band), which become colours, tags and statistics.

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
    classes: ClassTable | None = profile.pop("classes", None)
    # Through memory, because GDAL does not report a full disk, not even when closing the file.
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), MemoryFile() as memory:
        options = _profile(grid, len(values), values.dtype.name, **profile)
        with memory.open(**options) as dataset:
            if classes:  # before pixels: colours change how they are stored
                dataset.write_colormap(1, classes.colormap)
                dataset.set_band_description(1, "class")
                dataset.update_tags(**class_tags(classes))
                counts = count_values(values)[0]
                dataset.update_tags(1, **statistics_tags(counts, grid.width * grid.height))
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

    See `create_maps`. `overviews` is their resampling.
    """
    product = Product("labels", path, classes=classes, overviews=overviews)
    with create_maps([product], grid, overwrite, tags, {}) as (dataset,):
        yield dataset


@contextmanager
def create_maps(
    products: Sequence[Product],
    grid: Grid,
    overwrite: bool,
    tags: Mapping[str, str],
    texts: Mapping[Path, Text],
) -> Iterator[tuple[DatasetWriter, ...]]:
    """Write rasters of one uint8 band window by window; each becomes a Cloud Optimized GeoTIFF.

    Nodata is 255. A raster with classes has a colour table, and its class names in the tags. Names,
    counts and colours are in side files, too: see `cafe_cli.raster.side_files`. All files appear
    together when all are complete.

    Parameters
    ----------
    products : sequence of Product
    grid : Grid
    overwrite : bool
    tags : mapping
        Metadata of every raster.
    texts : mapping
        More files to write: their text, or a function that makes it of the finished files, which it
        gets by their later names.

    Raises
    ------
    OutputError
        An output exists, or cannot be written.
    """
    for product in products:
        check_file(product.path)
    paths = [product.path for product in products]
    sides = [side for path in paths for side in (*side_files(path), style_path(path))]
    every = dict.fromkeys([*paths, *sides, stac_path(paths[0]), *texts])
    with replace_together([*every], overwrite) as new:
        with ExitStack() as stack:
            writers = [
                stack.enter_context(_cog_writer(p, new[p.path], grid, tags)) for p in products
            ]
            yield tuple(writers)
        for product, writer in zip(products, writers, strict=True):
            for path, content in side_texts(product, writer.counts).items():
                new[path].write_text(content, encoding="utf-8")
        for path, text in texts.items():
            new[path].write_text(text if isinstance(text, str) else text(new), encoding="utf-8")


@contextmanager
def _cog_writer(
    product: Product, cog: Path, grid: Grid, tags: Mapping[str, str]
) -> Iterator[CheckedWriter]:
    """Write the file `cog`, which is to be renamed to the path of the product."""
    profile = _profile(grid, 1, "uint8", nodata=NODATA)
    with _converted(product.path, cog, profile, product.overview_resampling) as dataset:
        if product.classes:
            dataset.write_colormap(1, product.classes.colormap)
        if product.descriptions:
            dataset.set_band_description(1, product.descriptions[0])
        dataset.units = [product.unit or None]
        dataset.update_tags(**product.tags, **tags, **class_tags(product.classes))
        yield dataset


def write_overview(
    path: Path, product: Product, grid: Grid, parts: Iterable[tuple[Window, Array]]
) -> None:
    """Write a coarser copy of a raster of one uint8 band, e.g. ``FILE.ovr``, which GDAL finds.

    Parameters
    ----------
    path : Path
    product : Product
        The raster.
    grid : Grid
        Grid of the copy.
    parts : iterable of (Window, ndarray)
        Windows of the copy that do not overlap, and their values (height, width); nodata elsewhere.

    Raises
    ------
    OutputError
        It cannot be written.
    """
    with _cog_writer(replace(product, path=path), path, grid, {}) as dataset:
        for window, values in parts:
            rows, cols = window.slices()
            place = ((rows.start, rows.stop), (cols.start, cols.stop))
            dataset.write(values, 1, window=place)


@contextmanager
def create_height_cog(
    path: Path,
    grid: Grid,
    overwrite: bool,
    descriptions: Sequence[str],
    tags: Mapping[str, str],
    texts: Mapping[Path, str],
) -> Iterator[DatasetWriter]:
    """Write heights in metres window by window: float32, nodata `HEIGHT_NODATA`.

    `descriptions` are those of the bands, whose unit is ``metre``; `tags` are those of the file,
    which appears together with the text files `texts`. See `create_maps`.
    """
    check_file(path)
    profile = _profile(grid, len(descriptions), "float32", nodata=HEIGHT_NODATA, predictor=3)
    with replace_together([path, *side_files(path), *texts], overwrite) as new:
        with _converted(path, new[path], profile, "average", predictor="yes") as dataset:
            dataset.units = ["metre"] * len(descriptions)
            dataset.descriptions = descriptions
            dataset.update_tags(**tags)
            yield dataset
        for text_file, text in texts.items():
            new[text_file].write_text(text, encoding="utf-8")


@contextmanager
def create_image_cog(
    path: Path,
    grid: Grid,
    overwrite: bool,
    bands: Mapping[str, ColorInterp],
    tags: Mapping[str, str],
    texts: Mapping[Path, str],
) -> Iterator[DatasetWriter]:
    """Write bands of 8 bits window by window, without a nodata value and without alpha.

    `bands` are their descriptions and colours; the rest is as in `create_height_cog`.
    """
    check_file(path)
    profile = _profile(grid, len(bands), "uint8", predictor=2)
    with replace_together([path, *side_files(path), *texts], overwrite) as new:
        with _converted(path, new[path], profile, "average", predictor="yes") as dataset:
            dataset.colorinterp = [*bands.values()]
            dataset.descriptions = [*bands]
            dataset.update_tags(**tags)
            yield dataset
        for text_file, text in texts.items():
            new[text_file].write_text(text, encoding="utf-8")


@contextmanager
def _converted(
    path: Path, cog: Path, profile: dict[str, Any], overviews: str, **options: str
) -> Iterator[CheckedWriter]:
    """Write a plain GeoTIFF, and convert it to the COG `cog`, which errors call `path`."""
    plain = cog.with_name(f".{path.name}.strips.tif")
    try:
        with _plain_raster(plain, profile) as dataset:
            yield dataset
        _to_cog(plain, cog, overviews, **options)
    except GDAL_ERRORS as error:
        raise _write_error(path, error) from error
    finally:
        remove(plain)


@contextmanager
def _plain_raster(path: Path, profile: dict[str, Any]) -> Iterator[CheckedWriter]:
    """Write a tiled GeoTIFF window by window, and read it back; the caller removes it."""
    # Sparse: blocks that are never written take no space and are nodata.
    blocks = {"tiled": True, "blockxsize": 512, "blockysize": 512, "sparse_ok": True, "zlevel": 1}
    with (
        undo_when_ended(partial(remove, path)),
        CheckedWriter(path, **profile, **blocks) as dataset,
    ):
        yield dataset
    dataset.check_written(path)


@contextmanager
def revised(
    writer: DatasetWriter, grid: Grid, revise: Callable[[DatasetReader], None]
) -> Iterator[DatasetWriter]:
    """Write a draft of a raster of `create_maps`, which `revise` reads to write the raster itself.

    Parameters
    ----------
    writer : DatasetWriter
        The raster.
    grid : Grid
    revise : callable
        Called with the complete draft, open for reading.
    """
    draft = Path(writer.name).with_suffix(".draft.tif")
    try:
        with _plain_raster(draft, _profile(grid, 1, "uint8", nodata=NODATA)) as dataset:
            yield dataset
        with rasterio.open(draft) as complete:
            revise(complete)
    finally:
        remove(draft)


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
        Creation options that replace the defaults; see `cafe_cli.raster.creation_options`.
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
