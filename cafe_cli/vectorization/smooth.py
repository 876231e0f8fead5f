"""Round the corners of outlines without changing what touches what.

A corner becomes a quadratic Bezier curve between points on its two sides. The curve stays in the
triangle of these points and the corner, and a corner is rounded only if no other vertex lies in
that triangle: then no curve can cross another chain. Ends of chains stay.
"""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from cafe_cli.regions.labelling import TILE
from cafe_cli.vectorization.assemble import Chains
from cafe_cli.vectorization.simplify import Occupied

Points = NDArray[np.float64]

_STEPS = np.array([0, 1 / 3, 2 / 3, 1])  # along a curve
_REACH = 2.0  # pixels, or tolerances: the most of a side that a curve takes


def smooth(chains: Chains, tolerance: float) -> Chains:
    """Round the corners of chains.

    Parameters
    ----------
    chains : Chains
    tolerance : float
        Of the simplification, in pixels: curves reach at most twice as far, or two pixels, and at
        most to the middle of a side.
    """
    before, after = _neighbours(chains)
    inner = np.flatnonzero((before >= 0) & (after >= 0))
    corner = chains.points[inner]
    reach = _REACH * max(tolerance, 1.0)
    start, stop = (_along(corner, chains.points[n[inner]], reach) for n in (before, after))
    free = _find_free(chains.points, corner, start, stop, reach)
    count = np.ones(len(chains.points), np.int64)
    count[inner[free]] = len(_STEPS)
    first = np.cumsum(count) - count
    points = np.repeat(chains.points, count, axis=0)
    for number, t in enumerate(_STEPS):
        curve = (1 - t) ** 2 * start + 2 * t * (1 - t) * corner + t**2 * stop
        points[first[inner[free]] + number] = curve[free]
    starts = np.append(first, len(points))[chains.starts]
    return _without_repetition(replace(chains, points=points, starts=starts))


def _neighbours(chains: Chains) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the vertices before and after each in its chain, -1 at its ends."""
    begin, end = chains.starts[:-1], chains.starts[1:] - 1
    before = np.arange(len(chains.points)) - 1
    after = before + 2
    before[begin] = np.where(chains.closed, end, -1)
    after[end] = np.where(chains.closed, begin, -1)
    return before, after


def _along(corner: Points, other: Points, reach: float) -> Points:
    """Return the points where curves begin, on the sides from corners to other vertices."""
    side = other - corner
    share = np.minimum(0.5, reach / np.hypot(*side.T))
    found: Points = corner + share[:, None] * side
    return found


def _find_free(
    points: Points, corner: Points, start: Points, stop: Points, reach: float
) -> NDArray[np.bool_]:
    """Return at which corners the triangle holds no other vertex."""
    free = np.zeros(len(corner), bool)
    if not len(corner):
        return free
    margin = int(np.ceil(reach)) + 1
    order, rows = np.argsort(points[:, 1]), np.argsort(corner[:, 1])
    heights = points[order, 1]
    for top in range(0, int(heights[-1]) + 1, TILE):
        low, high = np.searchsorted(heights, (top - margin, top + TILE + margin))
        near = points[order[low:high]].astype(np.int64)
        here = rows[slice(*np.searchsorted(corner[rows, 1], (top, top + TILE)))]
        if len(here):
            least = near.min(axis=0)
            occupied = Occupied(*(near - least).T)
            triangle = np.stack([start[here], corner[here], stop[here]]) - least
            free[here] = occupied.count(triangle[..., 0], triangle[..., 1]) == 1
    return free


def _without_repetition(chains: Chains) -> Chains:
    """Drop vertices that equal the one before: two curves may meet in the middle of a side."""
    before, _ = _neighbours(chains)
    kept = (before < 0) | (chains.points != chains.points[before]).any(axis=1)
    starts = np.append(0, np.cumsum(kept))[chains.starts]
    return replace(chains, points=chains.points[kept], starts=starts)
