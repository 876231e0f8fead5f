"""Estimate the ground below a surface model, so that heights above it can be computed.

The progressive morphological filter of Zhang et al. (2003, doi 10.1109/TGRS.2003.810682): the
surface is opened with windows that grow cell by cell. A building vanishes at once, in the step
whose window no longer fits on its roof; a hill goes down by a little in every step. What drops by
more than the terrain can in one step is cut, unless smooth ground leads up to it
(`ground_connection`), and the ground is interpolated across it. From the
Simple Morphological Filter of Pingel, Clarke and McBride (2013, doi
10.1016/j.isprsjprs.2012.12.002) come the round windows and the search for pits by opening the
surface turned upside down.

Limits, none of which is visible in the result:

- A building whose narrow side exceeds `max_window` is taken for ground, and so is one that is
  lower than `slope` and `offset` allow: 1.5 m with the defaults, and on a slope most of a house
  whose uphill wall is lower than that.
- Terrain is cut like a building where it is narrower than `max_window` and falls away on all sides
  more steeply than about 37 degrees (crests, cliffs, terraces behind walls), or than about 28 where
  woods hide the ground that leads up to it; a larger `slope` keeps it, and low houses with it.
- Where a hill goes on beyond the raster's edge, or into a void, it is cut if steeper than that
  within a quarter of `max_window`, or than about 45 degrees within half of it. A building there is
  kept if it reaches farther in than that quarter and is less than twice as high as elsewhere: 3 m.
- Under a canopy wider than `max_window`, there is ground only where the surface model saw it
  through gaps, in one cell of twenty or more; fewer gaps are taken for pits, the canopy for ground.
  Larger windows find the ground on a plain, but not where a slope takes them above the crowns.
- Pits are removed while they are few and small: up to one cell in a hundred, each up to
  `_PIT_CELLS` large. What is low and larger counts as terrain; so does noisy water.
- Bridges are cut, but for their ends, unless they are as wide as the window, or short between
  embankments.
"""

import math
from dataclasses import dataclass, fields
from typing import TypeVar

import numpy as np
import scipy  # loads its parts when they are first used
from numpy.typing import NDArray

from cafe_cli.errors import ConfigError
from cafe_cli.raster.window import Window, blocks
from cafe_cli.scenes.ground_connection import find_connected
from cafe_cli.scenes.ground_interpolation import interpolate_gaps, raise_to_centre

Cell = TypeVar("Cell", np.float32, np.bool_)

_PIT_RADIUS = 3
"""Pits are at most twice this many cells wide."""

_PIT_CELLS = 25
"""Largest pit in cells. Narrow hollows that are larger are streets, alleys or ditches."""

_TREE_RADIUS = 5
"""Radius in cells of the windows that find trees from the ground seen through their gaps. They are
removed before pits are searched: next to a crown, any such gap looks like a pit."""

_BLOCK = 512
"""Side in cells of the blocks that are filtered one by one, so that they stay in the cache."""


@dataclass(frozen=True)
class GroundFilter:
    """Parameters of the progressive morphological filter.

    Parameters
    ----------
    cell : float
        Metres per cell of the raster that is filtered.
    pixel : float
        Metres per pixel of the surface model whose minimum was taken over each cell; `cell` or
        more if there was no such reduction. The minimum of a slope lies ``(cell - pixel) / 2``
        off the cell's centre, and the ground is lifted by as much as the slope rises over there.
    max_window : float
        Width (narrow side) in metres of the largest building to remove. Time grows with it, and
        so does the danger to hilltops.
    slope : float
        Terrain slope to be expected, rise over run. As in the original, the surface may drop by
        `slope` times the growth of the window's width in each step, i.e. by twice that much
        along its radius.
    offset : float
        Drop in metres always allowed on top of that, and in the first, smallest window alone:
        roughness, kerbs, crops.
    max_offset : float
        Drop in metres that is never allowed, whatever the slope: height of the lowest building.

    Raises
    ------
    ConfigError
        A value is not a positive number.
    """

    cell: float = 2.0
    pixel: float = 0.5
    max_window: float = 160.0
    slope: float = 0.25
    offset: float = 0.5
    max_offset: float = 2.5

    def __post_init__(self) -> None:
        """Refuse values that are not positive numbers."""
        for field in fields(self):
            value = getattr(self, field.name)
            if not (math.isfinite(value) and value > 0):
                raise ConfigError(f"ground filter: {field.name} must be above 0, not {value}")

    @property
    def allowed_drop(self) -> float:
        """Drop in metres allowed when the window grows by one cell on every side."""
        return min(self.slope * 2 * self.cell + self.offset, self.max_offset)

    @property
    def allowed_drops(self) -> list[float]:
        """Drop in metres allowed in each step, from the smallest window to the largest."""
        steps = math.ceil(self.max_window / 2 / self.cell)
        return [min(self.offset, self.max_offset)] + [self.allowed_drop] * (steps - 1)


def estimate_ground(
    surface: NDArray[np.float32], ground_filter: GroundFilter | None = None
) -> NDArray[np.float32]:
    """Estimate the height of the ground below a surface.

    Buildings and trees are cut out and bridged, voids and pits are bridged. The result is
    nowhere else above the surface, but for the lift explained at `GroundFilter.pixel`. It commutes
    with flips and quarter turns of the raster, to rounding. 5000 x 5000 cells with the defaults
    take about half a minute of one core, and six times the memory of `surface`.

    Parameters
    ----------
    surface : (H, W) float32
        Lowest height of the surface model in each cell, metres; not finite where there is none.
    ground_filter : GroundFilter, optional
        Cell size and tolerances, the defaults unless given.

    Returns
    -------
    (H, W) float32
        Height of the ground at the cells' centres, metres; NaN only if `surface` is all void.
    """
    spec = ground_filter or GroundFilter()
    known = np.isfinite(surface)
    if not known.any():
        return np.full(surface.shape, np.nan, np.float32)
    heights = np.where(known, surface, 0).astype(np.float32, copy=False)
    known &= ~_find_pits(heights, known, spec)
    objects = _find_objects(heights, known, spec.allowed_drops)
    objects &= ~find_connected(heights, known, objects, spec.offset, spec.allowed_drop)
    ground = interpolate_gaps(heights, known & ~objects)
    np.minimum(ground, heights, out=ground, where=known)
    return raise_to_centre(ground, max(spec.cell - spec.pixel, 0) / 2 / spec.cell)


def _find_objects(
    heights: NDArray[np.float32], known: NDArray[np.bool_], allowed: list[float]
) -> NDArray[np.bool_]:
    """Find the cells of buildings and trees, (H, W) bool.

    At the edge of the known cells, a hill that goes on beyond the edge looks like a hall, because
    windows would have to fit on the half of it that is seen. So windows may be centred beyond the
    edge. They also fit on halls of which a large part is seen; those are found by a second run with
    windows inside the edge and twice the drop, which walls have and hills do not.
    """
    high = _find_drops(heights, known, [2 * drop for drop in allowed])
    return high | _find_drops(heights, known, allowed, beyond=True)


def _find_pits(
    heights: NDArray[np.float32], known: NDArray[np.bool_], spec: GroundFilter
) -> NDArray[np.bool_]:
    """Find small, deep holes, (H, W) bool: matching errors, multiple echoes, wells, single gaps.

    Pits have to be removed first, because windows that avoid all of them fit almost nowhere.
    """
    known = known & ~_find_drops(heights, known, spec.allowed_drops[:_TREE_RADIUS])
    deep = [spec.offset + 2 * spec.slope * spec.cell * (step + 1) for step in range(_PIT_RADIUS)]
    holes, count = scipy.ndimage.label(_find_drops(-heights, known, deep), np.ones((3, 3)))
    small = np.bincount(holes.ravel(), minlength=count + 1) <= _PIT_CELLS
    small[0] = False  # the label of the cells outside holes
    pits: NDArray[np.bool_] = small[holes]
    return pits


def _find_drops(
    heights: NDArray[np.float32],
    known: NDArray[np.bool_],
    allowed: list[float],
    beyond: bool = False,
) -> NDArray[np.bool_]:
    """Find the cells that drop by more than `allowed` metres in a step of a progressive opening.

    Windows are clipped to the known cells, so that no heights have to be invented for the others.

    Parameters
    ----------
    heights : (H, W) float32
        Metres, any number where not known.
    known : (H, W) bool
        Where there is a height.
    allowed : list of float
        Metres for windows of radius 1, 2, ... cells.
    beyond : bool
        Whether the centres of windows may be unknown, up to half a radius away from the known.

    Returns
    -------
    (H, W) bool
        True only where known.
    """
    allowed = allowed[: 2 * max(heights.shape)]  # larger windows hold the whole raster
    reach = 2 * len(allowed)  # distance up to which a cell has an influence
    heights, padded = np.pad(heights, reach), np.pad(known, reach)
    dropping = np.zeros_like(known)
    for block in blocks(known.shape[1], known.shape[0], max(_BLOCK, 2 * reach)):
        around = Window(block.col, block.row, block.width + 2 * reach, block.height + 2 * reach)
        dropping[block.slices()] = _find_drops_in_block(
            heights[around.slices()], padded[around.slices()], allowed, beyond
        )
    return dropping & known


def _find_drops_in_block(
    heights: NDArray[np.float32], known: NDArray[np.bool_], allowed: list[float], beyond: bool
) -> NDArray[np.bool_]:
    """Run `_find_drops` on a block that has a margin of ``2 * len(allowed)`` cells."""
    height, width = (size - 4 * len(allowed) for size in heights.shape)
    before = _centre(heights, height, width)
    dropping = np.zeros(before.shape, dtype=bool)
    centres, lowest = known, np.where(known, heights, np.float32(np.inf))
    for radius, drop in enumerate(allowed, start=1):
        # Each window is the last one plus a unit window: erosion can go on from the last step, and
        # opening the surface equals opening the last opened surface.
        unit = (1, 0) if radius % 2 == 0 else (0, 1)
        lowest = _extreme(lowest, np.minimum, *unit)
        if beyond and radius % 2 == 0:
            centres = _extreme(centres, np.maximum, *unit)
        size = height + 2 * radius, width + 2 * radius
        after = np.where(_centre(centres, *size), _centre(lowest, *size), np.float32(-np.inf))
        after = _extreme(after, np.maximum, radius // 2, (radius + 1) // 2)
        dropping |= after < before - np.float32(drop)
        before = after
    return dropping


def _extreme(values: NDArray[Cell], extreme: np.ufunc, squares: int, crosses: int) -> NDArray[Cell]:
    """Take the minimum or maximum over a window: a Minkowski sum of 3 x 3 squares and crosses.

    The sum of squares and crosses in turn is an octagon, the roundest window that grows cell by
    cell and is symmetric under flips and quarter turns. The result is smaller than `values` by the
    radius, ``squares + crosses``, on every side.
    """
    for down, right in ((1, 0), (0, 1)):
        values = _line_extreme(values, extreme, down, right, 2 * squares + 1)
    if crosses:
        # Lines along both diagonals add up to every other cell of a diamond; a cross does the rest.
        for down, right in ((1, 1), (1, -1)):
            values = _line_extreme(values, extreme, down, right, crosses)
        across = extreme(values[1:-1, :-2], values[1:-1, 2:])
        upright = extreme(values[:-2, 1:-1], values[2:, 1:-1])
        values = extreme(extreme(across, upright), values[1:-1, 1:-1])
    return values


def _line_extreme(
    values: NDArray[Cell], extreme: np.ufunc, down: int, right: int, count: int
) -> NDArray[Cell]:
    """Take the minimum or maximum of `count` cells along a line, in about log2(`count`) passes.

    Lines that leave the raster have no result: the array gets smaller on that side.
    """
    size = 1
    while size < count:
        step = min(size, count - size)
        rows, columns = step * down, step * abs(right)
        height, width = values.shape[0] - rows, values.shape[1] - columns
        near, far = (0, columns) if right >= 0 else (columns, 0)
        values = extreme(values[:height, near : near + width], values[rows:, far : far + width])
        size += step
    return values


def _centre(values: NDArray[Cell], height: int, width: int) -> NDArray[Cell]:
    """Return a view of the central cells."""
    top, left = (values.shape[0] - height) // 2, (values.shape[1] - width) // 2
    return values[top : top + height, left : left + width]
