"""Calibration of class probabilities by a temperature, and how well they are calibrated.

Logits are divided by a temperature before the softmax, which leaves the order of the classes as it
is. Temperature and expected calibration error are those of Guo et al., ICML 2017, "On Calibration
of Modern Neural Networks". This module is free of torch.
"""

from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat

TEMPERATURES = 2.0 ** (np.arange(-16, 25) / 8)
"""Candidates, from 1/4 to 8. The fit chooses one of them, so that it does not depend on rounding,
and on how the pixels were divided among processes."""

BINS = 15
_NEUTRAL = int(np.flatnonzero(TEMPERATURES == 1)[0])


class Reliability(BaseModel):
    """Confidence against accuracy, in 15 bins of equal width of the highest probability.

    Attributes
    ----------
    shares : tuple of float
        Share of the pixels in each bin.
    confidence, accuracy : tuple of (float or None)
        Mean highest probability, and share of right labels, of each bin; None in an empty bin.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    shares: tuple[FiniteFloat, ...]
    confidence: tuple[FiniteFloat | None, ...]
    accuracy: tuple[FiniteFloat | None, ...]

    @property
    def error(self) -> float:
        """Expected calibration error: mean difference of confidence and accuracy, 0 to 1."""
        bins = zip(self.shares, self.confidence, self.accuracy, strict=True)
        return sum(s * abs(c - a) for s, c, a in bins if c is not None and a is not None)


class Calibration(BaseModel):
    """The temperature that was fitted on validation tiles, and what it changed there.

    Attributes
    ----------
    temperature : float
        Above 1 if the network was too sure. The last convolution of the model has been divided by
        it: its logits need no further division.
    before, after : Reliability
        At a temperature of 1, and at `temperature`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    temperature: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    before: Reliability
    after: Reliability


class CalibrationSums:
    """Sums over pixels from which a temperature is fitted; memory does not grow with the pixels.

    Attributes
    ----------
    likelihood : ndarray of float64, (temperatures,)
        Negative log-likelihood of the labels at each candidate, summed over the pixels.
    bins : ndarray of float64, (temperatures, 15, 3)
        Of each bin: pixels, sum of the highest probabilities, right pixels.
    """

    def __init__(self) -> None:
        self.likelihood: NDArray[np.float64] = np.zeros(len(TEMPERATURES))
        self.bins: NDArray[np.float64] = np.zeros((len(TEMPERATURES), BINS, 3))

    def add(self, logits: NDArray[np.float32], labels: NDArray[np.int64]) -> None:
        """Add pixels.

        Parameters
        ----------
        logits : ndarray, (n, K)
        labels : ndarray, (n,)
            Class ids.
        """
        # A network that has diverged is scored like any other.
        finite = np.isfinite(logits).all(axis=1)
        logits, labels = logits[finite], labels[finite]
        below = logits - logits.max(axis=1, keepdims=True)
        of_label = below[np.arange(len(labels)), labels]
        right = below.argmax(axis=1) == labels
        for number, temperature in enumerate(TEMPERATURES.astype(np.float32)):
            log_sum = np.log(np.exp(below / temperature).sum(axis=1))
            self.likelihood[number] += (log_sum - of_label / temperature).sum(dtype=np.float64)
            add_to_bins(self.bins[number], np.exp(-log_sum, dtype=np.float64), right)

    def fit(self) -> Calibration | None:
        """Return the most likely temperature; None without pixels."""
        if not self.bins.any():
            return None
        fitted = int(self.likelihood.argmin())
        return Calibration(
            temperature=round(float(TEMPERATURES[fitted]), 4),
            before=reliability(self.bins[_NEUTRAL]),
            after=reliability(self.bins[fitted]),
        )


def add_to_bins(
    bins: NDArray[np.float64], best: NDArray[np.floating], right: NDArray[np.bool_]
) -> None:
    """Add pixels to bins (15, 3), see `CalibrationSums`.

    Parameters
    ----------
    bins : ndarray of float64, (15, 3)
    best : ndarray, (n,)
        Highest probability, 0 to 1.
    right : ndarray of bool, (n,)
        Whether that class is the label.
    """
    places = np.minimum((best * BINS).astype(np.int64), BINS - 1)
    for column, weights in enumerate((None, best, right)):
        bins[:, column] += np.bincount(places, weights, BINS)


def reliability(bins: NDArray[np.float64]) -> Reliability:
    """Return confidence and accuracy of bins (15, 3), see `CalibrationSums`, with pixels."""
    pixels, sure, right = bins.T.tolist()
    total = sum(pixels)

    def means(sums: list[float]) -> tuple[float | None, ...]:
        return tuple(round(s / n, 5) if n else None for s, n in zip(sums, pixels, strict=True))

    shares = tuple(round(n / total, 6) for n in pixels)
    return Reliability(shares=shares, confidence=means(sure), accuracy=means(right))
