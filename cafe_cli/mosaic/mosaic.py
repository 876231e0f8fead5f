"""``cafe mosaic``: label rasters that overlap to one, window by window."""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from rasterio.io import DatasetReader, DatasetWriter

from cafe_cli.classes import NODATA, ClassTable
from cafe_cli.config.provenance import save_beside
from cafe_cli.errors import BandError, ConfigError, GridError, InputError, LabelError
from cafe_cli.findings import Report
from cafe_cli.mosaic.grid import (
    MosaicInput,
    OpenRasters,
    PlacedInput,
    TargetGrid,
    place,
    target_grid,
)
from cafe_cli.raster.grid import Grid, describe_crs
from cafe_cli.raster.reader import open_raster
from cafe_cli.raster.window import Window, blocks
from cafe_cli.raster.writer import create_map, read_classes
from cafe_cli.system.atomic_write import check_outputs

log = logging.getLogger("cafe")

Labels: TypeAlias = NDArray[np.uint8]
_Writers: TypeAlias = tuple[DatasetWriter, DatasetWriter | None]
Rule: TypeAlias = Callable[[Labels, NDArray[np.int16]], NDArray[np.intp]]

_WINDOW = 1024  # pixels along each side; a multiple of the blocks of a COG
_SAMPLES = 16 * _WINDOW**2  # pixels of all inputs together in memory at a time
_UNKNOWN = -1  # confidence where the confidence raster has none


@dataclass(frozen=True)
class Confidences:
    """Confidence rasters (0 to 100, 255 for none), one per input in the same order.

    Parameters
    ----------
    inputs : tuple of str
        On the pixels of their label rasters.
    output : Path, optional
        Where to write the confidence of the mosaic.
    """

    inputs: tuple[str, ...]
    output: Path | None = None


def mosaic(
    inputs: Sequence[str],
    output: Path,
    *,
    method: str = "majority",
    confidences: Confidences | None = None,
    target: TargetGrid | None = None,
    overwrite: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Merge label rasters into one COG.

    Inputs on the pixel grid of the mosaic are copied exactly, others are brought onto it by
    nearest neighbour. 255 never wins where another input has a class. Without class tables in the
    inputs the mosaic has none either.

    Parameters
    ----------
    inputs : sequence of str
        Label rasters with the same classes.
    output : Path
        The mosaic; ``.toml`` is appended to its name for what it was made with.
    method : str
        A key of `METHODS`.
    confidences : Confidences, optional
        For method ``confidence``, and for a confidence raster of the mosaic: the confidence of
        the label that was chosen, the highest among the inputs that agree with it.
    target : Target, optional
        CRS, pixel size and extent.
    overwrite : bool
        Replace outputs that exist.
    progress : callable
        Called with windows done and in total.

    Raises
    ------
    ConfigError
        No inputs, an unknown method, confidences that are lacking or do not match in number.
    InputError
        A file that is missing, damaged or no label raster, or classes that differ.
    GridError
        Inputs that cannot be brought onto one grid.
    OutputError
        An output exists or cannot be written.
    """
    plan = _plan(inputs, output, method, confidences, target or TargetGrid(), overwrite)
    surer, second = (confidences.inputs, confidences.output) if confidences else ((), None)
    with create_map(output, second, plan.grid, overwrite, plan.classes) as writers:
        _fill(plan, writers, progress)
    made = {"inputs": list(inputs), "method": method, "target": vars(target or TargetGrid())}
    save_beside(output, {**made, "confidences": list(surer)})


def rehearse(
    inputs: Sequence[str],
    output: Path,
    method: str = "majority",
    confidences: Confidences | None = None,
    target: TargetGrid | None = None,
    overwrite: bool = False,
) -> Report:
    """Check everything that `mosaic` would, and say what it would write; arguments as there."""
    report = Report("mosaic")
    with report.noting():
        plan = _plan(inputs, output, method, confidences, target or TargetGrid(), overwrite)
        pixels = plan.grid.width * plan.grid.height
        report.facts |= {
            "inputs": len(inputs),
            "warped": sum(not piece.exact for piece in plan.pieces),
            "output": str(output),
            "map": _describe(plan.grid),
            "classes": list(plan.classes.names) if plan.classes else None,
            "estimate": {"disk_at_most": pixels * (2 if confidences else 1)},
        }
    return report


def _plan(
    inputs: Sequence[str],
    output: Path,
    method: str,
    confidences: Confidences | None,
    target: TargetGrid,
    overwrite: bool,
) -> "_Plan":
    """Check everything and say what is to be computed."""
    _check_options(inputs, output, method, confidences)
    surer, second = (confidences.inputs, confidences.output) if confidences else ((), None)
    check_outputs([p for p in (output, second) if p], [*inputs, *surer], overwrite)
    sources = _survey(inputs, confidences)
    grid = target_grid(sources, target)
    return _Plan(grid, _common_classes(sources), METHODS[method], place(sources, grid))


def _highest(values: NDArray[np.generic]) -> NDArray[np.intp]:
    """Return which input has the highest value; the first of equals."""
    index: NDArray[np.intp] = values.argmax(axis=0)
    return index


def _first(labels: Labels, _: NDArray[np.int16]) -> NDArray[np.intp]:
    return _highest(labels != NODATA)


def _last(labels: Labels, _: NDArray[np.int16]) -> NDArray[np.intp]:
    return len(labels) - 1 - _highest(labels[::-1] != NODATA)


def _majority(labels: Labels, _: NDArray[np.int16]) -> NDArray[np.intp]:
    support = np.zeros(labels.shape, np.int32)
    for value in np.flatnonzero(np.bincount(labels.ravel(), minlength=NODATA)[:NODATA]):
        same = labels == value
        np.copyto(support, same.sum(axis=0, dtype=np.int32), where=same)
    return _highest(support)


def _most_confident(labels: Labels, confidence: NDArray[np.int16]) -> NDArray[np.intp]:
    return _highest(np.where(labels != NODATA, confidence, np.int16(_UNKNOWN - 1)))


METHODS: dict[str, Rule] = {
    "first": _first,
    "last": _last,
    "majority": _majority,
    "confidence": _most_confident,
}
"""Which input gives a pixel its label, from labels and confidences (inputs, height, width) in the
order of the inputs: `first` or `last` that has a class, the class that the `majority` of them has,
or the one of the highest `confidence`. Ties go to the first input."""


@dataclass(frozen=True)
class _Plan:
    """What to compute."""

    grid: Grid
    classes: ClassTable | None
    rule: Rule
    pieces: list[PlacedInput]


def _check_options(
    inputs: Sequence[str], output: Path, method: str, confidences: Confidences | None
) -> None:
    if not inputs:
        raise ConfigError("no inputs: name at least one label raster")
    if method not in METHODS:
        raise ConfigError(f"unknown method {method!r}; known: {', '.join(METHODS)}")
    if confidences is None:
        if method == "confidence":
            raise ConfigError(
                "method 'confidence' needs the confidence rasters of the inputs; pass them, "
                "or choose another method"
            )
        return
    if len(confidences.inputs) != len(inputs):
        raise ConfigError(
            f"{len(confidences.inputs)} confidence rasters for {len(inputs)} inputs; pass one per "
            "input, in the same order"
        )
    if method != "confidence" and confidences.output is None:
        raise ConfigError(
            f"nothing uses the confidence rasters: method {method!r} does not, and no confidence "
            "output is asked for; leave them out, or choose method 'confidence'"
        )


def _survey(inputs: Sequence[str], confidences: Confidences | None) -> list[MosaicInput]:
    """Look at every input once, and check that each is what it should be."""
    partners: Sequence[str | None] = confidences.inputs if confidences else [None] * len(inputs)
    sources = []
    for path, partner in zip(inputs, partners, strict=True):
        with open_raster(path) as dataset:
            _check_kind(path, dataset, "label raster")
            source = MosaicInput(path, partner, Grid.of(dataset), read_classes(dataset))
        if partner is not None:
            _check_confidence(partner, source)
        sources.append(source)
    return sources


def _check_kind(path: str, dataset: DatasetReader, kind: str) -> None:
    if dataset.count != 1:
        raise BandError(f"{path} has {dataset.count} bands, a {kind} has one; leave it out")
    if dataset.dtypes[0] != "uint8":
        raise InputError(
            f"{path} is {dataset.dtypes[0]}, a {kind} is uint8; leave it out, or convert it with "
            "gdal_translate -ot Byte"
        )


def _check_confidence(path: str, source: MosaicInput) -> None:
    with open_raster(path) as dataset:
        _check_kind(path, dataset, "confidence raster")
        grid = Grid.of(dataset)
    if not grid.same_pixels(source.grid):
        raise GridError(
            f"{path} ({_describe(grid)}) does not have the pixels of {source.path} "
            f"({_describe(source.grid)}); pass the confidences in the order of the inputs"
        )


def _describe(grid: Grid) -> str:
    left, _, _, top = grid.bounds
    place = f"from x {left:.10g}, y {top:.10g} in {describe_crs(grid.crs)}"
    return f"{grid.width} x {grid.height} pixels {place}"


def _common_classes(sources: Sequence[MosaicInput]) -> ClassTable | None:
    """Return the table of the first input, None if no input has one."""
    first, classes = sources[0].path, sources[0].classes
    for source in sources[1:]:
        if (classes is None) != (source.classes is None):
            knows, lacks = (first, source.path) if classes else (source.path, first)
            raise LabelError(
                f"{lacks} does not say what its values mean, {knows} does: they may not be the "
                "same classes; leave it out, or predict it anew"
            )
        if classes and source.classes and classes.names != source.classes.names:
            difference = _first_difference(classes.names, source.classes.names)
            raise LabelError(
                f"{first} and {source.path} have different classes: {difference}; mosaic only "
                "what was made with the same class table"
            )
    if classes is None:
        log.warning("no input says what its values mean, so the mosaic has no class names either")
    return classes


def _first_difference(ours: Sequence[str], theirs: Sequence[str]) -> str:
    for id_, (one, other) in enumerate(zip(ours, theirs, strict=False)):
        if one != other:
            return f"{id_} is {one!r} in the first, {other!r} in the second"
    return f"the first has {len(ours)}, the second {len(theirs)}"


def _fill(plan: _Plan, writers: _Writers, progress: Callable[[int, int], None]) -> None:
    start, end = np.hsplit(np.array([piece.box.bounds for piece in plan.pieces]), 2)
    todo = list(blocks(plan.grid.width, plan.grid.height, _WINDOW))
    with closing(OpenRasters(plan.grid)) as rasters:
        for done, window in enumerate(todo, start=1):
            left, top, right, bottom = window.bounds
            near = np.flatnonzero(((start < (right, bottom)) & (end > (left, top))).all(axis=1))
            labels, confidence = _merge(plan, [plan.pieces[i] for i in near], window, rasters)
            for writer, plane in zip(writers, (labels, confidence), strict=True):
                if writer:
                    _write(writer, window, plane)
            progress(done, len(todo))


def _write(dataset: DatasetWriter, window: Window, values: Labels) -> None:
    if (values != NODATA).any():  # what is never written is nodata
        rows, cols = window.slices()
        place = ((rows.start, rows.stop), (cols.start, cols.stop))
        dataset.write(values, 1, window=place)


def _merge(
    plan: _Plan, pieces: Sequence[PlacedInput], window: Window, rasters: OpenRasters
) -> tuple[Labels, Labels]:
    """Return labels and confidence (height, width) of a window."""
    labels = np.full((window.height, window.width), NODATA, np.uint8)
    confidence = labels.copy()
    for part, here in _parts(window, pieces):
        stack = np.stack([_read_labels(rasters, piece, part, plan.classes) for piece in here])
        known = np.stack([_read_confidence(rasters, piece, part) for piece in here])
        chosen = _choose(plan.rule, stack, known)
        best = np.where(stack == chosen, known, np.int16(_UNKNOWN)).max(axis=0)
        inside = part.slices(window)
        labels[inside] = chosen
        confidence[inside] = np.where((chosen == NODATA) | (best == _UNKNOWN), NODATA, best)
    return labels, confidence


def _choose(rule: Rule, labels: Labels, confidence: NDArray[np.int16]) -> Labels:
    """Return the labels (height, width) that the rule takes from its inputs."""
    chosen: Labels = labels[0]
    if len(labels) > 1:  # on most of the ground there is nothing to choose
        winner = rule(labels, confidence)[None]
        chosen = np.take_along_axis(labels, winner, axis=0)[0]
    return chosen


def _parts(
    window: Window, pieces: Sequence[PlacedInput]
) -> Iterator[tuple[Window, list[PlacedInput]]]:
    """Divide a window until what overlaps in a part fits in memory; leave out empty parts."""
    here = [piece for piece in pieces if piece.box.intersection(window)]
    if not here:
        return
    pixels = window.width * window.height
    if pixels == 1 or pixels * len(here) <= _SAMPLES:
        yield window, here
        return
    size = -(-max(window.width, window.height) // 2)
    for block in blocks(window.width, window.height, size):
        yield from _parts(block.shift(window.col, window.row), here)


def _read_labels(
    rasters: OpenRasters, piece: PlacedInput, window: Window, classes: ClassTable | None
) -> Labels:
    values = rasters.read(piece.source.path, piece, window)
    strange = values[(values >= len(classes)) & (values != NODATA)] if classes else values[:0]
    if classes and strange.size:
        raise LabelError(
            f"{piece.source.path} holds the value {strange[0]}, but its classes are 0 to "
            f"{len(classes) - 1}; the file is damaged or was edited"
        )
    return values


def _read_confidence(rasters: OpenRasters, piece: PlacedInput, window: Window) -> NDArray[np.int16]:
    if piece.source.confidence is None:
        return np.full((window.height, window.width), _UNKNOWN, np.int16)
    values = rasters.read(piece.source.confidence, piece, window)
    strange = values[(values > 100) & (values != NODATA)]
    if strange.size:
        raise InputError(
            f"{piece.source.confidence} holds the value {strange[0]}, a confidence raster holds 0 "
            f"to 100 and {NODATA} for none"
        )
    return np.where(values == NODATA, np.int16(_UNKNOWN), values)
