"""``cafe mosaic``: merge label rasters into one map."""

from pathlib import Path
from typing import Any

import click

from cafe_cli.cli.options import (
    PATH,
    bbox_option,
    dry_option,
    on_error_option,
    output_options,
    stac_options,
    take_stac,
)
from cafe_cli.config.choices import OnError

METHODS = ("first", "last", "majority", "confidence")


@click.command()
@click.argument("inputs", nargs=-1, required=True)
@output_options("Label raster (COG).")
@click.option("--method", type=click.Choice(METHODS), default="majority", show_default=True)
@click.option(
    "--confidence", "confidences", multiple=True,
    help="Confidence rasters in the order of the inputs: a file (repeated), a glob or @list.",
)  # fmt: skip
@click.option("--confidence-output", type=PATH, help="Second output: confidence of the labels.")
@click.option("--like", help="Raster whose CRS and pixels the map takes, instead of the first's.")
@click.option("--resolution", type=float, help="Side of a pixel in units of the CRS.")
@bbox_option("Extent in the CRS of the map.  [default: all inputs]")
@on_error_option
@stac_options
@dry_option
def mosaic(
    inputs: tuple[str, ...], output: Path, overwrite: bool, method: str,
    confidences: tuple[str, ...], confidence_output: Path | None, like: str | None,
    resolution: float | None, bbox: tuple[float, float, float, float] | None,
    on_error: OnError, dry_run: bool, **options: Any,
) -> None:  # fmt: skip
    """Join label rasters into one map.

    INPUTS are files, folders, quoted globs, @list.txt or any name GDAL opens. The map has the
    pixel grid of the first, or of --like, and reaches around all of them.
    """
    from cafe_cli.cli.console import progress_bar, say
    from cafe_cli.cli.report import print_reports
    from cafe_cli.mosaic import mosaic as engine
    from cafe_cli.mosaic.grid import TargetGrid
    from cafe_cli.mosaic.plan import Confidences
    from cafe_cli.raster.skipped import check_skipped
    from cafe_cli.scenes.discovery import expand_inputs

    files, rasters = expand_inputs(inputs), tuple(expand_inputs(confidences))
    if confidence_output and not confidences:
        raise click.UsageError("--confidence-output needs --confidence")
    given = Confidences(rasters, confidence_output) if confidences else None
    target, stac = TargetGrid(like, resolution, bbox), take_stac(options)
    if dry_run:
        print_reports([engine.dry_run(
            files, output, method=method, confidences=given, target=target, overwrite=overwrite,
            stac=stac,
        )])  # fmt: skip
        return
    with progress_bar("mosaic") as progress:
        skipped = engine.mosaic(
            files, output, method=method, confidences=given, target=target, overwrite=overwrite,
            on_error=on_error, stac=stac, progress=progress,
        )  # fmt: skip
    say(f"joined {len(files)} rasters into {output}")
    check_skipped(skipped, output)
