"""Rules for images, labels, grids and storage: findings about arrays and numbers."""

import math
from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

from cafe_cli.checks.facts import RasterFacts
from cafe_cli.classes import ClassTable
from cafe_cli.config.schema import LabelSettings
from cafe_cli.findings import Finding
from cafe_cli.raster.grid import Grid
from cafe_cli.raster.reader import Array
from cafe_cli.scenes.label_coding import (
    LabelTally,
    explain_nodata,
    explain_unknown,
    list_values,
)

_BIG = 25_000_000  # pixels of a raster that should be tiled

_error, _warning, _note = (partial(Finding, level) for level in ("error", "warning", "note"))


def check_image(values: Array, bands: Sequence[int]) -> Iterator[Finding]:
    """Check the valid pixels (bands, n) of an optical raster; `bands` are their numbers."""
    if not values.size:
        yield _warning("no valid pixel in any of the sampled windows")
        return
    for number, band in zip(bands, values, strict=True):
        if band.min() == band.max():
            yield _warning(f"band {number} is {band[0]:g} everywhere: it carries no information")
    bits = int(values.max()).bit_length() if values.dtype.kind in "iu" else 0
    if values.dtype.itemsize == 2 and 0 < bits <= 12:
        used = next(b for b in (8, 10, 11, 12) if bits <= b)
        yield _note(
            f"{values.dtype.name} pixels that use only {used} bits (values up to {values.max()}); "
            "all rasters for one model must be scaled in the same way"
        )


def check_labels(
    counts: NDArray[np.int64], tally: LabelTally, classes: ClassTable, settings: LabelSettings
) -> Iterator[Finding]:
    """Check the pixel counts per class id (K,), and the values that need a word."""
    if tally.unknown and settings.encoding == "ids":
        yield _error(f"{explain_unknown(tally.unknown, classes)}; check --json lists all of them")
    elif tally.unknown:
        listed = list_values(tally.unknown)
        yield _note(
            f"label colours without a class, which get the class of the nearest colour: {listed}"
        )
    elif not counts.any():
        left_out = f" ({list_values(tally.ignored)} ignored)" if tally.ignored else ""
        yield _error(
            f"no label in any of the sampled windows{left_out}; check labels.encoding and the CRS"
        )
    for message in explain_nodata(tally, classes, settings):
        yield _note(message)
    unseen = [c.name for c in classes if not counts[c.id] and c.name not in settings.absent]
    if counts.any() and unseen:
        yield _note(f"classes without a pixel in the sampled windows: {', '.join(unseen)}")


def pixel_shift(grid: Grid, reference: Grid) -> tuple[float, float] | None:
    """Return the offset (columns, rows) of a grid from the pixels of another, within half a pixel.

    Return None if CRS, pixel size or rotation differ, so that no offset exists.
    """
    between = ~reference.transform @ grid.transform
    same = np.allclose([between.a, between.b, between.d, between.e], [1, 0, 0, 1], atol=1e-6)
    if grid.crs != reference.crs or not same:
        return None
    column, row = (x - math.floor(x + 0.5) for x in (between.c, between.f))
    return column, row


def check_grid(stream: str, grid: Grid, reference: Grid) -> Iterator[Finding]:
    """Compare the pixels of heights or labels with those of the image."""
    shift = pixel_shift(grid, reference)
    if shift and max(map(abs, shift)) > 1e-3:
        how = "taken from the nearest pixel" if stream == "labels" else "interpolated"
        yield _note(
            f"lies {abs(shift[0]):.2f} columns and {abs(shift[1]):.2f} rows off the pixel grid of "
            f"the image: {stream} values are {how}"
        )
    ratio = grid.gsd / reference.gsd
    if ratio > 4 and stream != "dtm":
        yield (_warning if ratio > 10 else _note)(
            f"pixels of {grid.gsd:.3g} m are {ratio:.1f} times as large as those of the image "
            f"({reference.gsd:.3g} m): outlines will be as coarse"
        )


def check_storage(raster: RasterFacts) -> Iterator[Finding]:
    """Check whether a raster is stored so that windows can be read quickly."""
    strips = raster.block[1] >= raster.width > 1024
    if strips and not raster.overviews and raster.width * raster.height > _BIG:
        yield _note(
            f"{raster.width} x {raster.height} pixels without tiling or overviews: every window "
            "reads whole rows; convert it with gdal_translate -of COG for faster reading"
        )
