"""Writing GeoTIFFs: tiles, and Cloud Optimized GeoTIFFs that say what their values mean."""

import errno
import functools
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import rasterio
import rasterio.shutil
from rasterio.io import DatasetReader, DatasetWriter, MemoryFile

from cafe_cli.classes import NODATA, ClassTable
from cafe_cli.errors import InputError, OutputError
from cafe_cli.files import check_output, remove, replacing, write_text
from cafe_cli.grid import GDAL_ERRORS, Grid
from cafe_cli.raster import Array, Mask, reason

_FULL = 1_000_000  # bytes; with less than that left on a disk, that is why writing failed


def write_tile(path: Path, values: Array, grid: Grid, **profile: Any) -> None:
    """Write a small raster (bands, height, width) in one go.

    Raises
    ------
    OutputError
        It cannot be written: folder, rights, disk full.
    """
    predictor = 3 if values.dtype.kind == "f" else 2
    # Of all heights of strips this was the fastest; with one strip per band GDAL would compress
    # on closing the file, when rasterio lets no other thread work.
    layout = {"interleave": "band", "blockysize": min(grid.height, 64)}
    profile = {"predictor": predictor, **layout, **_compression(), **profile}
    mask: Mask | None = profile.pop("mask", None)
    colormap = profile.pop("colormap", None)
    # Through memory: GDAL does not say when a disk is full before the file is closed, nor then.
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), MemoryFile() as memory:
        options = _profile(grid, len(values), values.dtype.name, **profile)
        with memory.open(**options) as dataset:
            if colormap:
                dataset.write_colormap(1, colormap)  # first: it changes the kind of the file
            dataset.write(values)
            if mask is not None:
                dataset.write_mask(mask)
        try:
            path.write_bytes(memory.getbuffer())
        except OSError as error:
            raise OutputError(f"cannot write {path}: {error.strerror}") from error


@functools.cache
def _compression() -> dict[str, Any]:
    """Return how tiles are compressed: zstd where this GDAL has it.

    At its lowest level it takes a fifth of the time of deflate at level 6 for the same size.
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
    # Unless told otherwise, GDAL takes the fourth of four uint8 bands for alpha.
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
    """Write a uint8 raster by windows that ends up as a Cloud Optimized GeoTIFF.

    Nodata is 255. With `classes` it is a label raster: colour table, class names in the tags and,
    as GDAL keeps category names, in ``PATH.aux.xml``; overviews by mode. Without, overviews by
    average, unless `overviews` names another resampling. The file appears under its name only
    when complete.

    Raises
    ------
    OutputError
        The output exists, or cannot be written.
    """
    check_output(path, overwrite)
    if path.is_dir():
        raise OutputError(f"{path} is a folder; name a file")
    # Blocks that are never written take no space and read as nodata.
    blocks = {"tiled": True, "blockxsize": 512, "blockysize": 512, "sparse_ok": True, "zlevel": 1}
    profile = _profile(grid, 1, "uint8", nodata=NODATA, **blocks)
    with replacing(path, overwrite) as cog:
        plain = cog.with_name(f".{path.name}.strips.tif")
        try:
            with rasterio.open(plain, "w", **profile) as dataset:
                if classes:
                    dataset.write_colormap(1, classes.colormap)
                    tags["CLASSES"] = json.dumps(classes.as_json())
                dataset.update_tags(**tags)
                yield dataset
            _to_cog(plain, cog, overviews or ("mode" if classes else "average"))
        except GDAL_ERRORS as error:
            full = shutil.disk_usage(cog.parent).free < _FULL
            why = os.strerror(errno.ENOSPC) if full else reason(error)
            raise OutputError(f"cannot write {path}: {why}") from error
        finally:
            remove(plain)
    _write_sidecar(path, classes)


@contextmanager
def create_map(
    labels: Path,
    confidence: Path | None,
    grid: Grid,
    overwrite: bool,
    classes: ClassTable | None,
    **tags: str,
) -> Iterator[tuple[DatasetWriter, DatasetWriter | None]]:
    """Write a label raster and, unless None, its confidence in per cent; see `create_cog`.

    Both appear together, once both are complete.
    """
    with ExitStack() as stack:
        # Entered first, so that it gets its name last, when the labels can no longer fail.
        beside = confidence and stack.enter_context(replacing(confidence, overwrite))
        first = create_cog(labels, grid, overwrite, classes, "mode", **tags)
        writer = stack.enter_context(first)
        second = create_cog(beside, grid, overwrite, None, **tags) if beside else None
        yield writer, stack.enter_context(second) if second else None
    if confidence:
        _write_sidecar(confidence, None)


def read_classes(dataset: DatasetReader) -> ClassTable | None:
    """Return the class table that `create_cog` stored in a label raster, if it has one."""
    stored = dataset.tags().get("CLASSES")
    try:
        return ClassTable.from_json(json.loads(stored)) if stored else None
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{dataset.name}: the CLASSES tag is damaged: {error}") from error


def _to_cog(source: Path, target: Path, overviews: str) -> None:
    try:
        with rasterio.Env(GDAL_NUM_THREADS="ALL_CPUS"):
            rasterio.shutil.copy(
                source, target, driver="COG", compress="deflate", overview_resampling=overviews,
                blocksize=512, num_threads="ALL_CPUS", bigtiff="if_safer",
            )  # fmt: skip
        with rasterio.open(target) as written:  # a full disk can pass unnoticed until here
            written.read(1, window=((written.height - 1, written.height), (0, written.width)))
    finally:
        remove(target.with_name(f"{target.name}.ovr.tmp"))


def _write_sidecar(path: Path, classes: ClassTable | None) -> None:
    """Put category names where GDAL looks for them; take away those of a file that was replaced."""
    sidecar = path.with_name(f"{path.name}.aux.xml")
    if classes is None:
        remove(sidecar)
    else:
        write_text(sidecar, _category_names(classes))


def _category_names(classes: ClassTable) -> str:
    rows = "".join(f"<Category>{escape(name)}</Category>" for name in classes.names)
    return (
        '<PAMDataset><PAMRasterBand band="1">'
        f"<CategoryNames>{rows}</CategoryNames></PAMRasterBand></PAMDataset>\n"
    )
