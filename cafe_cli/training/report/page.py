"""``report.html``: a training run on one page, in one file that asks nothing of any network."""

import base64
import math
import platform
import shlex
from collections.abc import Iterable, Sequence
from datetime import datetime
from importlib.resources import files
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from cafe_cli.config.load import dump_config
from cafe_cli.plotting import encode
from cafe_cli.splits.assign import SPLITS
from cafe_cli.system.atomic_write import write_text
from cafe_cli.training.history import HISTORY_FILE, SCORES, EpochRecord, columns, losses
from cafe_cli.training.report import examples, tables, tile_scores
from cafe_cli.training.report.charts import Line, line_chart
from cafe_cli.training.report.examples import Example
from cafe_cli.training.report.markup import Markup, element, join
from cafe_cli.training.report.run import Run, read_run
from cafe_cli.training.report.tables import number, percent, swatch, table
from cafe_cli.training.report.tile_scores import TileScore

REPORT_FILE = "report.html"

_WORST = 12  # tiles
_CURVES = 12  # classes in one chart
_CELLS = 20_000  # in the table of all numbers
_PHOTOGRAPHS = ("image", "height")
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def write_report(folder: Path, tileset: Path, *, device: torch.device, ended: str = "") -> Path:
    """Write the report of a run that has ended, and return where.

    Parameters
    ----------
    folder : Path
        Of the run. All of it is read from there: config, history, scores, the best model.
    tileset : Path
        Folder of the tile set.
    device : torch.device
        Predicts the worst tiles, for their pictures.
    ended : str
        Why the run ended, a sentence without its full stop; empty if it went through all epochs.

    Raises
    ------
    ConfigError, InputError, ModelFileError
        Something that every run leaves is missing or damaged, or a tile is.
    OutputError
        The report cannot be written.
    """
    path = folder / REPORT_FILE
    write_text(path, page(read_run(folder, tileset), device, ended))
    return path


def page(run: Run, device: torch.device, ended: str = "") -> str:
    """Return the page; parameters as those of `write`."""
    sections = {
        "Scores": _scores(run),
        "Curves": _curves(run),
        "Worst validation tiles": _worst_tiles(run, device),
        "Class balance": tables.balance(run.tileset.pixels, run.classes),
        "Speed": _speed(run),
        "Settings": _settings(run),
    }
    title = f"cafe train: {run.folder.absolute().name}"
    top = element("header", element("h1", title), _lead(run, ended), _facts(run, device))
    main = element("main", *(_section(name, content) for name, content in sections.items()))
    body = element("body", top, _contents(sections), main)
    return f"<!doctype html>\n{element('html', _head(title), body, lang='en')}\n"


def _head(title: str) -> Markup:
    style = files("cafe_cli.training.report").joinpath("page.css").read_text(encoding="utf-8")
    return element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("title", title),
        element("style", Markup(style)),
    )


def _section(title: str, content: Markup) -> Markup:
    name = _id(title)
    return element("section", element("h2", title, id=name), content, aria_labelledby=name)


def _contents(titles: Iterable[str]) -> Markup:
    links = [element("li", element("a", title, href=f"#{_id(title)}")) for title in titles]
    return element("nav", element("ul", *links), aria_label="contents")


def _id(title: str) -> str:
    return title.lower().replace(" ", "-")


def _lead(run: Run, ended: str) -> Markup:
    done, best = len(run.rows), run.card.epoch
    text = f"{done} of {run.config.train.epochs} epochs; the best model is that of epoch {best}"
    if run.scores is not None:
        text += f": mean IoU {number(run.scores.miou)} on the validation tiles"
    note = element("p", f"{ended[0].upper()}{ended[1:]}.", class_="note") if ended else None
    return join(element("p", text, class_="lead"), note)


def _facts(run: Run, device: torch.device) -> Markup:
    tileset, seconds = run.tileset, sum(row.get("seconds", 0) for row in run.rows)
    counts = {split: len(tileset.of(split)) for split in SPLITS}
    parameters = sum(p.numel() for p in run.network.parameters())
    streams = "image and heights" if run.card.has_height else "image only"
    facts = {
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
    entries = (element("div", element("dt", k), element("dd", v)) for k, v in facts.items())
    return element("dl", *entries, class_="facts")


def _device(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    return f"{device.type.upper()}, {threads} thread{'s' if threads > 1 else ''}"


def duration(seconds: float) -> str:
    """Write a time in the two largest of hours, minutes and seconds."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{seconds:.3g} s"


def _scores(run: Run) -> Markup:
    if run.scores is None:
        return element("p", "There are no validation tiles, hence no scores.")
    return join(
        tables.by_class(run.scores, run.classes),
        tables.confusion(run.scores, run.classes),
    )


def _curves(run: Run) -> Markup:
    best = run.card.epoch if run.scores is not None else None
    shown = _shown_classes(run)
    ious = [(f"iou_{c.name}", c.name, c.color) for c in run.classes if c.name in shown]
    each = "IoU by class" if len(run.classes) <= _CURVES else f"IoU of the {len(ious)} worst"
    rows, (loss, *parts) = run.rows, losses(run.rows)
    charts = [
        _chart("training loss", rows, _lines(rows, [loss])),
        _chart("parts of the loss", rows, _lines(rows, parts)),
        _chart("validation", rows, _lines(rows, SCORES[:3]), top=1, mark=best),
        _chart(each, rows, [_line(rows, *c) for c in ious], top=1, mark=best),
        _chart("learning rate", rows, _lines(rows, ["learning_rate"])),
    ]
    told = element("p", "The dotted line is the best epoch. Hover over an epoch for its values.")
    every = element("details", element("summary", "All numbers"), _epochs(run))
    return join(element("div", *charts, class_="charts"), told, every)


def _shown_classes(run: Run) -> set[str]:
    """Return the classes worth a curve: all, or the worst ones of many."""
    ious = {n: run.rows[-1].get(f"iou_{n}", math.nan) for n in run.classes.names}
    known = [n for n, iou in ious.items() if not math.isnan(iou)]
    return set(sorted(known, key=lambda n: ious[n])[:_CURVES])


def _chart(
    title: str,
    rows: Sequence[EpochRecord],
    lines: list[Line],
    top: float | None = None,
    mark: float | None = None,
) -> Markup:
    return line_chart(title, [row["epoch"] for row in rows], lines, top=top, mark=mark)


def _lines(rows: Sequence[EpochRecord], names: Sequence[str]) -> list[Line]:
    there = [name for name in names if any(name in row for row in rows)]
    return [_line(rows, name, name.replace("_", " ").replace("miou", "mIoU")) for name in there]


def _line(rows: Sequence[EpochRecord], name: str, title: str, color: str = "") -> Line:
    return Line(title, [row.get(name, math.nan) for row in rows], color)


def _epochs(run: Run) -> Markup:
    names = columns(run.rows)
    if len(names) * len(run.rows) > _CELLS:
        return element("p", f"They are too many for this page, see {run.folder / HISTORY_FILE}.")
    rows = [[f"{row[n]:.5g}" if n in row else "-" for n in names] for row in run.rows]
    return table("The history, one row per epoch", names, rows, class_="numbers")


def _worst_tiles(run: Run, device: torch.device) -> Markup:
    chosen = tile_scores.worst(run.tile_scores, _WORST, run.tileset.size)
    by_name = {tile.name: tile for tile in run.tileset.of("validation")}
    chosen = [score for score in chosen if score.name in by_name]
    if not chosen:
        return element("p", "No validation tile has a wrong pixel that is known of.")
    told = (
        f"The {len(chosen)} of {len(run.tile_scores):,} tiles with the most wrong pixels, as the "
        "best model predicts them; of tiles that overlap, the worst one. In the last picture red "
        "is wrong and grey has no label."
    )
    network = run.network.to(device)
    tiles = [by_name[score.name] for score in chosen]
    found = examples.predicted(run.tiles, run.tileset, tiles, network)
    crs, centres = examples.centres(run.tiles)
    figures = []
    for score, example in zip(chosen, found, strict=True):
        place = _place(score, centres.get(score.name), crs)
        figures.append(_figure(run, score, example, place))
    return join(element("p", told), _key(run), *figures)


def _key(run: Run) -> Markup:
    entries = (element("li", swatch(c.color), c.name) for c in run.classes)
    return element("ul", *entries, class_="legend", aria_label="colours of the classes")


def _place(score: TileScore, centre: tuple[float, float] | None, crs: str) -> str:
    text = f"scene {score.scene}, row {score.row}, column {score.col}"
    if centre is None:
        return text
    digits = 6 if max(map(abs, centre)) <= 180 else 1  # degrees, or metres and feet
    x, y = (f"{value:.{digits}f}" for value in centre)
    return f"{text}; its middle is {x}, {y} {crs and f'in {crs}'}"


def _figure(run: Run, score: TileScore, example: Example, place: str) -> Markup:
    share = percent(score.wrong, score.labelled)
    mistake = (
        f"{share} of {score.labelled:,} labelled pixels are wrong, most often "
        f"{score.reference} taken for {score.predicted} ({percent(score.pixels, score.wrong, 0)})"
    )
    heights = example.patch.height[example.patch.height_valid]
    units = {"height": f", {heights.min():.1f} to {heights.max():.1f} m"} if heights.size else {}
    panels = [
        element("div", _picture(title, picture, score.name), title, units.get(title))
        for title, picture in example.panels(run.classes).items()
    ]
    caption = element("figcaption", score.name, element("small", mistake), element("small", place))
    return element("figure", caption, element("div", *panels, class_="panels"), class_="tile")


def _picture(title: str, picture: NDArray[np.uint8], tile: str) -> Markup:
    kind: Literal["jpeg", "png"] = "jpeg" if title in _PHOTOGRAPHS else "png"
    source = f"data:image/{kind};base64,{base64.b64encode(encode(picture, kind)).decode()}"
    height, width = picture.shape[:2]
    return element("img", src=source, alt=f"{title} of tile {tile}", width=width, height=height)


def _speed(run: Run) -> Markup:
    rows = run.rows
    waits = [100 * row.get("data_wait", math.nan) for row in rows]
    charts = [
        _chart("crops per second", rows, _lines(rows, ["crops_per_second"])),
        _chart("percent of the time spent waiting for data", rows, [Line("data wait", waits)]),
        _chart("seconds per epoch", rows, _lines(rows, ["seconds"])),
    ]
    return element("div", *charts, class_="charts")


def _settings(run: Run) -> Markup:
    again = shlex.join(
        ["cafe", "train", str(run.tiles), "-c", str(run.folder / "config.toml"), "-o", "again"]
    )
    return join(
        element("p", "The run is repeated with"),
        element("pre", element("code", again), tabindex=0),
        element("p", f"with cafe {run.card.cafe_version}. Its settings:"),
        element("pre", element("code", dump_config(run.config)), tabindex=0),
    )
