"""``cafe train``: train a model on a tile set."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import click

from cafe_cli.cli.options import (
    PATH,
    ConfigOption,
    absolute_path,
    add_options,
    config_options,
    device_option,
    dry_option,
    output_options,
    read_config,
    take_overrides,
)
from cafe_cli.config.choices import Guidance, Precision
from cafe_cli.errors import CafeError

TRAIN_OPTIONS = (
    ConfigOption("--epochs", "train.epochs", type=int),
    ConfigOption(
        "--batch-size", "train.batch_size",
        "Tiles per step, on all devices together; auto: what fits.",
    ),
    ConfigOption(
        "--accumulate", "train.accumulate",
        "Parts of a step, one after the other: less memory.", int,
    ),
    ConfigOption("--learning-rate", "train.learning_rate", type=float),
    ConfigOption(
        "--encoder", "model.optical_encoder",
        "Encoder of the image (segmentation-models-pytorch names).",
    ),
    ConfigOption(
        "--weights", "model.weights", "Of the image's encoder: imagenet, none, or a local file.",
    ),
    ConfigOption(
        "--from", "train.from_model",
        "cafe model to start from: all that fits; bands and classes by name.",
        metavar="MODEL", callback=absolute_path,
    ),
    ConfigOption("--guidance", "model.guidance", type=Guidance),
    ConfigOption(
        "--freeze-epochs", "train.freeze_epochs", "Epochs before the encoders train, too.", int
    ),
    ConfigOption(
        "--patience", "train.patience", "End after so many epochs without a better mean IoU.", int
    ),
    ConfigOption("--time-limit", "train.time_limit", "End after such a time: 90s, 30m, 1h30m."),
    ConfigOption(
        "--devices", "train.devices", "Number of GPUs (or CPU processes) on each node.", int
    ),
    ConfigOption(
        "--num-nodes", "train.num_nodes",
        "Number of nodes; torchrun and srun tell by themselves.", int,
    ),
    ConfigOption("--precision", "train.precision", type=Precision),
    ConfigOption("--seed", "train.seed", type=int),
)  # fmt: skip


_EXAMPLES = """\b
Examples:
  cafe train tiles -o run
  cafe train new_tiles --from run/best.safetensors -o finetuned
"""


@click.command(epilog=_EXAMPLES)
@click.argument("tileset", type=PATH)
@config_options
@output_options("Folder of the run.")
@click.option("--resume", is_flag=True, help="Go on from the last checkpoint in the folder.")
@add_options(TRAIN_OPTIONS)
@device_option
@dry_option
def train(
    tileset: Path, config_path: Path | None, assignments: tuple[str, ...], output: Path,
    overwrite: bool, resume: bool, device: str, dry_run: bool, **options: Any,
) -> None:  # fmt: skip
    """Train CaFE on a tile set, from the start or --from a model."""
    from cafe_cli.cli.console import say, show_scores, show_taken, training_display
    from cafe_cli.cli.report import print_reports
    from cafe_cli.evaluation.metrics import Scores
    from cafe_cli.tilesets.tileset import load_tileset
    from cafe_cli.training import plan
    from cafe_cli.training.report.run import BEST, FINAL
    from cafe_cli.training.train import TrainCallbacks
    from cafe_cli.training.train import train as run
    from cafe_cli.training.validation import describe_shared_scenes

    if resume and overwrite:
        raise click.UsageError("--resume goes on with a run, --overwrite replaces it: choose one")
    if resume and config_path is None and (saved := output / "config.toml").exists():
        config_path = saved
    config = read_config(config_path, assignments, take_overrides(TRAIN_OPTIONS, options))
    if dry_run:
        report = plan.dry_run(
            tileset, output, config, device=device, resume=resume, overwrite=overwrite
        )
        print_reports([report])
        return
    on_start = partial(show_taken, str(config.train.from_model))
    with _only_first_logs(), training_display() as (on_step, on_epoch):
        card = run(
            tileset, output, config, device=device, resume=resume, overwrite=overwrite,
            report=TrainCallbacks(on_step, on_epoch, on_start),
        )  # fmt: skip
        if card.scores:
            show_scores(Scores.from_json(card.scores), f"validation tiles, epoch {card.epoch}")
            if flattery := describe_shared_scenes(load_tileset(tileset)):
                say(flattery)
        say(f"wrote {output / BEST} and, of the last epoch, {output / FINAL}")


@contextmanager
def _only_first_logs() -> Iterator[None]:
    """Silence all processes of a training run but rank 0, since all log the same events."""
    from cafe_cli.cli.console import set_up_log
    from cafe_cli.training.distributed.processes import is_first

    if is_first():
        yield
        return
    set_up_log(-1)
    try:
        yield
    except CafeError as error:
        sys.exit(error.exit_code)
