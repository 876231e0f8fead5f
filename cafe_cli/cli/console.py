"""Log lines, progress bars and tables on stderr."""

import logging
import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

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
from cafe_cli.redaction import name_outputs, redact
from cafe_cli.system.threads import ProgressCallback
from cafe_cli.text import percent, printable
from cafe_cli.training.history import EpochRecord

if TYPE_CHECKING:
    from cafe_cli.evaluation.areas import Areas
    from cafe_cli.evaluation.metrics import Scores
    from cafe_cli.evaluation.zones import Zone
    from cafe_cli.model.transfer import TakenPart

console = Console(stderr=True)

_ABOUT_CODE = (DeprecationWarning, PendingDeprecationWarning, FutureWarning, ImportWarning)
# A warning of compiled code counts for the Python file that called it, often one of cafe.
_DATA_LIBRARIES = ("rasterio", "pyogrio", "shapely", "cafe_cli")

_MOST_ZONES = 50  # rows of a table
_LOG_WIDTH = 120  # characters per line of a table if stderr is not a terminal


def set_up_log(verbosity: int) -> None:
    """Log warnings and results; everything if `verbosity` is positive, errors only if negative."""
    level = {-1: logging.ERROR, 0: logging.INFO}.get(max(verbosity, -1), logging.DEBUG)
    log = logging.getLogger("cafe")
    log.handlers = [_LineHandler()]
    log.setLevel(level)
    # A level of its own, since `cafe check` turns off the warnings of cafe alone.
    logging.getLogger("cafe.libraries").setLevel(level)
    logging.getLogger("pyogrio").handlers = log.handlers  # its level is that of Python, warnings
    warnings.showwarning = _log_warning


def _log_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Log a warning of Python on one line: as a warning if it is about data, else with -v only."""
    about_code = issubclass(category, _ABOUT_CODE)
    about_data = not about_code and any(part in filename for part in _DATA_LIBRARIES)
    level = logging.WARNING if about_data else logging.DEBUG
    logging.getLogger("cafe.libraries").log(level, "%s", str(message).partition("\n")[0])


class _LineHandler(logging.Handler):
    """Prints every message on one line, and the same message only once."""

    def __init__(self) -> None:
        super().__init__()
        self._printed = set[str]()

    def emit(self, record: logging.LogRecord) -> None:
        message = record.getMessage()
        if message not in self._printed:
            self._printed.add(message)
            print_line(_prefix_of(record.levelno), message)


def _prefix_of(level: int) -> str | tuple[str, str]:
    if level >= logging.ERROR:
        return ("Error: ", "bold red")
    return ("Warning: ", "yellow") if level >= logging.WARNING else ""


def show_error(message: str) -> None:
    """Print an error on one line."""
    print_line(("Error: ", "bold red"), message)


def say(message: str) -> None:
    """Print a result, unless with -q."""
    if logging.getLogger("cafe").isEnabledFor(logging.INFO):
        print_line("", message)


@contextmanager
def progress_bar(what: str) -> Iterator[ProgressCallback]:
    """Show a progress bar; the function yielded moves it: (done, total)."""
    with _bar() as bar:
        task = bar.add_task(printable(what), total=None)

        def update(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        yield update


@contextmanager
def inference_display() -> Iterator[Callable[[Meter], None]]:
    """Show a bar over the windows, their speed and the share of time of each stage."""
    with _bar(TextColumn("{task.fields[pace]}")) as bar:
        task = bar.add_task("predict", total=None, pace="")

        def update(meter: Meter) -> None:
            bar.update(
                task, completed=meter.windows, total=meter.total, pace=_pace(meter),
                description=printable(meter.name) or "predict",
            )  # fmt: skip

        yield update


def show_meter(meter: Meter, outputs: Iterable[Path]) -> None:
    """Print the outputs written, the speed and the share of time of each stage."""
    if not meter.written:
        return
    names = " and ".join(map(str, outputs))
    if not meter.windows:
        say(f"wrote {names}")
        return
    windows = f"{meter.run} of {meter.total} windows run"
    if meter.run > meter.total:  # parts of a scene have windows in common
        windows = f"{meter.total} windows run, {meter.run - meter.total} of them twice"
    say(
        f"wrote {names}: {meter.pixels / 1e6:.1f} Mpx in {meter.elapsed:.0f} s, {windows}; "
        f"{_pace(meter)}"
    )


def _pace(meter: Meter) -> str:
    shares = "  ".join(f"{stage} {percent(share, 0)}" for stage, share in meter.shares.items())
    speed = f"{meter.windows_per_second:.1f} windows/s  {meter.megapixels_per_second:.2f} Mpx/s"
    return f"{speed}  {shares}"


@contextmanager
def training_display() -> Iterator[tuple[Callable[[int, int, float], None], Callable[..., None]]]:
    """Show a bar over the steps and a table of the epochs; yields the functions that move them.

    The first takes the steps done, all steps and the loss; the second the record of an epoch and,
    if known, whether it is the best so far.
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

        def on_epoch(record: EpochRecord, best: bool | None = None) -> None:
            nonlocal table
            if table is None:
                table = EpochTable(console.width if console.is_terminal else _LOG_WIDTH, steps)
            for line in table.lines(record, best):
                say(line)

        yield on_step, on_epoch


def show_scores(scores: "Scores", title: str) -> None:
    """Print a table of scores, a row per class, and the overall accuracy."""
    table = Table(title=plain(redact(title)))
    table.add_column("class")
    for column in ("IoU", "F1", "precision", "recall", "pixels"):
        table.add_column(column, justify="right")
    for name, row in scores.classes.items():
        values = map(number, (row.iou, row.f1, row.precision, row.recall))
        table.add_row(plain(name), *values, f"{row.pixels:,}")
    table.add_section()
    table.add_row("mean", number(scores.miou), number(scores.mean_f1), "", "", f"{scores.pixels:,}")
    print_table(table)
    say(f"overall accuracy {number(scores.overall_accuracy)}")
    if scores.unpredicted:
        say(f"{scores.unpredicted:,} labelled pixels have no prediction and are not scored")


def show_taken(model: str, parts: "Sequence[TakenPart]") -> None:
    """Print what was taken from the model that a training run starts from, a row per part."""
    say(f"starts from {model}")
    table = Table()
    table.add_column("part")
    table.add_column("taken", justify="right")
    table.add_column("note", overflow="fold")
    for part in parts:
        table.add_row(plain(part.name), f"{part.taken} of {part.tensors}", plain(part.note))
    print_table(table)


def show_scenes(scenes: "Mapping[str, Scores]") -> None:
    """Print a table of scores with a row per scene; nothing without scenes."""
    if not scenes:
        return
    table = Table(title=Text("by scene, worst first"))
    table.add_column("scene")
    for column in ("mean IoU", "mean F1", "accuracy", "lowest IoU", "pixels", "unpredicted"):
        table.add_column(column, justify="right")
    for name, scores in scenes.items():
        numbers = map(number, (scores.miou, scores.mean_f1, scores.overall_accuracy))
        counts = (f"{n:,}" for n in (scores.pixels, scores.unpredicted))
        table.add_row(plain(name), *numbers, plain(_lowest(scores)), *counts)
    print_table(table)


def _lowest(scores: "Scores") -> str:
    """Return the class with the lowest IoU, and its IoU."""
    known = [(row.iou, name) for name, row in scores.classes.items() if not math.isnan(row.iou)]
    iou, name = min(known)
    return f"{name} {number(iou)}"


def show_areas(areas: "Areas", title: str) -> None:
    """Print a table of areas, a row per class."""
    table = Table(title=plain(redact(f"areas of {title}")))
    table.add_column("class")
    for column in ("pixels", "m²", "ha", "share"):
        table.add_column(column, justify="right")
    for name, row in areas.classes.items():
        sizes = ("-" if n is None else f"{n:,.{d}f}" for n, d in (
            (row.square_metres, 0), (row.hectares, 2)))  # fmt: skip
        table.add_row(plain(name), f"{row.pixels:,}", *sizes, percent(row.share))
    print_table(table)
    if any(row.square_metres is None for row in areas.classes.values()):
        say("areas in pixels only: the map has no CRS, so the size of its pixels is unknown")


def show_zones(zones: "Sequence[Zone]", title: str) -> None:
    """Print a table of the areas in zones, a row per zone, a column per class."""
    unit = "m²" if _areas_are_known(zones) else "pixels"
    table = Table(title=plain(redact(f"{unit} of {title}")))
    table.add_column("zone")
    for name in zones[0].areas.classes:
        table.add_column(plain(name), justify="right")
    for zone in zones[:_MOST_ZONES]:
        sizes = (
            row.pixels if row.square_metres is None else row.square_metres
            for row in zone.areas.classes.values()
        )  # fmt: skip
        name = str(zone.number if zone.name is None else zone.name)
        table.add_row(plain(name), *(f"{size:,.0f}" for size in sizes))
    print_table(table)
    if len(zones) > _MOST_ZONES:
        say(f"and {len(zones) - _MOST_ZONES:,} more zones; -o writes all of them")


def _areas_are_known(zones: "Sequence[Zone]") -> bool:
    return all(r.square_metres is not None for z in zones for r in z.areas.classes.values())


def print_table(table: Table) -> None:
    """Print a table, unless with -q."""
    if logging.getLogger("cafe").isEnabledFor(logging.INFO):
        console.print(table)


def number(value: float) -> str:
    """Return a score for a table; a dash for NaN."""
    return "-" if math.isnan(value) else f"{value:.3f}"


def print_line(prefix: str | tuple[str, str], message: str) -> None:
    """Print one line: line breaks become spaces, and control characters escapes.

    Files are named without passwords and tokens.
    `prefix` may be a pair of text and style.
    """
    text = Text.assemble(prefix, printable(name_outputs(redact(" ".join(message.splitlines())))))
    console.print(text, soft_wrap=True, highlight=False)


def plain(text: str) -> Text:
    """Return text for a cell: brackets are not markup, and control characters are escapes."""
    return Text(printable(text))


def _bar(*extra: TextColumn) -> Progress:
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        *extra,
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        # In a log file, a bar would leave an empty line.
        disable=not (console.is_terminal and logging.getLogger("cafe").isEnabledFor(logging.INFO)),
    )
