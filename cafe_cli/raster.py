"""The only door to raster files: reading, bringing onto another grid, writing, COG."""

import json
import logging
import math
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias
from xml.sax.saxutils import escape

import numpy as np
import rasterio
import rasterio.shutil
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.enums import ColorInterp, MaskFlags, Resampling
from rasterio.errors import CRSError, NotGeoreferencedWarning, RasterioError
from rasterio.io import DatasetReader, DatasetWriter, MemoryFile
from rasterio.vrt import WarpedVRT

from cafe_cli.classes import NODATA, ClassTable
from cafe_cli.errors import BandError, GridError, InputError, OutputError
from cafe_cli.files import check_output, remove, replacing
from cafe_cli.grid import Grid, describe_crs
from cafe_cli.windows import Window

Array = NDArray[Any]
Mask = NDArray[np.bool_]
Reader: TypeAlias = DatasetReader | WarpedVRT

log = logging.getLogger("cafe")
# Pixel coordinates are a legitimate grid here (scenes delivered as plain patches).
warnings.filterwarnings("ignore", category=NotGeoreferencedWarning)

# Where neither raster has a CRS both are in the same, unnamed plane: any projected CRS stands in.
_PLANE = CRS.from_epsg(3857)
_TILED = {"driver": "GTiff", "tiled": True, "blockxsize": 512, "blockysize": 512}


@contextmanager
def open_raster(path: str) -> Iterator[DatasetReader]:
    """Open a raster for reading: a file, a URL or any name GDAL understands.

    Raises
    ------
    InputError
        It does not exist, or GDAL cannot open it.
    """
    local = not (path.startswith("/vsi") or "://" in path or ":" in path.split("/")[0])
    if local and not os.path.exists(path):
        raise InputError(f"{path} does not exist")
    try:
        dataset = rasterio.open(path)
    except RasterioError as error:
        raise InputError(f"cannot open {path} as a raster: {_reason(error)}") from error
    with dataset:
        yield dataset


def image_bands(dataset: DatasetReader, bands: Sequence[int] | None) -> tuple[int, ...]:
    """Return the bands to read, from 1: those asked for, or all but an alpha band.

    Raises
    ------
    BandError
        A band that the raster does not have.
    """
    if bands is None:
        kinds = enumerate(dataset.colorinterp, start=1)
        return tuple(i for i, kind in kinds if kind != ColorInterp.alpha)
    if beyond := [b for b in bands if not 1 <= b <= dataset.count]:
        raise BandError(f"{dataset.name} has {dataset.count} bands, there is no band {beyond[0]}")
    return tuple(bands)


def read(dataset: Reader, window: Window, bands: Sequence[int], fill: float = 0) -> Array:
    """Read a window that may reach beyond the raster: (bands, height, width), `fill` outside.

    Raises
    ------
    InputError
        The file is truncated or damaged there.
    """
    inside = window.intersection(Window(0, 0, dataset.width, dataset.height))
    dtype = np.result_type(*(dataset.dtypes[b - 1] for b in bands))
    if inside == window:
        return _read(dataset, window, bands)
    values = np.full((len(bands), window.height, window.width), fill, dtype)
    if inside:
        values[:, *inside.slices(window)] = _read(dataset, inside, bands)
    return values


def read_valid(dataset: DatasetReader, window: Window, bands: Sequence[int]) -> Mask:
    """Return where a raster has data: (height, width), False outside it.

    Alpha bands, masks and nodata count; a pixel is valid where any of `bands` is.
    """
    valid = np.zeros((window.height, window.width), bool)
    inside = window.intersection(Window(0, 0, dataset.width, dataset.height))
    if inside is None:
        return valid
    if all(dataset.mask_flag_enums[b - 1] == [MaskFlags.all_valid] for b in bands):
        valid[inside.slices(window)] = True
        return valid
    try:
        masks = dataset.read_masks(list(bands), window=_rasterio_window(inside))
    except RasterioError as error:
        raise _damaged(dataset, inside, error) from error
    valid[inside.slices(window)] = masks.any(axis=0)
    return valid


@contextmanager
def aligned(
    dataset: DatasetReader,
    grid: Grid,
    resampling: Resampling,
    nodata: float | None = None,
    dtype: str | None = None,
) -> Iterator[WarpedVRT]:
    """Show a raster on another grid; its last band is the mask (0 = no data).

    `nodata` replaces the raster's own. Pixels without data never enter an interpolation.

    Raises
    ------
    GridError
        One of the two has a CRS and the other has none, or no transformation exists.
    """
    name, own = dataset.name, dataset.crs
    if (own is None) != (grid.crs is None):
        missing, known = (name, grid.crs) if own is None else ("the reference grid", own)
        raise GridError(
            f"{name}: {missing} has no CRS while the other raster is in {describe_crs(known)}; "
            "assign the right one, e.g. with gdal_edit.py -a_srs EPSG:CODE FILE"
        )
    if nodata is None and dataset.nodata is None and np.dtype(dataset.dtypes[0]).kind == "f":
        nodata = math.nan
    options = {} if nodata is None else {"src_nodata": nodata}
    try:
        with WarpedVRT(
            dataset,
            src_crs=own or _PLANE,
            crs=grid.crs or _PLANE,
            transform=grid.transform,
            width=grid.width,
            height=grid.height,
            resampling=resampling,
            add_alpha=True,
            **({"dtype": dtype} if dtype else {}),
            **options,
        ) as view:
            yield view
    except (CRSError, RasterioError) as error:
        raise GridError(f"cannot bring {name} onto the grid: {_reason(error)}") from error


def read_aligned(view: WarpedVRT, window: Window) -> tuple[Array, Mask]:
    """Read what `aligned` shows: values (bands, height, width) and validity (height, width)."""
    stack = read(view, window, range(1, view.count + 1))
    return stack[:-1], stack[-1] > 0


def read_decimated(
    dataset: DatasetReader, size: int, nodata: float | None = None
) -> NDArray[np.float64]:
    """Look at band 1 through at most `size` pixels along each side; NaN where there is no data.

    `nodata` replaces the raster's own.
    """
    shape = (min(dataset.height, size), min(dataset.width, size))
    try:
        values = dataset.read(1, out_shape=shape, masked=nodata is None)
    except RasterioError as error:
        raise _damaged(dataset, Window(0, 0, dataset.width, dataset.height), error) from error
    if nodata is not None:
        values = np.ma.masked_equal(values, nodata)
    filled: NDArray[np.float64] = values.astype(np.float64).filled(np.nan)
    return filled


@contextmanager
def in_memory(values: NDArray[np.float32], grid: Grid) -> Iterator[DatasetReader]:
    """Hold an array (height, width) as a raster."""
    with MemoryFile() as memory:
        profile = {"crs": grid.crs, "transform": grid.transform, "dtype": values.dtype}
        size = {"width": grid.width, "height": grid.height, "count": 1}
        with memory.open(driver="GTiff", **size, **profile) as dataset:
            dataset.write(values, 1)
        with memory.open() as dataset:
            yield dataset


@contextmanager
def create(
    path: Path, grid: Grid, count: int, dtype: str, **profile: Any
) -> Iterator[DatasetWriter]:
    """Write a tiled, compressed GeoTIFF; the caller gives `path` its final name.

    Raises
    ------
    OutputError
        It cannot be written: folder, rights, disk full.
    """
    size = {"width": grid.width, "height": grid.height, "count": count}
    place = {"crs": grid.crs, "transform": grid.transform, "dtype": dtype}
    defaults = {"compress": "deflate", "zlevel": 1, "bigtiff": "if_safer"}
    try:
        with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True):
            dataset = rasterio.open(path, "w", **{**_TILED, **defaults, **size, **place, **profile})
            with dataset:
                yield dataset
    except RasterioError as error:
        raise OutputError(f"cannot write {path}: {_reason(error)}") from error


def write_tile(path: Path, values: Array, grid: Grid, **profile: Any) -> None:
    """Write a small raster (bands, height, width) in one go."""
    options = {"tiled": False, "blockxsize": None, "blockysize": None, "zlevel": 6}
    predictor = 3 if values.dtype.kind == "f" else 2
    profile = {"predictor": predictor, **options, **profile}
    mask: Mask | None = profile.pop("mask", None)
    colormap = profile.pop("colormap", None)
    with create(path, grid, len(values), values.dtype.name, **profile) as dataset:
        dataset.write(values)
        if mask is not None:
            dataset.write_mask(mask)
        if colormap:
            dataset.write_colormap(1, colormap)


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
    with replacing(path, overwrite) as cog:
        plain = cog.with_name(f".{path.stem}.strips.tif")
        try:
            # Blocks that are never written take no space and read as nodata.
            with create(plain, grid, 1, "uint8", nodata=NODATA, sparse_ok=True) as dataset:
                if classes:
                    dataset.write_colormap(1, classes.colormap)
                    tags["CLASSES"] = json.dumps(classes.as_json())
                dataset.update_tags(**tags)
                yield dataset
            _to_cog(plain, cog, overviews or ("mode" if classes else "average"))
            sidecar = path.with_name(f"{path.name}.aux.xml")
            remove(sidecar)
            if classes:
                sidecar.write_text(_category_names(classes), encoding="utf-8")
        finally:
            remove(plain)


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
    except RasterioError as error:
        raise OutputError(f"cannot write {target}: {_reason(error)}") from error
    finally:
        remove(target.with_name(f"{target.name}.ovr.tmp"))


def _category_names(classes: ClassTable) -> str:
    rows = "".join(f"<Category>{escape(name)}</Category>" for name in classes.names)
    return (
        '<PAMDataset><PAMRasterBand band="1">'
        f"<CategoryNames>{rows}</CategoryNames></PAMRasterBand></PAMDataset>\n"
    )


def _read(dataset: Reader, window: Window, bands: Sequence[int]) -> Array:
    try:
        values: Array = dataset.read(list(bands), window=_rasterio_window(window))
    except RasterioError as error:
        raise _damaged(dataset, window, error) from error
    return values


def _rasterio_window(window: Window) -> rasterio.windows.Window:
    return rasterio.windows.Window(window.col, window.row, window.width, window.height)


def _damaged(dataset: Reader, window: Window, error: Exception) -> InputError:
    return InputError(
        f"cannot read {dataset.name} at column {window.col}, row {window.row}: {_reason(error)}; "
        "the file is truncated or damaged"
    )


def _reason(error: BaseException) -> str:
    """Return the message of the GDAL error at the bottom of a chain."""
    while error.__cause__ is not None:
        error = error.__cause__
    return " ".join(str(error).split())
