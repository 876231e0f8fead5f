"""``cafe mosaic``: overlapping label rasters merged into one, window by window."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path

import numpy as np
from rasterio.io import DatasetWriter

from cafe_cli.classes import NODATA, ClassTable
from cafe_cli.config.choices import OnError
from cafe_cli.config.provenance import dump_settings, provenance_tags, settings_path
from cafe_cli.errors import InputError, LabelError
from cafe_cli.findings import Report
from cafe_cli.mosaic.grid import OpenRasters, PlacedInput, TargetGrid
from cafe_cli.mosaic.methods import UNKNOWN, Confidence, Labels, Method
from cafe_cli.mosaic.plan import Confidences, MosaicPlan, describe_grid, plan
from cafe_cli.raster.acquired import Acquired
from cafe_cli.raster.input_files import InputFiles
from cafe_cli.raster.output_files import stac_path
from cafe_cli.raster.skipped import (
    Skipped,
    SkippedFile,
    files_of,
    skipped_settings,
    skipped_tag,
)
from cafe_cli.raster.stac import StacOptions, item_text
from cafe_cli.raster.window import Window, blocks
from cafe_cli.raster.writer import Text, create_maps
from cafe_cli.system.output_group import claim_outputs, finish_replacing
from cafe_cli.system.threads import ProgressCallback

_WINDOW = 1024  # pixels along each side; a multiple of the blocks of a COG
_SAMPLES = 16 * _WINDOW**2  # pixels of all inputs together in memory at a time


def mosaic(
    inputs: Sequence[str],
    output: Path,
    *,
    method: str = "majority",
    confidences: Confidences | None = None,
    target: TargetGrid | None = None,
    overwrite: bool = False,
    on_error: OnError = "fail",
    stac: StacOptions | None = None,
    progress: ProgressCallback = lambda done, total: None,
) -> tuple[SkippedFile, ...]:
    """Merge label rasters into one COG.

    Inputs on the pixel grid of the mosaic are copied exactly, others are warped to it by nearest
    neighbour. 255 never wins over a class of another input. If no input has a class table, the
    mosaic has none.

    Parameters
    ----------
    inputs : sequence of str
        Label rasters with the same classes.
    output : Path
        The mosaic; its settings are written to a file with ``.toml`` appended to the name.
    method : str
        A key of `cafe_cli.mosaic.methods.METHODS`.
    confidences : Confidences, optional
        For method ``confidence``, and for a confidence raster of the mosaic: the highest
        confidence among the inputs that agree with the chosen label.
    target : TargetGrid, optional
        CRS, pixel size and extent.
    overwrite : bool
        Replace outputs that exist.
    on_error : {"fail", "skip"}
        Where an input cannot be read: raise an error, or take it for nodata.
    stac : StacOptions, optional
        Write a STAC item beside the mosaic.
    progress : callable
        Called with the number of windows done and in total.

    Returns
    -------
    tuple of SkippedFile
        What could not be read.

    Raises
    ------
    ConfigError
        There are no inputs, the method is unknown, or confidences are missing or too many.
    InputError
        A file is missing, damaged or not a label raster, or classes differ.
    GridError
        Inputs cannot be brought onto one grid.
    OutputError
        An output exists or cannot be written.
    """
    finish_replacing([output])
    files = InputFiles.behind([*inputs, *(confidences.inputs if confidences else ())])
    planned = plan(
        inputs, output, method=method, confidences=confidences, target=target, overwrite=overwrite,
        stac=stac,
    )  # fmt: skip
    made = {"inputs": list(inputs), "method": method, "target": vars(target or TargetGrid())}
    made["confidences"] = list(confidences.inputs) if confidences else []
    made["on_error"] = on_error
    texts: dict[Path, Text] = {settings_path(output): ""}  # when it is known what is skipped
    skipped = Skipped() if on_error == "skip" else None
    products = planned.products
    tags = provenance_tags(inputs, planned.models, method=method)
    if acquired := planned.acquired:
        texts[stac_path(output)] = partial(_describe, planned, acquired)
    with (
        claim_outputs([path for product in products for path in product.claimed], overwrite),
        create_maps(products, planned.grid, overwrite, tags, texts) as writers,
    ):
        with closing(OpenRasters(planned.grid, skipped)) as rasters:
            _fill(planned, writers, rasters, progress)
        files.check_unchanged()
        lost = files_of(skipped)
        texts[settings_path(output)] = dump_settings({**made, **skipped_settings(lost)})
        for writer in writers:
            writer.update_tags(**skipped_tag(lost))
    return lost


def dry_run(
    inputs: Sequence[str],
    output: Path,
    *,
    method: str = "majority",
    confidences: Confidences | None = None,
    target: TargetGrid | None = None,
    overwrite: bool = False,
    stac: StacOptions | None = None,
) -> Report:
    """Check everything that `mosaic` checks; report the output. Arguments as there."""
    report = Report("mosaic")
    with report.capture_errors():
        planned = plan(
            inputs, output, method=method, confidences=confidences, target=target,
            overwrite=overwrite, stac=stac,
        )  # fmt: skip
        pixels = planned.grid.width * planned.grid.height
        report.facts |= {
            "inputs": len(inputs),
            "warped": sum(not placed.exact for placed in planned.inputs),
            "output": str(output),
            "map": describe_grid(planned.grid),
            "classes": list(planned.classes.names) if planned.classes else None,
            "estimate": {"disk_at_most": pixels * (2 if confidences else 1)},
        }
    return report


def _describe(planned: MosaicPlan, acquired: Acquired, finished: Mapping[Path, Path]) -> str:
    """Return the STAC item of the mosaic, of files that do not have their names yet."""
    return item_text(planned.products, planned.grid, acquired, finished=finished)


def _fill(
    planned: MosaicPlan,
    writers: Sequence[DatasetWriter],
    rasters: OpenRasters,
    progress: ProgressCallback,
) -> None:
    start, end = np.hsplit(np.array([placed.box.bounds for placed in planned.inputs]), 2)
    todo = list(blocks(planned.grid.width, planned.grid.height, _WINDOW))
    for done, window in enumerate(todo, start=1):
        left, top, right, bottom = window.bounds
        near = np.flatnonzero(((start < (right, bottom)) & (end > (left, top))).all(axis=1))
        planes = _merge(planned, [planned.inputs[i] for i in near], window, rasters)
        for writer, plane in zip(writers, planes, strict=False):  # the second is optional
            _write(writer, window, plane)
        progress(done, len(todo))


def _write(dataset: DatasetWriter, window: Window, values: Labels) -> None:
    if (values != NODATA).any():  # blocks that are never written are nodata
        rows, cols = window.slices()
        place = ((rows.start, rows.stop), (cols.start, cols.stop))
        dataset.write(values, 1, window=place)


def _merge(
    planned: MosaicPlan, inputs: Sequence[PlacedInput], window: Window, rasters: OpenRasters
) -> tuple[Labels, Labels]:
    """Return labels and confidence (height, width) of a window."""
    labels = np.full((window.height, window.width), NODATA, np.uint8)
    confidence = labels.copy()
    for part, here in _parts(window, inputs):
        stack = np.stack([_read_labels(rasters, placed, part, planned.classes) for placed in here])
        known = np.stack([_read_confidence(rasters, placed, part) for placed in here])
        chosen = _choose(planned.method, stack, known)
        best = np.where(stack == chosen, known, np.int16(UNKNOWN)).max(axis=0)
        inside = part.slices(window)
        labels[inside] = chosen
        confidence[inside] = np.where((chosen == NODATA) | (best == UNKNOWN), NODATA, best)
    return labels, confidence


def _choose(method: Method, labels: Labels, confidence: Confidence) -> Labels:
    """Return the labels (height, width) that the method takes from the inputs."""
    chosen: Labels = labels[0]
    if len(labels) > 1:  # in most places there is one input only
        winner = method(labels, confidence)[None]
        chosen = np.take_along_axis(labels, winner, axis=0)[0]
    return chosen


def _parts(
    window: Window, inputs: Sequence[PlacedInput]
) -> Iterator[tuple[Window, list[PlacedInput]]]:
    """Divide a window until the inputs that overlap a part fit in memory; skip empty parts."""
    here = [placed for placed in inputs if placed.box.intersection(window)]
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
    rasters: OpenRasters, placed: PlacedInput, window: Window, classes: ClassTable | None
) -> Labels:
    values = rasters.read(placed.source.path, placed, window)
    unknown = values[(values >= len(classes)) & (values != NODATA)] if classes else values[:0]
    if classes and unknown.size:
        raise LabelError(
            f"{placed.source.path} holds the value {unknown[0]}, but its classes are 0 to "
            f"{len(classes) - 1}; the file is damaged or was edited"
        )
    return values


def _read_confidence(rasters: OpenRasters, placed: PlacedInput, window: Window) -> Confidence:
    if placed.source.confidence is None:
        return np.full((window.height, window.width), UNKNOWN, np.int16)
    values = rasters.read(placed.source.confidence, placed, window)
    unknown = values[(values > 100) & (values != NODATA)]
    if unknown.size:
        raise InputError(
            f"{placed.source.confidence} holds the value {unknown[0]}, a confidence raster holds 0 "
            f"to 100 and {NODATA} for none"
        )
    return np.where(values == NODATA, np.int16(UNKNOWN), values)
