"""Samples of a raster: windows spread over it, as they are stored."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from rasterio.io import DatasetReader

from cafe_cli.raster.reader import Array, Mask
from cafe_cli.raster.skipped import Skipped
from cafe_cli.raster.skipping import read_or_skip
from cafe_cli.raster.window import Window, spread


class Sample(NamedTuple):
    """A window of a raster, as it is stored.

    Attributes
    ----------
    values : ndarray, (bands, height, width)
    valid : ndarray of bool, (height, width)
        Where there is data: neither declared void nor not finite.
    sides : tuple of bool
        Which sides of the window are sides of the raster: top, bottom, left, right.
    """

    values: Array
    valid: Mask
    sides: tuple[bool, bool, bool, bool]


def read_samples(
    dataset: DatasetReader,
    bands: Sequence[int],
    nodata: float | None = None,
    count: int = 4,
    skipped: Skipped | None = None,
) -> Iterator[Sample]:
    """Read at most `count` x `count` windows of 256 x 256 pixels spread over a raster and its rim.

    Parameters
    ----------
    dataset : DatasetReader
    bands : sequence of int
        From 1.
    nodata : float, optional
        Replaces the raster's own.
    count : int
    skipped : Skipped, optional
        Pixels that cannot be read are not valid, instead of an error; they are not counted there.

    Raises
    ------
    InputError
        The file is damaged in a window, and `skipped` is None.
    """
    whole = Window(0, 0, dataset.width, dataset.height)
    aside = skipped and skipped.aside()
    for window in spread(dataset.width, dataset.height, 256, count):
        values, valid, _ = read_or_skip(dataset, whole, window, bands, nodata, aside)
        if values.dtype.kind == "f":
            valid &= np.isfinite(values).all(axis=0)
        left, top, right, bottom = window.bounds
        sides = top == 0, bottom == dataset.height, left == 0, right == dataset.width
        yield Sample(values, valid, sides)
