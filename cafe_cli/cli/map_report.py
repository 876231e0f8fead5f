"""``cafe report``: a map on one page that needs no other file."""

from pathlib import Path

import click

from cafe_cli.cli.help import complete_files, option, option_group
from cafe_cli.cli.options import (
    NamesCommand,
    config_options,
    file_option,
    output_options,
    read_config,
)

EXAMPLES = {
    "the map beside the orthophoto, with its doubtful places":
        "cafe report map.tif -o map.html --image ortho.tif --confidence confidence.tif",
    "with heights and accuracy":
        "cafe report map.tif -o map.html --image ortho.tif --heights dsm.tif "
        "--reference labels.tif",
}  # fmt: skip


@click.command(cls=NamesCommand, examples=EXAMPLES)
@click.argument("maps", metavar="MAP", shell_complete=complete_files)
@option_group(
    "Inputs",
    file_option("--image", help="Orthophoto to show beside the map."),
    file_option("--heights", help="Surface model (DSM or nDSM) to show beside the map."),
    file_option("--reference", help="Labels, or points of cafe sample, to score the map."),
    file_option("--confidence", help="Confidence raster of the map."),
    config_options,
)
@option_group(
    "Outputs",
    output_options("Page to write (.html)."),
    option(
        "--title", metavar="TITLE", show_default="the name of the map", help="Title of the page."
    ),
)
def report(
    maps: str, output: Path, overwrite: bool, image: str | None, heights: str | None,
    reference: str | None, confidence: str | None, title: str | None, config_path: Path | None,
    assignments: tuple[str, ...],
) -> None:  # fmt: skip
    """Summarise a map on one page (HTML).

    The page is one file that opens offline in any browser. It has pictures to swipe between, the
    area of each class, the accuracy and the worst places. Every raster is a file, folder,
    quoted glob or @list.txt; the grids may differ. The command reads [[classes]], [labels],
    [height], and the bands and the CRS of [scenes] from a config.
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
