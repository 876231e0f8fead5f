"""``report.html``: a training run on one self-contained page, which loads no other files."""

import math
import platform
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any

import torch
from jinja2 import Environment

from cafe_cli.config.load import dump_config
from cafe_cli.model.calibration import BINS
from cafe_cli.pages.pictures import Panel, make_panel
from cafe_cli.pages.tables import Table, by_class, confusion, number, percent
from cafe_cli.pages.templates import make_environment, read_style
from cafe_cli.splits.assign import SPLITS
from cafe_cli.system.atomic_write import write_text
from cafe_cli.text import duration
from cafe_cli.training.curves import Chart, Line, line_of, lines_of, to_svg
from cafe_cli.training.history import HISTORY_FILE, MEAN_SCORES, loss_names
from cafe_cli.training.report import examples, tables, tile_scores
from cafe_cli.training.report.examples import Example
from cafe_cli.training.report.run import Run, read_run
from cafe_cli.training.report.tile_scores import TileScore
from cafe_cli.training.validation import describe_shared_scenes

REPORT_FILE = "report.html"

_WORST = 12  # tiles
_CURVES = 12  # classes in one chart
_PHOTOGRAPHS = ("image", "height")


@cache
def templates() -> Environment:
    """Return the Jinja environment of this folder; it escapes values that are not marked safe."""
    environment = make_environment("cafe_cli.training.report")
    environment.filters["svg"] = to_svg
    return environment


def write_report(folder: Path, tileset: Path, *, device: torch.device, ended: str = "") -> Path:
    """Write the report of a run that has ended, and return its path.

    Parameters
    ----------
    folder : Path
        Folder of the run; config, history, scores and the best model are read from it.
    tileset : Path
        Folder of the tile set.
    device : torch.device
        Device on which the worst tiles are predicted for the report.
    ended : str
        Why the run ended early, a sentence without its full stop; empty if it did not.

    Raises
    ------
    ConfigError, InputError, ModelFileError
        A file that every run leaves, or a tile, is missing or damaged.
    OutputError
        The report cannot be written.
    """
    path = folder / REPORT_FILE
    write_text(path, render_page(read_run(folder, tileset), device, ended))
    return path


def render_page(run: Run, device: torch.device, ended: str = "") -> str:
    """Return the report as HTML; parameters as those of `write_report`."""
    return templates().get_template("page.html.jinja").render(_values(run, device, ended))


def _values(run: Run, device: torch.device, ended: str) -> dict[str, Any]:
    """Return the values that the template of the page shows."""
    return {
        "title": f"cafe train: {run.folder.absolute().name}",
        "style": read_style(),
        "lead": _lead(run),
        "ended": ended,
        "facts": _facts(run, device),
        "scores": _scores(run),
        "flattery": describe_shared_scenes(run.tileset),
        "calibration": run.card.calibration,
        "reliability": _reliability(run),
        "curves": _curves(run),
        "epochs": tables.epochs(run.rows),
        "history": run.folder / HISTORY_FILE,
        "worst": _worst_tiles(run, device),
        "tiles": f"{len(run.tile_scores):,}",
        "classes": run.classes,
        "balance": tables.balance(run.tileset.pixels, run.classes),
        "speed": _speed(run),
        "command": _command(run),
        "version": run.card.cafe_version,
        "settings": dump_config(run.config),
    }


def _lead(run: Run) -> str:
    done, best = len(run.rows), run.card.epoch
    text = f"{done} of {run.config.train.epochs} epochs; the best model is that of epoch {best}"
    if run.scores is not None:
        text += f": mean IoU {number(run.scores.miou)} on the validation tiles"
    return text


def _facts(run: Run, device: torch.device) -> dict[str, str]:
    tileset, seconds = run.tileset, sum(record.seconds or 0 for record in run.rows)
    counts = {split: len(tileset.of(split)) for split in SPLITS}
    parameters = sum(p.numel() for p in run.network.parameters())
    streams = "image and heights" if run.card.has_height else "image only"
    return {
        "date": datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
        "tile set": str(run.tiles),
        "tiles": ", ".join(f"{count:,} {split}" for split, count in counts.items() if count),
        "a tile": f"{tileset.size} x {tileset.size} px of {tileset.gsd:.3g} m, {tileset.crs}",
        "bands": f"{', '.join(tileset.band_names)} ({tileset.dtype}); {streams}",
        "network": f"{run.config.model.optical_encoder}, guidance {run.config.model.guidance}",
        "parameters": f"{parameters:,} in the model that predicts",
        "device": _device(device),
        "time": f"{duration(seconds)} in all, {duration(seconds / len(run.rows))} per epoch",
        "versions": f"cafe {run.card.cafe_version}, torch {run.card.torch_version}, "
        f"Python {platform.python_version()}",
    }


def _device(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    return f"{device.type.upper()}, {threads} thread{'s' if threads > 1 else ''}"


def _scores(run: Run) -> list[Table]:
    if run.scores is None:
        return []
    return [by_class(run.scores, run.classes), confusion(run.scores, run.classes)]


def _reliability(run: Run) -> list[Chart]:
    """Return the reliability diagram, if there is a calibration."""
    if (found := run.card.calibration) is None:
        return []
    centres = [(number + 0.5) / BINS for number in range(BINS)]
    parts = (("before", found.before.accuracy), ("after", found.after.accuracy))
    lines = [Line(name, [math.nan if a is None else a for a in bins]) for name, bins in parts]
    lines.append(Line("perfect", centres))
    name = "share of right pixels by the probability of the label"
    return [Chart(name, centres, lines, top=1, across="probability of the label")]


def _curves(run: Run) -> list[Chart]:
    best = run.card.epoch if run.scores is not None else None
    shown = _plotted_classes(run)
    rows, (loss, *parts) = run.rows, loss_names(run.rows)
    ious = [line_of(rows, f"iou_{c.name}", c.name, c.color) for c in run.classes if c.name in shown]
    title = "IoU by class" if len(run.classes) <= _CURVES else f"IoU of the {len(ious)} worst"
    return [
        _chart(run, "training loss", lines_of(rows, [loss])),
        _chart(run, "parts of the loss", lines_of(rows, parts)),
        _chart(run, "validation", lines_of(rows, MEAN_SCORES), top=1, mark=best),
        _chart(run, title, ious, top=1, mark=best),
        _chart(run, "learning rate", lines_of(rows, ["learning_rate"])),
    ]


def _plotted_classes(run: Run) -> set[str]:
    """Return the names of all classes, or of the worst ones if there are too many for a chart."""
    ious = {n: run.rows[-1].iou.get(n, math.nan) for n in run.classes.names}
    known = [n for n, iou in ious.items() if not math.isnan(iou)]
    return set(sorted(known, key=lambda n: ious[n])[:_CURVES])


def _speed(run: Run) -> list[Chart]:
    waits = [math.nan if r.data_wait is None else 100 * r.data_wait for r in run.rows]
    return [
        _chart(run, "crops per second", lines_of(run.rows, ["crops_per_second"])),
        _chart(run, "percent of the time spent waiting for data", [Line("data wait", waits)]),
        _chart(run, "seconds per epoch", lines_of(run.rows, ["seconds"])),
    ]


def _chart(
    run: Run, title: str, lines: Sequence[Line], top: float | None = None, mark: float | None = None
) -> Chart:
    return Chart(title, [record.epoch for record in run.rows], lines, top, mark)


@dataclass(frozen=True)
class _TileFigure:
    """A tile with its pictures and a description of its wrong pixels."""

    name: str
    mistake: str
    place: str
    panels: Sequence[Panel]


def _worst_tiles(run: Run, device: torch.device) -> list[_TileFigure]:
    """Predict and draw the tiles with the most wrong pixels."""
    by_name = {tile.name: tile for tile in run.tileset.of("validation")}
    worst = tile_scores.worst_tiles(run.tile_scores, _WORST, run.tileset.size)
    chosen = [score for score in worst if score.name in by_name]
    if not chosen:
        return []
    tiles = [by_name[score.name] for score in chosen]
    predicted = examples.predict_tiles(run.tiles, run.tileset, tiles, run.network.to(device))
    crs, centres = examples.read_centres(run.tiles)
    return [
        _TileFigure(
            score.name,
            _mistake(score),
            _place(score, centres.get(score.name), crs),
            _panels(run, example),
        )
        for score, example in zip(chosen, predicted, strict=True)
    ]


def _mistake(score: TileScore) -> str:
    share = percent(score.wrong, score.labelled)
    return (
        f"{share} of {score.labelled:,} labelled pixels are wrong, most often {score.reference} "
        f"mapped as {score.predicted} ({percent(score.pixels, score.wrong, 0)})"
    )


def _place(score: TileScore, centre: tuple[float, float] | None, crs: str) -> str:
    text = f"scene {score.scene}, row {score.row}, column {score.col}"
    if centre is None:
        return text
    digits = 6 if max(map(abs, centre)) <= 180 else 1  # degrees, or metres and feet
    x, y = (f"{value:.{digits}f}" for value in centre)
    return f"{text}; its middle is {x}, {y} {crs and f'in {crs}'}"


def _panels(run: Run, example: Example) -> list[Panel]:
    heights = example.patch.height[example.patch.height_valid]
    notes = {"height": f", {heights.min():.1f} to {heights.max():.1f} m"} if heights.size else {}
    return [
        make_panel(title, picture, "jpeg" if title in _PHOTOGRAPHS else "png", notes.get(title, ""))
        for title, picture in example.panels(run.classes).items()
    ]


def _command(run: Run) -> str:
    """Return the command that repeats the run."""
    config = run.folder / "config.toml"
    return shlex.join(["cafe", "train", str(run.tiles), "-c", str(config), "-o", "again"])
