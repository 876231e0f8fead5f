"""The ground under a surface model, so that heights can be counted from it.

The progressive morphological filter of Zhang et al. (2003, doi 10.1109/TGRS.2003.810682): the
surface is opened with windows that grow cell by cell. A building vanishes at once, in the step
whose window no longer fits on its roof; a hill goes down by a little in every step. What drops by
more than the terrain can in one step is cut, and the ground is interpolated across it. From the
Simple Morphological Filter of Pingel, Clarke and McBride (2013, doi
10.1016/j.isprsjprs.2012.12.002) come the round windows and the search for pits by opening the
surface turned upside down.

Limits, none of which announces itself in the result:

- A building whose narrow side exceeds `max_window` is taken for ground, and so is one that is
  lower than `slope` and `offset` allow: 1.5 m with the defaults, or a single storey where a house
  is dug into a slope of 25 degrees or more.
- Terrain is cut like a building where it is narrower than `max_window` and falls away on all sides
  more steeply than about 28 degrees (crests, cliffs, terraces behind walls); a larger `slope` keeps
  it, and low houses with it. The raster's edge counts as such a side: beyond it, nothing is known.
- Under a canopy wider than `max_window`, there is ground only where the surface model saw it
  through gaps, in one cell of twenty or more; fewer gaps are taken for pits, the canopy for ground.
- Pits are removed while they are few and small: up to one cell in a hundred, each up to
  `_PIT_CELLS` large. What is low and larger counts as terrain; so does noisy water.
- Bridges are cut where they are narrow and free, and kept where they are as wide as the window or
  join an embankment.
"""

import math
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import label

from cafe_cli.errors import ConfigError

_PIT_RADIUS = 3
"""Pits are at most twice this many cells wide."""

_PIT_CELLS = 25
"""Largest pit in cells. What is narrow, but larger, is a street, an alley or a ditch."""

_TREE_RADIUS = 5
"""Radius in cells of the windows that find trees from the ground seen through their gaps, before
pits are looked for: beside a crown, any such gap looks like one."""

_SWEEPS = 20
"""Relaxations of interpolated ground, enough to blur the traces of single lines of cells."""


@dataclass(frozen=True)
class GroundFilter:
    """What is ground, and what stands on it.

    Parameters
    ----------
    cell : float
        Metres per cell of the raster that is filtered.
    pixel : float
        Metres per pixel of the surface model whose minimum was taken over each cell; `cell` or
        more if there was no such reduction. The minimum of a slope lies ``(cell - pixel) / 2``
        off the cell's centre, and the ground is lifted by as much as the slope rises over there.
    max_window : float
        Width (narrow side) in metres of the largest building to remove. Time grows with its
        square, and so does the danger to hilltops.
    slope : float
        Terrain slope to be expected, rise over run. As in the original, the surface may drop by
        `slope` times the growth of the window's width in each step, i.e. by twice that much
        along its radius.
    offset : float
        Drop in metres always allowed on top of that, and in the first, smallest window alone:
        roughness, kerbs, crops.
    max_offset : float
        Drop in metres that is never allowed, whatever the slope: the lowest building.

    Raises
    ------
    ConfigError
        A value that is not a positive number.
    """

    cell: float = 2.0
    pixel: float = 0.5
    max_window: float = 100.0
    slope: float = 0.25
    offset: float = 0.5
    max_offset: float = 2.5

    def __post_init__(self) -> None:
        """Refuse values without a meaning."""
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
    take about half a minute of one core, and seven times the memory of `surface`.

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
    known &= ~_pits(heights, known, spec)
    ground = _bridge(heights, known & ~_dropping(heights, known, spec.allowed_drops))
    np.minimum(ground, heights, out=ground, where=known)
    return _lift(ground, max(spec.cell - spec.pixel, 0) / 2 / spec.cell)


def _pits(
    heights: NDArray[np.float32], known: NDArray[np.bool_], spec: GroundFilter
) -> NDArray[np.bool_]:
    """Find small, deep holes, (H, W) bool: matching errors, multiple echoes, wells, single gaps.

    They have to go first, because a window that must not touch any of them fits almost nowhere.
    """
    known = known & ~_dropping(heights, known, spec.allowed_drops[:_TREE_RADIUS])
    deep = [spec.offset + 2 * spec.slope * spec.cell * (step + 1) for step in range(_PIT_RADIUS)]
    holes, count = label(_dropping(-heights, known, deep), np.ones((3, 3)))
    small = np.bincount(holes.ravel(), minlength=count + 1) <= _PIT_CELLS
    small[0] = False  # what is no hole
    pits: NDArray[np.bool_] = small[holes]
    return pits


def _dropping(
    heights: NDArray[np.float32], known: NDArray[np.bool_], allowed: list[float]
) -> NDArray[np.bool_]:
    """Find what drops by more than `allowed` metres in any step of a progressive opening.

    Unknown cells and those beyond the raster are neither low nor high: windows are clipped to what
    is known. So nothing has to be invented there, and a building beside a void or at the edge is
    cut as if its wall was there.

    Parameters
    ----------
    heights : (H, W) float32
        Metres, any number where not known.
    known : (H, W) bool
        Where there is a height.
    allowed : list of float
        Metres for windows of radius 1, 2, ... cells.

    Returns
    -------
    (H, W) bool
        True only where known.
    """
    dropping = np.zeros(heights.shape, dtype=bool)
    before, after, scratch = heights.copy(), np.empty_like(heights), np.empty_like(heights)
    eroded = np.where(known, heights, np.float32(np.inf))
    for radius, drop in enumerate(allowed[: max(heights.shape)], start=1):
        # The windows are nested sums of unit windows, so erosion can go on from the last step, and
        # opening the surface gives what opening the last opened surface would.
        _spread(eroded, radius - 1, np.minimum, scratch)
        after.fill(-np.inf)
        np.copyto(after, eroded, where=known)
        for step in range(radius):
            _spread(after, step, np.maximum, scratch)
        before -= np.float32(drop)
        dropping |= after < before
        before, after = after, before
    dropping &= known
    return dropping


def _spread(
    values: NDArray[np.float32], step: int, extreme: np.ufunc, scratch: NDArray[np.float32]
) -> None:
    """Take the extreme over the unit window of this step, clipped to the raster, in place.

    That window is a cross and a square of 3 x 3 cells in turn. Together they add up to an octagon,
    the roundest window that grows cell by cell and looks the same after flips and quarter turns.
    """
    np.copyto(scratch, values)
    extreme(values[1:], scratch[:-1], out=values[1:])
    extreme(values[:-1], scratch[1:], out=values[:-1])
    if step % 2 == 1:
        np.copyto(scratch, values)
    extreme(values[:, 1:], scratch[:, :-1], out=values[:, 1:])
    extreme(values[:, :-1], scratch[:, 1:], out=values[:, :-1])


def _bridge(heights: NDArray[np.float32], known: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Interpolate across the cells that are not known; at least one must be.

    First by inverse distance from the next known cells to the left, right, above and below, which
    continues a plane exactly and costs the same for any size of gap; then by relaxation towards
    the mean of the four neighbours (a harmonic surface has no bumps of its own).
    """
    gaps, filled = ~known, known
    result = heights
    while not filled.all():  # twice at most: cells with nothing in their row and column come last
        result, filled = _inverse_distance(result, filled)
    for _ in range(_SWEEPS if gaps.any() else 0):
        rim = np.pad(result, 1, mode="edge")
        mean = rim[:-2, 1:-1] + rim[2:, 1:-1]
        mean += rim[1:-1, :-2] + rim[1:-1, 2:]
        mean *= np.float32(0.25)
        result = np.where(gaps, mean, result)
    return result.copy()


def _inverse_distance(
    heights: NDArray[np.float32], known: NDArray[np.bool_]
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Fill the cells that have a known one in their row or column; return heights and known."""
    total = np.zeros_like(heights)
    weights = np.zeros_like(heights)
    for turns in range(4):  # each turn looks left in the turned raster; rot90 gives views
        source, is_known = np.rot90(heights, turns), np.rot90(known, turns)
        column = np.arange(source.shape[1], dtype=np.int32)
        nearest = np.where(is_known, column, np.int32(-1))
        np.maximum.accumulate(nearest, axis=1, out=nearest)
        weight = np.zeros(source.shape, np.float32)
        np.divide(1, column - nearest, out=weight, where=(nearest >= 0) & ~is_known)
        np.rot90(weights, turns)[...] += weight
        weight *= np.take_along_axis(source, np.maximum(nearest, 0), axis=1)
        np.rot90(total, turns)[...] += weight
    reached = weights > 0
    return np.divide(total, weights, out=heights.copy(), where=reached), known | reached


def _lift(ground: NDArray[np.float32], reach: float) -> NDArray[np.float32]:
    """Move the ground from the lowest point of each cell, `reach` cells off, to its centre.

    Of the two slopes on either side of a cell, the gentler one counts, and none at the bottom of a
    valley or on a crest: otherwise a wall would lift the ground at its foot.
    """
    lifted = ground.copy()
    for axis in (0, 1):
        if ground.shape[axis] < 2:
            continue
        along = np.moveaxis(lifted, axis, 0)
        rise = np.diff(np.moveaxis(ground, axis, 0), axis=0)
        before, after = np.concatenate([rise[:1], rise]), np.concatenate([rise, rise[-1:]])
        gentler = np.minimum(np.abs(before), np.abs(after))
        along += np.float32(reach) * np.where(before * after > 0, gentler, 0)
    return lifted
