"""``cafe sample``: draw random points of a map, whose accuracy and areas they are to tell."""

from pathlib import Path

import click

from cafe_cli.cli.options import (
    NamesCommand,
    config_options,
    dry_option,
    output_options,
    read_config,
)

ALLOCATIONS = ("proportional", "equal")


@click.command(cls=NamesCommand)
@click.argument("maps", metavar="MAP")
@output_options("Points (GeoPackage).")
@click.option("-n", "--count", type=click.IntRange(min=2), default=600, show_default=True,
              help="Points in all.")  # fmt: skip
@click.option("--allocation", type=click.Choice(ALLOCATIONS), default="proportional",
              show_default=True, help="By the size of a stratum, or as many in each.")  # fmt: skip
@click.option("--min-per-class", type=click.IntRange(min=2), default=50, show_default=True,
              help="Points of each stratum at least.")  # fmt: skip
@click.option(
    "--stratum", "groups", multiple=True, metavar="CLASS,CLASS,...",
    help="Classes that are sampled as one stratum.  [default: each class is one]",
)  # fmt: skip
@click.option("--seed", type=click.IntRange(0, 2**63 - 1), default=0, show_default=True,
              help="Other points with another number.")  # fmt: skip
@click.option("--blind", is_flag=True, help="Keep the class of the map out of the layer of points.")
@click.option("--crs", help="CRS of a map that does not say its own, e.g. EPSG:25832.")
@config_options
@dry_option
def sample(
    maps: str, output: Path, overwrite: bool, count: int, allocation: str, min_per_class: int,
    groups: tuple[str, ...], seed: int, blind: bool, crs: str | None, config_path: Path | None,
    assignments: tuple[str, ...], dry_run: bool,
) -> None:  # fmt: skip
    """Draw random points of a MAP, a stratum per class.

    An interpreter fills in the column reference, from images and without a look at the map; then
    cafe evaluate MAP POINTS estimates accuracies and areas with 95 % intervals. MAP is a file,
    folder, quoted glob or @list.txt, read as one; its class table is its own or the config's.

    \b
      cafe sample map.tif -n 600 -o points.gpkg
      cafe sample map.tif -n 300 --allocation equal --blind -o points.gpkg
    """
    from cafe_cli.cli.accuracy_tables import show_strata
    from cafe_cli.cli.console import progress_bar, say
    from cafe_cli.cli.report import print_reports
    from cafe_cli.evaluation import sample as engine

    config = read_config(config_path, assignments)
    settings = engine.SampleSettings(
        count, min_per_class, "equal" if allocation == "equal" else "proportional", groups, seed,
        blind,
    )  # fmt: skip
    classes = config.class_table if config.classes else None
    where = crs or config.crs
    if dry_run:
        print_reports([
            engine.dry_run(maps, output, settings, classes=classes, crs=where, overwrite=overwrite)
        ])  # fmt: skip
        return
    with progress_bar("sample") as progress:
        found = engine.sample(
            maps, output, settings, classes=classes, crs=where, overwrite=overwrite,
            progress=progress,
        )  # fmt: skip
    show_strata(found)
    say(f"wrote {output}: {len(found.places):,} points; fill in the column {engine.REFERENCE}")
