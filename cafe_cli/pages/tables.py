"""The tables of a page as plain values: scores by class, and the confusion matrix."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from cafe_cli.classes import ClassTable, LandClass
from cafe_cli.evaluation.bootstrap import Interval
from cafe_cli.evaluation.metrics import Scores
from cafe_cli.text import percent as format_share

_MATRIX = 32  # classes; a larger matrix is not readable
_LISTED = 20  # mistakes
_SCORES = ("iou", "f1", "precision", "recall")

Limits: TypeAlias = Mapping[str, Mapping[str, Interval]]
"""Limits of intervals by row, then by score."""


@dataclass(frozen=True)
class Cell:
    """A table cell with a colour, a note or a share besides its text.

    Attributes
    ----------
    text : str
    color : str
        ``#rrggbb`` of a square before the text; empty for none.
    note : str
        Shown after the text.
    share : float, optional
        0 to 1, drawn as `kind` says: the colour of a right or a wrong pair of classes, or a bar.
    kind : "right", "wrong" or "bar"
    """

    text: str
    color: str = ""
    note: str = ""
    share: float | None = None
    kind: Literal["right", "wrong", "bar"] = "bar"


Row: TypeAlias = Sequence[str | Cell]


@dataclass(frozen=True)
class Table:
    """A table whose first column names its rows.

    Attributes
    ----------
    caption : str
    columns : sequence of str or Cell
        Column headers.
    rows : sequence of sequences of str or Cell
    explanation : str
        A paragraph before the table.
    kind : str
        CSS class of the table, besides ``numbers``.
    """

    caption: str
    columns: Row
    rows: Sequence[Row]
    explanation: str = ""
    kind: str = ""


def number(value: float, digits: int = 3) -> str:
    """Format a number with commas between thousands; NaN as a dash."""
    return "-" if math.isnan(value) else f"{value:,.{digits}f}"


def percent(part: float, whole: float, digits: int = 1) -> str:
    """Format a share in percent; a dash if `whole` is 0."""
    return format_share(part / whole, digits) if whole else "-"


def by_class(
    scores: Scores, classes: ClassTable, intervals: Limits | None = None, unit: str = "pixels"
) -> Table:
    """Return the scores of each class, and their means.

    Parameters
    ----------
    scores : Scores
    classes : ClassTable
    intervals : dict, optional
        Limits of 95 % intervals by class name, or "mean", then by the name of a score.
    unit : str
        What the scores count.
    """
    limits = intervals or {}
    rows: list[Row] = []
    for c in classes:
        row, own = scores.classes[c.name], limits.get(c.name, {})
        name = Cell(c.name, c.color, "" if c.scored else " (in no mean)")
        values = [_score(getattr(row, key), own.get(key)) for key in _SCORES]
        rows.append([name, *values, number(row.pixels, 0)])
    own = limits.get("mean", {})
    means = [_score(scores.miou, own.get("iou")), _score(scores.mean_f1, own.get("f1"))]
    rows.append(["mean", *means, "", "", number(scores.pixels, 0)])
    return Table(
        "Scores by class",
        ["class", "IoU", "F1", "user's accuracy", "producer's accuracy", unit],
        rows,
        f"User's accuracy is precision, producer's accuracy is recall; {unit} are those of the "
        "reference." + (" In brackets: 95 % intervals." if intervals else ""),
    )


def confusion(
    scores: Scores,
    classes: ClassTable,
    unit: str = "pixels",
    estimated: Sequence[Sequence[float]] | None = None,
) -> Table:
    """Return the confusion matrix, or the commonest mistakes if it has too many classes.

    Parameters
    ----------
    scores : Scores
    classes : ClassTable
    unit : str
        What the scores count.
    estimated : sequence of sequences of float, optional
        Shares of the map that a sample tells, as `Scores.confusion` has counts: what is counted
        stands for more of one class than of another.
    """
    if len(classes) > _MATRIX:
        return _mistakes(scores, classes, unit)
    counts, weights = scores.confusion, estimated or scores.confusion
    predicted = [sum(column) for column in zip(*counts, strict=True)]
    rows: list[Row] = []
    for i, c in enumerate(classes):
        whole = sum(weights[i])
        cells = [_pair(counts[i][j], weights[i][j], whole, i == j) for j in range(len(classes))]
        producers = percent(weights[i][i], whole)
        rows.append([name_cell(c), *cells, producers, number(sum(counts[i]), 0)])
    columns = [sum(column) for column in zip(*weights, strict=True)]
    right = [percent(weights[i][i], columns[i]) for i in range(len(classes))]
    overall = percent(sum(weights[i][i] for i in range(len(classes))), sum(columns))
    rows.append(["user's accuracy", *right, overall, ""])
    totals = (number(n, 0) for n in predicted)
    rows.append([f"{unit} predicted", *totals, "", number(sum(predicted), 0)])
    return Table(
        "Confusion matrix",
        ["reference \\ predicted", *map(name_cell, classes), "producer's accuracy", unit],
        rows,
        _explain_matrix(unit, estimated is not None),
        kind="matrix",
    )


def name_cell(c: LandClass) -> Cell:
    """Return the cell that names a class, with its colour."""
    return Cell(c.name, c.color)


def _score(value: float, limits: Interval | None) -> Cell:
    """Return a score with the limits of its interval, where they are known."""
    if limits is None or any(map(math.isnan, (value, *limits))):
        return Cell(number(value))
    low, high = limits
    return Cell(number(value), note=f" ({low:.2f} to {high:.2f})")


def _explain_matrix(unit: str, is_estimated: bool) -> str:
    if is_estimated:
        text = (
            "Of the ground of the class that a row is named after, the estimated share that has "
            f"the class of the column in the map; below it the number of {unit}."
        )
    else:
        text = (
            f"Of the {unit} of the class that a row is named after, the share and the number that "
            "were given the class of the column."
        )
    return f"{text} Where the accuracies meet is the overall accuracy."


def _pair(count: int, part: float, whole: float, right: bool) -> Cell:
    share = part / whole if whole else 0.0
    kind: Literal["right", "wrong"] = "right" if right else "wrong"
    return Cell(percent(part, whole), note=f"{count:,}", share=share, kind=kind)


def _mistakes(scores: Scores, classes: ClassTable, unit: str) -> Table:
    pairs = [
        (count, i, j)
        for i, row in enumerate(scores.confusion)
        for j, count in enumerate(row)
        if i != j and count
    ]
    rows: list[Row] = [
        [name_cell(classes[i]), name_cell(classes[j]), number(n, 0), percent(n, scores.pixels, 2)]
        for n, i, j in sorted(pairs, reverse=True)[:_LISTED]
    ]
    columns = ["reference", "predicted", unit, "of all"]
    return Table(f"The {len(rows)} commonest mistakes", columns, rows)
