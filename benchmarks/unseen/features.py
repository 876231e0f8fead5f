"""What the random forest sees of a pixel: colours, relief, and both at several scales.

There are more features of the surface than of the image, since colours differ more from flight to
flight than shapes do.

Everything is local: of the surface model only differences to its own neighbourhood are used, never
absolute heights, nor an estimate of the ground. Pixels without data do not count in any mean
(normalised convolution, Knutsson and Westin 1993).
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from cafe_cli.scenes.scene import Patch

COLOUR_METRES = (1.0, 4.0)
"""Standard deviations of the Gaussians for the texture of the image."""
HEIGHT_METRES = (0.5, 1.5, 5.0)
"""Standard deviations of the Gaussians for roughness and slope of the surface."""
RELIEF_METRES = (2.0, 5.0, 10.0, 20.0, 40.0)
"""Standard deviations of the Gaussians that are subtracted from the surface model."""
_TRUNCATE = 2.5  # Gaussians end at so many standard deviations
_LEAST = 1e-3  # share of a Gaussian that has to fall on known pixels

Plane = NDArray[np.float32]
Known = NDArray[np.bool_]


def margin(gsd: float) -> int:
    """Return how many pixels around a window its features depend on."""
    twice = 2 * max(*COLOUR_METRES, *HEIGHT_METRES)  # a deviation is a mean of what a mean leaves
    return int(_TRUNCATE * max(twice, *RELIEF_METRES) / gsd) + 3


def compute(patch: Patch, gsd: float) -> Plane:
    """Compute the features of all pixels of a patch.

    Parameters
    ----------
    patch : Patch
        Three optical bands, and raw heights of a surface model in metres.
    gsd : float
        Metres per pixel.

    Returns
    -------
    ndarray of float32, (features, height, width)
    """
    return np.stack([*_colours(patch, gsd), *_heights(patch, gsd)])


def _colours(patch: Patch, gsd: float) -> Iterator[Plane]:
    """Yield bands, the shares of green and blue in the brightness, and texture of the brightness.

    The share of green is the excess green index but for a constant factor and offset.
    """
    known, bands = patch.optical_valid, patch.optical.astype(np.float32)
    total = bands.sum(axis=0) + np.float32(1)
    yield from bands
    yield from (bands[1] / total, bands[2] / total)
    for metres in COLOUR_METRES:
        yield from _texture(total / np.float32(3), known, metres / gsd)


def _heights(patch: Patch, gsd: float) -> Iterator[Plane]:
    """Yield the surface above its blurred self, relief, roughness and slope, and where it is void.

    The mean height of the patch is taken off first, which changes none of these but keeps float32
    exact on mountains.
    """
    known = patch.height_valid
    level = patch.height[known].mean(dtype=np.float64) if known.any() else 0.0
    surface = np.where(known, patch.height - np.float32(level), np.float32(0))
    blurred = [blur(surface, known, metres / gsd) for metres in RELIEF_METRES]
    for wide in blurred:
        yield np.where(known, surface - wide, np.float32(0))
    for metres in HEIGHT_METRES:
        local, roughness, gradient = _texture(surface, known, metres / gsd)
        yield from (local - blurred[-1], roughness, gradient / np.float32(gsd))
    yield known.astype(np.float32)


def _texture(values: Plane, known: Known, sigma: float) -> tuple[Plane, Plane, Plane]:
    """Return the local mean, standard deviation and gradient magnitude per pixel."""
    local = blur(values, known, sigma)
    deviation = np.sqrt(blur((values - local) ** 2, known, sigma))
    down, right = np.gradient(local)
    return local, deviation, np.hypot(down, right)


def blur(values: Plane, known: Known, sigma: float) -> Plane:
    """Return Gaussian means of the known pixels; 0 where hardly any is within reach.

    Parameters
    ----------
    values : ndarray of float32, (height, width)
    known : ndarray of bool, (height, width)
    sigma : float
        In pixels.
    """
    masked = np.where(known, values, np.float32(0))
    options = {"sigma": sigma, "truncate": _TRUNCATE, "mode": "constant"}
    sums: Plane = gaussian_filter(masked, **options)
    weights: Plane = gaussian_filter(known.astype(np.float32), **options)
    return np.where(weights > _LEAST, sums / np.maximum(weights, _LEAST), np.float32(0))
