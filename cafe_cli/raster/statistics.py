"""Mean, standard deviation and percentiles of training pixels, accumulated tile by tile."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

CLIP = (0.1, 99.9)
"""Percentiles at which pixel values are clipped, unless they are uint8."""

_PER_TILE = 4096  # pixels sampled per tile of a data type too large for a histogram
_KEPT = 20_000_000  # sampled values in memory, of all tiles and channels


class Statistics(BaseModel):
    """Mean and standard deviation of the valid training pixels, per channel.

    Both are computed after clipping to `low` and `high`, which are None if nothing is clipped. The
    network clips and scales its inputs with them.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    mean: tuple[float, ...]
    std: tuple[float, ...]
    low: tuple[float, ...] | None = None
    high: tuple[float, ...] | None = None


@dataclass
class RunningMoments:
    """Running sums per channel, in float64, for mean and variance without clipping."""

    count: int = 0
    total: NDArray[np.float64] = field(default_factory=lambda: np.zeros(1))
    squares: NDArray[np.float64] = field(default_factory=lambda: np.zeros(1))

    @classmethod
    def of(cls, values: NDArray[np.generic], valid: NDArray[np.bool_]) -> "RunningMoments":
        """Return the moments of the valid pixels of values (channels, height, width)."""
        pixels = _valid_pixels(values, valid).astype(np.float64)
        return cls(pixels.shape[1], pixels.sum(axis=1), np.einsum("cn,cn->c", pixels, pixels))

    def add(self, other: "RunningMoments") -> None:
        """Add the moments of other pixels."""
        self.count += other.count
        self.total = self.total + other.total
        self.squares = self.squares + other.squares

    def statistics(self, channels: int) -> Statistics:
        """Return mean and standard deviation per channel; 0 and 1 if nothing was added."""
        if not self.count:
            return Statistics(mean=(0.0,) * channels, std=(1.0,) * channels)
        mean = self.total / self.count
        variance = self.squares / self.count - mean**2
        return _statistics(mean, np.sqrt(np.maximum(variance, 0)))


def summarize(values: NDArray[Any], valid: NDArray[np.bool_], dtype: str) -> NDArray[Any]:
    """Summarise the pixels of a tile for a `BandHistogram` of a data type.

    Parameters
    ----------
    values : ndarray, (channels, height, width)
    valid : ndarray of bool, (height, width)
    dtype : str
        That of the histogram.

    Returns
    -------
    ndarray
        Counts of int64, (channels, values of the type), or sampled pixels, (channels, n).
    """
    pixels = _valid_pixels(values, valid)
    counted = _counted_values(dtype)
    if counted is None:
        return pixels[:, :: -(-pixels.shape[1] // _PER_TILE) or 1].copy()
    if counted.start:
        pixels = pixels.astype(np.int32) - counted.start
    return np.stack([np.bincount(channel, minlength=len(counted)) for channel in pixels])


def condense(summaries: Sequence[NDArray[Any]], dtype: str) -> list[NDArray[Any]]:
    """Return as few summaries as a `BandHistogram` takes for the same: counts add up."""
    if _counted_values(dtype) is None or not summaries:
        return [*summaries]
    return [np.sum(summaries, axis=0)]


def _counted_values(dtype: str) -> range | None:
    """Return the values of a data type that are counted; None if they are sampled."""
    kind = np.dtype(dtype)
    if kind.kind not in "iub" or kind.itemsize > 2:
        return None
    lowest = 0 if kind.kind in "ub" else int(np.iinfo(kind).min)
    return range(lowest, lowest + 256**kind.itemsize)


class BandHistogram:
    """Distribution of pixel values per channel.

    For integers of up to 16 bits it is an exact histogram. Other types are sampled: up to 4096
    pixels of a tile, evenly spread, and of every tile or, if there are many, of every 2nd, 4th, ...

    Parameters
    ----------
    channels : int
    dtype : str
    """

    def __init__(self, channels: int, dtype: str) -> None:
        self._channels = channels
        self._clips = np.dtype(dtype) != np.uint8
        self._counted = _counted_values(dtype)
        if self._counted is not None:
            self._counts = np.zeros((channels, len(self._counted)), np.int64)
        self._samples: list[NDArray[Any]] = []
        self._size = 0
        self._seen = 0
        self._step = 1  # tiles from one sampled tile to the next

    def add(self, summary: NDArray[Any]) -> None:
        """Add a summary: that of the next tile, or counts of several."""
        if self._counted is not None:
            self._counts += summary
            return
        if self._seen % self._step == 0:
            self._samples.append(summary)
            self._size += summary.size
        self._seen += 1
        if self._size > _KEPT:
            self._samples = self._samples[::2]
            self._size = sum(s.size for s in self._samples)
            self._step *= 2

    def statistics(self) -> Statistics:
        """Return mean, standard deviation and clipping limits; 0, 1, None if nothing was added."""
        values, weights = self._values()
        if not weights.any():
            return RunningMoments().statistics(self._channels)
        rows = [_describe(v, w, self._clips) for v, w in zip(values, weights, strict=True)]
        mean, std, low, high = (np.array(column) for column in zip(*rows, strict=True))
        plain = _statistics(mean, std)
        if not self._clips:
            return plain
        limits = {"low": tuple(low.tolist()), "high": tuple(high.tolist())}
        return plain.model_copy(update=limits)

    def _values(self) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Return sorted values and their counts, (channels, n) each."""
        if self._counted is not None:
            steps = np.array(self._counted, np.float64)
            return np.broadcast_to(steps, self._counts.shape), self._counts
        samples = [np.zeros((self._channels, 0)), *self._samples]
        values = np.sort(np.concatenate(samples, axis=1).astype(np.float64), axis=1)
        return values, np.ones(values.shape, np.int64)


def _valid_pixels(values: NDArray[Any], valid: NDArray[np.bool_]) -> NDArray[Any]:
    """Return the valid pixels of values, (channels, n); a view if all are valid."""
    return values.reshape(len(values), -1) if valid.all() else values[:, valid]


def _describe(
    values: NDArray[np.float64], weights: NDArray[np.int64], clips: bool
) -> tuple[float, float, float, float]:
    """Return mean and standard deviation after clipping, and the clipping limits."""
    low, high = float(values[0]), float(values[-1])
    if clips:
        reached = weights.cumsum() / weights.sum() * 100
        low, high = (float(values[np.searchsorted(reached, p - 1e-9)]) for p in CLIP)
        values = values.clip(low, high)
    mean = float(np.average(values, weights=weights))
    variance = float(np.average((values - mean) ** 2, weights=weights))
    return mean, variance**0.5, low, high


def _statistics(mean: NDArray[np.float64], std: NDArray[np.float64]) -> Statistics:
    # A constant channel has no information: with a deviation of 1 its scaled values stay finite.
    std = np.where(std > 1e-6, std, 1.0)
    return Statistics(mean=tuple(mean.tolist()), std=tuple(std.tolist()))
