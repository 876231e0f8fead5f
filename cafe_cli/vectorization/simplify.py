"""Simplify outlines without changing what touches what (Visvalingam and Whyatt's algorithm).

A vertex goes if the triangle with its two neighbours is small, the smallest first, and if no other
vertex lies in that triangle: then no chain can cross another one or itself. Each border is one
chain for both regions, so that no gap and no overlap can arise. All is counted in whole pixels and
exact.

M. Visvalingam and J. D. Whyatt: Line generalisation by repeated elimination of points, The
Cartographic Journal 30, 1993, doi 10.1179/000870493786962263.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cafe_cli.raster.window import Window
from cafe_cli.regions.labelling import TILE
from cafe_cli.vectorization.outlines import NONE, Outlines

Whole = NDArray[np.int64]

_STAYS = np.iinfo(np.int64).max
_MIX = np.uint64(0x9E3779B97F4A7C15)  # odd: its multiples look random, and all differ
_ORDER_BITS = 20
_CELL = 16  # pixels
_MARGIN = 32  # a part of a tile's side
_TOUCH = 1e-6  # pixels; the corners of pixels are no nearer to an edge unless they lie on it


class _Points(NamedTuple):
    """A window of vertices, by local numbers."""

    x: Whole
    y: Whole
    previous: Whole
    next: Whole
    edges: NDArray[np.uint8]  # a bit for each edge of the tile that a vertex lies on


class Occupied:
    """Counts vertices in triangles, by the running sums of the rows of a window.

    Parameters
    ----------
    x, y : ndarray of int64, (n,)
        Vertices, from 0.
    """

    def __init__(self, x: Whole, y: Whole) -> None:
        self._taken = np.zeros((int(y.max(initial=0)) + 1, int(x.max(initial=0)) + 1), bool)
        self._taken[y, x] = True
        height, width = self._taken.shape
        self._sums = np.zeros((height, width + 1), np.int16 if width < 2**15 else np.int32)
        self.refresh()

    def remove(self, x: Whole, y: Whole) -> None:
        """Forget vertices, once `refresh` is called."""
        self._taken[y, x] = False

    def refresh(self) -> None:
        """Count again."""
        np.cumsum(self._taken, axis=1, dtype=self._sums.dtype, out=self._sums[:, 1:])

    def count(self, x: NDArray[Any], y: NDArray[Any]) -> Whole:
        """Count the vertices in triangles, edges included: (n,).

        Parameters
        ----------
        x, y : ndarray, (3, n)
            Corners, whole or not; they may lie outside the window.
        """
        top = np.maximum(np.ceil(y.min(axis=0) - _TOUCH).astype(np.int64), 0)
        lowest = np.floor(y.max(axis=0) + _TOUCH).astype(np.int64)
        rows = np.maximum(np.minimum(lowest, len(self._taken) - 1) - top + 1, 0)
        each = np.repeat(np.arange(len(rows)), rows)
        row = np.arange(len(each)) - np.repeat(np.cumsum(rows) - rows, rows) + top[each]
        low, high = _spans(x[:, each], y[:, each], row)
        width = self._taken.shape[1]
        first = np.clip(np.ceil(low - _TOUCH), 0, width).astype(np.int64)
        after = np.clip(np.floor(high + _TOUCH) + 1, 0, width).astype(np.int64)
        inside = np.maximum(self._sums[row, after] - self._sums[row, first], 0)
        return np.bincount(each, inside, len(rows)).astype(np.int64)


def _spans(
    x: NDArray[Any], y: NDArray[Any], row: Whole
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return where rows enter and leave triangles."""
    low, high = np.full(len(row), np.inf), np.full(len(row), -np.inf)
    for one, other in ((0, 1), (1, 2), (2, 0)):
        x0, x1, y0, y1 = x[one], x[other], y[one], y[other]
        # The ends of an edge count for rows that touch it; they belong to its neighbours, too.
        for end_x, end_y in ((x0, y0), (x1, y1)):
            meets = np.abs(end_y - row) <= _TOUCH
            low = np.where(meets, np.minimum(low, end_x), low)
            high = np.where(meets, np.maximum(high, end_x), high)
        crosses = (np.minimum(y0, y1) < row) & (row < np.maximum(y0, y1))
        at = x0 + (x1 - x0) * (row - y0) / np.where(crosses, y1 - y0, 1)
        low = np.where(crosses, np.minimum(low, at), low)
        high = np.where(crosses, np.maximum(high, at), high)
    return low, high


def simplify_tile(outlines: Outlines, window: Window, tolerance: float) -> Outlines:
    """Simplify the chains of one tile between their ends, where `trace` has cut them.

    Parameters
    ----------
    outlines : Outlines
    window : Window
        The tile.
    tolerance : float
        The side in pixels of a square; triangles up to its area go. With 0, only vertices on a
        straight line do.
    """
    kept = np.ones(len(outlines), bool)
    _simplify(outlines, np.arange(len(outlines)), kept, tolerance, window, TILE // _MARGIN)
    return outlines.take(kept)


def simplify_across(outlines: Outlines, tolerance: float) -> Outlines:
    """Simplify joined chains along the edges of tiles: in other tiles.

    Those are shifted, so that no place is at an edge three times, and then larger, for sides that
    reach through several tiles.
    """
    kept = np.ones(len(outlines), bool)
    _drop_straight(outlines, kept)
    passes = (
        (TILE, TILE // 2, TILE // _MARGIN), (TILE, TILE // 4, 0), (4 * TILE, TILE // 8, 0)
    )  # fmt: skip
    for size, shift, margin in passes:
        column, row = ((n.astype(np.int64) + shift) // size for n in (outlines.x, outlines.y))
        key = (row << 32) | column
        key[~kept] = NONE
        order = np.argsort(key, kind="stable")
        begins = np.flatnonzero(np.diff(key[order], prepend=NONE))
        for begin, end in zip(begins, np.append(begins[1:], len(order)), strict=True):
            first = order[begin]
            window = Window(column[first] * size - shift, row[first] * size - shift, size, size)
            _simplify(outlines, order[begin:end], kept, tolerance, window, margin)
    return outlines.take(kept)


def _drop_straight(outlines: Outlines, kept: NDArray[np.bool_]) -> None:
    """Remove the vertices on straight lines, most of which lie on the edges of tiles."""
    x, y = outlines.x.astype(np.int64), outlines.y.astype(np.int64)
    previous, after = outlines.previous, outlines.next
    todo = np.flatnonzero((previous >= 0) & (after >= 0))
    p, n = previous[todo], after[todo]
    todo = todo[(x[p] - x[todo]) * (y[n] - y[todo]) == (x[n] - x[todo]) * (y[p] - y[todo])]
    urgency = np.full(len(outlines), np.iinfo(np.uint64).max, np.uint64)
    urgency[todo] = todo.astype(np.uint64) * _MIX
    while len(todo):  # in rounds of vertices that are no neighbours
        p, n, own = previous[todo], after[todo], urgency[todo]
        chosen = (own < urgency[p]) & (own < urgency[n])
        after[p[chosen]], previous[n[chosen]] = n[chosen], p[chosen]
        kept[todo[chosen]] = False
        todo = todo[~chosen]


def _simplify(
    outlines: Outlines,
    members: NDArray[np.int64],
    kept: NDArray[np.bool_],
    tolerance: float,
    window: Window,
    margin: int,
) -> None:
    """Simplify where a vertex and both neighbours are among the members of a window.

    Vertices within `margin` pixels of the window's edge stay, as not all around them is known.
    `members` are in the order of their numbers.
    """
    if not len(members):
        return

    def local(links: NDArray[np.int32]) -> Whole:
        there = links[members]
        place = np.minimum(np.searchsorted(members, there), len(members) - 1)
        return np.where(members[place] == there, place, NONE)

    x, y = outlines.x[members].astype(np.int64), outlines.y[members].astype(np.int64)
    sides = np.stack([x - window.col, window.right - x, y - window.row, window.bottom - y])
    points = _Points(
        x - x.min(), y - y.min(), local(outlines.previous), local(outlines.next),
        np.packbits(sides == 0, axis=0)[0],
    )  # fmt: skip
    order = _order_equals(outlines, members)
    gone = _Simplifier(points, tolerance, order).run(sides.min(axis=0) >= margin)
    kept[members[gone]] = False
    for links, own in ((outlines.previous, points.previous), (outlines.next, points.next)):
        inside = own >= 0
        links[members[inside]] = members[own[inside]]


def _order_equals(outlines: Outlines, members: NDArray[np.int64]) -> Whole:
    """Return the order in which vertices of equal triangles go: numbers of `_ORDER_BITS`.

    Of the steps of a slanting border, the outer or the inner corners go first, so that the others
    lie on a straight line. Which ones alternates from cell to cell of a chequerboard, so that
    neither side gains. Within a cell the order looks random, so that few wait for others.
    """
    x, y = (n[members].astype(np.int64) for n in (outlines.x, outlines.y))
    before, after = outlines.previous[members], outlines.next[members]
    turn = (x - outlines.x[before]) * (outlines.y[after] - y) > (outlines.x[after] - x) * (
        y - outlines.y[before]
    )
    later = turn ^ (((x // _CELL + y // _CELL) % 2) > 0)
    mixed = ((y << 32) | x).astype(np.uint64) * _MIX
    random = (mixed >> np.uint64(65 - _ORDER_BITS)).astype(np.int64)
    return random | (later.astype(np.int64) << (_ORDER_BITS - 1))


class _Simplifier:
    """Removes vertices of a window, in rounds of vertices that are not neighbours.

    Parameters
    ----------
    points : _Points
    tolerance : float
    order : ndarray of int64, (n,)
        Vertices of equal triangles go in this order.
    """

    def __init__(self, points: _Points, tolerance: float, order: Whole) -> None:
        self._points, self._order = points, order
        self._limit = 2 * tolerance**2
        self._occupied = Occupied(points.x, points.y)
        self._gone = np.zeros(len(points.x), bool)
        self._key = np.full(len(points.x), _STAYS)
        stride = int(points.x.max()) + 1
        self._code = points.y * stride + points.x
        self._codes = int(self._code.max()) + 1
        ends = (points.previous < 0) & (points.next >= 0)
        straight = np.flatnonzero(ends)
        straight = straight[points.next[points.next[straight]] < 0]
        self._direct = self._pairs(straight, points.next[straight])

    def run(self, loose: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Return which of the `loose` vertices went; the links of the others are updated."""
        previous, after = self._points.previous, self._points.next
        self._loose = loose & (previous >= 0) & (after >= 0)
        free = np.flatnonzero(self._loose)
        changed = True
        while changed:
            changed = False
            todo = self._rate(free[~self._gone[free]])
            while len(todo):
                ready = self._lowest(todo)
                chosen = self._safe(ready)
                self._key[ready] = _STAYS
                changed |= len(chosen) > 0
                touched = self._remove(chosen)
                todo = np.union1d(todo[self._key[todo] != _STAYS], self._rate(touched))
            self._occupied.refresh()
        return self._gone

    def _rate(self, vertices: Whole) -> Whole:
        """Set the urgency of free vertices, and return those that may go."""
        x, y, previous, after, _ = self._points
        free = vertices[self._loose[vertices]]
        p, n = previous[free], after[free]
        area = np.abs((x[p] - x[free]) * (y[n] - y[free]) - (x[n] - x[free]) * (y[p] - y[free]))
        small = area <= self._limit
        self._key[free] = np.where(small, (area << _ORDER_BITS) | self._order[free], _STAYS)
        candidates: Whole = free[small]
        return candidates

    def _lowest(self, vertices: Whole) -> Whole:
        """Return the vertices that go before both neighbours."""
        key = self._key
        p, n = self._points.previous[vertices], self._points.next[vertices]
        first: Whole = vertices[(key[vertices] < key[p]) & (key[vertices] <= key[n])]
        return first

    def _safe(self, vertices: Whole) -> Whole:
        """Return the vertices whose removal changes nothing but the shape of their chain."""
        x, y, previous, after, edges = self._points
        p, n, code = previous[vertices], after[vertices], self._code
        # Along its edge, a tile does not know what its neighbour has there.
        collapses = (code[p] == code[n]) | (edges[p] & edges[n] > 0)
        for outer, opposite in ((previous[p], n), (after[n], p)):
            collapses |= (outer >= 0) & (code[outer] == code[opposite])
        vertices = vertices[~collapses]
        corners = np.stack([previous[vertices], vertices, after[vertices]])
        vertices = vertices[self._occupied.count(x[corners], y[corners]) == 3]
        pairs = self._pairs(previous[vertices], after[vertices])
        first = np.unique(pairs, return_index=True)[1]
        alone: Whole = vertices[first[~np.isin(pairs[first], self._direct)]]
        return alone

    def _pairs(self, one: Whole, other: Whole) -> Whole:
        """Return a number for each segment between two vertices, the same in both directions."""
        first, second = self._code[one], self._code[other]
        pairs: Whole = np.minimum(first, second) * self._codes + np.maximum(first, second)
        return pairs

    def _remove(self, vertices: Whole) -> Whole:
        """Take vertices out of their chains; return their neighbours."""
        x, y, previous, after, _ = self._points
        p, n = previous[vertices], after[vertices]
        after[p], previous[n] = n, p
        self._gone[vertices] = True
        self._occupied.remove(x[vertices], y[vertices])
        ends = (previous[p] < 0) & (after[n] < 0)
        self._direct = np.concatenate([self._direct, self._pairs(p[ends], n[ends])])
        neighbours: Whole = np.union1d(p, n)
        return neighbours
