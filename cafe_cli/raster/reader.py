"""Open raster files, and read windows of pixels and validity masks."""

import logging
import math
import os
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np
import rasterio
import rasterio.shutil
from numpy.typing import NDArray
from rasterio.enums import ColorInterp, MaskFlags
from rasterio.env import hasenv
from rasterio.errors import NotGeoreferencedWarning
from rasterio.io import DatasetReader

from cafe_cli.errors import BandError, InputError
from cafe_cli.raster.containers import explain_unreadable, only_archived, only_name
from cafe_cli.raster.formats import open_dataset
from cafe_cli.raster.header import READ_ERRORS, UNWRAPPED, block_bytes, check_size
from cafe_cli.raster.image_view import ImageView, open_view
from cafe_cli.raster.storage import RasterReader, stored_window
from cafe_cli.raster.window import Window
from cafe_cli.redaction import HIDDEN
from cafe_cli.system.atomic_write import is_file_name, is_remote
from cafe_cli.system.gdal_options import CODE_OFF, set_gdal_options
from cafe_cli.system.untrusted import check_file, check_name

Array = NDArray[Any]
Mask = NDArray[np.bool_]

log = logging.getLogger("cafe")

_MOST_DECODED = 50_000_000_000  # bytes of a decimated view
_OF_A_SERVER = "check the address and your access rights, and try again, or download the file first"
_thread = threading.local()

set_gdal_options()
# Pixel coordinates are a legitimate grid here (scenes delivered as plain patches).
warnings.filterwarnings("ignore", category=NotGeoreferencedWarning)


@contextmanager
def open_raster(path: str, view: ImageView | None = None) -> Iterator[DatasetReader]:
    """Open a raster for reading: a file, a URL or any name GDAL understands.

    Of an archive, or a file of subdatasets, the only raster is opened. With `view`, the raster is
    read through it.

    Raises
    ------
    InputError
        The raster does not exist, GDAL cannot open it, or it is a container of several rasters.
    """
    dataset = _open(path, view)
    with dataset:
        try:
            yield dataset
        except UNWRAPPED as error:
            raise InputError(f"cannot read {path}: {gdal_message(error)}") from error


def _open(path: str, view: ImageView | None = None) -> DatasetReader:
    """Open a raster, or the only one in a container."""
    local = is_file_name(path)
    check_name(path)
    if local:
        check_file(path)
        if not os.path.exists(path):
            raise InputError(f"{path} does not exist")
    if HIDDEN in path:
        raise InputError(f"{path} was written without its password or token; name it in full")
    keep_environment()
    try:
        dataset = open_view(view, path) if view else open_dataset(path)
    except READ_ERRORS as error:
        member = only_archived(path)
        if member is None:
            reason = gdal_message(error)
            why = explain_unreadable(path, reason) if local else f"{reason}; {_OF_A_SERVER}"
            raise InputError(f"cannot open {path} as a raster: {why}") from error
        dataset = open_dataset(member)
    if dataset.count:
        try:
            check_size(dataset)
        except InputError:
            dataset.close()
            raise
        return dataset
    with dataset:
        inside = only_name(path, dataset.subdatasets)
    return _open(inside)


def keep_environment() -> None:
    """Enter a GDAL environment in this thread permanently, so that rasters may close in any order.

    Otherwise the first raster opened enters an environment, and closing that raster leaves it.
    """
    if not hasenv():
        # Options of a thread win over those of a configuration file of GDAL, too.
        _thread.environment = rasterio.Env.from_defaults(**CODE_OFF)
        _thread.environment.__enter__()


def image_bands(dataset: DatasetReader, bands: Sequence[int] | None) -> tuple[int, ...]:
    """Return the bands to read, from 1: the requested ones, or all but an alpha band.

    Raises
    ------
    BandError
        The raster lacks a requested band.
    """
    if bands is None:
        kinds = enumerate(dataset.colorinterp, start=1)
        return tuple(i for i, kind in kinds if kind != ColorInterp.alpha)
    if beyond := [b for b in bands if not 1 <= b <= dataset.count]:
        raise BandError(f"{dataset.name} has {dataset.count} bands, there is no band {beyond[0]}")
    return tuple(bands)


def shows_an_image(dataset: DatasetReader, band: int) -> bool:
    """Whether a band marked as alpha has many grey values and so holds an image, e.g. infrared.

    Raises
    ------
    InputError
        The file is truncated or damaged.
    """
    shape = (min(dataset.height, 256), min(dataset.width, 256))
    try:
        values = dataset.read(band, out_shape=shape)
    except READ_ERRORS as error:
        raise _damaged(dataset, Window(0, 0, dataset.width, dataset.height), error) from error
    return float(np.isin(values, (0, values.max())).mean()) < 0.5


def read_window(
    dataset: RasterReader, window: Window, bands: Sequence[int], fill: float = 0
) -> Array:
    """Read a window that may reach beyond the raster: (bands, height, width), `fill` outside.

    Raises
    ------
    InputError
        The file is truncated or damaged in the window.
    """
    inside = window.intersection(Window(0, 0, dataset.width, dataset.height))
    dtype = np.result_type(*(dataset.dtypes[b - 1] for b in bands))
    if inside == window:
        return _read(dataset, window, bands)
    values = np.full((len(bands), window.height, window.width), fill, dtype)
    if inside:
        values[:, *inside.slices(window)] = _read(dataset, inside, bands)
    return values


def may_lack_data(dataset: DatasetReader) -> bool:
    """Whether a raster declares an alpha band, a mask or nodata."""
    # GDAL's flags know alpha only as the second of two or the fourth of four integer bands.
    declared = any(kinds != [MaskFlags.all_valid] for kinds in dataset.mask_flag_enums)
    return declared or ColorInterp.alpha in dataset.colorinterp


def declared_nodata(dataset: DatasetReader) -> float | None:
    """Return the nodata value that is the mask of a raster; None if it has another mask, or none.

    NaN counts as none, since it is no value.
    """
    nodata: float | None = dataset.nodata
    masks = MaskFlags.nodata in dataset.mask_flag_enums[0]
    return nodata if nodata is not None and masks and not math.isnan(nodata) else None


def read_valid(
    dataset: DatasetReader, window: Window, bands: Sequence[int], nodata: float | None = None
) -> Mask:
    """Return where a raster has data: (height, width), False outside it.

    Alpha bands, masks and nodata of the raster decide, or `nodata` alone if given. A pixel is valid
    if any of `bands` is.

    Raises
    ------
    InputError
        The file is truncated or damaged in the window.
    """
    valid = np.zeros((window.height, window.width), bool)
    if inside := window.intersection(Window(0, 0, dataset.width, dataset.height)):
        if nodata is None:
            valid[inside.slices(window)] = _declared_valid(dataset, inside, bands)
        else:
            data = ~_equals(_read(dataset, inside, bands), nodata)
            valid[inside.slices(window)] = data.any(axis=0)
    return valid


def _declared_valid(dataset: DatasetReader, window: Window, bands: Sequence[int]) -> Mask:
    valid = np.ones((window.height, window.width), bool)
    # A band requested by number is data, even if it is marked as alpha (mostly infrared).
    asked = any(dataset.colorinterp[b - 1] == ColorInterp.alpha for b in bands)
    if not asked and not all(
        dataset.mask_flag_enums[b - 1] == [MaskFlags.all_valid] for b in bands
    ):
        try:
            masks = dataset.read_masks(list(bands), window=_rasterio_window(window))
        except READ_ERRORS as error:
            raise _damaged(dataset, window, error) from error
        valid = masks.any(axis=0)
    # GDAL's masks respect alpha only as the second of two or the fourth of four integer bands.
    kinds = enumerate(dataset.colorinterp, start=1)
    if alpha := [b for b, kind in kinds if kind == ColorInterp.alpha and b not in bands]:
        valid &= (_read(dataset, window, alpha) > 0).all(axis=0)
    return valid


def _equals(values: Array, nodata: float) -> Mask:
    """Compare with nodata in the data type of the raster: -3.4028235e+38 is a float32."""
    if math.isnan(nodata):
        return np.isnan(values)
    if values.dtype.kind == "f":
        nodata = values.dtype.type(nodata)
    equal: Mask = values == nodata
    return equal


def read_decimated(
    dataset: DatasetReader, size: int, nodata: float | None = None
) -> NDArray[np.float64]:
    """Read band 1 at no more than `size` pixels along each side; NaN where there is no data.

    Where that would decode more than 50 GB, as without overviews, it is fewer pixels.

    `nodata` replaces the raster's own.
    """
    size = _affordable_side(dataset, size)
    shape = (min(dataset.height, size), min(dataset.width, size))
    try:
        values = dataset.read(1, out_shape=shape, masked=nodata is None)
    except READ_ERRORS as error:
        raise _damaged(dataset, Window(0, 0, dataset.width, dataset.height), error) from error
    if nodata is not None:
        values = np.ma.masked_where(_equals(values, nodata), values)
    filled: NDArray[np.float64] = values.astype(np.float64).filled(np.nan)
    return filled


def _affordable_side(dataset: DatasetReader, size: int) -> int:
    """Return the pixels along each side of a decimated view, each of which decodes a block."""
    height, width = dataset.block_shapes[0]
    blocks = math.ceil(dataset.height / height) * math.ceil(dataset.width / width)
    most = max(_MOST_DECODED // block_bytes(dataset), 1)
    if dataset.overviews(1) or blocks <= most:
        return size
    return max(min(size, math.isqrt(most)), 4)


def _read(dataset: RasterReader, window: Window, bands: Sequence[int]) -> Array:
    place = _rasterio_window(window)
    try:
        if len({dataset.dtypes[b - 1] for b in bands}) > 1:  # rasterio reads one type at a time
            return np.stack([dataset.read(b, window=place) for b in bands])
        values: Array = dataset.read(list(bands), window=place)
    except READ_ERRORS as error:
        raise _damaged(dataset, window, error) from error
    return values


def _rasterio_window(window: Window) -> rasterio.windows.Window:
    return rasterio.windows.Window(window.col, window.row, window.width, window.height)


def _damaged(dataset: RasterReader, window: Window, error: Exception) -> InputError:
    source, place = stored_window(dataset, window)
    _forget_error(source)
    reason = gdal_message(error)
    if is_remote(source.name):
        remedy = _OF_A_SERVER
    elif source.driver == "VRT":
        reason = " ".join(str(error.__cause__ or error).split())  # names the file of the list
        remedy = "it refers to other files: check that they exist and are intact"
    else:
        remedy = "the file is truncated or damaged"
    return InputError(
        f"cannot read {source.name} at column {place.col}, row {place.row}: {reason} (in a window "
        f"of {place.width} x {place.height} pixels); {remedy}"
    )


def _forget_error(dataset: DatasetReader) -> None:
    """Clear the error of a failed read, which rasterio may raise once more at another call."""
    with suppress(*READ_ERRORS):
        dataset.colorinterp  # noqa: B018 - asks GDAL for its last error


def gdal_message(error: BaseException) -> str:
    """Return the message of the GDAL error at the bottom of a chain."""
    while error.__cause__ is not None:
        error = error.__cause__
    if isinstance(error, UnicodeDecodeError):  # what the file says is quoted in the message
        return " ".join(error.object.decode(errors="backslashreplace").split())
    return " ".join(str(error).split())
