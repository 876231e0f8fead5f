"""``cafe mosaic``: merge label rasters into one map."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cafe_cli.cli.cluster_options import cluster_options, take_cluster
from cafe_cli.cli.help import CafeCommand, complete_files, option, option_group
from cafe_cli.cli.options import (
    PATH,
    bbox_option,
    dry_option,
    file_option,
    jobs_option,
    on_error_option,
    output_options,
    stac_options,
    take_stac,
)
from cafe_cli.config.choices import OnError

if TYPE_CHECKING:
    from cafe_cli.mosaic.mosaic import MosaicResult

METHODS = ("first", "last", "majority", "confidence", "probabilities", "distance")


EXAMPLES = {
    "all maps of a folder": "cafe mosaic maps/ -o land_cover.tif",
    "of overlapping maps, the most confident label":
        "cafe mosaic maps/ -o land_cover.tif --method confidence",
    "on the grid of another raster, without small regions":
        "cafe mosaic 'maps/*.tif' -o land_cover.tif --like ortho.tif --min-area 5",
    "of a country, in files of 16384 x 16384 px":
        "cafe mosaic maps/ -o country --block-size 16384 --resume",
}  # fmt: skip


@click.command(cls=CafeCommand, examples=EXAMPLES)
@click.argument("inputs", nargs=-1, required=True, shell_complete=complete_files)
@option_group(
    "Inputs",
    file_option(
        "--confidence", "confidences", multiple=True, metavar="FILES",
        help="Confidence rasters in the order of the maps: one file (repeat the option), a quoted "
        "glob or @list.txt.",
        show_default="those among INPUTS",
    ),
    file_option(
        "--probabilities", help="Rasters of class probabilities, given like --confidence.",
        multiple=True, metavar="FILES", show_default="those among INPUTS",
    ),
)  # fmt: skip
@option_group(
    "Outputs",
    output_options("Classified raster to write (COG); with --block-size, a folder."),
    option("--block-size", type=int, metavar="PIXELS",
           help="Write a folder of COGs of this many pixels along each side, and an index "
           "(FOLDER.vrt) that opens as one raster: for maps too large for one file."),
    option("--resume", is_flag=True, help="Resume an interrupted run, with --block-size."),
    option("--confidence-output", type=PATH, metavar="FILE",
           help="Also write the confidence of the chosen labels; with --block-size, a folder."),
    option("--sources", type=PATH, metavar="FILE",
           help="Also write which input each label comes from; with --block-size, a folder."),
    stac_options,
    dry_option,
)  # fmt: skip
@option_group(
    "Method",
    option("--method", type=click.Choice(METHODS), default="majority",
           help="Label where maps overlap: of the first or the last input, of the majority, of the "
           "most confident, of the highest sum of probabilities, or of the input whose edge is "
           "farthest away."),
    option("--min-area", type=click.FloatRange(min=0), default=0, metavar="M2",
           help="Merge smaller regions, in m², into the neighbour with the longest border."),
)  # fmt: skip
@option_group(
    "Area and grid",
    file_option("--like", help="Raster whose CRS and pixel grid the output has.",
                show_default="the first input"),
    option("--resolution", type=float, metavar="SIZE", show_default="that of the first input",
           help="Pixel size in units of the CRS."),
    bbox_option("Extent in the CRS of the output.", "around all inputs"),
)  # fmt: skip
@option_group("Compute", jobs_option, on_error_option)
@cluster_options
def mosaic(
    inputs: tuple[str, ...], output: Path, overwrite: bool, method: str,
    confidences: tuple[str, ...], probabilities: tuple[str, ...], confidence_output: Path | None,
    sources: Path | None, like: str | None, resolution: float | None,
    bbox: tuple[float, float, float, float] | None, jobs: int | None, on_error: OnError,
    min_area: float, block_size: int | None, resume: bool, dry_run: bool, **options: Any,
) -> None:  # fmt: skip
    """Merge classified rasters into one map.

    INPUTS are files, folders, quoted globs, @list.txt or any name that GDAL opens. Confidence and
    quality rasters among them are recognised: they are not merged as labels, but serve the methods
    that need them.
    """
    from cafe_cli.cli.console import progress_bar
    from cafe_cli.cli.report import print_reports
    from cafe_cli.mosaic import mosaic as engine
    from cafe_cli.mosaic.grid import TargetGrid
    from cafe_cli.mosaic.job import MosaicInputs, MosaicOptions, MosaicOutputs
    from cafe_cli.raster.skipped import check_skipped
    from cafe_cli.scenes.discovery import expand_inputs

    rasters = MosaicInputs(*(tuple(expand_inputs(n)) for n in (inputs, confidences, probabilities)))
    stac, cluster = take_stac(options), take_cluster(options)
    outputs = MosaicOutputs(output, confidence_output, sources, overwrite, stac, block_size, resume)
    how = MosaicOptions(method, TargetGrid(like, resolution, bbox), on_error, jobs, min_area)
    if dry_run:
        print_reports([engine.dry_run(rasters, outputs, how)])
        return
    with progress_bar("mosaic") as progress:
        result = engine.mosaic(rasters, outputs, how, cluster=cluster, progress=progress)
    if result.blocks or not block_size:  # else it was complete before
        _say_result(result, output)
    check_skipped(result.skipped, output)


def _say_result(result: "MosaicResult", output: Path) -> None:
    from cafe_cli.cli.console import say
    from cafe_cli.redaction import base_name
    from cafe_cli.text import percent

    blocks = f" in {result.blocks:,} block{'s' * (result.blocks != 1)}" if result.blocks else ""
    say(f"joined {len(result.labels)} rasters into {output}{blocks}")
    seams = result.seams
    if not seams.overlap:
        return
    say(f"where rasters overlap ({seams.overlap:,} px), {percent(seams.share, 1)} disagree")
    if worst := seams.worst():
        position, share = worst
        name = base_name(result.labels[position])
        say(f"{name} differs most from the map: in {percent(share, 1)} of its overlap")
