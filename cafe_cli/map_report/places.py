"""The worst places of a map: where it differs most from the reference, or is least sure."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cafe_cli.classes import NODATA
from cafe_cli.evaluation.metrics import Confusion
from cafe_cli.evaluation.spreading import CELLS, CellSums, choose
from cafe_cli.map_report.gather import DIFFERS, DOUBT, KNOWN, LABELLED, MAPPED, MapSummary
from cafe_cli.map_report.pictures import PlaceReader
from cafe_cli.map_report.source import Subject
from cafe_cli.pages.pictures import Panel
from cafe_cli.pages.tables import percent
from cafe_cli.raster.grid import describe_crs
from cafe_cli.raster.window import Window

_COUNT = 8
_SIDE = 256  # pixels of a place where the map is large enough
_PARTS = 4  # places along the shorter side of a small map, at least


@dataclass(frozen=True)
class Place:
    """A place with its pictures.

    Attributes
    ----------
    rank : int
        From 1.
    mistake : str
        What is wrong there.
    place : str
        Where it lies.
    panels : sequence of Panel
    window : Window
        Pixels of the map.
    """

    rank: int
    mistake: str
    place: str
    panels: Sequence[Panel]
    window: Window

    @property
    def name(self) -> str:
        """Its heading."""
        return f"Place {self.rank}"


def worst_places(subject: Subject, summary: MapSummary) -> list[Place]:
    """Return the worst places, the worst first, that lie apart; none if nothing tells what is bad.

    With a reference, they are the windows with the most pixels that differ from it; else, those
    of the lowest mean confidence.
    """
    part = DIFFERS if summary.truth is not None else DOUBT
    found = []
    with ExitStack() as stack:
        reader = PlaceReader(subject, stack)
        for rank, (window, sums) in enumerate(_choose(subject, summary, part), start=1):
            found.append(
                Place(
                    rank,
                    _mistake(subject, reader, window, sums),
                    _describe_place(subject, window),
                    [*reader.panels(window)],
                    window,
                )
            )
    return found


def _choose(
    subject: Subject, summary: MapSummary, part: int
) -> Iterator[tuple[Window, NDArray[np.float64]]]:
    """Yield windows and the sums in them."""
    cells = summary.cells.coarsened(_coarsening(subject))
    cells = CellSums(cells.width, cells.height, cells.cell, np.round(cells.sums, 6))
    sums = cells.in_windows()
    # Differences of cumulated sums leave a remainder where there is nothing.
    scores = np.round(sums[part] / np.maximum(sums[MAPPED], 1), 9)
    for row, column in choose(scores, sums[MAPPED], cells, _COUNT):
        yield cells.window(row, column), sums[:, row, column]


def _coarsening(subject: Subject) -> int:
    """Return how many cells of a summary make a cell of a place."""
    shorter = min(subject.grid.width, subject.grid.height)
    side = min(_SIDE, shorter / _PARTS)
    return max(int(side / CELLS / subject.factor), 1)


def _mistake(
    subject: Subject, reader: PlaceReader, window: Window, sums: NDArray[np.float64]
) -> str:
    labelled, differs = round(sums[LABELLED]), round(sums[DIFFERS])
    if not differs:
        return f"mean confidence {percent(sums[KNOWN] - sums[DOUBT], sums[KNOWN], 0)}"
    ids, truth = reader.read_ids(window)
    matrix = Confusion(len(subject.classes))
    matrix.add(np.where(ids == NODATA, np.uint8(NODATA), truth), ids)
    np.fill_diagonal(matrix.counts, 0)
    i, j = np.unravel_index(matrix.counts.argmax(), matrix.counts.shape)
    names = subject.classes.names
    return (
        f"{percent(differs, labelled)} of {labelled:,} labelled pixels differ from the reference, "
        f"most often {names[i]} mapped as {names[j]} "
        f"({percent(int(matrix.counts[i, j]), differs, 0)} of them)"
    )


def _describe_place(subject: Subject, window: Window) -> str:
    grid = subject.grid
    x, y = grid.transform @ (window.col + window.width / 2, window.row + window.height / 2)
    text = f"row {window.row:,}, column {window.col:,}, {window.width} x {window.height} pixels"
    if not grid.is_georeferenced:
        return text
    digits = 6 if max(map(abs, grid.bounds)) <= 360 else 1  # degrees, or metres and feet
    return f"{text}; its middle is {x:.{digits}f}, {y:.{digits}f} in {describe_crs(grid.crs)}"
