"""Polygons from outlines: chains are put in order, joined to rings, and rings to polygons."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import shapely
from numpy.typing import NDArray

from cafe_cli.regions.labelling import Ids
from cafe_cli.vectorization.order import order_lists
from cafe_cli.vectorization.outlines import Outlines

Whole = NDArray[np.int64]
Geometries = NDArray[Any]

_CHUNK = 500_000  # vertices of the polygons that are made at a time


@dataclass(frozen=True)
class Chains:
    """Chains whose vertices lie one after the other.

    Attributes
    ----------
    points : ndarray of float64, (n, 2)
        Columns and rows of the vertices.
    starts : ndarray of int64, (chains + 1,)
        Where the vertices of each chain begin; the last entry is n.
    closed : ndarray of bool, (chains,)
    right, left : ndarray of int32, (chains,)
        The regions on both sides.
    nodes : ndarray of int64, (2, chains)
        Numbers of the nodes at the start and the end; equal for equal places. -1 if closed.
    leaves : ndarray of int8, (2, chains)
        The directions in which a chain leaves its start and its end.
    """

    points: NDArray[np.float64]
    starts: Whole
    closed: NDArray[np.bool_]
    right: Ids
    left: Ids
    nodes: Whole
    leaves: NDArray[np.int8]


class _Sides(NamedTuple):
    """The two sides of each chain, as parts of the rings of a region on their right.

    Attributes
    ----------
    chain : ndarray of int64, (n,)
    backward : ndarray of bool, (n,)
        Whether the ring takes the chain's vertices from its end to its start.
    region : ndarray of int32, (n,)
    """

    chain: Whole
    backward: NDArray[np.bool_]
    region: Ids


def order_chains(outlines: Outlines) -> Chains:
    """Put the vertices of simplified outlines in the order of their chains."""
    order, starts, closed = order_lists(outlines.previous)
    first, last = order[starts[:-1]], order[starts[1:] - 1]
    key = (outlines.y[np.stack([first, last])].astype(np.int64) << 32) | outlines.x[
        np.stack([first, last])
    ]
    nodes = np.unique(key, return_inverse=True)[1].reshape(2, -1)
    points = np.stack([outlines.x[order], outlines.y[order]], axis=1).astype(np.float64)
    return Chains(
        points,
        starts,
        closed,
        outlines.right[first],
        outlines.left[first],
        np.where(closed, -1, nodes),
        outlines.leaves[np.stack([first, last])],
    )


def assemble(chains: Chains) -> Iterator[tuple[Whole, Geometries]]:
    """Yield the numbers of regions and their polygons, in the order of the numbers, in chunks.

    Each region has one polygon. Rings have the coordinates of the chains, and are closed by them:
    what two polygons share is equal to the bit.
    """
    sides = _sides_of(chains)
    order, starts, _ = order_lists(_previous_side(chains, sides))
    region = sides.region[order[starts[:-1]]]
    by_region = np.argsort(region, kind="stable")
    taken = np.diff(chains.starts)[sides.chain] - ~chains.closed[sides.chain]
    ends = np.append(0, np.cumsum(taken[order]))[starts]
    vertices = np.diff(ends)
    budget = np.cumsum(vertices[by_region]) // _CHUNK
    cuts = np.flatnonzero(np.diff(budget)) + 1
    numbers = region[by_region]
    cuts = np.unique(np.searchsorted(numbers, numbers[cuts]))
    for rings in np.split(by_region, cuts[cuts > 0]):
        if len(rings):
            pieces = _concatenated(starts[rings], starts[rings + 1])
            points = _ring_points(chains, sides, order[pieces], taken)
            yield _polygons(points, vertices[rings], region[rings])


def _sides_of(chains: Chains) -> _Sides:
    count = np.arange(len(chains.right))
    chain, backward = np.tile(count, 2), np.repeat([False, True], len(count))
    region = np.concatenate([chains.right, chains.left])
    known = region > 0
    return _Sides(chain[known], backward[known], region[known])


def _previous_side(chains: Chains, sides: _Sides) -> Whole:
    """Return the side that comes before each side in its ring; the rings are closed lists."""
    chain, backward = sides.chain, sides.backward.astype(np.intp)
    begin, end = chains.nodes[backward, chain], chains.nodes[1 - backward, chain]
    leaves = chains.leaves[backward, chain].astype(np.int64)
    # Where two sides of a region begin at one node, it touches itself there: the turn to the left
    # keeps what it encloses a hole. Directions count clockwise; a chain arrives opposite to where
    # it would leave.
    arrives = (chains.leaves[1 - backward, chain] + 2) % 4
    wanted = (arrives + 3) % 4
    size = int(chains.nodes.max(initial=0)) + 1
    opened = np.flatnonzero(begin >= 0)
    key = (sides.region[opened].astype(np.int64) * size + begin[opened]) * 4 + leaves[opened]
    order = np.argsort(key)
    opened, key = opened[order], key[order]
    place = (sides.region[opened].astype(np.int64) * size + end[opened]) * 4
    low, high = np.searchsorted(key, place), np.searchsorted(key, place + 4)
    turn = np.minimum(np.searchsorted(key, place + wanted[opened]), len(key) - 1)
    follower = opened[np.where(high - low > 1, turn, low)]
    previous = np.arange(len(chain))
    previous[follower] = opened
    return previous


def _concatenated(begin: Whole, end: Whole) -> Whole:
    """Return the numbers of all ranges, one range after the other."""
    sizes = end - begin
    numbers: Whole = np.arange(sizes.sum()) + np.repeat(begin - np.cumsum(sizes) + sizes, sizes)
    return numbers


def _ring_points(chains: Chains, sides: _Sides, pieces: Whole, taken: Whole) -> NDArray[np.float64]:
    """Return the vertices of sides, each without its last, with which the next one begins."""
    chain, counts = sides.chain[pieces], taken[pieces]
    step = np.where(sides.backward[pieces], -1, 1)
    first = np.where(step > 0, chains.starts[chain], chains.starts[chain + 1] - 1)
    within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    found: NDArray[np.float64] = chains.points[
        np.repeat(first, counts) + within * np.repeat(step, counts)
    ]
    return found


def _polygons(
    points: NDArray[np.float64], vertices: Whole, region: Ids
) -> tuple[Whole, Geometries]:
    """Make polygons of rings, whose regions are in order; the largest ring is the shell."""
    ring = np.repeat(np.arange(len(vertices)), vertices)
    rings = shapely.linearrings(points, indices=ring)
    area = shapely.area(shapely.polygons(rings))
    order = np.lexsort((-area, region))
    numbers, which = np.unique(region, return_inverse=True)
    # Of the rings with one index, the first is the shell.
    return numbers.astype(np.int64), shapely.polygons(rings[order], indices=which[order])
