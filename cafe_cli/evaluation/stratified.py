"""Accuracy and area, with intervals, from points of a stratified random sample.

The estimators are those of Stehman 2014 (doi 10.1080/01431161.2014.930207), in which strata and
classes may differ. Where the strata are the classes of the map, they are those of Olofsson et al.
2014 (doi 10.1016/j.rse.2014.02.015, equations 2 to 11). Like these they have no finite population
correction, but a stratum of which every pixel was sampled adds no variance.

Every statistic is a function of totals. Its variance is that of its linear approximation: each
point has an influence on the statistic, and the influences are estimated like any other total.
The difference of two maps has the difference of the influences, since both have the same points.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cafe_cli.classes import NODATA, ClassTable

Floats = NDArray[np.float64]

_Z = 1.96  # standard errors to each side of a 95 % interval, as Olofsson et al. 2014 take it


@dataclass(frozen=True)
class Estimate:
    """An estimate and its standard error; NaN where it is undefined."""

    value: float
    standard_error: float

    @property
    def margin(self) -> float:
        """Half the width of the 95 % interval."""
        return _Z * self.standard_error

    def scaled(self, factor: float) -> "Estimate":
        """Return the estimate in another unit."""
        return Estimate(self.value * factor, self.standard_error * factor)

    def as_json(self) -> dict[str, float | None]:
        """Return plain values with the limits of the 95 % interval; NaN becomes None."""
        values = {
            "estimate": self.value,
            "standard_error": self.standard_error,
            "low": self.value - self.margin,
            "high": self.value + self.margin,
        }
        return {key: None if math.isnan(value) else value for key, value in values.items()}


@dataclass(frozen=True)
class Strata:
    """The strata of a sample.

    Attributes
    ----------
    names : tuple of str
    pixels : ndarray of float64, (H,)
        Pixels in each stratum, in the whole map.
    square_metres : ndarray of float64, (H,), or None
        Ground of each stratum.
    """

    names: tuple[str, ...]
    pixels: Floats
    square_metres: Floats | None = None


@dataclass(frozen=True)
class Points:
    """Sampled points whose reference class is known.

    Attributes
    ----------
    strata : Strata
    stratum : ndarray of intp, (n,)
        Index of the stratum of each point.
    reference : ndarray of uint8, (n,)
        Class id of each point.
    """

    strata: Strata
    stratum: NDArray[np.intp]
    reference: NDArray[np.uint8]

    @property
    def sampled(self) -> NDArray[np.int64]:
        """The number of points in each stratum, (H,)."""
        return np.bincount(self.stratum, minlength=len(self.strata.names)).astype(np.int64)

    @property
    def weights(self) -> Floats:
        """The number of pixels that each point stands for, (n,)."""
        return (self.strata.pixels / np.maximum(self.sampled, 1))[self.stratum]


@dataclass(frozen=True)
class Statistic:
    """A statistic with the influence of every point on it.

    Attributes
    ----------
    value : float
    influence : ndarray of float64, (n,)
    """

    value: float
    influence: Floats

    def __sub__(self, other: "Statistic") -> "Statistic":
        """Return the difference of a statistic of two maps at the same points."""
        return Statistic(self.value - other.value, self.influence - other.influence)


@dataclass(frozen=True)
class MapStatistics:
    """The statistics of a map.

    Attributes
    ----------
    overall_accuracy, miou, mean_f1, kappa : Statistic
        The means are over the classes with `LandClass.scored` that the points have in map or
        reference.
    users_accuracy, producers_accuracy, iou, f1 : tuple of Statistic, K
    matrix : ndarray of float64, (K, K)
        Estimated shares of the pixels; rows are the reference, columns the map, as in `Confusion`.
    """

    overall_accuracy: Statistic
    miou: Statistic
    mean_f1: Statistic
    kappa: Statistic
    users_accuracy: tuple[Statistic, ...]
    producers_accuracy: tuple[Statistic, ...]
    iou: tuple[Statistic, ...]
    f1: tuple[Statistic, ...]
    matrix: Floats


def estimate(points: Points, statistic: Statistic) -> Estimate:
    """Return the estimate of a statistic of points.

    The standard error is NaN if a stratum with more pixels has a single point only.
    """
    variance = 0.0
    for index, (pixels, sampled) in enumerate(
        zip(points.strata.pixels.tolist(), points.sampled.tolist(), strict=True)
    ):
        if sampled >= pixels:
            continue  # every pixel is known
        here = statistic.influence[points.stratum == index]
        spread = float(np.var(here, ddof=1)) if sampled > 1 else math.nan
        variance += pixels**2 * spread / sampled if sampled else math.nan
    return Estimate(statistic.value, math.sqrt(variance))


def map_statistics(
    points: Points, predicted: NDArray[np.uint8], counted: NDArray[np.bool_], classes: ClassTable
) -> MapStatistics:
    """Return the statistics of a map.

    Parameters
    ----------
    points : Points
    predicted : ndarray of uint8, (n,)
        Class id of the map at each point.
    counted : ndarray of bool, (n,)
        Which points are scored, such as those on the ground that two maps share. The others, and
        points with 255 in `predicted`, are in no statistic.
    classes : ClassTable
    """
    weights, ids = points.weights, np.arange(len(classes))
    known = counted & (predicted != NODATA)
    mapped = ((predicted[:, None] == ids) & known[:, None]).astype(float)
    truth = ((points.reference[:, None] == ids) & known[:, None]).astype(float)
    right = mapped * truth
    iou = _ratios(weights, right, mapped + truth - right)
    f1 = _ratios(weights, 2 * right, mapped + truth)
    (accuracy,) = _ratios(weights, right.sum(axis=1)[:, None], known[:, None].astype(float))
    matrix = (truth * weights[:, None]).T @ mapped
    return MapStatistics(
        overall_accuracy=accuracy,
        miou=_mean(iou, classes),
        mean_f1=_mean(f1, classes),
        kappa=_kappa(weights, accuracy, mapped, truth, known),
        users_accuracy=_ratios(weights, right, mapped),
        producers_accuracy=_ratios(weights, right, truth),
        iou=iou,
        f1=f1,
        matrix=matrix / max(float(matrix.sum()), 1.0),
    )


def class_shares(points: Points, classes: ClassTable) -> tuple[Statistic, ...]:
    """Return the share of each class in the pixels of the map, by the reference."""
    truth = (points.reference[:, None] == np.arange(len(classes))).astype(float)
    total = float(points.strata.pixels.sum())
    shares = points.weights @ truth / total
    return tuple(
        Statistic(float(share), column / total)
        for share, column in zip(shares, truth.T, strict=True)
    )


def class_areas(points: Points, classes: ClassTable) -> tuple[Statistic, ...] | None:
    """Return the area of each class in m² by the reference; None where pixels have no known size.

    Every stratum has pixels of its mean size.
    """
    metres = points.strata.square_metres
    if metres is None:
        return None
    truth = (points.reference[:, None] == np.arange(len(classes))).astype(float)
    size = (metres / np.maximum(points.strata.pixels, 1))[points.stratum]
    influence = truth * size[:, None]
    areas = points.weights @ influence
    return tuple(
        Statistic(float(area), column) for area, column in zip(areas, influence.T, strict=True)
    )


def _ratios(weights: Floats, parts: Floats, wholes: Floats) -> tuple[Statistic, ...]:
    """Return the ratios of two totals by columns, (n, C); NaN where the second is 0."""
    total = weights @ wholes
    total = np.where(total == 0, np.nan, total)
    values = weights @ parts / total
    influence = (parts - values * wholes) / total
    return tuple(
        Statistic(float(value), column) for value, column in zip(values, influence.T, strict=True)
    )


def _mean(statistics: tuple[Statistic, ...], classes: ClassTable) -> Statistic:
    """Return the mean over the scored classes whose statistic is defined."""
    chosen = [
        statistic
        for statistic, land in zip(statistics, classes, strict=True)
        if land.scored and not math.isnan(statistic.value)
    ]
    if not chosen:
        return Statistic(math.nan, np.full(len(statistics[0].influence), np.nan))
    return Statistic(
        float(np.mean([s.value for s in chosen])), np.mean([s.influence for s in chosen], axis=0)
    )


def _kappa(
    weights: Floats, accuracy: Statistic, mapped: Floats, truth: Floats, known: NDArray[np.bool_]
) -> Statistic:
    """Return Cohen's kappa: the accuracy beyond the agreement that chance would give."""
    whole = known[:, None].astype(float)
    columns = _ratios(weights, mapped, np.repeat(whole, mapped.shape[1], axis=1))
    rows = _ratios(weights, truth, np.repeat(whole, truth.shape[1], axis=1))
    chance = sum(c.value * r.value for c, r in zip(columns, rows, strict=True))
    moved = sum(
        c.value * r.influence + r.value * c.influence for c, r in zip(columns, rows, strict=True)
    )
    if not chance < 1:
        return Statistic(math.nan, np.full(len(weights), np.nan))
    influence = accuracy.influence / (1 - chance) - (1 - accuracy.value) / (1 - chance) ** 2 * moved
    return Statistic((accuracy.value - chance) / (1 - chance), influence)
