"""``cafe evaluate``: score maps against reference labels, and measure the area of their classes."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cafe_cli.cli.options import PATH, config_options, overwrite_option, read_config
from cafe_cli.errors import CafeError
from cafe_cli.redaction import redact_all

if TYPE_CHECKING:
    from cafe_cli.config.schema import Config
    from cafe_cli.evaluation.areas import Areas
    from cafe_cli.evaluation.metrics import Scores
    from cafe_cli.evaluation.pooled import PooledScores

SPLITS = ("train", "validation", "test")


@click.command()
@click.argument("maps", metavar="MAP")
@click.argument("reference", required=False)
@config_options
@click.option(
    "--split", type=click.Choice(SPLITS), help="Score only this ground of the config's scenes."
)
@click.option("--partial", is_flag=True, help="Leave out scenes without a map or a reference.")
@click.option("--ignore", type=int, multiple=True, help="Reference value that is no class.")
@click.option("--areas", type=PATH, help="Write the area of each class of MAP: .csv or .json.")
@overwrite_option
@click.option("--json", "as_json", is_flag=True, help="Print the results as JSON to stdout.")
@click.option("--min-miou", type=float, help="Exit with 1 if mean IoU is lower.")
def evaluate(
    maps: str, reference: str | None, config_path: Path | None, assignments: tuple[str, ...],
    split: str | None, partial: bool, ignore: tuple[int, ...], areas: Path | None,
    overwrite: bool, as_json: bool, min_miou: float | None,
) -> None:  # fmt: skip
    """Score a MAP against REFERENCE labels, whose grid may be another.

    Both are files, folders, quoted globs or @list.txt, read as one; REFERENCE may be vectors. With
    {id} in both names, scenes are scored together and one by one. Without REFERENCE, the scenes of
    the config are: MAP is then a folder of maps named like their orthophotos, or a pattern. With
    --areas alone, nothing is scored.

    The class table is the map's, or that of the config.
    """
    config = read_config(config_path, assignments)
    scoring = areas is None or any(x is not None for x in (reference, split, min_miou))
    _check_usage(reference, split, areas, scoring and config.scenes is None)
    from cafe_cli.scenes.discovery import expand
    from cafe_cli.system.atomic_write import check_outputs
    from cafe_cli.system.output_group import claim_outputs

    result: dict[str, Any] = {}
    if areas is not None:
        inputs = [name for name in (maps, reference) if name]
        check_outputs([areas], [f for name in inputs for f in expand(name)], overwrite)
        with claim_outputs([areas], overwrite):
            result["areas"] = _measure(maps, config, areas, as_json).as_json()
    if scoring:
        settings = {"split": split, "partial": partial, "ignore": ignore}
        result = _score(maps, reference, config, settings, as_json).as_json() | result
    if as_json:
        click.echo(json.dumps(redact_all(result), indent=1))
    if min_miou is not None and not (miou := result["miou"] or 0.0) >= min_miou:
        raise CafeError(f"mean IoU {miou:.4f} is below --min-miou {min_miou}")


def _check_usage(
    reference: str | None, split: str | None, areas: Path | None, lacks_labels: bool
) -> None:
    """Refuse options that do not go together; `lacks_labels` if no config names references."""
    if reference is not None and split is not None:
        raise click.UsageError(
            "--split takes the labels of the config's scenes as references: leave out REFERENCE"
        )
    if reference is None and lacks_labels:
        raise click.UsageError(
            "Missing argument 'REFERENCE', or a config with [scenes] (-c), or --areas FILE alone"
        )
    if areas is not None and areas.suffix.lower() not in (".csv", ".json"):
        raise click.UsageError(f"--areas {areas}: name a .csv or .json file")


def _score(
    maps: str, reference: str | None, config: "Config", settings: dict[str, Any], quiet: bool
) -> "Scores | PooledScores":
    """Score one map or many; print a table unless `quiet`."""
    from cafe_cli.cli.console import progress_bar, show_scenes, show_scores
    from cafe_cli.evaluation.evaluate import evaluate as run
    from cafe_cli.evaluation.pooled import PooledScores, evaluate_pairs, evaluate_scenes
    from cafe_cli.scenes.discovery import placeholders_of
    from cafe_cli.scenes.label_values import ignore_more

    title = f"{maps} against {reference}"
    classes = config.class_table if config.classes else None
    labels = ignore_more(config.labels, classes, settings["ignore"])
    about: dict[str, Any] = {"classes": classes, "labels": labels, "crs": config.crs}
    found: Scores | PooledScores
    with progress_bar("evaluate") as progress:
        if reference is None:
            title = f"{maps} against the {settings['split'] or 'labelled'} ground of the scenes"
            found = evaluate_scenes(maps, config, **settings, progress=progress)
        elif placeholders_of(maps) or placeholders_of(reference):
            found = evaluate_pairs(
                maps, reference, **about, partial=settings["partial"], progress=progress
            )
        else:
            found = run(maps, reference, **about, progress=progress)
    if not quiet:
        pooled, scenes = (
            (found.pooled, found.scenes) if isinstance(found, PooledScores) else (found, {})
        )
        show_scores(pooled, title)
        show_scenes(scenes)
    return found


def _measure(maps: str, config: "Config", output: Path, quiet: bool) -> "Areas":
    """Measure the areas of a map's classes, and write them; print a table unless `quiet`."""
    from cafe_cli.cli.console import progress_bar, say, show_areas
    from cafe_cli.evaluation.areas import measure_areas
    from cafe_cli.system.atomic_write import write_text

    classes = config.class_table if config.classes else None
    with progress_bar("areas") as progress:
        areas = measure_areas(maps, classes=classes, crs=config.crs, progress=progress)
    is_json = output.suffix.lower() == ".json"
    values = redact_all(areas.as_json())
    write_text(output, json.dumps(values, indent=1) if is_json else areas.as_csv())
    if not quiet:
        show_areas(areas, maps)
        say(f"wrote {output}")
    return areas
