"""Count the pixels of every tile that a scene may have, while its labels are read once.

A scene is cut into cells along the edges of all tiles that any split may plan, and the pixels are
counted per cell. A sum over cells is then exact for every tile, and the number of cells is a small
multiple of that of tiles, however many pixels these have.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from cafe_cli.classes import NODATA
from cafe_cli.config.schema import TileSettings
from cafe_cli.raster.window import Window
from cafe_cli.splits.assign import Split, block_edges
from cafe_cli.splits.tiling import clamped_offsets

Counts = NDArray[np.int64]


@dataclass(frozen=True)
class CellCounter:
    """Counts the pixels of one scene per cell.

    Parameters
    ----------
    rows, cols : ndarray of int64
        Edges of the cells in pixels, both ends of the scene included.
    classes : int
        Number of classes K.
    """

    rows: NDArray[np.int64]
    cols: NDArray[np.int64]
    classes: int

    @classmethod
    def of(
        cls, width: int, height: int, tiling: tuple[int, int, int], classes: int
    ) -> "CellCounter":
        """Cut a scene along the edges of all its tiles.

        `tiling` is the size and the stride of the tiles and the side of the blocks in pixels.
        """
        return cls(_edges(height, *tiling), _edges(width, *tiling), classes)

    def empty(self) -> Counts:
        """Return a count of nothing: (rows, columns, K + 1), unlabelled valid pixels last."""
        return np.zeros((len(self.rows) - 1, len(self.cols) - 1, self.classes + 1), np.int64)

    def within(self, window: Window) -> "CellCounter":
        """Return the counter of a window whose sides are edges."""
        rows, cols = (
            edges[slice(*np.searchsorted(edges, [first, last + 1]))]
            for edges, first, last in (
                (self.rows, window.row, window.bottom),
                (self.cols, window.col, window.right),
            )
        )
        return CellCounter(rows, cols, self.classes)

    def add(
        self,
        total: Counts,
        window: Window,
        ids: NDArray[np.uint8],
        valid: NDArray[np.bool_],
    ) -> None:
        """Add a window to the counts: its class ids and where the image is valid."""
        kinds = np.full(NODATA + 1, self.classes)
        kinds[: self.classes] = np.arange(self.classes)
        rows = _cell_of(self.rows, window.row, window.bottom)
        cols = _cell_of(self.cols, window.col, window.right)
        shape = rows[-1] - rows[0] + 1, cols[-1] - cols[0] + 1, self.classes + 2
        found = kinds[ids]
        if not valid.all():
            found[~valid] = self.classes + 1
        found += ((rows - rows[0]) * shape[1] * shape[2])[:, None]
        found += (cols - cols[0]) * shape[2]
        counts = np.bincount(found.ravel(), minlength=int(np.prod(shape)))
        total[rows[0] : rows[-1] + 1, cols[0] : cols[-1] + 1] += counts.reshape(shape)[..., :-1]

    def put(self, total: Counts, window: Window, counts: Counts) -> None:
        """Put the counts of a window whose sides are edges into those of the scene."""
        row, col = np.searchsorted(self.rows, window.row), np.searchsorted(self.cols, window.col)
        total[row : row + counts.shape[0], col : col + counts.shape[1]] = counts

    def table(self, total: Counts) -> "TileCounts":
        """Return the counts as a table that is asked for tiles."""
        sums = np.zeros((len(self.rows), len(self.cols), self.classes + 1), np.int64)
        sums[1:, 1:] = total.cumsum(axis=0).cumsum(axis=1)
        return TileCounts(self.rows, self.cols, sums)


@dataclass(frozen=True)
class TileCounts:
    """The pixels of a scene as a summed-area table.

    Attributes
    ----------
    rows, cols : ndarray of int64
        Edges of the cells.
    sums : ndarray of int64, (rows, columns, K + 1)
        Pixels above and to the left of each corner of a cell.
    """

    rows: NDArray[np.int64]
    cols: NDArray[np.int64]
    sums: Counts

    def of(self, windows: Sequence[Window]) -> Counts:
        """Return the valid pixels of each window per class, unlabelled ones last: (N, K + 1).

        The edges of a window have to be edges of cells, or lie outside the scene.
        """
        bounds = np.array([w.bounds for w in windows], np.int64).reshape(-1, 4)
        left, right = (self._place(self.cols, bounds[:, i]) for i in (0, 2))
        top, bottom = (self._place(self.rows, bounds[:, i]) for i in (1, 3))
        sums = self.sums
        found: Counts = (
            sums[bottom, right] - sums[top, right] - sums[bottom, left] + sums[top, left]
        )
        return found

    @staticmethod
    def _place(edges: NDArray[np.int64], values: NDArray[np.int64]) -> NDArray[np.int64]:
        return np.searchsorted(edges, values.clip(edges[0], edges[-1]))


def enough_pixels(
    split: Split, valid: NDArray[np.float64], labelled: NDArray[np.float64], tile: TileSettings
) -> NDArray[np.bool_]:
    """Return which tiles are kept: those with any label, in training with their shares of pixels.

    Parameters
    ----------
    split : Split
    valid, labelled : ndarray of float64, (N,)
        Shares of the area of each tile.
    tile : TileSettings
        With ``min_valid`` and ``min_labelled``.
    """
    if split != "train":
        return labelled > 0
    return (valid >= tile.min_valid) & (labelled >= tile.min_labelled)


def _cell_of(edges: NDArray[np.int64], first: int, last: int) -> NDArray[np.int64]:
    """Return the cell of each pixel from `first` to before `last`."""
    return np.searchsorted(edges, np.arange(first, last), "right") - 1


def _edges(length: int, size: int, stride: int, side: int) -> NDArray[np.int64]:
    """Return the edges along `length` pixels: of training tiles, and of tiles that score blocks."""
    starts = clamped_offsets(length, size, stride)
    ends = block_edges(length, side)
    for first, last in [(0, length), *pairwise(ends)]:
        starts += [first + start for start in clamped_offsets(last - first, size, size)]
    every = np.array([*starts, *(start + size for start in starts), *ends])
    return np.unique(every[every <= length]).astype(np.int64)
