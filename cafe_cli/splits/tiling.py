"""Tiles of ground that a split has been given: training tiles apart from what is held out."""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from cafe_cli.raster.window import Window


def flush(length: int, size: int, step: int) -> list[int]:
    """Return the first pixels of the tiles that cover `length`; the last is moved back inside."""
    last = max(length - size, 0)
    return [*range(0, last, step), last]


def training_windows(
    extent: Window, size: int, step: int, kept_free: Sequence[Window]
) -> Iterator[Window]:
    """Cover a scene with tiles that touch none of the windows `kept_free`."""
    rows = extent.row + np.array(flush(extent.height, size, step))
    cols = extent.col + np.array(flush(extent.width, size, step))
    clear = np.ones((len(rows), len(cols)), bool)
    for free in kept_free:
        met = (
            _meeting(rows, size, free.row, free.height),
            _meeting(cols, size, free.col, free.width),
        )
        clear[met] = False
    for row, col in np.argwhere(clear).tolist():
        yield Window(int(cols[col]), int(rows[row]), size, size)


def _meeting(starts: NDArray[np.int64], size: int, first: int, length: int) -> slice:
    """Return which of the tiles of `size` pixels from `starts` meet `length` from `first`."""
    return slice(*np.searchsorted(starts, [first - size + 1, first + length]).tolist())


def scoring_windows(block: Window, size: int) -> Iterator[tuple[Window, Window]]:
    """Cover a block with tiles inside it, each with the part of it that only this tile scores.

    Yields
    ------
    tile, scored : Window
        Tiles overlap where the block is no multiple of `size`; the scored parts never do, so that
        every pixel counts once. Only where the block is smaller than `size` does a tile reach
        beyond it; the caller makes sure that nothing but the raster's edge lies there.
    """
    below = block.row
    for row in flush(block.height, size, size):
        top, right = below, block.col
        below = min(block.row + row + size, block.bottom)
        for col in flush(block.width, size, size):
            left = right
            right = min(block.col + col + size, block.right)
            tile = Window(block.col + col, block.row + row, size, size)
            yield tile, Window.from_bounds(left, top, right, below)
