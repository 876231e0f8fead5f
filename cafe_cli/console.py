"""What people see: log lines, progress and tables on stderr. The only module that knows rich."""

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

console = Console(stderr=True)


def set_up_log(verbosity: int) -> None:
    """Show warnings and what commands report; with -v everything, with -q errors only."""
    level = {-1: logging.ERROR, 0: logging.INFO}.get(max(verbosity, -1), logging.DEBUG)
    log = logging.getLogger("cafe")
    log.handlers = [_Lines()]
    log.setLevel(level)


class _Lines(logging.Handler):
    """Prints every message once, on one line."""

    def __init__(self) -> None:
        super().__init__()
        self._said = set[str]()

    def emit(self, record: logging.LogRecord) -> None:
        message = record.getMessage()
        if message not in self._said:
            self._said.add(message)
            kind = ("Warning: ", "yellow") if record.levelno >= logging.WARNING else ""
            _line(kind, message)


def show_error(message: str) -> None:
    """Print the one line of an error."""
    _line(("Error: ", "bold red"), message)


def say(message: str) -> None:
    """Tell what was done, unless -q."""
    if logging.getLogger("cafe").isEnabledFor(logging.INFO):
        _line("", message)


@contextmanager
def progress_bar(what: str) -> Iterator[Callable[[int, int], None]]:
    """Show a progress bar; the value is called with (done, total)."""
    with _bar() as bar:
        task = bar.add_task(what, total=None)

        def update(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        yield update


@contextmanager
def training_display() -> Iterator[tuple[Callable[[int, int, float], None], Callable[..., None]]]:
    """Show training: a bar over the steps and a line per epoch; yields (on step, on epoch)."""
    with _bar(TextColumn("loss {task.fields[loss]:.3f}")) as bar:
        task = bar.add_task("train", total=None, loss=float("nan"))

        def on_step(step: int, total: int, loss: float) -> None:
            bar.update(task, completed=step, total=total, loss=loss)

        def on_epoch(row: Mapping[str, float]) -> None:
            ious = {k.removeprefix("iou_"): v for k, v in row.items() if k.startswith("iou_")}
            scores = f"  mIoU {row['miou']:.3f}" if "miou" in row else ""
            each = "  ".join(f"{name} {value:.2f}" for name, value in ious.items())
            say(f"epoch {row['epoch']:3.0f}  loss {row['loss']:.3f}{scores}  {each}")

        yield on_step, on_epoch


def show_scores(scores: Mapping[str, Any], title: str) -> None:
    """Print a table of scores (`cafe_cli.metrics.Scores.as_json`)."""
    table = Table(title=Text(title))
    table.add_column("class")
    for column in ("IoU", "F1", "precision", "recall", "pixels"):
        table.add_column(column, justify="right")
    for name, row in scores["classes"].items():
        values = [_number(row[key]) for key in ("iou", "f1", "precision", "recall")]
        table.add_row(Text(name), *values, f"{row['pixels']:,}")
    table.add_section()
    table.add_row(
        "mean", _number(scores["miou"]), _number(scores["mean_f1"]), "", "", f"{scores['pixels']:,}"
    )
    if logging.getLogger("cafe").isEnabledFor(logging.INFO):
        console.print(table)
    say(f"overall accuracy {_number(scores['overall_accuracy'])}")
    if scores["unpredicted"]:
        say(f"{scores['unpredicted']:,} labelled pixels have no prediction and are in no score")


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _line(kind: str | tuple[str, str], message: str) -> None:
    """Print one line, whatever the message holds: brackets are no markup, line ends no lines."""
    text = Text.assemble(kind, " ".join(message.splitlines()))
    console.print(text, soft_wrap=True, highlight=False)


def _bar(*extra: TextColumn) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        *extra,
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        # In a log file a bar is nothing but an empty line.
        disable=not (console.is_terminal and logging.getLogger("cafe").isEnabledFor(logging.INFO)),
    )
