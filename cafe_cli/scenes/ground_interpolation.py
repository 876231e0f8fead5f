"""Interpolate the ground below buildings and in voids, and at the centres of its cells."""

import numpy as np
from numpy.typing import NDArray

_SWEEPS = 20
"""Relaxations of interpolated ground, enough to blur the traces of single lines of cells."""

_BLOCK = 512
"""Rows or columns processed together, so that they stay in the CPU cache."""


def interpolate_gaps(heights: NDArray[np.float32], known: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Interpolate the cells of a raster (H, W) that are not known; at least one has to be known.

    The first step weights the next known cells to the left, right, above and below by inverse
    distance, which continues a plane exactly and costs the same for any size of gap. The second
    relaxes the result towards the mean of the four neighbours (a harmonic surface has no extremes).
    """
    gaps, filled = ~known, known
    result = heights.copy()
    while not filled.all():  # twice at most: cells with nothing in their row and column come last
        result, filled = _inverse_distance(result, filled)
    for _ in range(_SWEEPS if gaps.any() else 0):
        rim = np.pad(result, 1, mode="edge")
        mean = rim[:-2, 1:-1] + rim[2:, 1:-1]
        mean += rim[1:-1, :-2] + rim[1:-1, 2:]
        mean *= np.float32(0.25)
        np.copyto(result, mean, where=gaps)
    return result


def _inverse_distance(
    heights: NDArray[np.float32], known: NDArray[np.bool_]
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Fill the cells that have a known one in their row or column; return heights and mask."""
    total = np.zeros_like(heights)
    weights = np.zeros_like(heights)
    for turns in range(4):  # search left in the turned raster; rot90 returns views
        source, is_known = np.rot90(heights, turns), np.rot90(known, turns)
        sums = np.rot90(total, turns), np.rot90(weights, turns)
        for top in range(0, source.shape[0], _BLOCK):
            rows = np.s_[top : top + _BLOCK]
            _add_left_neighbour(source[rows], is_known[rows], sums[0][rows], sums[1][rows])
    reached = weights > 0
    return np.divide(total, weights, out=heights.copy(), where=reached), known | reached


def _add_left_neighbour(
    heights: NDArray[np.float32],
    known: NDArray[np.bool_],
    total: NDArray[np.float32],
    weights: NDArray[np.float32],
) -> None:
    """Add the next known height to the left to `total`, and its inverse distance to `weights`."""
    column = np.arange(heights.shape[1], dtype=np.int32)
    nearest = np.where(known, column, np.int32(-1))
    np.maximum.accumulate(nearest, axis=1, out=nearest)
    weight = np.zeros(heights.shape, np.float32)
    np.divide(1, column - nearest, out=weight, where=(nearest >= 0) & ~known)
    weights += weight
    weight *= np.take_along_axis(heights, np.maximum(nearest, 0), axis=1)
    total += weight


def raise_to_centre(ground: NDArray[np.float32], reach: float) -> NDArray[np.float32]:
    """Raise the ground from the lowest point of each cell, `reach` cells off, to its centre.

    The gentler of the two slopes next to a cell is used, and none at the bottom of a valley or on
    a crest: otherwise a wall would raise the ground at its foot.
    """
    lifted = ground.copy()
    for axis in (0, 1):
        if ground.shape[axis] < 2:
            continue
        level, raised = np.moveaxis(ground, axis, 0), np.moveaxis(lifted, axis, 0)
        for left in range(0, level.shape[1], _BLOCK):
            columns = np.s_[:, left : left + _BLOCK]
            raised[columns] += np.float32(reach) * _gentler_rise(level[columns])
    return lifted


def _gentler_rise(ground: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the smaller rise per cell of the two along a column, 0 where their signs differ."""
    rise = np.diff(ground, axis=0)
    before, after = np.concatenate([rise[:1], rise]), np.concatenate([rise, rise[-1:]])
    return np.where(before * after > 0, np.minimum(np.abs(before), np.abs(after)), np.float32(0))
