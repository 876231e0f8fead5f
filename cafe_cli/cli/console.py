"""What people see: log lines, progress and tables on stderr. The only module that knows rich."""

import logging
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

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

from cafe_cli.findings import LEVELS, Report
from cafe_cli.inference.throughput import Meter
from cafe_cli.text import megabytes, percent
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
            _line(_kind_of(record.levelno), message)


def _kind_of(level: int) -> str | tuple[str, str]:
    if level >= logging.ERROR:
        return ("Error: ", "bold red")
    return ("Warning: ", "yellow") if level >= logging.WARNING else ""


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


def show_report(report: Report) -> None:
    """Print what a check found: a line per raster, the rest as an outline, then the findings.

    With -v, every fact. The gravest findings come last.
    """
    log = logging.getLogger("cafe")
    facts = dict(report.facts)
    if log.isEnabledFor(logging.INFO):
        lines: list[str] = []
        if not log.isEnabledFor(logging.DEBUG):
            scenes = facts.pop("scenes", {})
            lines = [line for name, scene in scenes.items() for line in _scene_lines(name, scene)]
        for line in [*lines, *_outline(facts, 0)]:
            console.print(Text(line), soft_wrap=True, highlight=False)
    styles = {"note": "cyan", "warning": "yellow", "error": "bold red"}
    for finding in sorted(report.findings, key=lambda f: LEVELS.index(f.level), reverse=True):
        named = not finding.where or finding.message.startswith(finding.where)
        where = "" if named else f"{finding.where}: "
        if finding.level != "note" or log.isEnabledFor(logging.INFO):
            head = (f"{finding.level.capitalize()}: ", styles[finding.level])
            _line(head, where + finding.message)
    counts = ", ".join(f"{report.count(level)} {level}s" for level in LEVELS)
    say(f"{report.title}: {'ok' if report.ok else 'not ok'} ({counts})")


def _scene_lines(name: str, scene: Mapping[str, Any]) -> Iterator[str]:
    yield f"scene {name}"
    for stream in ("optical", "elevation", "dtm", "labels"):
        if stream in scene:
            yield f"  {stream:<10} {', '.join(_stream_facts(scene[stream]))}"


def _stream_facts(stream: Mapping[str, Any]) -> Iterator[str]:
    """Say in a line what a stream of a scene is; of several files the first stands for all."""
    first: Mapping[str, Any] = next(iter(stream["rasters"]), {})
    if stream["files"] > 1:
        yield f"{stream['files']} files, the first"
    if "width" not in first:
        yield str(first.get("path", "-"))
    else:
        size = f"{first['width']:,} x {first['height']:,} px"
        gsd = first["gsd"]
        yield size + (f" of {gsd:.3g} m" if gsd else "")
        yield first["crs"]
        yield f"{_fact('', first['dtype'])} {' '.join(first['bands'])}"
        yield f"mask: {first['mask']}"
    if first.get("lowest") is not None:
        yield f"{first['lowest']:.1f} to {first['highest']:.1f} m"
        yield f"{first['void_percent']:g} % void"
    if "overlap_percent" in stream:
        yield f"covers {stream['overlap_percent']:g} %"
    if above := stream.get("above_ground"):
        yield f"above ground {above['p1']:g}, {above['p50']:g}, {above['p99']:g} m (1, 50, 99 %)"
    if total := sum(stream.get("classes", {}).values()):
        yield ", ".join(f"{k} {percent(n / total, 1)}" for k, n in stream["classes"].items())


def _outline(value: Any, depth: int) -> Iterator[str]:
    """Write nested facts as indented lines; what fits on one line stays on it."""
    for key, item in value.items() if isinstance(value, Mapping) else enumerate(value, start=1):
        label = f"{'  ' * depth}{str(key).replace('_', ' ')}:"
        nested = isinstance(item, Mapping) or (
            isinstance(item, list) and any(isinstance(part, Mapping) for part in item)
        )
        if nested and item:
            yield label
            yield from _outline(item, depth + 1)
        else:
            yield f"{label} {_fact(str(key), item)}"


def _fact(key: str, value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(_fact("", part) for part in value) or "-"
    if value is None or value == {}:
        return "-"
    if key in ("memory", "disk", "disk_at_most"):
        return megabytes(value)
    if isinstance(value, float):
        return f"{value:,.6g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3f}"


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
