"""Read rows of windows of a scene ahead in several threads; every pixel is read once."""

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass

import numpy as np

from cafe_cli.inference.tiling import WindowGrid
from cafe_cli.raster.window import Window
from cafe_cli.scenes.scene import Patch, Scene
from cafe_cli.system.threads import in_order

_PIECE = 1_000_000  # pixels per read, about
_LARGEST_PIECE = 16_000_000  # pixels, where blocks are larger
_BROAD = 2048  # columns per read, where the raster is stored in smaller blocks


@dataclass(frozen=True)
class WindowReader:
    """Reads the rows of windows of a scene.

    Parameters
    ----------
    opener : callable
        Opens the scene; called once in every thread.
    block : (int, int)
        Width and height of the raster's blocks in pixels.
    windows : WindowGrid
    jobs : int
        Number of threads.
    is_needed : callable
        Whether a window contains pixels to predict; other windows are not read.
    """

    opener: Callable[[], AbstractContextManager[Scene]]
    block: tuple[int, int]
    windows: WindowGrid
    jobs: int
    is_needed: Callable[[Window], bool] = lambda window: True

    def rows(self, columns: Sequence[int], rows: Sequence[int]) -> Generator[Patch, None, None]:
        """Yield the pixels of each row of windows.

        Parameters
        ----------
        columns, rows : sequence of int
            First pixel columns and rows of the windows, in steps of the grid's stride.

        Yields
        ------
        Patch
            A row of windows, from the first column to the end of the last window. Pixels
            beyond the scene or not needed are not valid. The next patch reuses the arrays.
        """
        size = self.windows.size
        span = Window.from_bounds(columns[0], rows[0], columns[-1] + size, rows[-1] + size)
        pieces = list(self._pieces(span))
        tallest = max((piece.height for piece in pieces), default=0)
        buffer = Window(span.col, span.row, span.width, size + tallest)
        with closing(in_order(self.opener, Scene.read, pieces, self.jobs)) as read:
            yield from _assemble(zip(pieces, read, strict=True), buffer, size, rows)

    def _pieces(self, span: Window) -> Iterator[Window]:
        """Yield the windows to read: parts of `span` along the raster's blocks."""
        width, height = self._piece_size(span.width)
        for row, rows in _cut(span.row, span.bottom, height):
            for col, columns in _cut(span.col, span.right, width):
                piece = Window(col, row, columns, rows)
                if self.is_needed(piece.expand(self.windows.size)):
                    yield piece

    def _piece_size(self, width: int) -> tuple[int, int]:
        """Return width and height of the pieces of a region."""
        block, rows = self.block
        columns = max(_BROAD // block, 1) * block if block < width else width
        high = max(_PIECE // min(columns, width) // rows, 1) * rows
        # Parts of a huge block: GDAL keeps the last one that it has decoded.
        return columns, min(high, max(_LARGEST_PIECE // min(columns, width), 1))


def _assemble(
    pieces: Iterator[tuple[Window, Patch]], extent: Window, size: int, rows: Sequence[int]
) -> Iterator[Patch]:
    """Assemble pieces into rows of windows; `extent` is the size of the buffer."""
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
        yield buffer.top(size) if buffer else _empty_patch(extent.width, size)


class _Buffer:
    """A patch in memory that moves down the scene."""

    def __init__(self, like: Patch, extent: Window) -> None:
        self._extent = extent
        shape = (extent.height, extent.width)
        bands, dtype = len(like.optical), like.optical.dtype
        self._held = Patch(
            np.zeros((bands, *shape), dtype), np.zeros(shape, bool),
            np.zeros((len(like.heights), *shape), np.float32), np.zeros(shape, bool),
        )  # fmt: skip

    def put(self, window: Window, patch: Patch) -> None:
        """Copy the pixels of a window into the buffer."""
        place = window.slices(self._extent)
        for held, values in zip(self._held, patch, strict=True):
            held[..., *place] = values

    def advance(self, row: int) -> None:
        """Move the buffer down until `row` is its first row."""
        drop = min(row - self._extent.row, self._extent.height)
        kept = self._extent.height - drop
        for values in self._held:
            for top in range(0, kept, drop):  # in pieces, because source and target may overlap
                end = min(top + drop, kept)
                values[..., top:end, :] = values[..., top + drop : end + drop, :]
            values[..., kept:, :] = 0
        self._extent = Window(self._extent.col, row, self._extent.width, self._extent.height)

    def top(self, rows: int) -> Patch:
        """Return the first rows as a view."""
        return self._held.at((slice(0, rows), slice(None)))


def _empty_patch(width: int, height: int) -> Patch:
    """Return a patch without bands and without valid pixels: none of its windows is run."""
    empty = np.zeros((height, width), bool)
    none = np.zeros((0, height, width), np.uint8)
    return Patch(none, empty, none.astype(np.float32), empty)


def _cut(first: int, last: int, size: int) -> Iterator[tuple[int, int]]:
    """Cut [first, last) at the multiples of `size`: yield the start and length of each part."""
    begin = first
    while begin < last:
        end = min((begin // size + 1) * size, last)
        yield begin, end - begin
        begin = end
