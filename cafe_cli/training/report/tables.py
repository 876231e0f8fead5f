"""The tables of a report as plain values: scores by class, confusion matrix, class balance."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from cafe_cli.classes import ClassTable, LandClass
from cafe_cli.evaluation.metrics import Scores
from cafe_cli.splits.assign import Split
from cafe_cli.text import percent as format_share
from cafe_cli.training.history import EpochRecord, columns

_MATRIX = 32  # classes; a larger matrix is not readable
_LISTED = 20  # mistakes
_CELLS = 20_000  # cells in the table of all epochs


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


def by_class(scores: Scores, classes: ClassTable) -> Table:
    """Return the scores of each class, and their means."""
    rows: list[Row] = []
    for c in classes:
        row = scores.classes[c.name]
        name = Cell(c.name, c.color, "" if c.scored else " (in no mean)")
        values = map(number, (row.iou, row.f1, row.precision, row.recall))
        rows.append([name, *values, number(row.pixels, 0)])
    means = [number(scores.miou), number(scores.mean_f1)]
    rows.append(["mean", *means, "", "", number(scores.pixels, 0)])
    return Table(
        "Scores by class",
        ["class", "IoU", "F1", "user's accuracy", "producer's accuracy", "pixels"],
        rows,
        "User's accuracy is precision, producer's accuracy is recall; pixels are those of the "
        "reference.",
    )


def confusion(scores: Scores, classes: ClassTable) -> Table:
    """Return the confusion matrix, or the commonest mistakes if it has too many classes."""
    if len(classes) > _MATRIX:
        return _mistakes(scores, classes)
    counts = scores.confusion
    predicted = [sum(column) for column in zip(*counts, strict=True)]
    rows: list[Row] = []
    for i, (c, row) in enumerate(zip(classes, counts, strict=True)):
        cells = [_pair(count, sum(row), i == j) for j, count in enumerate(row)]
        rows.append([_name(c), *cells, percent(row[i], sum(row)), number(sum(row), 0)])
    right = [percent(counts[i][i], predicted[i]) for i in range(len(classes))]
    overall = percent(sum(counts[i][i] for i in range(len(classes))), sum(predicted))
    rows.append(["user's accuracy", *right, overall, ""])
    pixels = (number(n, 0) for n in predicted)
    rows.append(["pixels predicted", *pixels, "", number(sum(predicted), 0)])
    return Table(
        "Confusion matrix",
        ["reference \\ predicted", *map(_name, classes), "producer's accuracy", "pixels"],
        rows,
        "Of the pixels of the class that a row is named after, the share and the number that were "
        "given the class of the column. Where the accuracies meet is the overall accuracy.",
        kind="matrix",
    )


def _name(c: LandClass) -> Cell:
    return Cell(c.name, c.color)


def _pair(count: int, whole: int, right: bool) -> Cell:
    share = count / whole if whole else 0.0
    kind: Literal["right", "wrong"] = "right" if right else "wrong"
    return Cell(percent(count, whole), note=f"{count:,}", share=share, kind=kind)


def _mistakes(scores: Scores, classes: ClassTable) -> Table:
    pairs = [
        (count, i, j)
        for i, row in enumerate(scores.confusion)
        for j, count in enumerate(row)
        if i != j and count
    ]
    rows: list[Row] = [
        [_name(classes[i]), _name(classes[j]), number(n, 0), percent(n, scores.pixels, 2)]
        for n, i, j in sorted(pairs, reverse=True)[:_LISTED]
    ]
    columns = ["reference", "predicted", "pixels", "of all"]
    return Table(f"The {len(rows)} commonest mistakes", columns, rows)


def balance(pixels: Mapping[Split, Mapping[str, int]], classes: ClassTable) -> Table:
    """Return the share of each class in the tiles of each split that has any.

    Parameters
    ----------
    pixels : dict
        Counts by split, then by class name and ``unlabelled``.
    classes : ClassTable
    """
    splits = {split: counts for split, counts in pixels.items() if any(counts.values())}
    labelled = {s: sum(counts.get(n, 0) for n in classes.names) for s, counts in splits.items()}
    rows: list[Row] = [
        [_name(c), *(_bar(counts.get(c.name, 0), labelled[s]) for s, counts in splits.items())]
        for c in classes
    ]
    rows.append(["labelled pixels", *(number(n, 0) for n in labelled.values())])
    bare = (percent(c.get("unlabelled", 0), sum(c.values())) for c in splits.values())
    rows.append(["without a label", *bare])
    return Table(
        "Classes by split",
        ["class", *splits],
        rows,
        "Shares of the labelled pixels; where tiles overlap, pixels count more than once.",
        kind="balance",
    )


def _bar(count: int, whole: int) -> Cell:
    return Cell(percent(count, whole) if count else "none", share=count / whole if whole else 0.0)


def epochs(records: Sequence[EpochRecord]) -> Table | None:
    """Return the history, a row per epoch; None if it is too long for a page."""
    names = columns(records)
    if len(names) * len(records) > _CELLS:
        return None
    rows = [record.as_row() for record in records]
    cells = [[f"{row[name]:.5g}" if name in row else "-" for name in names] for row in rows]
    return Table("The history, one row per epoch", names, cells)
