"""Read the whole map once, block by block: areas, a small map, and what is wrong where."""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cafe_cli.classes import NODATA
from cafe_cli.evaluation.areas import Areas, areas_of
from cafe_cli.evaluation.frame import survey
from cafe_cli.evaluation.spreading import CellSums
from cafe_cli.evaluation.suggest import SuggestInput, open_doubt
from cafe_cli.map_report.source import Subject
from cafe_cli.raster.window import Window
from cafe_cli.system.threads import ProgressCallback

Ids = NDArray[np.uint8]

MAPPED, LABELLED, DIFFERS, KNOWN, DOUBT = range(5)
"""Sums over cells: pixels with a class, those with a label, those whose label is another; pixels
with a confidence, and 1 - confidence."""


@dataclass(frozen=True)
class MapSummary:
    """A map in small.

    Attributes
    ----------
    areas : Areas
    ids : ndarray of uint8, (rows, columns)
        Class ids at every `Subject.factor`-th pixel; 255 is no class.
    truth : ndarray of uint8, (rows, columns), or None
        The reference at the same pixels.
    cells : CellSums
        Of the same cells; the sums are named by the constants above.
    has_confidence : bool
    """

    areas: Areas
    ids: Ids
    truth: Ids | None
    cells: CellSums
    has_confidence: bool

    def share(self, part: int, whole: int) -> NDArray[np.float64]:
        """Return a sum divided by another in each cell, (rows, columns); NaN where that is 0."""
        below = self.cells.sums[whole]
        shares: NDArray[np.float64] = self.cells.sums[part] / np.where(below == 0, np.nan, below)
        return shares


def gather(subject: Subject, progress: ProgressCallback = lambda done, total: None) -> MapSummary:
    """Read a map with its reference and confidence, each pixel once.

    Raises
    ------
    LabelError
        A value belongs to no class, or the map declares a class as nodata.
    InputError
        A file is damaged, or confidences are not in per cent.
    """
    with ExitStack() as stack:
        counter = _Counter(subject, stack)
        frame = survey(subject.map, subject.classes, (counter.visit,), progress)
    return MapSummary(
        areas_of(frame, subject.classes), counter.ids, counter.truth, counter.cells,
        subject.source.confidence is not None,
    )  # fmt: skip


class _Counter:
    """Sums up windows of a map, its reference and its confidence."""

    def __init__(self, subject: Subject, stack: ExitStack) -> None:
        grid, factor = subject.grid, subject.factor
        self.cells = CellSums.empty(grid.width, grid.height, factor, 5)
        self._rows, self._columns = (_samples(n, factor) for n in (grid.height, grid.width))
        shape = len(self._rows), len(self._columns)
        self.ids = np.full(shape, NODATA, np.uint8)
        self.truth = np.full(shape, NODATA, np.uint8) if subject.reference else None
        self._read_truth = None
        if subject.reference is not None:
            self._read_truth = stack.enter_context(subject.reference.opened())
        self._read_doubt = open_confidence(subject, stack)

    def visit(self, window: Window, ids: Ids) -> None:
        """Count a window of the map."""
        mapped = ids != NODATA
        planes = np.zeros((5, *ids.shape), np.float32)
        planes[MAPPED] = mapped
        self._sample(self.ids, window, ids)
        if self._read_truth is not None and self.truth is not None:
            truth = self._read_truth(window).ids
            planes[LABELLED] = labelled = mapped & (truth != NODATA)
            planes[DIFFERS] = labelled & (truth != ids)
            self._sample(self.truth, window, truth)
        if self._read_doubt is not None:
            doubt, known = self._read_doubt(window)
            planes[KNOWN] = known & mapped
            planes[DOUBT] = np.where(known & mapped, doubt, 0)
        self.cells.add(window, planes)

    def _sample(self, into: Ids, window: Window, values: Ids) -> None:
        rows, columns = (
            slice(*np.searchsorted(places, ends))
            for places, ends in (
                (self._rows, (window.row, window.bottom)),
                (self._columns, (window.col, window.right)),
            )
        )
        here = np.ix_(self._rows[rows] - window.row, self._columns[columns] - window.col)
        into[rows, columns] = values[here]


def open_confidence(
    subject: Subject, stack: ExitStack
) -> Callable[[Window], tuple[NDArray[np.float32], NDArray[np.bool_]]] | None:
    """Open the confidences; return what reads 1 - confidence of a window, and where it is known."""
    source = subject.source
    if source.confidence is None:
        return None
    about = SuggestInput(source.map, confidence=source.confidence, crs=source.config.crs)
    return stack.enter_context(open_doubt(about, subject.map, subject.classes))


def _samples(length: int, factor: int) -> NDArray[np.intp]:
    """Return the pixel in the middle of each cell; of a last one that is cut off, the last."""
    middles = np.arange(-(-length // factor)) * factor + factor // 2
    return np.minimum(middles, length - 1)
