"""Details of a comparison of whole maps: intervals of its scores, and scores by groups."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cafe_cli.classes import ClassTable
from cafe_cli.evaluation.bootstrap import Intervals, differences, intervals
from cafe_cli.evaluation.counting import Comparison, CountSettings, group_names
from cafe_cli.evaluation.metrics import Confusion, Scores, compute_scores, kappa


@dataclass(frozen=True)
class DetailedScores:
    """The scores of a map, with intervals, and by groups.

    Attributes
    ----------
    scores : Scores
    kappa : float
        NaN where it is undefined.
    intervals : Intervals or None
        None if too few blocks have labels.
    by_distance, by_height : dict of Scores
        By the name of the group.
    """

    scores: Scores
    kappa: float
    intervals: Intervals | None
    by_distance: dict[str, Scores]
    by_height: dict[str, Scores]

    def as_json(self, with_kappa: bool = False) -> dict[str, Any]:
        """Return plain values: those of `scores`, and what else there is."""
        more: dict[str, Any] = {}
        if with_kappa:
            more["kappa"] = None if math.isnan(self.kappa) else self.kappa
        for key, groups in (("by_distance", self.by_distance), ("by_height", self.by_height)):
            if groups:
                more[key] = {name: scores.as_json() for name, scores in groups.items()}
        found = None if self.intervals is None else self.intervals.as_json()
        return {**self.scores.as_json(), "intervals": found, **more}


def describe(
    found: Sequence[Comparison], side: int, classes: ClassTable, settings: CountSettings
) -> DetailedScores:
    """Return the scores of one map from its comparisons, of one scene or of several."""
    total = _sum([one.confusion for one in found], classes)
    by_distance, by_height = (
        {
            name: compute_scores(_sum(parts, classes), classes)
            for name in names
            if (parts := [getattr(one, key)[name] for one in found if name in getattr(one, key)])
        }
        for key, names in zip(("by_distance", "by_height"), group_names(settings), strict=True)
    )
    return DetailedScores(
        compute_scores(total, classes),
        kappa(total.counts),
        intervals(_blocks(found), side, classes),
        by_distance,
        by_height,
    )


def describe_difference(
    first: Sequence[Comparison], other: Sequence[Comparison], classes: ClassTable
) -> Mapping[str, Any]:
    """Return how much another map scores higher than the first, given comparisons by scene."""
    return differences(_blocks(first), _blocks(other), classes)


def _blocks(found: Sequence[Comparison]) -> list[NDArray[np.int64]]:
    return [one.blocks[place] for one in found for place in sorted(one.blocks)]


def _sum(parts: Sequence[Confusion], classes: ClassTable) -> Confusion:
    total = Confusion(len(classes))
    for part in parts:
        total += part
    return total
