"""How far reference pixels are from the boundaries between classes."""

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from cafe_cli.classes import NODATA


def boundary_distance(ids: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return the distance of each pixel to the nearest pixel of another class, in pixels.

    Between centres: 1 beside a boundary. Unlabelled pixels are no class, so that the edge of the
    labels is no boundary.

    Parameters
    ----------
    ids : ndarray of uint8, (height, width)
        Class ids, 255 where there is no label.

    Returns
    -------
    ndarray of float64, (height, width)
        Infinite where there is no other class, and where there is no label.
    """
    distance = np.full(ids.shape, np.inf)
    present = np.unique(ids)
    present = present[present != NODATA]
    if len(present) < 2:
        return distance
    for id_ in present.tolist():
        own = ids == id_
        to_others = ndimage.distance_transform_edt(own | (ids == NODATA))
        distance[own] = to_others[own]
    return distance
