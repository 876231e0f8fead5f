"""Find terrain that a filter took for objects, by the smooth ground that leads up to it.

A crest falls away on both sides, as a hall does; but a slope, a path or a clearing leads up to it
without a wall. So what was cut goes back to the ground if smooth cells connect it with ground that
was kept, and few of its own borders are walls: decks of bridges and roofs with a ramp stay objects.
"""

import math

import numpy as np
import scipy  # loads its parts when they are first used
from numpy.typing import NDArray

_AXES = ((0, 1), (1, 0), (1, 1), (1, -1))
"""Lines through a cell and two of its eight neighbours, as steps of rows and columns."""

_SMOOTH_AXES = 2
"""Lines along which ground is smooth, at least. At the foot of a wall, and at the edge of a roof,
it is only the one along the wall; between crowns there are few."""

_KEPT = 25
"""Cells of ground that have to be connected, 100 m2 with the default cells."""

_WALLS = 0.25
"""Share of the rim of a piece of ground that may be at a wall: cuts and cliffs."""

_ROWS = 512
"""Rows processed together, to save memory."""

_SQUARE = np.ones((3, 3), bool)


def find_connected(
    heights: NDArray[np.float32],
    known: NDArray[np.bool_],
    objects: NDArray[np.bool_],
    bend: float,
    step: float,
) -> NDArray[np.bool_]:
    """Find the cells of `objects` that are ground by their connection with the other cells.

    Parameters
    ----------
    heights : (H, W) float32
        Metres, any number where not known.
    known, objects : (H, W) bool
        Where there is a height, and what was cut.
    bend : float
        Metres by which three cells in a row of smooth ground may deviate from a plane: the second
        difference of their heights.
    step : float
        Metres from a cell of smooth ground to the next one. Where cells fall by more than a slope
        of such steps within two cells, there is a wall.

    Returns
    -------
    (H, W) bool
        True only in `objects`.
    """
    reached = objects & _connected(_find_smooth(heights, known, bend, step), ~objects)
    lowest = np.where(known, heights, np.float32(np.inf))
    scipy.ndimage.minimum_filter(lowest, 5, output=lowest)
    walls = lowest < heights - np.float32(step * 2 * math.sqrt(2))
    del lowest
    pieces, count = scipy.ndimage.label(reached, _SQUARE)
    rim = reached & ~scipy.ndimage.binary_erosion(reached, _SQUARE)
    walls &= rim
    size, at_wall = (np.bincount(pieces[cells], minlength=count + 1) for cells in (rim, walls))
    reached &= (at_wall <= _WALLS * size)[pieces]
    return reached


def _connected(smooth: NDArray[np.bool_], ground: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Find the smooth cells that are connected with enough ground."""
    labels, count = scipy.ndimage.label(smooth)
    enough = np.bincount(labels[ground], minlength=count + 1) >= _KEPT
    enough[0] = False  # the label of the cells that are not smooth
    connected: NDArray[np.bool_] = enough[labels]
    return connected


def _find_smooth(
    heights: NDArray[np.float32], known: NDArray[np.bool_], bend: float, step: float
) -> NDArray[np.bool_]:
    """Find the cells that lie in line with their neighbours, along `_SMOOTH_AXES` or more."""
    smooth = np.empty(heights.shape, bool)
    padded = np.pad(np.where(known, heights, np.float32(np.nan)), 1, mode="edge")
    for top in range(0, len(heights), _ROWS):
        smooth[top : top + _ROWS] = _smooth_inside(padded[top : top + _ROWS + 2], bend, step)
    return smooth


def _smooth_inside(heights: NDArray[np.float32], bend: float, step: float) -> NDArray[np.bool_]:
    """Return whether cells are smooth; one less than `heights` on every side."""
    rows, columns = heights.shape[0] - 2, heights.shape[1] - 2

    def shifted(down: int, right: int) -> NDArray[np.float32]:
        return heights[1 + down : 1 + down + rows, 1 + right : 1 + right + columns]

    count = np.zeros((rows, columns), np.uint8)
    for down, right in _AXES:
        before, after = (shifted(s * down, s * right) - shifted(0, 0) for s in (-1, 1))
        # Comparisons with NaN, beside cells without a height, are false.
        straight = np.abs(before + after) <= np.float32(bend)
        count += straight & (np.maximum(np.abs(before), np.abs(after)) <= np.float32(step))
    return count >= _SMOOTH_AXES
