"""``cafe mosaic``: overlapping label rasters merged into one, window by window."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from rasterio.io import DatasetReader, DatasetWriter

from cafe_cli.classes import NODATA
from cafe_cli.config.provenance import dump_settings, provenance_tags
from cafe_cli.findings import Report
from cafe_cli.mosaic.grid import OpenRasters
from cafe_cli.mosaic.job import MosaicInputs, MosaicOptions, MosaicOutputs
from cafe_cli.mosaic.merge import merge_window
from cafe_cli.mosaic.methods import Labels
from cafe_cli.mosaic.plan import MosaicPlan, plan
from cafe_cli.mosaic.seams import Seams, sum_seams
from cafe_cli.raster.acquired import Acquired
from cafe_cli.raster.grid import Grid, describe_grid
from cafe_cli.raster.ground_area import row_areas
from cafe_cli.raster.input_files import InputFiles
from cafe_cli.raster.output_files import stac_path
from cafe_cli.raster.reader import read_window
from cafe_cli.raster.skipped import (
    Skipped,
    SkippedFile,
    files_of,
    skipped_settings,
    skipped_tag,
)
from cafe_cli.raster.stac import item_text
from cafe_cli.raster.window import Window, blocks
from cafe_cli.raster.writer import Text, create_maps, revised
from cafe_cli.redaction import base_name
from cafe_cli.regions.labelling import relabel
from cafe_cli.regions.sieve import merge_small
from cafe_cli.regions.survey import survey
from cafe_cli.system.open_files import most_open
from cafe_cli.system.output_group import claim_outputs, finish_replacing
from cafe_cli.system.threads import ProgressCallback, cores, in_order

_THREADS = 8  # at most: they share the files that may be open
_WINDOW = 1024  # pixels along each side; a multiple of the blocks of a COG


class MosaicResult(NamedTuple):
    """What became of the inputs.

    Attributes
    ----------
    labels : tuple of str
        The label rasters that were joined.
    seams : Seams
        Where they overlap; `inputs` is in the order of `labels`.
    skipped : tuple of SkippedFile
        What could not be read.
    """

    labels: tuple[str, ...]
    seams: Seams
    skipped: tuple[SkippedFile, ...]


def mosaic(
    inputs: MosaicInputs,
    outputs: MosaicOutputs,
    options: MosaicOptions | None = None,
    *,
    progress: ProgressCallback = lambda done, total: None,
) -> MosaicResult:
    """Merge label rasters into one COG.

    Inputs on the pixel grid of the mosaic are copied exactly, others are warped to it by nearest
    neighbour. 255 never wins over a class of another input. If no input has a class table, the
    mosaic has none.

    Parameters
    ----------
    inputs : MosaicInputs
    outputs : MosaicOutputs
    options : MosaicOptions, optional
    progress : callable
        Called with the number of windows done and in total.

    Raises
    ------
    ConfigError
        There are no inputs, the method is unknown, or what it needs is missing or too many.
    InputError
        A file is missing, damaged or not a label raster, or classes differ.
    GridError
        Inputs cannot be brought onto one grid.
    OutputError
        An output exists or cannot be written.
    """
    options = options or MosaicOptions()
    finish_replacing([outputs.labels])
    files = InputFiles.behind(inputs.paths)
    planned = plan(inputs, outputs, options)
    names = tuple(placed.source.path for placed in planned.inputs)
    made: dict[str, Any] = {
        "method": options.method,
        "on_error": options.on_error,
        "inputs": list(inputs.labels),
    }
    made["min_area"] = options.min_area
    made |= {"confidences": list(inputs.confidences), "target": vars(options.target)}
    made["probabilities"] = list(inputs.probabilities)
    texts: dict[Path, Text] = {outputs.settings: ""}  # when it is known what is skipped
    skipped = Skipped() if options.on_error == "skip" else None
    products = planned.products
    tags = provenance_tags(names, planned.models, method=options.method)
    if acquired := planned.acquired:
        texts[stac_path(outputs.labels)] = partial(_describe, planned, acquired)
    with (
        claim_outputs([path for p in products for path in p.claimed], outputs.overwrite),
        create_maps(products, planned.grid, outputs.overwrite, tags, texts) as writers,
    ):
        with _labels_to(writers[0], planned, options.min_area) as labels:
            seams = _fill(planned, [labels, *writers[1:]], skipped, options.jobs, progress)
        files.check_unchanged()
        lost = files_of(skipped)
        made |= {"seams": _describe_seams(names, seams), **skipped_settings(lost)}
        texts[outputs.settings] = dump_settings(made)
        for writer in writers:
            writer.update_tags(**skipped_tag(lost))
    return MosaicResult(names, seams, lost)


def dry_run(
    inputs: MosaicInputs, outputs: MosaicOutputs, options: MosaicOptions | None = None
) -> Report:
    """Check everything that `mosaic` checks; report the output. Arguments as there."""
    report = Report("mosaic")
    with report.capture_errors():
        planned = plan(inputs, outputs, options or MosaicOptions())
        pixels = planned.grid.width * planned.grid.height
        report.facts |= {
            "inputs": len(planned.inputs),
            "warped": sum(not placed.exact for placed in planned.inputs),
            "output": str(outputs.labels),
            "map": describe_grid(planned.grid),
            "classes": list(planned.classes.names) if planned.classes else None,
            "estimate": {"disk_at_most": pixels * len(planned.products)},
        }
    return report


def _describe(planned: MosaicPlan, acquired: Acquired, finished: Mapping[Path, Path]) -> str:
    """Return the STAC item of the mosaic, of files that do not have their names yet."""
    return item_text(planned.products, planned.grid, acquired, finished=finished)


def _fill(
    planned: MosaicPlan,
    writers: Sequence[DatasetWriter],
    skipped: Skipped | None,
    jobs: int | None,
    progress: ProgressCallback,
) -> Seams:
    """Merge window after window, in threads, and write them in order; return the seams."""
    todo = list(blocks(planned.grid.width, planned.grid.height, _WINDOW))
    names = [product.name for product in planned.products]
    threads = min(jobs or cores(), len(todo), _THREADS)
    merged = in_order(
        lambda: closing(OpenRasters(planned.grid, skipped, max(most_open() // threads, 1))),
        lambda rasters, window: merge_window(planned, window, rasters),
        todo,
        threads,
    )

    def write() -> Iterator[Seams]:
        for done, (window, found) in enumerate(zip(todo, merged, strict=True), start=1):
            for writer, name in zip(writers, names, strict=True):
                _write(writer, window, getattr(found, name))
            progress(done, len(todo))
            yield found.seams

    with closing(merged):
        return sum_seams(write(), len(planned.inputs))


def _labels_to(
    writer: DatasetWriter, planned: MosaicPlan, min_area: float
) -> AbstractContextManager[DatasetWriter]:
    """Return a raster to write the labels to; with `min_area`, small regions are merged after."""
    if not min_area:
        return nullcontext(writer)
    merge = partial(_merge_small, writer, planned.grid, min_area)
    return revised(writer, planned.grid, merge)


def _merge_small(writer: DatasetWriter, grid: Grid, min_area: float, draft: DatasetReader) -> None:
    """Write the labels of a draft, regions below an area given to their neighbours."""

    def read(window: Window) -> Labels:
        values: Labels = read_window(draft, window, [1])[0]
        return values

    found = survey(grid.width, grid.height, read, partial(row_areas, grid), min_area)
    classes = merge_small(found, min_area)
    for window, labels in relabel(grid.width, grid.height, read, classes):
        _write(writer, window, labels)


def _write(dataset: DatasetWriter, window: Window, values: Labels) -> None:
    if (values != NODATA).any():  # blocks that are never written are nodata
        rows, cols = window.slices()
        place = ((rows.start, rows.stop), (cols.start, cols.stop))
        dataset.write(values, 1, window=place)


def _describe_seams(names: Sequence[str], seams: Seams) -> dict[str, Any]:
    """Return overlap and disagreement, of the mosaic and of each input, as plain values."""
    rows = [
        {"input": base_name(name), "overlap_pixels": overlap, "differs_pixels": differs}
        for name, (overlap, differs) in zip(names, seams.inputs.tolist(), strict=True)
        if overlap
    ]
    totals = {"overlap_pixels": seams.overlap, "disagreement_pixels": seams.disagreement}
    return {**totals, "inputs": rows}
