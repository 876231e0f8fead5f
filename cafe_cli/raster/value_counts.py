"""How often each value occurs in a uint8 raster: for attribute tables and statistics."""

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from cafe_cli.classes import NODATA
from cafe_cli.raster.reader import open_raster, read_window
from cafe_cli.raster.window import blocks

Counts: TypeAlias = NDArray[np.int64]
"""Pixels by band and value, (bands, 256)."""

_BLOCK = 2048  # pixels along each side that are read at a time


def count_values(values: NDArray[np.uint8]) -> Counts:
    """Count the pixels of (bands, height, width) by band and value."""
    return np.stack([np.bincount(band.ravel(), minlength=256) for band in values]).astype(np.int64)


def count_files(paths: Iterable[Path], bands: int) -> Counts:
    """Count the pixels of uint8 rasters of as many bands together; zeros if there are none.

    Raises
    ------
    InputError
        A raster cannot be read.
    """
    total = np.zeros((bands, 256), np.int64)
    for path in paths:
        with open_raster(str(path)) as dataset:
            for window in blocks(dataset.width, dataset.height, _BLOCK):
                total += count_values(read_window(dataset, window, range(1, bands + 1)))
    return total


def statistics_tags(counts: NDArray[np.int64], pixels: int) -> dict[str, str]:
    """Return the statistics of a band as GDAL names and writes them.

    Parameters
    ----------
    counts : ndarray of int, (256,)
        Pixels by value. Those of nodata do not matter.
    pixels : int
        Pixels of the band, those without data included.

    Returns
    -------
    dict
        ``STATISTICS_MINIMUM`` and others; empty if no pixel has data.
    """
    values, valid = np.arange(NODATA), counts[:NODATA]
    if not (total := int(valid.sum())):
        return {}
    present = np.flatnonzero(valid)
    mean = int(valid @ values) / total
    variance = max(int(valid @ values**2) / total - mean**2, 0.0)
    share = 100 * total / pixels
    found: dict[str, Any] = {
        "MAXIMUM": present[-1], "MEAN": f"{mean:.14g}", "MINIMUM": present[0],
        "STDDEV": f"{math.sqrt(variance):.14g}",
        "VALID_PERCENT": "100" if total == pixels else f"{min(share, 99.99):.4g}",
    }  # fmt: skip
    return {f"STATISTICS_{name}": str(value) for name, value in found.items()}
