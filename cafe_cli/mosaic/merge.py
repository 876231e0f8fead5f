"""Merge the inputs of a window of a mosaic."""

from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from rasterio.io import DatasetWriter

from cafe_cli.classes import NODATA, ClassTable
from cafe_cli.errors import InputError, LabelError
from cafe_cli.mosaic.grid import OpenRasters, PlacedInput
from cafe_cli.mosaic.methods import UNKNOWN, Choose, Labels, Scores
from cafe_cli.mosaic.plan import MosaicPlan
from cafe_cli.mosaic.seams import Seams, find_seams, sum_seams
from cafe_cli.raster.skipped import Skipped
from cafe_cli.raster.window import Window, blocks
from cafe_cli.system.open_files import most_open
from cafe_cli.system.threads import cores, in_order

WINDOW = 1024
"""Pixels along each side that are merged at a time; a multiple of the blocks of a COG."""

_THREADS = 8  # at most: they share the files that may be open
_SAMPLES = 16 * 1024**2  # pixels of all inputs and bands together in memory at a time


class MergedWindow(NamedTuple):
    """A window of a mosaic: uint8 arrays (height, width), 255 where there is nothing."""

    labels: Labels
    confidence: NDArray[np.uint8]
    sources: NDArray[np.uint8]
    seams: Seams


class _Decided(NamedTuple):
    """Labels, the score of each, -1 where there is none, and the index of its input."""

    labels: Labels
    scores: Scores
    inputs: NDArray[np.intp]


def merge_window(planned: MosaicPlan, window: Window, rasters: OpenRasters) -> MergedWindow:
    """Merge all inputs that touch a window, in parts whose inputs fit in memory together."""
    labels, confidence, sources = np.full((3, window.height, window.width), NODATA, np.uint8)
    seams = []
    for part, here in _parts(window, planned.near(window), planned.bands):
        placed = [planned.inputs[i] for i in here]
        stack = np.stack([_read_labels(rasters, one, part, planned.classes) for one in placed])
        decided = _decide(planned, rasters, placed, part, stack)
        inside = part.slices(window)
        labels[inside] = decided.labels
        known = (decided.labels != NODATA) & (decided.scores != UNKNOWN)
        confidence[inside] = np.where(known, decided.scores, NODATA)
        if planned.outputs.sources:
            positions = np.array(here, np.uint8)[decided.inputs]
            sources[inside] = np.where(decided.labels == NODATA, NODATA, positions)
        seams.append(find_seams(stack, decided.labels, here, len(planned.inputs)))
    return MergedWindow(labels, confidence, sources, sum_seams(seams, len(planned.inputs)))


def merge_windows(
    planned: MosaicPlan, windows: Sequence[Window], skipped: Skipped | None, jobs: int | None
) -> Generator[MergedWindow, None, None]:
    """Merge window after window, in `jobs` threads, one per core if None; yield them in order."""
    threads = min(jobs or cores(), len(windows), _THREADS)
    return in_order(
        lambda: closing(OpenRasters(planned.grid, skipped, max(most_open() // threads, 1))),
        lambda rasters, window: merge_window(planned, window, rasters),
        windows,
        threads,
    )


def write_window(dataset: DatasetWriter, window: Window, values: Labels) -> None:
    """Write a window of a raster, unless all is nodata: blocks never written are nodata."""
    if (values != NODATA).any():
        rows, cols = window.slices()
        place = ((rows.start, rows.stop), (cols.start, cols.stop))
        dataset.write(values, 1, window=place)


def _parts(
    window: Window, inputs: Sequence[tuple[int, PlacedInput]], bands: int
) -> Iterator[tuple[Window, list[int]]]:
    """Divide a window until the inputs that overlap a part fit in memory; skip empty parts."""
    here = [(i, placed) for i, placed in inputs if placed.box.intersection(window)]
    if not here:
        return
    pixels = window.width * window.height
    if pixels == 1 or pixels * len(here) * bands <= _SAMPLES:
        yield window, [i for i, _ in here]
        return
    size = -(-max(window.width, window.height) // 2)
    for block in blocks(window.width, window.height, size):
        yield from _parts(block.shift(window.col, window.row), here, bands)


def _decide(
    planned: MosaicPlan,
    rasters: OpenRasters,
    placed: Sequence[PlacedInput],
    part: Window,
    labels: Labels,
) -> _Decided:
    method = planned.method
    if method.choose is None:
        return _highest_sum(planned, rasters, placed, part, labels)
    known = np.stack([_read_confidence(rasters, one, part) for one in placed])
    scores: Scores = known
    if method.needs == "distances":
        scores = np.stack([rasters.read_distances(one.source.path, part) for one in placed])
    winner = _choose(method.choose, labels, scores)
    chosen = np.take_along_axis(labels, winner[None], axis=0)[0]
    best = np.where(labels == chosen, known, np.int16(UNKNOWN)).max(axis=0)
    return _Decided(chosen, best, winner)


def _choose(choose: Choose, labels: Labels, scores: Scores) -> NDArray[np.intp]:
    if len(labels) == 1:  # in most places there is one input only
        return np.zeros(labels.shape[1:], np.intp)
    return choose(labels, scores)


def _highest_sum(
    planned: MosaicPlan,
    rasters: OpenRasters,
    placed: Sequence[PlacedInput],
    part: Window,
    labels: Labels,
) -> _Decided:
    """Return the classes of the highest summed probability, and their mean probability."""
    classes = planned.bands - 1
    total = np.zeros((classes, part.height, part.width), np.float32)
    count = np.zeros((part.height, part.width), np.float32)
    for one, own in zip(placed, labels, strict=True):
        shares = _read_probabilities(rasters, one, part, classes)
        known = (own != NODATA) & (shares != NODATA).all(axis=0)
        total += np.where(known, shares, 0)
        count += known
    best = total.argmax(axis=0)
    chosen = np.where(count > 0, best, NODATA).astype(np.uint8)
    highest = np.take_along_axis(total, best[None], axis=0)[0]
    mean = np.rint(highest / np.maximum(count, 1)).astype(np.int16)
    return _Decided(chosen, mean, np.zeros(best.shape, np.intp))


def _read_labels(
    rasters: OpenRasters, placed: PlacedInput, window: Window, classes: ClassTable | None
) -> Labels:
    values: Labels = rasters.read(placed.source.path, placed, window)[0]
    unknown = values[(values >= len(classes)) & (values != NODATA)] if classes else values[:0]
    if classes and unknown.size:
        raise LabelError(
            f"{placed.source.path} holds the value {unknown[0]}, but its classes are 0 to "
            f"{len(classes) - 1}; the file is damaged or was edited"
        )
    return values


def _read_confidence(
    rasters: OpenRasters, placed: PlacedInput, window: Window
) -> NDArray[np.int16]:
    if placed.source.confidence is None:
        return np.full((window.height, window.width), UNKNOWN, np.int16)
    values = rasters.read(placed.source.confidence, placed, window)[0]
    _check_percent(placed.source.confidence, values, "confidence")
    return np.where(values == NODATA, np.int16(UNKNOWN), values)


def _read_probabilities(
    rasters: OpenRasters, placed: PlacedInput, window: Window, classes: int
) -> NDArray[np.uint8]:
    path = placed.source.probabilities
    if path is None:
        raise ValueError(f"{placed.source.path} has no probabilities")
    values = rasters.read(path, placed, window, range(1, classes + 1))
    _check_percent(path, values, "probability")
    return values


def _check_percent(path: str, values: NDArray[np.uint8], kind: str) -> None:
    unknown = values[(values > 100) & (values != NODATA)]
    if unknown.size:
        raise InputError(
            f"{path} holds the value {unknown[0]}, a {kind} raster holds 0 to 100 and {NODATA} "
            "for none"
        )
