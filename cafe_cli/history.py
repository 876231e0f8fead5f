"""What a training run leaves to look at: CSV, curves, TensorBoard."""

import csv
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from cafe_cli.classes import ClassTable
from cafe_cli.files import write_text
from cafe_cli.metrics import Scores
from cafe_cli.pictures import draw_curves

Row = dict[str, float]
"""One epoch."""

_TRAINING = ("loss", "student", "teacher", "distillation", "learning_rate")


def write(folder: Path, rows: Sequence[Row], classes: ClassTable) -> None:
    """Write ``history.csv`` and ``curves.png`` anew, and the last epoch to TensorBoard."""
    from torch.utils.tensorboard import SummaryWriter

    write_text(folder / "history.csv", to_csv(rows))
    draw_curves(rows, classes, folder / "curves.png")
    step = int(rows[-1]["step"])
    with SummaryWriter(str(folder / "tensorboard"), purge_step=step) as board:
        for name, value in rows[-1].items():
            if name not in ("epoch", "step") and math.isfinite(value):
                group = "train" if name.startswith(_TRAINING) else "validation"
                board.add_scalar(f"{group}/{name}", value, step)


def to_csv(history: Sequence[Mapping[str, float]]) -> str:
    """Write the history as CSV, one row per epoch."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(history[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(history)
    return text.getvalue()


def score_columns(result: Scores | None, classes: ClassTable) -> Row:
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
