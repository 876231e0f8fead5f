"""What people see: log lines, progress and tables on stderr. The only module that knows rich."""

import logging
import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

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

from cafe_cli.inference.throughput import Meter
from cafe_cli.system.threads import ProgressCallback
from cafe_cli.text import percent
from cafe_cli.training.history import EpochRecord

if TYPE_CHECKING:
    from cafe_cli.evaluation.metrics import Scores

console = Console(stderr=True)

_LOG_WIDTH = 120  # of a table in a log file


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
            print_line(_kind_of(record.levelno), message)


def _kind_of(level: int) -> str | tuple[str, str]:
    if level >= logging.ERROR:
        return ("Error: ", "bold red")
    return ("Warning: ", "yellow") if level >= logging.WARNING else ""


def show_error(message: str) -> None:
    """Print the one line of an error."""
    print_line(("Error: ", "bold red"), message)


def say(message: str) -> None:
    """Tell what was done, unless -q."""
    if logging.getLogger("cafe").isEnabledFor(logging.INFO):
        print_line("", message)


@contextmanager
def progress_bar(what: str) -> Iterator[ProgressCallback]:
    """Show a progress bar; the value is called with (done, total)."""
    with _bar() as bar:
        task = bar.add_task(what, total=None)

        def update(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        yield update


@contextmanager
def inference_display() -> Iterator[Callable[[Meter], None]]:
    """Show inference: a bar over the windows, how fast it is and what it waits for."""
    with _bar(TextColumn("{task.fields[pace]}")) as bar:
        task = bar.add_task("predict", total=None, pace="")

        def update(meter: Meter) -> None:
            bar.update(
                task, completed=meter.windows, total=meter.total, pace=_pace(meter),
                description=meter.name or "predict",
            )  # fmt: skip

        yield update


def show_meter(meter: Meter, outputs: Iterable[Path]) -> None:
    """Say what was written, how fast, and what took the time."""
    if not meter.written:
        return
    names = " and ".join(map(str, outputs))
    if not meter.windows:
        say(f"wrote {names}")
        return
    say(
        f"wrote {names}: {meter.pixels / 1e6:.1f} Mpx in {meter.elapsed:.0f} s, "
        f"{meter.run} of {meter.total} windows run; {_pace(meter)}"
    )


def _pace(meter: Meter) -> str:
    shares = "  ".join(f"{stage} {percent(share, 0)}" for stage, share in meter.shares.items())
    speed = f"{meter.windows_per_second:.1f} windows/s  {meter.megapixels_per_second:.2f} Mpx/s"
    return f"{speed}  {shares}"


@contextmanager
def training_display() -> Iterator[tuple[Callable[[int, int, float], None], Callable[..., None]]]:
    """Show training: a bar over the steps and a table of the epochs; yields (on step, on epoch).

    The first is called with the steps done and in all, and the loss; the second with the
    record of an epoch, and whether it is the best so far if that is known.
    """
    from cafe_cli.cli.epoch_table import EpochTable

    with _bar(TextColumn("loss {task.fields[loss]:.3f}")) as bar:
        task = bar.add_task("train", total=None, loss=float("nan"))
        table: EpochTable | None = None
        steps = 0

        def on_step(step: int, total: int, loss: float) -> None:
            nonlocal steps
            steps = total
            bar.update(task, completed=step, total=total, loss=loss)

        def on_epoch(row: EpochRecord, best: bool | None = None) -> None:
            nonlocal table
            if table is None:
                table = EpochTable(console.width if console.is_terminal else _LOG_WIDTH, steps)
            for line in table.lines(row, best):
                say(line)

        yield on_step, on_epoch


def show_scores(scores: "Scores", title: str) -> None:
    """Print a table of scores, a row per class, and the overall accuracy."""
    table = Table(title=Text(title))
    table.add_column("class")
    for column in ("IoU", "F1", "precision", "recall", "pixels"):
        table.add_column(column, justify="right")
    for name, row in scores.classes.items():
        values = map(_number, (row.iou, row.f1, row.precision, row.recall))
        table.add_row(Text(name), *values, f"{row.pixels:,}")
    table.add_section()
    table.add_row(
        "mean", _number(scores.miou), _number(scores.mean_f1), "", "", f"{scores.pixels:,}"
    )
    if logging.getLogger("cafe").isEnabledFor(logging.INFO):
        console.print(table)
    say(f"overall accuracy {_number(scores.overall_accuracy)}")
    if scores.unpredicted:
        say(f"{scores.unpredicted:,} labelled pixels have no prediction and are in no score")


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3f}"


def print_line(kind: str | tuple[str, str], message: str) -> None:
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
