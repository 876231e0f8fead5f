"""How often each value occurs in a raster: for attribute tables and statistics."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
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
    return _tags(present[0], present[-1], mean, math.sqrt(variance), total / pixels)


@dataclass
class FloatStatistics:
    """Running statistics of a band of floating point numbers, in float64."""

    count: int = 0
    low: float = math.inf
    high: float = -math.inf
    total: float = 0.0
    squares: float = 0.0

    def add(self, values: NDArray[Any], nodata: float) -> None:
        """Add the pixels that are neither `nodata` nor NaN."""
        known = values[(values != nodata) & ~np.isnan(values)].astype(np.float64)
        if known.size:
            self.count += known.size
            self.low, self.high = min(self.low, known.min()), max(self.high, known.max())
            self.total += float(known.sum())
            self.squares += float(known @ known)

    def tags(self, pixels: int) -> dict[str, str]:
        """Return what `statistics_tags` returns, for a band of that many pixels."""
        if not self.count:
            return {}
        mean = self.total / self.count
        deviation = math.sqrt(max(self.squares / self.count - mean**2, 0.0))
        # Fewer digits than sums keep, whose last ones depend on how the band was divided.
        mean, deviation = float(f"{mean:.9g}"), float(f"{deviation:.9g}")
        return _tags(self.low, self.high, mean, deviation, self.count / pixels)


def _tags(low: float, high: float, mean: float, deviation: float, share: float) -> dict[str, str]:
    # As GDAL does, 100 only if no pixel is without data.
    valid = "100" if share == 1 else f"{min(100 * share, 99.99):.4g}"
    numbers = {"MAXIMUM": high, "MEAN": mean, "MINIMUM": low, "STDDEV": deviation}
    found = {name: f"{value:.14g}" for name, value in numbers.items()}
    return {f"STATISTICS_{name}": text for name, text in {**found, "VALID_PERCENT": valid}.items()}
