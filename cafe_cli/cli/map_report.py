"""``cafe report``: a map on one page that needs no other file."""

from pathlib import Path

import click

from cafe_cli.cli.options import NamesCommand, config_options, output_options, read_config


@click.command(cls=NamesCommand)
@click.argument("maps", metavar="MAP")
@output_options("Page to write (.html).")
@click.option("--image", help="Orthophoto to show beside the map.")
@click.option("--heights", help="Surface model, or heights above ground, to show beside the map.")
@click.option("--reference", help="Labels, or points of cafe sample, to compare the map with.")
@click.option("--confidence", help="Confidence raster of the map.")
@click.option("--title", help="Title of the page.  [default: the name of the map]")
@config_options
def report(
    maps: str, output: Path, overwrite: bool, image: str | None, heights: str | None,
    reference: str | None, confidence: str | None, title: str | None, config_path: Path | None,
    assignments: tuple[str, ...],
) -> None:  # fmt: skip
    """Show a MAP on one page: pictures to swipe between, areas, accuracy, worst places.

    The page is one file that opens offline, in any browser. All rasters are files, folders, quoted
    globs or @list.txt, read as one, and may have other grids than MAP. Of a config, [[classes]],
    [labels] and [height] are used, and the bands and the CRS of [scenes].

    \b
      cafe report map.tif -o map.html --image ortho.tif --confidence confidence.tif
      cafe report map.tif -o map.html --image ortho.tif --heights dsm.tif --reference labels.tif
    """
    config = read_config(config_path, assignments)
    from cafe_cli.cli.console import progress_bar, say
    from cafe_cli.map_report import report as engine
    from cafe_cli.map_report.source import ReportInput
    from cafe_cli.text import file_size

    source = ReportInput(maps, image, heights, reference, confidence, config)
    with progress_bar("report") as progress:
        size = engine.report(source, output, title=title, overwrite=overwrite, progress=progress)
    say(f"wrote {output} ({file_size(size)})")
