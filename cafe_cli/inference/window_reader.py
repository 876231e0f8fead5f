"""Rows of windows of a scene, read ahead by several threads, no pixel asked for twice."""

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cafe_cli.inference.tiling import WindowGrid
from cafe_cli.raster.window import Window
from cafe_cli.scenes.scene import Patch, Scene
from cafe_cli.system.threads import in_order

_PIECE = 1_000_000  # pixels that are read at a time, about
_BROAD = 2048  # columns that are read at a time, where the raster is stored in smaller blocks


@dataclass(frozen=True)
class WindowReader:
    """Reads rows of windows.

    Parameters
    ----------
    opened : callable
        Opens the scene; once in every thread.
    block : (int, int)
        Width and height of the blocks that it is stored in.
    slide : Slide
    jobs : int
        Threads.
    wanted : callable
        Whether anything of a window is wanted; the rest is not read.
    """

    opened: Callable[[], AbstractContextManager[Scene]]
    block: tuple[int, int]
    slide: WindowGrid
    jobs: int
    wanted: Callable[[Window], bool] = lambda window: True

    def rows(self, columns: Sequence[int], rows: Sequence[int]) -> Generator[Patch, None, None]:
        """Yield the pixels of each row of windows, from the first column to the end of the last.

        Parameters
        ----------
        columns, rows : sequence of int
            First pixels of the windows, each one step after the other.

        Yields
        ------
        Patch
            As high as a window; what lies beyond the scene, or was not wanted, is not valid. Its
            arrays are used again for the next one.
        """
        size = self.slide.window
        span = Window.from_bounds(columns[0], rows[0], columns[-1] + size, rows[-1] + size)
        pieces = list(self._pieces(span))
        tallest = max((piece.height for piece in pieces), default=0)
        buffer = Window(span.col, span.row, span.width, size + tallest)
        with closing(in_order(self.opened, Scene.read, pieces, self.jobs)) as read:
            yield from _assembled(zip(pieces, read, strict=True), buffer, size, rows)

    def _pieces(self, span: Window) -> Iterator[Window]:
        """Divide what is to be read along the blocks in which it is stored."""
        width, height = self._piece(span.width)
        for row, rows in _cut(span.row, span.bottom, height):
            for col, columns in _cut(span.col, span.right, width):
                piece = Window(col, row, columns, rows)
                if self.wanted(piece.expand(self.slide.window)):
                    yield piece

    def _piece(self, width: int) -> tuple[int, int]:
        """Return how broad and how high the pieces of a region are."""
        block, rows = self.block
        broad = max(_BROAD // block, 1) * block if block < width else width
        return broad, max(_PIECE // min(broad, width) // rows, 1) * rows


def _assembled(
    pieces: Iterator[tuple[Window, Patch]], extent: Window, size: int, rows: Sequence[int]
) -> Iterator[Patch]:
    """Put pieces together to rows of windows; `extent` is what is in memory at first."""
    buffer: _Buffer | None = None
    ahead = next(pieces, None)
    for row in rows:
        if buffer is not None:
            buffer.advance(row)
        while ahead is not None and ahead[0].row < row + size:
            if buffer is None:
                buffer = _Buffer(ahead[1], Window(extent.col, row, extent.width, extent.height))
            buffer.put(*ahead)
            ahead = next(pieces, None)
        yield buffer.top(size) if buffer else _nothing(extent.width, size)


class _Buffer:
    """Rows of pixels that move up."""

    def __init__(self, like: Patch, extent: Window) -> None:
        self._extent = extent
        shape = (extent.height, extent.width)
        bands, dtype = len(like.optical), like.optical.dtype
        self._held = Patch(
            np.zeros((bands, *shape), dtype), np.zeros(shape, bool),
            np.zeros(shape, np.float32), np.zeros(shape, bool),
        )  # fmt: skip

    def put(self, window: Window, patch: Patch) -> None:
        """Take what was read of a window."""
        place = window.slices(self._extent)
        for held, values in zip(_arrays(self._held), _arrays(patch), strict=True):
            held[..., *place] = values

    def advance(self, row: int) -> None:
        """Let `row` be the first one."""
        drop = min(row - self._extent.row, self._extent.height)
        kept = self._extent.height - drop
        for values in _arrays(self._held):
            for top in range(0, kept, drop):  # piece by piece, because the two may overlap
                end = min(top + drop, kept)
                values[..., top:end, :] = values[..., top + drop : end + drop, :]
            values[..., kept:, :] = 0
        self._extent = Window(self._extent.col, row, self._extent.width, self._extent.height)

    def top(self, rows: int) -> Patch:
        """Return the first rows, without a copy."""
        return self._held.at((slice(0, rows), slice(None)))


def _arrays(patch: Patch) -> tuple[NDArray[np.generic], ...]:
    return patch.optical, patch.optical_valid, patch.height, patch.height_valid


def _nothing(width: int, height: int) -> Patch:
    """Return a patch without a valid pixel and without bands: no window of it will be run."""
    empty = np.zeros((height, width), bool)
    none, level = np.zeros((0, height, width), np.uint8), np.zeros((height, width), np.float32)
    return Patch(none, empty, level, empty)


def _cut(first: int, last: int, size: int) -> Iterator[tuple[int, int]]:
    """Cut a range at the multiples of `size`: yield begin and length."""
    begin = first
    while begin < last:
        end = min((begin // size + 1) * size, last)
        yield begin, end - begin
        begin = end
