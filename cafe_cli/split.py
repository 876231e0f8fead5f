"""Which ground trains and which validates: spatial blocks, never random tiles."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from cafe_cli.windows import Window

_DRAWS = 1000


@dataclass(frozen=True)
class Block:
    """A part of a scene that goes to one split as a whole.

    Attributes
    ----------
    scene : str
    window : Window
    counts : ndarray of int64, (K,)
        Labelled pixels per class.
    """

    scene: str
    window: Window
    counts: NDArray[np.int64]


def divide(width: int, height: int, side: int) -> Iterator[Window]:
    """Divide a raster into near-square blocks of at least `side` pixels where it is that large."""
    columns, rows = (
        np.linspace(0, n, max(1, n // side) + 1).round().astype(int).tolist()
        for n in (width, height)
    )
    for top, bottom in pairwise(rows):
        for left, right in pairwise(columns):
            yield Window(left, top, right - left, bottom - top)


def choose(blocks: Sequence[Block], share: float, seed: int) -> set[int]:
    """Choose blocks with about `share` of the labels, of every class as nearly as can be.

    Many random choices are drawn and the one is kept whose share of each class is closest to
    `share`, among those where the most classes that occur in two blocks occur on both sides.

    Returns
    -------
    set of int
        Indices into `blocks`; empty where the share is 0 or there is one block only.
    """
    used = [i for i, b in enumerate(blocks) if b.counts.any()]
    if share <= 0 or len(used) < 2:
        return set()
    counts = np.array([blocks[i].counts for i in used], float)
    counts = counts[:, counts.sum(axis=0) > 0]
    total = counts.sum()
    divisible = (counts > 0).sum(axis=0) >= 2
    random = np.random.default_rng(seed)
    best, chosen = np.inf, np.array([], int)
    for _ in range(_DRAWS):
        order = random.permutation(len(used))
        reached = counts[order].sum(axis=1).cumsum() / total
        # Whichever prefix comes nearest to the share, never all of the blocks and never none.
        many = int(np.clip(np.abs(reached - share).argmin() + 1, 1, len(used) - 1))
        shares = counts[order[:many]].sum(axis=0) / counts.sum(axis=0)
        one_sided = divisible & ((shares == 0) | (shares == 1))
        miss = float(np.abs(shares - share).sum() + one_sided.sum() * len(shares))
        if miss < best:
            best, chosen = miss, order[:many]
    return {used[i] for i in chosen.tolist()}


def flush(length: int, size: int, step: int) -> list[int]:
    """Return the first pixels of the tiles that cover `length`; the last is moved back inside."""
    last = max(length - size, 0)
    return [*range(0, last, step), last]


def training_windows(
    extent: Window, size: int, step: int, kept_free: Sequence[Window]
) -> Iterator[Window]:
    """Cover a scene with tiles that touch none of the windows `kept_free`."""
    for row in flush(extent.height, size, step):
        for col in flush(extent.width, size, step):
            tile = Window(col, row, size, size)
            if not any(tile.intersection(free) for free in kept_free):
                yield tile


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
        below = min(block.row + row + size, block.row + block.height)
        for col in flush(block.width, size, size):
            left = right
            right = min(block.col + col + size, block.col + block.width)
            tile = Window(block.col + col, block.row + row, size, size)
            yield tile, Window(left, top, right - left, below - top)
