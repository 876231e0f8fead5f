"""What a training run leaves to look at: the history as CSV, curves as PNG, TensorBoard."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from cafe_cli.classes import ClassTable
from cafe_cli.errors import OutputError
from cafe_cli.plotting import save_figure
from cafe_cli.system.atomic_write import write_text
from cafe_cli.training.history import HISTORY_FILE, group, to_csv
from cafe_cli.training.history import EpochRecord as Row


def draw_curves(history: Sequence[Mapping[str, float]], classes: ClassTable, path: Path) -> None:
    """Draw loss, mean scores and the IoU of each class over the epochs."""
    figure = Figure(figsize=(12, 4), layout="constrained")
    loss, means, each = figure.subplots(1, 3)
    epochs = [row["epoch"] for row in history]
    dot = "." if len(epochs) < 2 else ""  # one epoch makes no line
    for axes, title, names in (
        (loss, "training loss", ["loss", "student", "teacher", "distillation"]),
        (means, "validation", ["miou", "mean_f1", "overall_accuracy"]),
    ):
        for name in names:
            if all(name in row for row in history):
                values = [row[name] for row in history]
                axes.plot(epochs, values, label=name.replace("_", " "), marker=dot)
        axes.set_title(title)
    for c in classes:
        if all(f"iou_{c.name}" in row for row in history):
            values = [row[f"iou_{c.name}"] for row in history]
            each.plot(epochs, values, label=c.name, color=_darker(c.color), marker=dot)
    each.set_title("IoU by class")
    for axes in (means, each):
        axes.set_ylim(0, 1)
    for axes in (loss, means, each):
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
        if axes.lines:
            axes.legend(fontsize="small")
    save_figure(figure, path)


def _darker(color: str) -> str:
    """Keep pale class colours readable as lines on white."""
    red, green, blue = (int(v * 0.75) for v in bytes.fromhex(color[1:]))
    return f"#{red:02x}{green:02x}{blue:02x}"


_NO_PICTURES: Mapping[str, NDArray[np.uint8]] = {}


def write_history(
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
    path, text = folder / HISTORY_FILE, to_csv(rows)
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
