"""``cafe vectorize``: polygons of a label raster."""

from pathlib import Path

import click

from cafe_cli.cli.help import CafeCommand, complete_files, option, option_group
from cafe_cli.cli.options import (
    config_options,
    crs_option,
    dry_option,
    file_option,
    output_options,
    pixel_size_option,
    read_config,
)

EXAMPLES = {
    "polygons of at least 10 m²": "cafe vectorize map.tif -o polygons.gpkg --min-area 10",
    "simplified to 1 m, with the mean height of each polygon":
        "cafe vectorize map.tif -o polygons.gpkg --simplify 1 --stats height=ndsm.tif",
}  # fmt: skip


def _parse_statistics(
    context: click.Context, parameter: click.Parameter, values: tuple[str, ...]
) -> dict[str, str]:
    found: dict[str, str] = {}
    for value in values:
        name, equals, raster = value.partition("=")
        if not (name and equals and raster):
            raise click.BadParameter(f"{value!r} is not NAME=RASTER, e.g. heights=dsm.tif")
        if name in found:
            raise click.BadParameter(f"{name!r} is given twice; the names have to differ")
        found[name] = raster
    return found


@click.command(cls=CafeCommand, examples=EXAMPLES)
@click.argument("map_", metavar="MAP", shell_complete=complete_files)
@option_group(
    "Inputs",
    file_option("--confidence", help="Confidence raster of the map.",
                show_default="MAP_confidence.tif"),
    file_option("--probabilities", help="Probabilities of all classes, which --min-area uses.",
                show_default="MAP_probabilities.tif"),
    option("--stats", multiple=True, metavar="NAME=RASTER", callback=_parse_statistics,
           help="Mean, minimum and maximum of a raster as attributes; may be repeated."),
    crs_option,
    pixel_size_option,
    config_options,
)  # fmt: skip
@option_group(
    "Outputs",
    output_options("Polygons to write: .gpkg, .fgb, .geojson or .parquet."),
    dry_option,
)
@option_group(
    "Polygons",
    option("--min-area", type=click.FloatRange(min=0), default=0, metavar="M2",
           help="Merge smaller polygons, in m², into a neighbour."),
    option("--simplify", type=click.FloatRange(min=0), metavar="METRES",
           show_default="1.5 pixels",
           help="Tolerance of the simplification; 0 keeps the outlines of the pixels."),
    option("--smooth", is_flag=True, help="Round the corners of the polygons."),
)  # fmt: skip
def vectorize(
    map_: str, output: Path, overwrite: bool, min_area: float, simplify: float | None,
    smooth: bool, confidence: str | None, probabilities: str | None, stats: dict[str, str],
    crs: str | None, pixel_size: float | None, config_path: Path | None,
    assignments: tuple[str, ...], dry_run: bool,
) -> None:  # fmt: skip
    """Convert a map to polygons without gaps or overlaps.

    MAP is a classified raster: a file, folder, quoted glob or @list.txt, read as one map. The
    polygons have the attributes class, name, area_m2, confidence, and those of --stats. The
    command reads the classes and the CRS from a config.
    """
    from cafe_cli.cli.console import progress_bar, say
    from cafe_cli.cli.report import print_reports
    from cafe_cli.vectorization import vectorize as engine
    from cafe_cli.vectorization.plan import VectorizeOptions

    config = read_config(config_path, assignments)
    classes = config.class_table if config.classes else None
    options = VectorizeOptions(
        min_area, simplify, smooth, confidence, probabilities, stats, crs or config.crs,
        pixel_size or config.pixel_size,
    )  # fmt: skip
    if dry_run:
        print_reports([engine.dry_run(map_, output, options, classes=classes, overwrite=overwrite)])
        return
    with progress_bar("vectorize") as progress:
        made = engine.vectorize(
            map_, output, options, classes=classes, overwrite=overwrite, progress=progress
        )
    merged = {0: "", 1: "; 1 small polygon was merged into a neighbour"}.get(
        made.merged, f"; {made.merged:,} small polygons were merged into neighbours"
    )
    say(f"wrote {made.polygons:,} polygon{'s'[: made.polygons > 1]} to {output}{merged}")
