"""How accurate a map is, against labels that cover ground or at points, in one form."""

from collections.abc import Mapping
from dataclasses import dataclass

from cafe_cli.evaluation.areas import Areas
from cafe_cli.evaluation.bootstrap import Interval, Intervals
from cafe_cli.evaluation.evaluate import evaluate_in_detail
from cafe_cli.evaluation.metrics import Scores
from cafe_cli.evaluation.point_scores import PointScores, SampleEstimates
from cafe_cli.evaluation.points import evaluate_points
from cafe_cli.evaluation.stratified import Estimate
from cafe_cli.map_report.source import Subject
from cafe_cli.pages.tables import Limits
from cafe_cli.system.threads import ProgressCallback

_SAMPLE_NAMES = {
    "iou": "iou", "f1": "f1", "users_accuracy": "precision", "producers_accuracy": "recall",
}  # fmt: skip


@dataclass(frozen=True)
class Accuracy:
    """The scores of a map.

    Attributes
    ----------
    scores : Scores
    unit : str
        What they count, "pixels" or "points".
    limits : dict
        Of 95 % intervals by class name, or "mean", then by score; empty if there are none.
    overall : (float, float) or None
        The interval of the overall accuracy.
    note : str
        A sentence on where the intervals come from, or why there are none.
    areas : Areas or None
        Areas with estimates, where points tell them.
    matrix : list of lists of float, or None
        Estimated shares of the map, rows are the reference, where points tell them.
    """

    scores: Scores
    unit: str
    limits: Limits
    overall: Interval | None
    note: str
    areas: Areas | None = None
    matrix: list[list[float]] | None = None


def measure_accuracy(
    subject: Subject, progress: ProgressCallback = lambda done, total: None
) -> Accuracy | None:
    """Score a map against its reference; None without one.

    Errors are those of `evaluate` and `evaluate_points`.
    """
    source, config = subject.source, subject.source.config
    if source.reference is None:
        return None
    about = {"classes": subject.classes, "labels": config.labels, "crs": config.crs}
    if subject.has_points:
        points = evaluate_points([source.map], source.reference, progress=progress, **about)  # type: ignore[arg-type]
        return _of_points(points.first)
    found = evaluate_in_detail([source.map], source.reference, progress=progress, **about).first  # type: ignore[arg-type]
    if found.intervals is None:
        note = "There are no intervals: the labels cover too little ground."
        return Accuracy(found.scores, "pixels", {}, None, note)
    return _of_blocks(found.scores, found.intervals)


def _of_blocks(scores: Scores, found: Intervals) -> Accuracy:
    note = (
        f"The 95 % intervals come from a bootstrap of {found.blocks} blocks of {found.side} x "
        f"{found.side} pixels. They hold for the labelled ground."
    )
    means = {"iou": found.overall["miou"], "f1": found.overall["mean_f1"]}
    limits = {**found.classes, "mean": means}
    return Accuracy(scores, "pixels", limits, found.overall["overall_accuracy"], note)


def _of_points(found: PointScores) -> Accuracy:
    left_out = (
        f" {found.unanswered:,} points have no reference class and are left out."
        if found.unanswered
        else ""
    )
    if found.estimates is None:
        note = (
            f"There are no intervals, and the scores are those of the {found.scores.pixels:,} "
            f"points, not of the map: {found.reason}.{left_out}"
        )
        return Accuracy(found.scores, "points", {}, None, note)
    note = (
        f"Scores and 95 % intervals are estimated from {found.scores.pixels:,} points in "
        f"{len(found.estimates.strata)} strata, for the whole map.{left_out}"
    )
    estimates = found.estimates
    overall, matrix = estimates.overall["overall_accuracy"], estimates.matrix.tolist()
    return Accuracy(
        found.scores, "points", _limits(estimates), _interval(overall), note, estimates.areas(),
        matrix,
    )  # fmt: skip


def _limits(estimates: SampleEstimates) -> Mapping[str, Mapping[str, Interval]]:
    by_class = {
        name: {ours: _interval(row[theirs]) for theirs, ours in _SAMPLE_NAMES.items()}
        for name, row in estimates.classes.items()
    }
    overall = estimates.overall
    means = {"iou": _interval(overall["miou"]), "f1": _interval(overall["mean_f1"])}
    return {**by_class, "mean": means}


def _interval(estimate: Estimate) -> Interval:
    """Return the limits of an estimated share, cut off at 0 and 1."""
    low, high = estimate.value - estimate.margin, estimate.value + estimate.margin
    return max(low, 0.0), min(high, 1.0)
