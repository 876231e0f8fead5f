"""A scene as bands of 8 bits, for programs that read nothing else: colours, and the height last.

This module is free of torch: `cafe_cli.exporting.eight_bit` has the inverse as a part of a network.
"""

import numpy as np
from numpy.typing import NDArray

from cafe_cli.scenes.scene import Patch

HEIGHT_STEP = 0.25
"""Metres between two values of the height band."""

HEIGHT_VOID = 255
"""Value of the height band where there is no height."""

HIGHEST = (HEIGHT_VOID - 1) * HEIGHT_STEP
"""Metres, 63.5: higher ground and buildings have this height in the band."""


def encode_heights(height: NDArray[np.float32], valid: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Return heights in steps of `HEIGHT_STEP`, (height, width) uint8, `HEIGHT_VOID` if not valid.

    Parameters
    ----------
    height : ndarray of float32, (height, width)
        Metres above ground. Those below 0 become 0, those above `HIGHEST` become that.
    valid : ndarray of bool, (height, width)
    """
    # where first: a void may hold NaN, which has no value as an integer.
    steps = np.rint(np.where(valid, height, 0) / HEIGHT_STEP).clip(0, HEIGHT_VOID - 1)
    return np.where(valid, steps, HEIGHT_VOID).astype(np.uint8)


def encode_image(optical: NDArray[np.generic], valid: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Return the bands of an image, 0 in all of them where it has no data, and only there.

    Black pixels with data become 1 in all bands.

    Parameters
    ----------
    optical : ndarray of uint8, (bands, height, width)
    valid : ndarray of bool, (height, width)
    """
    black = valid & (optical == 0).all(axis=0)
    return np.where(valid, np.where(black, 1, optical), 0).astype(np.uint8)


def encode(patch: Patch, heights: bool) -> NDArray[np.uint8]:
    """Return a patch as bands of 8 bits, (bands, height, width), the heights last if asked for."""
    image = encode_image(patch.optical, patch.optical_valid)
    if not heights:
        return image
    # Beyond the image there is nothing: programs fill what lies beyond a raster with zeros.
    known = encode_heights(patch.height, patch.height_valid)
    return np.concatenate([image, np.where(patch.optical_valid, known, 0)[None]])
