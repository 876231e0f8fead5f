"""``cafe suggest``: places to label next."""

from pathlib import Path
from typing import Any

import click

from cafe_cli.cli.options import config_options, dry_option, output_options, read_config

_EXAMPLES = """\b
Examples:
  cafe suggest map.tif --probabilities probabilities.tif -o places.gpkg -n 50
  cafe suggest map.tif --confidence confidence.tif --labels labels.gpkg -c site.toml -o places.gpkg
"""


@click.command(epilog=_EXAMPLES)
@click.argument("map_", metavar="MAP")
@output_options("Boxes of the places, the most doubtful first (.gpkg).")
@click.option("--confidence", help="Confidence raster of the map.")
@click.option(
    "--probabilities", help="Probabilities of all classes; better, as they tell the second class."
)
@click.option("--labels", help="Labels that there are: rasters or vectors.")
@click.option(
    "-n", "--places", type=click.IntRange(1, 10_000), default=50, show_default=True,
    help="Number of places.",
)  # fmt: skip
@click.option("--size", type=int, default=256, show_default=True, help="Side of a place in pixels.")
@config_options
@dry_option
def suggest(
    map_: str, output: Path, overwrite: bool, confidence: str | None, probabilities: str | None,
    labels: str | None, places: int, size: int, config_path: Path | None,
    assignments: tuple[str, ...], dry_run: bool,
) -> None:  # fmt: skip
    """Find the places of a MAP where new labels would help most.

    Places lie apart, where the model was undecided, or where its class is another than the label.
    All rasters are files, folders, quoted globs or @list.txt. Of a config, [[classes]] and
    [labels] are used, to read the labels as cafe tile does.
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
