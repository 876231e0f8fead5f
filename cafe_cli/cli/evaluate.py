"""``cafe evaluate``: score a map against reference labels."""

import json
from pathlib import Path

import click

from cafe_cli.cli.options import config_options, read_config
from cafe_cli.errors import CafeError


@click.command()
@click.argument("prediction")
@click.argument("reference")
@config_options
@click.option("--ignore", type=int, multiple=True, help="Reference value that is no class.")
@click.option("--json", "as_json", is_flag=True, help="Print the scores as JSON to stdout.")
@click.option("--min-miou", type=float, help="Exit with 1 if mean IoU is lower.")
def evaluate(
    prediction: str, reference: str, config_path: Path | None, assignments: tuple[str, ...],
    ignore: tuple[int, ...], as_json: bool, min_miou: float | None,
) -> None:  # fmt: skip
    """Score a PREDICTION against REFERENCE labels, whose grid may be another.

    The class table is the prediction's, or that of the config.
    """
    from cafe_cli.cli.console import progress_bar, show_scores
    from cafe_cli.evaluation.evaluate import evaluate as run

    config = read_config(config_path, assignments)
    labels = config.labels.model_copy(update={"ignore": (*config.labels.ignore, *ignore)})
    classes = config.class_table if config.classes else None
    with progress_bar("evaluate") as progress:
        scores = run(prediction, reference, classes=classes, labels=labels, progress=progress)
    if as_json:
        click.echo(json.dumps(scores.as_json(), indent=1))
    else:
        show_scores(scores, f"{prediction} against {reference}")
    if min_miou is not None and not scores.miou >= min_miou:
        raise CafeError(f"mean IoU {scores.miou:.4f} is below --min-miou {min_miou}")
