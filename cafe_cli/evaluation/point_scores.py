"""The scores of maps at reference points, with estimates for the map where these are a sample."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cafe_cli.classes import ClassTable
from cafe_cli.evaluation.areas import Areas
from cafe_cli.evaluation.metrics import ClassScores, Confusion, Scores, compute_scores, kappa
from cafe_cli.evaluation.stratified import (
    Estimate,
    MapStatistics,
    Points,
    Statistic,
    class_areas,
    class_shares,
    estimate,
    map_statistics,
)

OVERALL = ("overall_accuracy", "miou", "mean_f1", "kappa")
PER_CLASS = ("users_accuracy", "producers_accuracy", "iou", "f1")


@dataclass(frozen=True)
class SampleEstimates:
    """What a probability sample tells of a map.

    Attributes
    ----------
    overall : dict of Estimate
        By the names in `OVERALL`.
    classes : dict of dict of Estimate
        By class name, then by the names in `PER_CLASS`.
    shares, square_metres : dict of Estimate
        Of each class by the reference; `square_metres` is None where pixels have no known size.
    matrix : ndarray of float64, (K, K)
        Estimated shares of the pixels; rows are the reference, columns the map.
    strata : dict
        Pixels and points by the name of the stratum.
    mapped : Areas
        The classes of the map, by counting its pixels.
    """

    overall: dict[str, Estimate]
    classes: dict[str, dict[str, Estimate]]
    shares: dict[str, Estimate]
    square_metres: dict[str, Estimate] | None
    matrix: NDArray[np.float64]
    strata: dict[str, tuple[float, int]]
    mapped: Areas

    def areas(self) -> Areas:
        """Return the areas of the map with the estimates."""
        metres = self.square_metres or {}
        rows = {
            name: replace(row, estimate=metres.get(name))
            for name, row in self.mapped.classes.items()
        }
        return Areas(rows, self.mapped.unclassified)

    def as_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "strata": {
                name: {"pixels": pixels, "points": points, "inclusion_probability": points / pixels}
                for name, (pixels, points) in self.strata.items()
            },
            **{name: value.as_json() for name, value in self.overall.items() if name != "kappa"},
            "classes": {
                name: {key: value.as_json() for key, value in row.items()} | self._area(name)
                for name, row in self.classes.items()
            },
            "matrix": self.matrix.tolist(),
        }

    def _area(self, name: str) -> dict[str, Any]:
        metres = self.square_metres
        row = self.mapped.classes[name]
        return {
            "share": self.shares[name].as_json(),
            "hectares": None if metres is None else metres[name].scaled(1e-4).as_json(),
            "mapped_share": row.share,
            "mapped_hectares": row.hectares,
        }


@dataclass(frozen=True)
class PointScores:
    """The scores of a map at points.

    Attributes
    ----------
    scores : Scores
        Estimates for the map if the points are a probability sample, else shares of the points.
        `pixels` are points, and so is the confusion matrix.
    estimates : SampleEstimates or None
    reason : str
        Why there are no estimates.
    unanswered : int
        Points without a reference class.
    kappa : float
    """

    scores: Scores
    estimates: SampleEstimates | None
    reason: str
    unanswered: int
    kappa: float

    def as_json(self, with_kappa: bool = False) -> dict[str, Any]:
        """Return plain values: those of `scores`, and ``sample``."""
        sample = None if self.estimates is None else self.estimates.as_json()
        more: dict[str, Any] = {"reason": self.reason} if sample is None else {}
        if with_kappa:
            more["kappa"] = None if math.isnan(self.kappa) else self.kappa
        return {
            **self.scores.as_json(),
            "points": self.scores.pixels,
            "unanswered": self.unanswered,
            "sample": sample,
            **more,
        }


def score_sample(
    points: Points,
    predicted: NDArray[np.uint8],
    counted: NDArray[np.bool_],
    classes: ClassTable,
    mapped: Areas,
    unanswered: int,
) -> tuple[PointScores, MapStatistics]:
    """Score a map at the points of a probability sample; parameters as for `map_statistics`."""
    found = map_statistics(points, predicted, counted, classes)
    names, areas = classes.names, class_areas(points, classes)

    def by_class(statistics: tuple[Statistic, ...]) -> dict[str, Estimate]:
        return {n: estimate(points, s) for n, s in zip(names, statistics, strict=True)}

    columns = {key: by_class(getattr(found, key)) for key in PER_CLASS}
    estimates = SampleEstimates(
        overall={key: estimate(points, getattr(found, key)) for key in OVERALL},
        classes={name: {key: columns[key][name] for key in PER_CLASS} for name in names},
        shares=by_class(class_shares(points, classes)),
        square_metres=None if areas is None else by_class(areas),
        matrix=found.matrix,
        strata={
            name: (pixels, sampled)
            for name, pixels, sampled in zip(
                points.strata.names,
                points.strata.pixels.tolist(),
                points.sampled.tolist(),
                strict=True,
            )
        },
        mapped=mapped,
    )
    plain = compute_scores(_count(points.reference, predicted, counted, classes), classes)
    scores = Scores(
        found.miou.value, found.mean_f1.value, found.overall_accuracy.value,
        plain.pixels, plain.unpredicted,
        {
            name: ClassScores(
                row["iou"].value, row["f1"].value, row["users_accuracy"].value,
                row["producers_accuracy"].value, plain.classes[name].pixels,
            )
            for name, row in estimates.classes.items()
        },
        plain.confusion,
    )  # fmt: skip
    return PointScores(scores, estimates, "", unanswered, found.kappa.value), found


def score_points(
    reference: NDArray[np.uint8],
    predicted: NDArray[np.uint8],
    counted: NDArray[np.bool_],
    classes: ClassTable,
    reason: str,
    unanswered: int,
) -> PointScores:
    """Score a map at points that are not a probability sample; all count equally."""
    confusion = _count(reference, predicted, counted, classes)
    return PointScores(
        compute_scores(confusion, classes), None, reason, unanswered, kappa(confusion.counts)
    )


def differences(
    points: Points, first: MapStatistics, other: MapStatistics, classes: ClassTable
) -> Mapping[str, Any]:
    """Return how much the scores of another map are higher than those of the first.

    Both maps have the same points, so that the intervals are narrower than those of either.
    """
    overall = {
        key: estimate(points, getattr(other, key) - getattr(first, key)).as_json()
        for key in OVERALL
        if key != "kappa"
    }
    pairs = zip(classes.names, first.iou, other.iou, strict=True)
    return {**overall, "iou": {n: estimate(points, b - a).as_json() for n, a, b in pairs}}


def _count(
    reference: NDArray[np.uint8],
    predicted: NDArray[np.uint8],
    counted: NDArray[np.bool_],
    classes: ClassTable,
) -> Confusion:
    confusion = Confusion(len(classes))
    confusion.add(reference[counted], predicted[counted])
    return confusion
