"""The history of a training run: what its columns are, and the CSV file that keeps them."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from cafe_cli.classes import ClassTable
from cafe_cli.errors import InputError
from cafe_cli.evaluation.metrics import Scores
from cafe_cli.system.tables import read_csv

EpochRecord = dict[str, float]
"""One epoch: ``epoch`` and ``step`` (from 1), the loss and its parts, scores, what the engine did.

Only the first three are always there. ``data_wait`` is the share of the time that was spent waiting
for tiles, 0 to 1.
"""

SCORES = ("miou", "mean_f1", "overall_accuracy", "iou_", "f1_")
"""How the names of scores begin; the first three are whole names."""

_COUNTERS = ("epoch", "step")
_ENGINE = ("seconds", "data_wait", "crops_per_second")


def group(name: str) -> str:
    """Return what a column is about: ``validation``, ``engine``, ``train``; empty for a counter."""
    if name in _COUNTERS:
        return ""
    if name in _ENGINE:
        return "engine"
    return "validation" if name.startswith(SCORES) else "train"


def columns(rows: Sequence[EpochRecord]) -> list[str]:
    """Return the names of all columns, in the order in which they first occur."""
    return list(dict.fromkeys(name for row in rows for name in row))


def losses(rows: Sequence[EpochRecord]) -> list[str]:
    """Return the names of the loss and of its parts."""
    return [name for name in columns(rows) if group(name) == "train" and name != "learning_rate"]


HISTORY_FILE = "history.csv"


def to_csv(rows: Sequence[EpochRecord]) -> str:
    """Write the history as CSV, one row per epoch; a column is empty where a row lacks it."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns(rows), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def read_history(path: Path) -> list[EpochRecord]:
    """Read what `to_csv` wrote.

    Raises
    ------
    InputError
        It cannot be read, or holds something else than numbers.
    """
    try:
        rows = read_csv(path).records()
        return [{k: float(v) for k, v in row.items() if v != ""} for row in rows]
    except (InputError, ValueError) as error:
        raise InputError(
            f"{path} is not the history of a run: {error}; cafe train writes one"
        ) from error


def score_columns(result: Scores | None, classes: ClassTable) -> EpochRecord:
    """Return the scores of an epoch as columns; none without validation tiles."""
    if result is None:
        return {}
    row = {
        "miou": result.miou,
        "mean_f1": result.mean_f1,
        "overall_accuracy": result.overall_accuracy,
    }
    for c in classes:
        row |= {
            f"iou_{c.name}": result.classes[c.name].iou,
            f"f1_{c.name}": result.classes[c.name].f1,
        }
    return row
