"""``cafe suggest``: places to label next."""

from pathlib import Path
from typing import Any

import click

from cafe_cli.cli.help import CafeCommand, complete_files, option, option_group
from cafe_cli.cli.options import (
    config_options,
    dry_option,
    file_option,
    output_options,
    read_config,
)

EXAMPLES = {
    "where the model hesitated between two classes":
        "cafe suggest map.tif --probabilities probabilities.tif -n 50 -o places.gpkg",
    "also where the map contradicts the labels":
        "cafe suggest map.tif --confidence confidence.tif --labels labels.gpkg -c site.toml "
        "-o places.gpkg",
}  # fmt: skip


@click.command(cls=CafeCommand, examples=EXAMPLES)
@click.argument("map_", metavar="MAP", shell_complete=complete_files)
@option_group(
    "Inputs",
    file_option("--confidence", help="Confidence raster of the map."),
    file_option("--probabilities", help="Probabilities of all classes, in place of --confidence: "
                "they also tell how close the second class was."),
    file_option("--labels", help="Existing labels: rasters or vector files."),
    config_options,
)  # fmt: skip
@option_group(
    "Outputs", output_options("Boxes of the places, the most doubtful first (.gpkg)."), dry_option
)
@option_group(
    "Method",
    option("-n", "--places", type=click.IntRange(1, 10_000), default=50, metavar="N",
           help="Number of places."),
    option("--size", type=int, default=256, metavar="PIXELS", help="Side of a place."),
)  # fmt: skip
def suggest(
    map_: str, output: Path, overwrite: bool, confidence: str | None, probabilities: str | None,
    labels: str | None, places: int, size: int, config_path: Path | None,
    assignments: tuple[str, ...], dry_run: bool,
) -> None:  # fmt: skip
    """Find the places where new labels would help most.

    These are places where the model was undecided, or where the map contradicts the labels; they
    lie apart from each other. Rasters are files, folders, quoted globs or @list.txt. The command
    reads [[classes]] and [labels] from a config, to read the labels as cafe tile does.
    """
    from cafe_cli.cli.console import progress_bar, say
    from cafe_cli.cli.report import print_reports
    from cafe_cli.evaluation import suggest as engine

    config = read_config(config_path, assignments)
    source = engine.SuggestInput(
        map_, confidence, probabilities, labels,
        config.class_table if config.classes else None, config.labels, config.crs,
    )  # fmt: skip
    about: dict[str, Any] = {"count": places, "size": size, "overwrite": overwrite}
    if dry_run:
        print_reports([engine.dry_run(source, output, **about)])
        return
    with progress_bar("suggest") as progress:
        found = engine.suggest(source, output, **about, progress=progress)
    reasons = [place.reason for place in found]
    counts = ", ".join(f"{reasons.count(r)} {r}" for r in dict.fromkeys(reasons))
    few = "" if len(found) == places else f" of {places}: no more are in doubt and lie apart"
    say(f"wrote {output}: {len(found)} places{few}{counts and f' ({counts})'}")
