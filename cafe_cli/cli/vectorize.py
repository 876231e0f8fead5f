"""``cafe vectorize``: polygons of a label raster."""

from pathlib import Path

import click

from cafe_cli.cli.options import config_options, dry_option, output_options, read_config


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


@click.command()
@click.argument("map_", metavar="MAP")
@output_options("Polygons: .gpkg, .fgb, .geojson or .parquet.")
@click.option(
    "--min-area", type=click.FloatRange(min=0), default=0, metavar="M2",
    help="Smaller polygons go to a neighbour.",
)  # fmt: skip
@click.option(
    "--simplify", type=click.FloatRange(min=0), metavar="METRES",
    help="Tolerance; 0 keeps the outlines of the pixels.  [default: 1.5 pixels]",
)  # fmt: skip
@click.option("--smooth", is_flag=True, help="Round the corners.")
@click.option("--confidence", help="Confidence raster.  [default: MAP_confidence.tif]")
@click.option(
    "--probabilities",
    help="Probabilities of all classes, for --min-area.  [default: MAP_probabilities.tif]",
)
@click.option(
    "--stats", multiple=True, metavar="NAME=RASTER", callback=_parse_statistics,
    help="Mean, minimum and maximum of a raster as attributes.",
)  # fmt: skip
@click.option("--crs", help="CRS of rasters that do not say theirs, e.g. EPSG:25832.")
@click.option(
    "--pixel-size", type=click.FloatRange(min=0, min_open=True),
    help="Metres per pixel of a map without georeference.",
)  # fmt: skip
@config_options
@dry_option
def vectorize(
    map_: str, output: Path, overwrite: bool, min_area: float, simplify: float | None,
    smooth: bool, confidence: str | None, probabilities: str | None, stats: dict[str, str],
    crs: str | None, pixel_size: float | None, config_path: Path | None,
    assignments: tuple[str, ...], dry_run: bool,
) -> None:  # fmt: skip
    """Turn a label raster into polygons without gaps and overlaps.

    MAP is a file, folder, quoted glob or @list.txt, read as one map. Attributes: class, name,
    area_m2, confidence, and those of --stats. Of a config, the class table and the CRS are used.

    \b
    cafe vectorize map.tif -o polygons.gpkg --min-area 10
    cafe vectorize map.tif -o polygons.gpkg --simplify 1 --stats heights=ndsm.tif
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
    merged = {0: "", 1: "; 1 small one went to a neighbour"}.get(
        made.merged, f"; {made.merged:,} small ones went to neighbours"
    )
    say(f"wrote {made.polygons:,} polygon{'s'[: made.polygons > 1]} to {output}{merged}")
