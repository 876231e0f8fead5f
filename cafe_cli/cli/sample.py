"""``cafe sample``: draw random points of a map, to estimate its accuracy and areas."""

from pathlib import Path

import click

from cafe_cli.cli.help import complete_files, option, option_group
from cafe_cli.cli.options import (
    NamesCommand,
    config_options,
    crs_option,
    dry_option,
    output_options,
    read_config,
)

ALLOCATIONS = ("proportional", "equal")
EXAMPLES = {
    "600 points, of each class in proportion to its area":
        "cafe sample map.tif -n 600 -o points.gpkg",
    "as many of each class, without the class of the map in the layer":
        "cafe sample map.tif -n 300 --allocation equal --blind -o points.gpkg",
}  # fmt: skip


@click.command(cls=NamesCommand, examples=EXAMPLES)
@click.argument("maps", metavar="MAP", shell_complete=complete_files)
@option_group("Inputs", crs_option, config_options)
@option_group("Outputs", output_options("Points to write (.gpkg)."), dry_option)
@option_group(
    "Points",
    option("-n", "--count", type=click.IntRange(min=2), default=600, metavar="N",
           help="Number of points."),
    option("--allocation", type=click.Choice(ALLOCATIONS), default="proportional",
           help="Points per stratum: in proportion to its area, or equally many."),
    option("--min-per-class", type=click.IntRange(min=2), default=50, metavar="N",
           help="Smallest number of points of a stratum."),
    option("--stratum", "groups", multiple=True, metavar="CLASS,CLASS,...",
           show_default="one stratum per class",
           help="Classes to sample as one stratum; may be repeated."),
    option("--seed", type=click.IntRange(0, 2**63 - 1), default=0, metavar="N",
           help="Random seed: another number draws other points."),
    option("--blind", is_flag=True, help="Leave the class of the map out of the layer of points."),
)  # fmt: skip
def sample(
    maps: str, output: Path, overwrite: bool, count: int, allocation: str, min_per_class: int,
    groups: tuple[str, ...], seed: int, blind: bool, crs: str | None, config_path: Path | None,
    assignments: tuple[str, ...], dry_run: bool,
) -> None:  # fmt: skip
    """Draw random points to interpret, stratified by class.

    An interpreter fills in the column reference from images, without looking at the map. Then
    cafe evaluate MAP POINTS estimates accuracies and areas with 95 % intervals. MAP is a
    classified raster: a file, folder, quoted glob or @list.txt, read as one map.
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
