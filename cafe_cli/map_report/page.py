"""The values of the page, and the page."""

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment

from cafe_cli import __version__
from cafe_cli.classes import ClassTable
from cafe_cli.config.provenance import dump_settings, read_beside
from cafe_cli.evaluation.areas import Areas, ClassArea
from cafe_cli.map_report.accuracy import Accuracy
from cafe_cli.map_report.places import Place
from cafe_cli.map_report.source import Subject
from cafe_cli.pages.pictures import Panel
from cafe_cli.pages.tables import Cell, Row, Table, by_class, confusion, name_cell, number
from cafe_cli.pages.templates import make_environment, read_style
from cafe_cli.raster.grid import describe_crs
from cafe_cli.raster.header import read_tags
from cafe_cli.raster.reader import open_raster
from cafe_cli.redaction import base_name, redact, redact_all
from cafe_cli.text import list_some, percent, printable

_PACKAGE = "cafe_cli.map_report"
_LISTED = 4  # names of files


@dataclass(frozen=True)
class Content:
    """What a page shows.

    Attributes
    ----------
    title : str
    panels : sequence of Panel
        Pictures of the whole map, of one size.
    areas : Areas
    accuracy : Accuracy or None
    places : sequence of Place
    """

    title: str
    panels: Sequence[Panel]
    areas: Areas
    accuracy: Accuracy | None
    places: Sequence[Place]


@cache
def templates() -> Environment:
    """Return the Jinja environment of this folder."""
    return make_environment(_PACKAGE)


def render_page(subject: Subject, content: Content) -> str:
    """Return the report as HTML."""
    script, own_style = _read("swipe.js"), _read("map.css")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    accuracy, source = content.accuracy, subject.source
    values: dict[str, Any] = {
        "title": redact(printable(content.title)),
        "style": read_style() + own_style,
        "script": script,
        "script_policy": f"'sha256-{digest}'",
        "lead": _lead(content),
        "facts": redact_all(_facts(subject, content.areas)),
        "panels": content.panels,
        "classes": subject.classes,
        "areas": _area_table(content.areas, subject.classes),
        "tables": [],
        "accuracy_note": "",
        "places": content.places,
        "boxes": _boxes(subject, content.places),
        "reason": "reference" if subject.reference else "confidence",
        "can_rank": subject.reference is not None or source.confidence is not None,
        "tags": _tags(subject),
        "settings": _settings(subject),
        "sheets": len(subject.map.members),
        "version": __version__,
    }
    if accuracy is not None:
        values["tables"] = [
            by_class(accuracy.scores, subject.classes, accuracy.limits, accuracy.unit),
            confusion(accuracy.scores, subject.classes, accuracy.unit, accuracy.matrix),
        ]
        values["accuracy_note"] = redact(accuracy.note)
    return templates().get_template("page.html.jinja").render(values)


def _read(name: str) -> str:
    return files(_PACKAGE).joinpath(name).read_text(encoding="utf-8")


def _lead(content: Content) -> str:
    total = sum(row.square_metres or 0 for row in content.areas.classes.values())
    name, largest = max(content.areas.classes.items(), key=lambda item: item[1].share)
    if not largest.pixels:
        return "No pixel has a class"
    named = f"most of it {name} ({percent(largest.share, 0)})"
    text = f"{_hectares(total)} mapped, {named}" if total else f"a map, {named}"
    if (accuracy := content.accuracy) is not None:
        text += f"; overall accuracy {percent(accuracy.scores.overall_accuracy, 1)}"
        if accuracy.overall is not None:
            low, high = (percent(limit, 1) for limit in accuracy.overall)
            text += f" (95 % interval {low} to {high})"
    return text[0].upper() + text[1:]


def _hectares(square_metres: float) -> str:
    hectares = square_metres / 10_000
    return f"{hectares:,.{0 if hectares >= 100 else 2}f} ha"


def _facts(subject: Subject, areas: Areas) -> dict[str, str]:
    grid = subject.grid
    names = {
        role: list_some([base_name(path) for path in subject.files_of(role)], _LISTED)
        for role in subject.source.names
    }
    size = f"{grid.width:,} x {grid.height:,} pixels"
    return {
        **names,
        "size": f"{size} of {grid.gsd:.3g} m" if grid.has_pixel_size else size,
        "CRS": describe_crs(grid.crs),
        "without a class": percent(areas.unclassified / (grid.width * grid.height), 1),
        "made on": datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
        "made with": f"cafe {__version__}",
    }


def _area_table(areas: Areas, classes: ClassTable) -> Table:
    rows = [_area_row(areas.classes[land.name], name_cell(land)) for land in classes]
    known = all(row.square_metres is not None for row in areas.classes.values())
    estimated = any(row.estimate for row in areas.classes.values())
    columns = ["class", "share of the map", "hectares" if known else "pixels"]
    explanation = "Counted pixel by pixel."
    if not known:
        explanation += " The map has no CRS, which would say how large its pixels are."
    if estimated:
        columns += ["estimated hectares", "95 % interval"]
        explanation += (
            " The estimates come from the reference points and are corrected for the errors of "
            "the map, which a count of its pixels is not."
        )
    return Table("Area of each class", columns, rows, explanation, kind="balance")


def _area_row(row: ClassArea, name: Cell) -> Row:
    size = number(row.pixels, 0) if row.hectares is None else number(row.hectares, 2)
    cells: list[str | Cell] = [name, Cell(percent(row.share, 1), share=row.share), size]
    if row.estimate is not None:
        found = row.estimate.scaled(1e-4)
        low, high = max(found.value - found.margin, 0.0), found.value + found.margin
        cells += [number(found.value, 2), f"{number(low, 2)} to {number(high, 2)}"]
    return cells


def _boxes(subject: Subject, places: Sequence[Place]) -> list[dict[str, Any]]:
    """Return where the places lie on the pictures of the whole map, in pixels of these."""
    factor = subject.factor
    return [
        {
            "rank": place.rank,
            "x": round(place.window.col / factor, 1),
            "y": round(place.window.row / factor, 1),
            "width": round(place.window.width / factor, 1),
            "height": round(place.window.height / factor, 1),
        }
        for place in places
    ]


def _tags(subject: Subject) -> dict[str, str]:
    """Return what the map itself says about how it was made."""
    with open_raster(subject.map.members[0].path) as dataset:
        tags = read_tags(dataset)
    return {
        redact(key.removeprefix("CAFE_").lower().replace("_", " ")): redact(text)
        for key, text in tags.items()
        if key.startswith("CAFE_")
    }


def _settings(subject: Subject) -> str:
    """Return the settings that lie beside the map; empty if there are none."""
    made = read_beside(Path(subject.map.members[0].path))
    return dump_settings(made) if made else ""
