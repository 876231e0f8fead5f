"""Outlines of regions as chains of vertices on the corners of pixels, each border once.

A border between two regions is a chain from node to node, or a closed one. A node is a corner where
more than two borders meet. Chains are doubly linked lists of vertices; the region with the higher
number lies to the right of the direction from `previous` to `next`.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cafe_cli.raster.window import Window
from cafe_cli.regions.labelling import Ids

NONE = -1
EAST, SOUTH, WEST, NORTH = range(4)
"""Directions in pixel coordinates; each is a right turn from the one before."""

_FIELDS = ("x", "y", "previous", "next", "right", "left", "leaves")


@dataclass
class Outlines:
    """Vertices of chains.

    Attributes
    ----------
    x, y : ndarray of int32, (n,)
        Corners of pixels: column and row.
    previous, next : ndarray of int32, (n,)
        Neighbours in the chain; -1 at the ends of a chain.
    right, left : ndarray of int32, (n,)
        The regions on both sides, of which the right one has the higher number; 0 for the outside
        and pixels without a class.
    leaves : ndarray of int8, (n,)
        The direction in which the chain leaves its end; -1 for vertices that are no end.
    """

    x: Ids
    y: Ids
    previous: Ids
    next: Ids
    right: Ids
    left: Ids
    leaves: NDArray[np.int8]

    def __len__(self) -> int:
        """Return the number of vertices."""
        return len(self.x)

    def take(self, kept: NDArray[np.bool_]) -> "Outlines":
        """Return the vertices that are kept; no kept one may be linked to another."""
        number = np.cumsum(kept, dtype=np.int32) - np.int32(1)
        found = Outlines(*(getattr(self, name)[kept] for name in _FIELDS))
        for links in (found.previous, found.next):
            links[:] = np.where(links >= 0, number[links], NONE)
        return found

    @classmethod
    def joined(cls, parts: list["Outlines"]) -> "Outlines":
        """Return the vertices of all parts; links within parts stay."""
        starts = np.cumsum([0, *map(len, parts)], dtype=np.int32)

        def collect(name: str) -> NDArray[Any]:
            return np.concatenate([getattr(part, name) for part in parts])

        def relink(name: str) -> Ids:
            links = [getattr(part, name) for part in parts]
            return np.concatenate(
                [
                    np.where(some >= 0, some + start, NONE).astype(np.int32)
                    for some, start in zip(links, starts, strict=False)
                ]
            )

        return cls(
            collect("x"), collect("y"), relink("previous"), relink("next"), collect("right"),
            collect("left"), collect("leaves"),
        )  # fmt: skip


class _Corners(NamedTuple):
    """The corners of a tile where chains end or turn, row by row."""

    row: NDArray[np.int64]
    column: NDArray[np.int64]
    sides: NDArray[np.bool_]  # (4, n): whether a border leaves in each direction
    ends: NDArray[np.bool_]


def trace(padded: Ids, window: Window) -> Outlines:
    """Trace the outlines in a tile.

    Chains end at every corner on the tile's edge; `link` joins them across it.

    Parameters
    ----------
    padded : ndarray of int32
        Numbers of regions with a column on the left and a row above the tile, and, where the raster
        ends, a column of zeros on the right and a row of zeros below.
    window : Window
        The tile in the raster.
    """
    upright = np.zeros((window.height + 1, padded.shape[1] - 1), bool)
    upright[:-1] = (padded[:, :-1] != padded[:, 1:])[1 : window.height + 1]
    level = np.zeros((padded.shape[0] - 1, window.width + 1), bool)
    level[:, :-1] = (padded[:-1] != padded[1:])[:, 1 : window.width + 1]
    corners = _find_corners(_fit(upright, window), _fit(level, window))
    return _chains(corners, padded, window)


def _fit(sides: NDArray[np.bool_], window: Window) -> NDArray[np.bool_]:
    """Return an array with an entry for each corner of the tile, (height + 1, width + 1)."""
    rows, columns = window.height + 1 - sides.shape[0], window.width + 1 - sides.shape[1]
    return np.pad(sides, ((0, rows), (0, columns)))


def _find_corners(upright: NDArray[np.bool_], level: NDArray[np.bool_]) -> _Corners:
    """Find corners where chains end or turn, from the sides that lead down and to the right."""
    up, left = np.zeros_like(upright), np.zeros_like(level)
    up[1:], left[:, 1:] = upright[:-1], level[:, :-1]
    straight = (up == upright) & (left == level) & (up != left)
    edge = np.zeros_like(upright)
    edge[[0, -1]] = edge[:, [0, -1]] = True
    row, column = np.nonzero((up | left | upright | level) & (edge | ~straight))
    sides = np.stack([a[row, column] for a in (level, upright, left, up)])
    return _Corners(row, column, sides, (sides.sum(axis=0) > 2) | edge[row, column])


def _chains(corners: _Corners, padded: Ids, window: Window) -> Outlines:
    """Make a vertex of each turn and of each end, and link those that a straight line connects."""
    row, column, sides, ends = corners
    per_side = sides & ends
    count = np.where(ends, per_side.sum(axis=0), 1)
    first = np.cumsum(count) - count
    # (4, n): the vertex at which the side in each direction begins
    vertex = first + np.where(ends, np.cumsum(per_side, axis=0) - per_side, 0)
    total = int(count.sum())
    found = Outlines(
        np.repeat(column + window.col, count).astype(np.int32),
        np.repeat(row + window.row, count).astype(np.int32),
        np.full(total, NONE, np.int32),
        np.full(total, NONE, np.int32),
        np.zeros(total, np.int32),
        np.zeros(total, np.int32),
        np.full(total, NONE, np.int8),
    )
    for direction in range(4):
        found.leaves[vertex[direction][per_side[direction]]] = direction
    by_column = np.lexsort((row, column))
    for direction, order in ((EAST, np.arange(len(row))), (SOUTH, by_column)):
        at = np.flatnonzero(sides[direction][order])
        start, stop = order[at], order[at + 1]
        _link(found, vertex[direction][start], vertex[direction + 2][stop],
              *_beside(padded, row[start], column[start], direction))  # fmt: skip
    return found


def _beside(
    padded: Ids, row: NDArray[np.int64], column: NDArray[np.int64], direction: int
) -> tuple[Ids, Ids]:
    """Return the regions right and left of a side that leads east or south from a corner."""
    inner = padded[row + 1, column + 1]
    return (
        (inner, padded[row, column + 1]) if direction == EAST else (padded[row + 1, column], inner)
    )


def _link(
    found: Outlines, start: NDArray[np.int64], stop: NDArray[np.int64], right: Ids, left: Ids
) -> None:
    """Link vertices in the direction that has the higher number to its right."""
    forward = right > left
    before, after = np.where(forward, start, stop), np.where(forward, stop, start)
    found.next[before], found.previous[after] = after, before
    high, low = np.maximum(right, left), np.minimum(right, left)
    for ends in (start, stop):
        found.right[ends], found.left[ends] = high, low


def join_seams(outlines: Outlines, width: int, height: int) -> Outlines:
    """Join the chains of neighbouring tiles where exactly two ends meet; more are a node.

    The corners of the raster, whose size is `width` x `height` pixels, stay ends: a map keeps them.
    """
    corner = np.isin(outlines.x, (0, width)) & np.isin(outlines.y, (0, height))
    end = np.flatnonzero((outlines.leaves != NONE) & ~corner)
    key = (outlines.y[end].astype(np.int64) << 32) | outlines.x[end]
    order = np.argsort(key, kind="stable")
    end, key = end[order], key[order]
    begin = np.flatnonzero(np.append(True, key[1:] != key[:-1])) if len(key) else np.zeros(0, int)
    sizes = np.diff(np.append(begin, len(key)))
    pairs = begin[sizes == 2]
    one, other = end[pairs], end[pairs + 1]
    swap = (
        outlines.previous[one] < 0
    )  # `one` is to be where a chain stops, `other` where one starts
    one, other = np.where(swap, other, one), np.where(swap, one, other)
    after = outlines.next[other]
    outlines.next[one], outlines.previous[after] = after, one
    outlines.leaves[one] = NONE
    kept = np.ones(len(outlines), bool)
    kept[other] = False
    return outlines.take(kept)
