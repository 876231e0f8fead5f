"""Choose windows that hold much of something and lie apart: greedily, damped near those chosen."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cafe_cli.raster.window import Window

CELLS = 4
"""Cells along a side of a window; windows begin at every cell."""

_FULL = 0.5  # least share of a window's pixels that have a value
_REACH = 3.0  # standard deviations beyond which the damping is below 2 %


@dataclass(frozen=True)
class CellSums:
    """Sums over the cells of a raster, from which the sums over windows of cells are made.

    Parameters
    ----------
    width, height : int
        Of the raster, in pixels.
    cell : int
        Side of a cell in pixels.
    sums : ndarray of float64, (n, rows, columns)
        Of n quantities; the first is the number of pixels that count.
    """

    width: int
    height: int
    cell: int
    sums: NDArray[np.float64]

    @classmethod
    def empty(cls, width: int, height: int, cell: int, quantities: int) -> "CellSums":
        """Return sums of zero."""
        shape = (quantities, -(-height // cell), -(-width // cell))
        return cls(width, height, cell, np.zeros(shape))

    def add(self, window: Window, values: NDArray[np.float32]) -> None:
        """Add values (n, height, width) of a window."""
        down, right = window.row % self.cell, window.col % self.cell
        rows, columns = (
            -(-(before + n) // self.cell)
            for before, n in zip((down, right), values.shape[1:], strict=True)
        )
        padded = np.zeros((len(values), rows * self.cell, columns * self.cell), np.float32)
        padded[:, down : down + values.shape[1], right : right + values.shape[2]] = values
        blocks = padded.reshape(len(values), rows, self.cell, columns, self.cell)
        row, column = window.row // self.cell, window.col // self.cell
        self.sums[:, row : row + rows, column : column + columns] += blocks.sum(
            axis=(2, 4), dtype=np.float64
        )

    def coarsened(self, factor: int) -> "CellSums":
        """Return the sums over cells `factor` times as large."""
        count, high, wide = self.sums.shape
        rows, columns = -(-high // factor), -(-wide // factor)
        padded = np.zeros((count, rows * factor, columns * factor))
        padded[:, :high, :wide] = self.sums
        sums = padded.reshape(count, rows, factor, columns, factor).sum(axis=(2, 4))
        return CellSums(self.width, self.height, self.cell * factor, sums)

    def in_windows(self) -> NDArray[np.float64]:
        """Return the sums (n, rows, columns) in the window that begins at each cell.

        Windows lie inside the raster if it is large enough.
        """
        whole = np.pad(self.sums, ((0, 0), (1, 0), (1, 0))).cumsum(axis=1).cumsum(axis=2)
        high, wide = (min(CELLS, n) for n in self.sums.shape[1:])
        rows: NDArray[np.float64] = whole[:, high:] - whole[:, :-high]
        return rows[..., wide:] - rows[..., :-wide]

    def window(self, row: int, column: int) -> Window:
        """Return the window that begins at a cell, cut off at the raster's edges."""
        side = self.cell * CELLS
        right = min(column * self.cell + side, self.width)
        bottom = min(row * self.cell + side, self.height)
        return Window.from_bounds(column * self.cell, row * self.cell, right, bottom)


def choose(
    scores: NDArray[np.float64], pixels: NDArray[np.float64], cells: CellSums, count: int
) -> Iterator[tuple[int, int]]:
    """Yield the cells at which the best windows begin, the best first; at most `count`.

    The next is the window with the highest score after damping: near a chosen one, a score counts
    1 - exp(-d² / 2 s²), where d is the distance, and s half the distance between `count` windows
    that lie evenly. Windows that overlap a chosen one, or are less than half full, are left out.
    Of equal windows, the first by rows is chosen.

    Parameters
    ----------
    scores : ndarray, (rows, columns)
        Of the window that begins at each cell; a window of score 0 is never chosen.
    pixels : ndarray, (rows, columns)
        Pixels with a value in each window.
    cells : CellSums
    count : int
    """
    inside = np.minimum(CELLS * cells.cell, (cells.height, cells.width))
    left = np.where(pixels >= _FULL * np.prod(inside), scores, 0.0)
    area = cells.sums[0].sum() / cells.cell**2
    spacing = max(np.sqrt(area / count) / 2, CELLS / 2)
    for _ in range(count):
        row, column = divmod(int(left.argmax()), left.shape[1])
        if left[row, column] <= 0:
            return
        yield row, column
        _damp(left, row, column, float(spacing))


def _damp(left: NDArray[np.float64], row: int, column: int, spacing: float) -> None:
    reach = int(np.ceil(_REACH * spacing))
    rows = slice(max(row - reach, 0), row + reach + 1)
    columns = slice(max(column - reach, 0), column + reach + 1)
    down, right = (
        np.arange(s.start, min(s.stop, n)) - at
        for s, n, at in zip((rows, columns), left.shape, (row, column), strict=True)
    )
    near = [np.exp(-(d**2) / (2 * spacing**2)) for d in (down, right)]
    left[rows, columns] *= 1 - np.outer(*near)
    beside = np.outer(abs(down) < CELLS, abs(right) < CELLS)
    left[rows, columns][beside] = 0
