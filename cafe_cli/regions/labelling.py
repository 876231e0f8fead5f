"""Connected regions of a label raster: found tile by tile, joined across the tiles' edges.

A region is a set of pixels of one class that are connected by their sides. Regions are numbered
from 1 in the order of the tiles; 0 stands for pixels without a class and for the outside.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from cafe_cli.classes import NODATA
from cafe_cli.raster.window import Window, blocks

TILE = 1024
"""Side in pixels of the tiles, whose grid begins at the raster's first pixel."""

Ids = NDArray[np.int32]
ReadClasses = Callable[[Window], NDArray[np.uint8]]
"""Reads the class ids (height, width) of a window; 255 is no class."""


class LabelledTile(NamedTuple):
    """A tile whose connected pixels of one class have one number.

    Attributes
    ----------
    window : Window
    local : ndarray of int32, (height, width)
        1 to n; 0 where there is no class.
    classes : ndarray of uint8, (n,)
        The class of each number.
    """

    window: Window
    local: Ids
    classes: NDArray[np.uint8]


class Contacts(NamedTuple):
    """Regions that share a border: their numbers (n,) and the pixel sides of the border (n,)."""

    first: NDArray[np.int64]
    second: NDArray[np.int64]
    sides: NDArray[np.int64]


@dataclass(frozen=True)
class Regions:
    """All regions, by number; the entries at 0 stand for what has no class.

    Attributes
    ----------
    classes : ndarray of uint8, (n,)
    pixels : ndarray of int64, (n,)
    metres : ndarray of float64, (n,)
        Areas in square metres.
    number : ndarray of int32, (m,)
        The region of each piece: pieces are numbered like regions before those that a tile's edge
        cuts are joined.
    """

    classes: NDArray[np.uint8]
    pixels: NDArray[np.int64]
    metres: NDArray[np.float64]
    number: Ids

    def __len__(self) -> int:
        """Return the number of regions."""
        return len(self.classes) - 1


def label_tiles(width: int, height: int, read: ReadClasses) -> Iterator[LabelledTile]:
    """Read a raster tile by tile, row by row, and label each tile."""
    for window in blocks(width, height, TILE):
        ids = read(window)
        local = np.zeros(ids.shape, np.int32)
        present = np.flatnonzero(np.bincount(ids.ravel(), minlength=NODATA + 1)[:NODATA])
        classes = [np.zeros(0, np.uint8)]
        count = 0
        for value in present:
            here = ids == value
            found, more = ndimage.label(here)
            local[here] = found[here] + count
            classes.append(np.full(more, value, np.uint8))
            count += more
        yield LabelledTile(window, local, np.concatenate(classes))


def relabel(
    width: int, height: int, read: ReadClasses, regions: Regions
) -> Iterator[tuple[Window, NDArray[np.uint8]]]:
    """Yield each tile of a raster with the classes (height, width) that its regions have."""
    first = 1
    for tile in label_tiles(width, height, read):
        after = first + len(tile.classes)
        classes = regions.classes[regions.number[first:after]]
        first = after
        yield tile.window, np.append(np.uint8(NODATA), classes)[tile.local]


class Seams:
    """Remembers the last row and column of the tiles, so that each tile has what lies before it."""

    def __init__(self, width: int) -> None:
        self._above = np.zeros(width + 1, np.int32)  # the first entry lies left of the raster
        self._row = np.zeros(width + 1, np.int32)
        self._column = np.zeros(0, np.int32)

    def pad(self, window: Window, ids: Ids) -> Ids:
        """Return a tile's numbers with a column on the left and a row above, (h + 1, w + 1).

        They are those of the neighbouring tiles, 0 outside the raster.
        """
        if window.col == 0:
            self._above, self._row = self._row, np.zeros_like(self._row)
            self._column = np.zeros(window.height, np.int32)
        padded = np.empty((window.height + 1, window.width + 1), np.int32)
        padded[0] = self._above[window.col : window.right + 1]
        padded[1:, 0] = self._column
        padded[1:, 1:] = ids
        self._row[window.col + 1 : window.right + 1] = ids[-1]
        self._column = ids[:, -1].copy()
        return padded


def find_contacts(padded: Ids) -> Contacts:
    """Find the regions that touch by sides in a tile, or across its upper and left edge."""
    inner = padded[1:, 1:]
    across = [(padded[1:, :-1], inner), (padded[:-1, 1:], inner)]
    keys = []
    for one, other in across:
        differ = (one != other) & (one > 0) & (other > 0)
        pair = np.stack([one[differ], other[differ]]).astype(np.int64)
        keys.append((pair.min(axis=0) << 32) | pair.max(axis=0))
    key, sides = np.unique(np.concatenate(keys), return_counts=True)
    return Contacts(key >> 32, key & 0xFFFFFFFF, sides)


def join_contacts(first: NDArray[np.int64], second: NDArray[np.int64], count: int) -> Ids:
    """Return the number of the group of each of `count` things; pairs connect a group.

    Groups are numbered in the order of their first members. Thing 0 belongs to no pair and is
    group 0.
    """
    graph = coo_array((np.ones(len(first), bool), (first, second)), shape=(count, count))
    label = connected_components(graph, directed=False)[1]
    _, begin, inverse = np.unique(label, return_index=True, return_inverse=True)
    rank = np.empty(len(begin), np.int32)
    rank[np.argsort(begin)] = np.arange(len(begin), dtype=np.int32)
    number: Ids = rank[inverse]
    return number
