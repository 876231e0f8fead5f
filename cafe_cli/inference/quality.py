"""The quality raster: what data stand behind the label of a pixel."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cafe_cli.classes import ClassTable, LandClass
from cafe_cli.model.distribution import Percentiles, PixelDistribution
from cafe_cli.scenes.scene import Patch

NO_HEIGHT, BEYOND_TRAINING = 1, 2  # bits of a code
QUALITY = ClassTable(
    (
        LandClass(0, "image and heights", "#1a9850"),
        LandClass(NO_HEIGHT, "image only", "#fdae61"),
        LandClass(BEYOND_TRAINING, "beyond training", "#7b3294"),
        LandClass(NO_HEIGHT | BEYOND_TRAINING, "image only, beyond training", "#c2a5cf"),
    )
)
_MARGIN = 0.1  # of the span of training's values, beyond which a value is foreign
_LEAST_METRES = 1.0  # heights of flat training tiles differ by noise


def quality_codes(patch: Patch, known: Sequence[PixelDistribution]) -> NDArray[np.uint8]:
    """Return what stands behind each pixel of a patch.

    A pixel lies beyond the training if its height or the value of a band lies outside 99.8 % of
    those that every model was trained on, and outside a margin of a tenth of their span.

    Parameters
    ----------
    patch : Patch
    known : sequence of PixelDistribution
        What the models were trained on; of those that know it.

    Returns
    -------
    ndarray of uint8, (height, width)
        Codes of `QUALITY`.
    """
    codes = np.where(patch.height_valid, 0, NO_HEIGHT).astype(np.uint8)
    if known:
        foreign = np.logical_and.reduce([_beyond(patch, pixels) for pixels in known])
        codes[foreign] |= BEYOND_TRAINING
    return codes


def _beyond(patch: Patch, known: PixelDistribution) -> NDArray[np.bool_]:
    found = np.zeros(patch.height_valid.shape, bool)
    for values, band in zip(patch.optical, known.bands, strict=False):
        found |= _outside(values, band, 0)
    if known.heights:
        found |= patch.height_valid & _outside(patch.height, known.heights, _LEAST_METRES)
    return found


def _outside(values: NDArray[Any], known: Percentiles, least: float) -> NDArray[np.bool_]:
    margin = max(_MARGIN * (known.p99_9 - known.p0_1), least)
    low, high = known.p0_1 - margin, known.p99_9 + margin
    return np.asarray((values < low) | (values > high))
