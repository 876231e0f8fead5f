"""Windows of tiles: training tiles outside held-out ground, and scoring tiles without overlap."""

from collections.abc import Iterator, Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from cafe_cli.raster.window import Window

Starts: TypeAlias = tuple[NDArray[np.int64], NDArray[np.int64]]
"""First rows and first columns of the tiles of a scene."""


def clamped_offsets(length: int, size: int, stride: int) -> list[int]:
    """Return the first pixels of tiles that cover `length`; the last tile is moved back inside."""
    last = max(length - size, 0)
    return [*range(0, last, stride), last]


def training_windows(
    extent: Window, size: int, stride: int, kept_free: Sequence[Window]
) -> Iterator[Window]:
    """Cover a scene with tiles; leave out those that overlap a window of `kept_free`."""
    starts = training_starts(extent, size, stride)
    rows, cols = starts
    clear = np.ones((len(rows), len(cols)), bool)
    for free in kept_free:
        clear[overlapping(starts, size, free)] = False
    for row, col in np.argwhere(clear).tolist():
        yield Window(int(cols[col]), int(rows[row]), size, size)


def training_starts(extent: Window, size: int, stride: int) -> Starts:
    """Return the first rows and the first columns of the tiles that cover a scene."""
    return (
        extent.row + np.array(clamped_offsets(extent.height, size, stride)),
        extent.col + np.array(clamped_offsets(extent.width, size, stride)),
    )


def overlapping(starts: Starts, size: int, window: Window) -> tuple[slice, slice]:
    """Return which rows and columns of tiles overlap a window."""
    rows, cols = starts
    return (
        _overlapping(rows, size, window.row, window.height),
        _overlapping(cols, size, window.col, window.width),
    )


def _overlapping(starts: NDArray[np.int64], size: int, first: int, length: int) -> slice:
    """Return which tiles, `size` pixels from `starts`, overlap `length` pixels from `first`."""
    return slice(*np.searchsorted(starts, [first - size + 1, first + length]).tolist())


def scoring_windows(block: Window, size: int) -> Iterator[tuple[Window, Window]]:
    """Cover a block with tiles that score every pixel of it once.

    Yields
    ------
    tile, scored : Window
        If the block is not a multiple of `size`, tiles overlap, but their scored parts do not. A
        tile reaches beyond the block only if the block is smaller than `size`; the caller ensures
        that the block then lies at the edge of the raster.
    """
    below = block.row
    for row in clamped_offsets(block.height, size, size):
        top, right = below, block.col
        below = min(block.row + row + size, block.bottom)
        for col in clamped_offsets(block.width, size, size):
            left = right
            right = min(block.col + col + size, block.right)
            tile = Window(block.col + col, block.row + row, size, size)
            yield tile, Window.from_bounds(left, top, right, below)
