"""Read the header of a raster: refuse what asks too much, leave out text that is not UTF-8."""

import numpy as np
from rasterio._err import CPLE_BaseError
from rasterio.enums import Interleaving
from rasterio.errors import RasterioError
from rasterio.io import DatasetReader

from cafe_cli.errors import InputError
from cafe_cli.findings import warn_once
from cafe_cli.text import file_size, printable

READ_ERRORS = (RasterioError, CPLE_BaseError, SystemError, UnicodeError)
"""What rasterio raises where GDAL cannot open or read a file: it wraps GDAL's errors mostly, and
where it forgets to, Python says `SystemError`."""

UNWRAPPED = (CPLE_BaseError, SystemError, UnicodeError)
"""Those of `READ_ERRORS` that rasterio has not wrapped."""

MOST_BANDS = 4096
"""More than any sensor has; GDAL and rasterio look at each of them again and again."""

_LARGEST_BLOCK = 2_000_000_000  # bytes


def check_size(dataset: DatasetReader) -> None:
    """Refuse complex pixels, and a header that would take all memory, or hours.

    Raises
    ------
    InputError
        The pixels are complex, there are too many bands, or a block is too large to decode.
    """
    if any(dtype.startswith("complex") for dtype in dataset.dtypes):
        raise InputError(
            f"{dataset.name} holds complex numbers, but images and heights are real numbers"
        )
    if dataset.count > MOST_BANDS:
        raise InputError(
            f"{dataset.name} has {dataset.count:,} bands, at most {MOST_BANDS:,} are read: check "
            "that it is the right file, or extract the bands you need with gdal_translate -b"
        )
    if (size := block_bytes(dataset)) > _LARGEST_BLOCK:
        height, width = dataset.block_shapes[0]
        raise InputError(
            f"{dataset.name} is stored in blocks of {width:,} x {height:,} pixels, which take "
            f"{file_size(size)} of memory each, more than {file_size(_LARGEST_BLOCK)}: store it in "
            f"tiles with gdal_translate -co TILED=YES {dataset.name} TILED.tif"
        )


def block_bytes(dataset: DatasetReader) -> int:
    """Return the bytes that one block of a raster takes decoded, of all bands stored in it."""
    height, width = dataset.block_shapes[0]
    together = dataset.count if dataset.interleaving == Interleaving.pixel else 1
    return int(height * width * together * np.dtype(dataset.dtypes[0]).itemsize)


def read_descriptions(dataset: DatasetReader) -> tuple[str, ...]:
    """Return the description of each band, "" where it is missing or not UTF-8."""
    try:
        return tuple(printable(text or "").strip() for text in dataset.descriptions)
    except UnicodeDecodeError:
        warn_once(dataset.name, f"the band names of {dataset.name} are not UTF-8 and are left out")
        return ("",) * int(dataset.count)


def read_unit(dataset: DatasetReader) -> str:
    """Return the unit of the first band, "" where it is missing or not UTF-8."""
    try:
        return printable(dataset.units[0] or "").strip()
    except UnicodeDecodeError:
        warn_once(
            dataset.name,
            f"the unit of {dataset.name} is not UTF-8 and is left out; if it holds heights, state "
            "their unit with height.unit (--height-unit)",
        )
        return ""


def read_tags(dataset: DatasetReader, namespace: str | None = None) -> dict[str, str]:
    """Return the tags of a raster; none if they are not UTF-8."""
    try:
        tags: dict[str, str] = dataset.tags(ns=namespace)
    except UnicodeDecodeError:
        return {}
    return tags
