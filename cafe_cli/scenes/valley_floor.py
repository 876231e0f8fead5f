"""Height of the ground above the floor of its valley.

Heights above ground are 0 m on a river and on the meadow above it. What tells them apart is where
water gathers: at the lowest ground around. The floor at a place is the lowest ground within a
radius, and the height above it tells a river from a meadow on a slope, but not from one on a plain.
It is a plain substitute for the height above the nearest drainage (HAND; Nobre et al., Journal of
Hydrology 2011), which takes a drainage network and every place upstream of it.
"""

import numpy as np
import scipy  # loads its parts when they are first used
from numpy.typing import NDArray

RADIUS_CELLS = 10
"""Cells along the radius. The ground of a cell is its mean, so that a pit is not the floor."""

HIGHEST = 10.0
"""Metres above the floor: all higher ground counts as this high."""

UNKNOWN = -1.0
"""Metres above the floor where the ground or the floor is not known. No ground is below it."""

Values = NDArray[np.float32]


def find_floor(ground: Values) -> Values:
    """Return the lowest ground within `RADIUS_CELLS` cells of each cell.

    Parameters
    ----------
    ground : ndarray of float32, (height, width)
        Mean height of the ground in each cell, metres; NaN where it is not known.

    Returns
    -------
    ndarray of float32, (height, width)
        NaN where no ground is known so near.
    """
    away = np.arange(-RADIUS_CELLS, RADIUS_CELLS + 1)
    disc = away**2 + away[:, None] ** 2 <= RADIUS_CELLS**2
    known = np.where(np.isnan(ground), np.float32(np.inf), ground)
    lowest = scipy.ndimage.minimum_filter(known, footprint=disc, mode="nearest")
    return np.where(np.isinf(lowest), np.float32(np.nan), lowest)


def height_above(floor: Values, ground: Values) -> Values:
    """Return the height of the ground above the floor in metres, 0 to `HIGHEST`, or `UNKNOWN`.

    Both are in metres, and NaN where not known.
    """
    above = (ground - floor).clip(0, HIGHEST)
    return np.where(np.isnan(above), np.float32(UNKNOWN), above)
