"""``cafe mosaic``: label rasters that overlap to one, window by window."""

import logging
import math
import os
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
from affine import Affine
from numpy.typing import NDArray
from rasterio.enums import Resampling
from rasterio.errors import CRSError, RasterioError
from rasterio.io import DatasetReader, DatasetWriter
from rasterio.vrt import WarpedVRT

from cafe_cli import raster
from cafe_cli.classes import NODATA, ClassTable
from cafe_cli.errors import BandError, ConfigError, GridError, InputError, LabelError
from cafe_cli.files import check_output
from cafe_cli.grid import Grid, describe_crs
from cafe_cli.windows import Window, blocks

log = logging.getLogger("cafe")

Labels: TypeAlias = NDArray[np.uint8]
Bounds: TypeAlias = tuple[float, float, float, float]
_Writers: TypeAlias = tuple[DatasetWriter, DatasetWriter | None]
Rule: TypeAlias = Callable[[Labels, NDArray[np.int16]], NDArray[np.intp]]

_WINDOW = 1024  # pixels along each side; a multiple of the blocks of a COG
_SAMPLES = 16 * _WINDOW**2  # pixels of all inputs together in memory at a time
_OPEN = 64  # rasters open at a time
_MAX_PIXELS = 10**12
_SNAP = 1e-3  # pixels by which grids may differ and still be the same
_UNKNOWN = -1  # confidence where the confidence raster has none


@dataclass(frozen=True)
class Target:
    """The grid of a mosaic; what is None follows from the inputs.

    Parameters
    ----------
    like : str, optional
        Raster whose CRS and pixel grid are taken; those of the first input if None.
    resolution : float, optional
        Side of a pixel in units of the CRS.
    bounds : tuple of float, optional
        (left, bottom, right, top) in the CRS, grown to whole pixels; all inputs if None.
    """

    like: str | None = None
    resolution: float | None = None
    bounds: Bounds | None = None

    def __post_init__(self) -> None:
        """Refuse what is not an area."""
        if self.resolution is not None and not 0 < self.resolution < math.inf:
            raise ConfigError(f"resolution {self.resolution} is not above 0")
        if self.bounds is not None:
            left, bottom, right, top = self.bounds
            if not (left < right and bottom < top):
                raise ConfigError(
                    f"bounds {left} {bottom} {right} {top} are not left bottom right top"
                )


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
    target: Target | None = None,
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
        The mosaic.
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
    _check_options(inputs, output, method, confidences)
    surer, second = (confidences.inputs, confidences.output) if confidences else ((), None)
    _check_outputs([*inputs, *surer], [p for p in (output, second) if p], overwrite)
    sources = _survey(inputs, confidences)
    classes = _common_classes(sources)
    grid = _target_grid(sources, target or Target())
    plan = _Plan(grid, classes, METHODS[method], _place(sources, grid))
    with raster.create_map(output, second, grid, overwrite, classes) as writers:
        _fill(plan, writers, progress)


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
class _Source:
    """An input as it was delivered."""

    path: str
    confidence: str | None
    grid: Grid
    classes: ClassTable | None


@dataclass(frozen=True)
class _Piece:
    """An input as it lies on the grid of the mosaic, which it may reach beyond.

    `box` holds all of its pixels; with `exact` it is the raster, pixel by pixel.
    """

    source: _Source
    box: Window
    exact: bool


@dataclass(frozen=True)
class _Plan:
    """What to compute."""

    grid: Grid
    classes: ClassTable | None
    rule: Rule
    pieces: list[_Piece]


def _check_outputs(inputs: Sequence[str], outputs: Sequence[Path], overwrite: bool) -> None:
    """Refuse outputs that exist or that are inputs, before any work is done."""
    taken = {os.path.realpath(path): path for path in inputs}
    for path in outputs:
        if (real := os.path.realpath(path)) in taken:
            raise ConfigError(f"{path} is {taken[real]} too; choose another name to write to")
        taken[real] = "an output"
        check_output(path, overwrite)


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


def _survey(inputs: Sequence[str], confidences: Confidences | None) -> list[_Source]:
    """Look at every input once, and check that each is what it should be."""
    partners: Sequence[str | None] = confidences.inputs if confidences else [None] * len(inputs)
    sources = []
    for path, partner in zip(inputs, partners, strict=True):
        with raster.open_raster(path) as dataset:
            _check_kind(path, dataset, "label raster")
            source = _Source(path, partner, Grid.of(dataset), raster.read_classes(dataset))
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


def _check_confidence(path: str, source: _Source) -> None:
    with raster.open_raster(path) as dataset:
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


def _common_classes(sources: Sequence[_Source]) -> ClassTable | None:
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


def _target_grid(sources: Sequence[_Source], target: Target) -> Grid:
    """Return the grid of the mosaic: whole pixels of one grid, around all inputs or `bounds`."""
    base = _base_grid(sources[0].grid, target)
    everything = _around([_outline(source, base) for source in sources])
    if target.bounds is None:
        extent = everything
    else:
        left, bottom, right, top = target.bounds
        corners = [(left, top), (right, top), (left, bottom), (right, bottom)]
        extent = _around([[~base.transform @ corner for corner in corners]])
        if extent.intersection(everything) is None:
            raise GridError(
                f"bounds {left} {bottom} {right} {top} hold nothing: the inputs lie within "
                f"{' '.join(f'{b:.10g}' for b in base.at(everything).bounds)} "
                f"in {describe_crs(base.crs)}"
            )
    if extent.width * extent.height > _MAX_PIXELS:
        raise GridError(
            f"the mosaic would have {extent.width} x {extent.height} pixels; check where the "
            "inputs lie, or pass bounds or a coarser resolution"
        )
    return base.at(extent)


def _base_grid(first: Grid, target: Target) -> Grid:
    """Return the grid whose pixels the mosaic takes; its extent does not matter."""
    base = first
    if target.like is not None:
        with raster.open_raster(target.like) as dataset:
            base = Grid.of(dataset)
    if target.resolution is None:
        return base
    a, b, _, d, e, _ = base.transform[:6]
    scale = Affine.scale(target.resolution / math.hypot(a, d), target.resolution / math.hypot(b, e))
    return Grid(base.crs, base.transform @ scale, base.width, base.height)


def _outline(source: _Source, base: Grid) -> list[tuple[float, float]]:
    """Return the outline of an input in pixels of `base`."""
    if (source.grid.crs is None) != (base.crs is None):
        raise GridError(
            f"{source.path} is in {describe_crs(source.grid.crs)}, the mosaic in "
            f"{describe_crs(base.crs)}; assign the right CRS, e.g. with gdal_edit.py -a_srs "
            "EPSG:CODE FILE"
        )
    try:
        outline = source.grid.footprint_in(base.crs)
    except (CRSError, RasterioError) as error:
        raise GridError(
            f"cannot transform {source.path} to {describe_crs(base.crs)}: {error}"
        ) from error
    return [~base.transform @ corner for corner in outline.exterior.coords]


def _around(outlines: Sequence[Sequence[tuple[float, float]]]) -> Window:
    """Return the whole pixels around outlines."""
    corners = np.concatenate([np.asarray(outline) for outline in outlines])
    col, row = (math.floor(v + _SNAP) for v in corners.min(axis=0))
    right, bottom = (math.ceil(v - _SNAP) for v in corners.max(axis=0))
    return Window(col, row, max(right - col, 1), max(bottom - row, 1))


def _place(sources: Sequence[_Source], grid: Grid) -> list[_Piece]:
    pieces = []
    for source in sources:
        box = _around([_outline(source, grid)])
        exact = grid.at(box).same_pixels(source.grid)
        # The outline of a warped raster is only nearly right; reading too much does no harm.
        margin = 0 if exact else 2 + max(box.width, box.height) // 100
        pieces.append(_Piece(source, box.expand(margin), exact))
    return pieces


def _fill(plan: _Plan, writers: _Writers, progress: Callable[[int, int], None]) -> None:
    boxes = np.array([(p.box.col, p.box.row, p.box.width, p.box.height) for p in plan.pieces])
    start, end = boxes[:, :2], boxes[:, :2] + boxes[:, 2:]
    todo = list(blocks(plan.grid.width, plan.grid.height, _WINDOW))
    with closing(_OpenRasters(plan.grid)) as rasters:
        for done, window in enumerate(todo, start=1):
            low = (window.col, window.row)
            high = (window.col + window.width, window.row + window.height)
            near = np.flatnonzero(((start < high) & (end > low)).all(axis=1))
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
    plan: _Plan, pieces: Sequence[_Piece], window: Window, rasters: "_OpenRasters"
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


def _parts(window: Window, pieces: Sequence[_Piece]) -> Iterator[tuple[Window, list[_Piece]]]:
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
        moved = Window(window.col + block.col, window.row + block.row, block.width, block.height)
        yield from _parts(moved, here)


def _read_labels(
    rasters: "_OpenRasters", piece: _Piece, window: Window, classes: ClassTable | None
) -> Labels:
    values = rasters.read(piece.source.path, piece, window)
    strange = values[(values >= len(classes)) & (values != NODATA)] if classes else values[:0]
    if classes and strange.size:
        raise LabelError(
            f"{piece.source.path} holds the value {strange[0]}, but its classes are 0 to "
            f"{len(classes) - 1}; the file is damaged or was edited"
        )
    return values


def _read_confidence(rasters: "_OpenRasters", piece: _Piece, window: Window) -> NDArray[np.int16]:
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


class _OpenRasters:
    """Rasters that stay open between windows; beyond `_OPEN` the one longest unused is closed."""

    def __init__(self, grid: Grid) -> None:
        self._grid = grid
        self._open: OrderedDict[str, tuple[ExitStack, raster.Reader]] = OrderedDict()

    def read(self, path: str, piece: _Piece, window: Window) -> Labels:
        """Read a window of the mosaic's grid, (height, width); 255 where there is nothing."""
        reader = self._reader(path, piece)
        if isinstance(reader, WarpedVRT):
            values, valid = raster.read_aligned(reader, window)
        else:
            own = Window(
                window.col - piece.box.col, window.row - piece.box.row, window.width, window.height
            )
            values = raster.read(reader, own, [1], fill=NODATA)
            valid = raster.read_valid(reader, own, [1])
        return np.where(valid, values[0], np.uint8(NODATA))

    def close(self) -> None:
        """Close what is open."""
        while self._open:
            self._close_oldest()

    def _reader(self, path: str, piece: _Piece) -> raster.Reader:
        if path not in self._open:
            if len(self._open) >= _OPEN:
                self._close_oldest()
            stack = ExitStack()
            self._open[path] = stack, stack.enter_context(_open(path, piece, self._grid))
        self._open.move_to_end(path)
        return self._open[path][1]

    def _close_oldest(self) -> None:
        _, (stack, _) = self._open.popitem(last=False)
        stack.close()


@contextmanager
def _open(path: str, piece: _Piece, grid: Grid) -> Iterator[raster.Reader]:
    with raster.open_raster(path) as dataset:
        if piece.exact:
            yield dataset
            return
        with raster.aligned(dataset, grid, Resampling.nearest) as view:
            yield view
