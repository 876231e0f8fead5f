"""``cafe mosaic``: merge label rasters into one map."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cafe_cli.cli.options import (
    PATH,
    bbox_option,
    dry_option,
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


@click.command()
@click.argument("inputs", nargs=-1, required=True)
@output_options("Label raster (COG).")
@click.option(
    "--method", type=click.Choice(METHODS), default="majority", show_default=True,
    help="Label where inputs overlap: of the first or last input, of most inputs, of the most "
    "confident, of the highest summed probability, or of the input whose edge is farthest.",
)  # fmt: skip
@click.option(
    "--confidence", "confidences", multiple=True,
    help="Confidence rasters in the order of the label rasters: a file (repeated), a glob or "
    "@list.  [default: those among INPUTS]",
)  # fmt: skip
@click.option(
    "--probabilities",
    multiple=True,
    help="Rasters of probabilities, like --confidence.  [default: those among INPUTS]",
)
@click.option("--confidence-output", type=PATH, help="Second output: confidence of the labels.")
@click.option(
    "--min-area",
    type=click.FloatRange(min=0),
    default=0.0,
    help="Square metres; smaller regions are given to the neighbour with the longest border.",
)
@click.option("--sources", type=PATH, help="Output: which input each label comes from.")
@click.option("--like", help="Raster whose CRS and pixels the map takes, instead of the first's.")
@click.option("--resolution", type=float, help="Side of a pixel in units of the CRS.")
@bbox_option("Extent in the CRS of the map.  [default: all inputs]")
@jobs_option
@on_error_option
@stac_options
@dry_option
def mosaic(
    inputs: tuple[str, ...], output: Path, overwrite: bool, method: str,
    confidences: tuple[str, ...], probabilities: tuple[str, ...], confidence_output: Path | None,
    sources: Path | None, like: str | None, resolution: float | None,
    bbox: tuple[float, float, float, float] | None, jobs: int | None, on_error: OnError,
    min_area: float, dry_run: bool, **options: Any,
) -> None:  # fmt: skip
    """Join label rasters into one map.

    INPUTS are files, folders, quoted globs, @list.txt or any name GDAL opens. Confidence and
    quality rasters among them are no labels; they serve the methods that need them. The map has
    the pixel grid of the first, or of --like, and reaches around all of them.

    \b
    cafe mosaic maps/ -o town.tif --method confidence
    cafe mosaic 'maps/*.tif' -o town.tif --sources sources.tif
    """
    from cafe_cli.cli.console import progress_bar
    from cafe_cli.cli.report import print_reports
    from cafe_cli.mosaic import mosaic as engine
    from cafe_cli.mosaic.grid import TargetGrid
    from cafe_cli.mosaic.job import MosaicInputs, MosaicOptions, MosaicOutputs
    from cafe_cli.raster.skipped import check_skipped
    from cafe_cli.scenes.discovery import expand_inputs

    rasters = MosaicInputs(*(tuple(expand_inputs(n)) for n in (inputs, confidences, probabilities)))
    outputs = MosaicOutputs(output, confidence_output, sources, overwrite, take_stac(options))
    how = MosaicOptions(method, TargetGrid(like, resolution, bbox), on_error, jobs, min_area)
    if dry_run:
        print_reports([engine.dry_run(rasters, outputs, how)])
        return
    with progress_bar("mosaic") as progress:
        result = engine.mosaic(rasters, outputs, how, progress=progress)
    _say_result(result, output)
    check_skipped(result.skipped, output)


def _say_result(result: "MosaicResult", output: Path) -> None:
    from cafe_cli.cli.console import say
    from cafe_cli.redaction import base_name
    from cafe_cli.text import percent

    say(f"joined {len(result.labels)} rasters into {output}")
    seams = result.seams
    if not seams.overlap:
        return
    say(f"where rasters overlap ({seams.overlap:,} px), {percent(seams.share, 1)} disagree")
    if worst := seams.worst():
        position, share = worst
        name = base_name(result.labels[position])
        say(f"{name} differs most from the map: in {percent(share, 1)} of its overlap")
