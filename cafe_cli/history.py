"""What a training run leaves to look at: CSV, curves, TensorBoard."""

import csv
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cafe_cli.classes import ClassTable
from cafe_cli.epoch_row import Row as Row
from cafe_cli.epoch_row import columns, group
from cafe_cli.errors import InputError, OutputError
from cafe_cli.files import write_text
from cafe_cli.metrics import Scores
from cafe_cli.pictures import draw_curves

FILE = "history.csv"

_NO_PICTURES: Mapping[str, NDArray[np.uint8]] = {}


def write(
    folder: Path,
    rows: Sequence[Row],
    classes: ClassTable,
    pictures: Mapping[str, NDArray[np.uint8]] = _NO_PICTURES,
) -> None:
    """Write ``history.csv`` and ``curves.png`` anew, and the last epoch to TensorBoard.

    Nothing is done where ``history.csv`` has all rows: it is written last.

    Parameters
    ----------
    pictures : dict of ndarray of uint8, (rows, columns, 3)
        For TensorBoard, by name.
    """
    path, text = folder / FILE, to_csv(rows)
    if path.exists() and path.read_text(encoding="utf-8") == text:
        return
    draw_curves(rows, classes, folder / "curves.png")
    _write_board(folder / "tensorboard", rows[-1], pictures)
    write_text(path, text)


def _write_board(folder: Path, row: Row, pictures: Mapping[str, NDArray[np.uint8]]) -> None:
    from torch.utils.tensorboard import SummaryWriter

    step = int(row["step"])
    try:
        # What a killed run wrote of this epoch, and of later ones, is not shown twice.
        with SummaryWriter(str(folder), purge_step=step) as board:
            for name, value in row.items():
                if (about := group(name)) and math.isfinite(value):
                    board.add_scalar(f"{about}/{name}", value, step)
            for name, picture in pictures.items():
                board.add_image(f"validation/{name}", picture, step, dataformats="HWC")
    except OSError as error:
        raise OutputError(f"cannot write {folder}: {error.strerror}") from error


def to_csv(rows: Sequence[Row]) -> str:
    """Write the history as CSV, one row per epoch; a column is empty where a row lacks it."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns(rows), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def read(path: Path) -> list[Row]:
    """Read what `to_csv` wrote.

    Raises
    ------
    InputError
        It cannot be read, or holds something else than numbers.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
            return [{k: float(v) for k, v in row.items() if v != ""} for row in rows]
    except (OSError, TypeError, ValueError) as error:
        raise InputError(
            f"{path} is not the history of a run: {error}; cafe train writes one"
        ) from error


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
