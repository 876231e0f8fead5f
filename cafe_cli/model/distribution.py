"""The distribution of colours and heights that a model was trained on, as its file records it.

Training measures its tiles and prediction measures the scene with the same code, so that the two
can be compared. This module is free of torch.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat

_PER_PATCH = 16_384  # pixels sampled per patch
_PERCENTILES = {"p0_1": 0.1, "p1": 1, "p25": 25, "p50": 50, "p75": 75, "p99": 99, "p99_9": 99.9}


_NORMAL = {"p0_1": -3.1, "p1": -2.3, "p25": -0.67, "p50": 0, "p75": 0.67, "p99": 2.3, "p99_9": 3.1}
"""Percentiles of a normal distribution, in standard deviations."""


class Percentiles(BaseModel):
    """Percentiles of pixel values; ``p99_9`` is the 99.9th."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    p0_1: FiniteFloat
    p1: FiniteFloat
    p25: FiniteFloat
    p50: FiniteFloat
    p75: FiniteFloat
    p99: FiniteFloat
    p99_9: FiniteFloat


class PixelDistribution(BaseModel):
    """The distribution of the pixels of training tiles, or of a scene.

    Attributes
    ----------
    bands : tuple of Percentiles
        Of each optical band, in the units of the raster.
    heights : Percentiles or None
        Metres, above ground unless the height settings say otherwise; None without heights.
    voids : float
        Share of the image pixels without a height, 0 to 1, after small voids were filled.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    bands: tuple[Percentiles, ...]
    heights: Percentiles | None
    voids: Annotated[float, Field(ge=0, le=1)]


def normal_distribution(statistics: Mapping[str, Sequence[float]], dtype: str) -> PixelDistribution:
    """Return the normal distribution of given statistics, for a model that knows no percentiles.

    Parameters
    ----------
    statistics : mapping
        ``optical_mean`` and ``optical_std``, a number per band, and ``height_mean`` and
        ``height_std``, one each, in metres.
    dtype : str
        Data type of the image, whose limits no value exceeds.
    """

    def bands(kind: str) -> NDArray[np.float64]:
        mean, std = (np.array(statistics[f"{kind}_{what}"]) for what in ("mean", "std"))
        return np.stack([mean + z * std for z in _NORMAL.values()], axis=-1)

    def percentiles(row: NDArray[np.float64]) -> Percentiles:
        return Percentiles(**dict(zip(_NORMAL, row.tolist(), strict=True)))

    optical = bands("optical")
    if np.dtype(dtype).kind in "iu":
        optical = optical.clip(np.iinfo(dtype).min, np.iinfo(dtype).max)
    return PixelDistribution(
        bands=tuple(map(percentiles, optical)), heights=percentiles(bands("height")[0]), voids=0
    )


class DistributionSampler:
    """Samples pixels patch by patch, at most 16,384 of each.

    Memory grows with the number of patches: bound it.
    """

    def __init__(self) -> None:
        self._optical: list[NDArray[np.float32]] = []
        self._heights: list[NDArray[np.float32]] = []

    def add(
        self,
        optical: NDArray[Any],
        optical_valid: NDArray[np.bool_],
        height: NDArray[np.float32],
        height_valid: NDArray[np.bool_],
    ) -> None:
        """Add a patch.

        Parameters
        ----------
        optical : ndarray, (bands, height, width)
        optical_valid, height_valid : ndarray of bool, (height, width)
        height : ndarray of float32, (height, width)
            Metres.
        """
        places = np.flatnonzero(optical_valid)
        # An odd step: tiles have even sides, and an even step would see the same columns only.
        places = places[:: -(-len(places) // _PER_PATCH) | 1]
        self._optical.append(optical.reshape(len(optical), -1)[:, places].astype(np.float32))
        heights = np.where(height_valid.ravel()[places], height.ravel()[places], np.nan)
        self._heights.append(heights.astype(np.float32))

    def distribution(self) -> PixelDistribution | None:
        """Return the distribution of all patches; None if no pixel of them is valid."""
        if not sum(map(len, self._heights)):
            return None
        optical, heights = np.concatenate(self._optical, axis=1), np.concatenate(self._heights)
        known = heights[~np.isnan(heights)]
        return PixelDistribution(
            bands=tuple(map(_percentiles, optical)),
            heights=_percentiles(known) if known.size else None,
            voids=round(1 - known.size / heights.size, 4),
        )


def _percentiles(values: NDArray[np.float32]) -> Percentiles:
    found = np.percentile(values, [*_PERCENTILES.values()])
    # Six digits: in the file they are read by people, too.
    return Percentiles(**{n: float(f"{v:.6g}") for n, v in zip(_PERCENTILES, found, strict=True)})
