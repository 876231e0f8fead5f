"""``cafe mosaic``: overlapping label rasters merged into one, window by window."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from rasterio.io import DatasetReader, DatasetWriter

from cafe_cli import __version__
from cafe_cli.cluster.job import ClusterOptions
from cafe_cli.config.provenance import dump_settings, provenance_tags
from cafe_cli.errors import ConfigError
from cafe_cli.findings import Report
from cafe_cli.mosaic.block_runs import open_cluster, run_blocks
from cafe_cli.mosaic.block_store import digest, is_complete, open_blocks
from cafe_cli.mosaic.blocks import divide, skipped_in, sum_blocks
from cafe_cli.mosaic.job import MosaicInputs, MosaicOptions, MosaicOutputs
from cafe_cli.mosaic.merge import WINDOW, merge_windows, write_window
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
from cafe_cli.system.output_group import claim_outputs, finish_replacing
from cafe_cli.system.threads import ProgressCallback

log = logging.getLogger("cafe")


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
    blocks : int
        Blocks that the map has; 0 of a single file, and of a map that was complete before.
    """

    labels: tuple[str, ...]
    seams: Seams
    skipped: tuple[SkippedFile, ...]
    blocks: int = 0


def mosaic(
    inputs: MosaicInputs,
    outputs: MosaicOutputs,
    options: MosaicOptions | None = None,
    *,
    cluster: ClusterOptions | None = None,
    progress: ProgressCallback = lambda done, total: None,
) -> MosaicResult:
    """Merge label rasters into one COG, or into COG blocks with an index.

    Inputs on the pixel grid of the mosaic are copied exactly, others are warped to it by nearest
    neighbour. 255 never wins over a class of another input. If no input has a class table, the
    mosaic has none.

    Parameters
    ----------
    inputs : MosaicInputs
    outputs : MosaicOutputs
    options : MosaicOptions, optional
    cluster : ClusterOptions, optional
        Workers that make the blocks; the map is the same.
    progress : callable
        Called with the number of windows done and in total, or of blocks.

    Raises
    ------
    ConfigError
        There are no inputs, the method is unknown, or what it needs is missing or too many; or a
        cluster is given for a single file.
    InputError
        A file is missing, damaged or not a label raster, or classes differ.
    GridError
        Inputs cannot be brought onto one grid.
    OutputError
        An output exists or cannot be written.
    """
    options = options or MosaicOptions()
    if cluster is not None and not outputs.block_size:
        raise ConfigError("a cluster makes a mosaic in blocks: add --block-size")
    finish_replacing([outputs.labels])
    files = InputFiles.behind(inputs.paths)
    planned = plan(inputs, outputs, options)
    made = _settings(inputs, outputs, options)
    if outputs.block_size:
        return _write_blocks(planned, files, made, options, cluster, progress)
    return _write_file(planned, files, made, options, progress)


def _write_file(
    planned: MosaicPlan,
    files: InputFiles,
    made: Mapping[str, Any],
    options: MosaicOptions,
    progress: ProgressCallback,
) -> MosaicResult:
    outputs, names = planned.outputs, planned.names
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
        texts[outputs.settings] = dump_settings({**made, **_findings(names, seams, lost)})
        for writer in writers:
            writer.update_tags(**skipped_tag(lost))
    return MosaicResult(names, seams, lost)


def _write_blocks(
    planned: MosaicPlan,
    files: InputFiles,
    made: Mapping[str, Any],
    options: MosaicOptions,
    cluster: ClusterOptions | None,
    progress: ProgressCallback,
) -> MosaicResult:
    """Make the blocks that an interrupted run has not made, and the index over all of them."""
    todo, names = divide(planned, planned.outputs.block_size or 0), planned.names
    settings = {"method": options.method, "cafe_version": __version__}
    fingerprint = {**files.described(), **settings}
    made_of = digest(planned, fingerprint)
    if planned.outputs.resume and is_complete(planned, made_of):
        log.info("%s is complete", planned.outputs.labels)
        return MosaicResult(names, sum_blocks([], len(names)), (), 0)
    with (
        open_cluster(cluster) as workers,
        open_blocks(planned, fingerprint) as store,
    ):
        missing = [block for block in todo if block[0] not in store.done]
        progress(len(todo) - len(missing), len(todo))
        with closing(run_blocks(planned, missing, store, options, workers)) as results:
            for result in results:
                store.add(result)
                progress(len(store.done), len(todo))
        files.check_unchanged()
        seams, lost = sum_blocks(store.done.values(), len(names)), skipped_in(store.done.values())
        tags = provenance_tags(names, planned.models, method=options.method)
        store.finish(
            {**tags, **skipped_tag(lost)},
            dump_settings({**made, "made_of": made_of, **_findings(names, seams, lost)}),
        )
    return MosaicResult(names, seams, lost, sum(bool(block.files) for block in store.done.values()))


def _settings(
    inputs: MosaicInputs, outputs: MosaicOutputs, options: MosaicOptions
) -> dict[str, Any]:
    """Return what was asked for, as plain values."""
    return {
        "method": options.method,
        "on_error": options.on_error,
        "block_size": outputs.block_size,
        "inputs": list(inputs.labels),
        "min_area": options.min_area,
        "confidences": list(inputs.confidences),
        "target": vars(options.target),
        "probabilities": list(inputs.probabilities),
    }


def _findings(names: Sequence[str], seams: Seams, lost: Sequence[SkippedFile]) -> dict[str, Any]:
    """Return what was found on the way, as plain values."""
    return {"seams": _describe_seams(names, seams), **skipped_settings(lost)}


def dry_run(
    inputs: MosaicInputs, outputs: MosaicOutputs, options: MosaicOptions | None = None
) -> Report:
    """Check everything that `mosaic` checks; report the output. Arguments as there."""
    report = Report("mosaic")
    with report.capture_errors():
        planned = plan(inputs, outputs, options or MosaicOptions())
        pixels = planned.grid.width * planned.grid.height
        if size := outputs.block_size:
            report.facts["blocks"] = len(divide(planned, size))
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
    todo = list(blocks(planned.grid.width, planned.grid.height, WINDOW))
    names = [product.name for product in planned.products]
    merged = merge_windows(planned, todo, skipped, jobs)

    def write() -> Iterator[Seams]:
        for done, (window, found) in enumerate(zip(todo, merged, strict=True), start=1):
            for writer, name in zip(writers, names, strict=True):
                write_window(writer, window, getattr(found, name))
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
        write_window(writer, window, labels)


def _describe_seams(names: Sequence[str], seams: Seams) -> dict[str, Any]:
    """Return overlap and disagreement, of the mosaic and of each input, as plain values."""
    rows = [
        {"input": base_name(name), "overlap_pixels": overlap, "differs_pixels": differs}
        for name, (overlap, differs) in zip(names, seams.inputs.tolist(), strict=True)
        if overlap
    ]
    totals = {"overlap_pixels": seams.overlap, "disagreement_pixels": seams.disagreement}
    return {**totals, "inputs": rows}
