"""``cafe train``: train a model on a tile set."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import click

from cafe_cli.cli.help import CafeCommand, option, option_group
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

MODEL_OPTIONS = (
    ConfigOption(
        "--encoder", "model.optical_encoder",
        "Encoder of the image, by its name in segmentation-models-pytorch (tu-NAME for timm).",
        default="tu-tf_efficientnet_lite0", metavar="NAME",
    ),
    ConfigOption(
        "--weights", "model.weights",
        "Initial weights of the image encoder: imagenet, none, or a local file.",
        default="imagenet", metavar="WEIGHTS",
    ),
    ConfigOption(
        "--from", "train.from_model",
        "Fine-tune this cafe model: start from all weights that fit; bands and classes are matched "
        "by name.",
        metavar="MODEL", callback=absolute_path,
    ),
    ConfigOption(
        "--guidance", "model.guidance",
        "Guide the fusion by the labels in training: no, yes, or as a teacher of the unguided "
        "path (distill).", Guidance, "none",
    ),
)  # fmt: skip
SCHEDULE_OPTIONS = (
    ConfigOption("--epochs", "train.epochs", "Number of epochs.", int, "60", metavar="N"),
    ConfigOption(
        "--batch-size", "train.batch_size",
        "Tiles per training step, over all devices; auto: as many as fit.", default="8",
        metavar="N",
    ),
    ConfigOption(
        "--accumulate", "train.accumulate",
        "Split each batch into N parts to save memory (gradient accumulation).", int, "1",
        metavar="N",
    ),
    ConfigOption(
        "--learning-rate", "train.learning_rate", "Highest learning rate, after the warm-up.",
        float, "0.001", metavar="RATE",
    ),
    ConfigOption(
        "--freeze-epochs", "train.freeze_epochs", "Keep the encoders frozen for N epochs.", int,
        "0", metavar="N",
    ),
    ConfigOption(
        "--patience", "train.patience",
        "Stop after N epochs without a better validation mean IoU; 0: never.", int, "0",
        metavar="N",
    ),
    ConfigOption(
        "--time-limit", "train.time_limit",
        "Stop after this time, e.g. 90s, 30m or 1h30m; --resume continues.", metavar="TIME",
    ),
    ConfigOption("--seed", "train.seed", "Random seed of the run.", int, "0", metavar="N"),
)  # fmt: skip
COMPUTE_OPTIONS = (
    ConfigOption(
        "--devices", "train.devices", "GPUs (or CPU processes) per node.", int,
        "what torchrun or srun started, else 1", metavar="N",
    ),
    ConfigOption(
        "--num-nodes", "train.num_nodes", "Number of nodes.", int,
        "what torchrun or srun started, else 1", metavar="N",
    ),
    ConfigOption(
        "--precision", "train.precision",
        "Numeric precision; auto: bf16 on GPUs that support it, else float32.", Precision, "auto",
    ),
)  # fmt: skip
TRAIN_OPTIONS = (*MODEL_OPTIONS, *SCHEDULE_OPTIONS, *COMPUTE_OPTIONS)

EXAMPLES = {
    "the tile set of the sample data": "cafe train tiles -c configs/sample.toml -o run",
    "with an early stop, and resumed after an interruption":
        "cafe train tiles -c site.toml -o run --patience 10 --resume",
    "fine-tuning an existing model on the labels of another site":
        "cafe train site_tiles --from run/best.safetensors -o finetuned",
}  # fmt: skip


@click.command(cls=CafeCommand, examples=EXAMPLES)
@click.argument("tileset", type=PATH)
@option_group("Inputs", config_options)
@option_group(
    "Outputs",
    output_options("Folder of the run.", "FOLDER"),
    option("--resume", is_flag=True, help="Resume an interrupted run; begin if there is none."),
    dry_option,
)
@option_group("Model", add_options(MODEL_OPTIONS))
@option_group("Training", add_options(SCHEDULE_OPTIONS))
@option_group("Compute", device_option, add_options(COMPUTE_OPTIONS))
def train(
    tileset: Path, config_path: Path | None, assignments: tuple[str, ...], output: Path,
    overwrite: bool, resume: bool, device: str, dry_run: bool, **options: Any,
) -> None:  # fmt: skip
    """Train a model on a tile set, or fine-tune one.

    TILESET is a folder that cafe tile wrote. The folder of the run gets best.safetensors (the
    model), report.html and the history of the scores.
    """
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
        raise click.UsageError("--resume continues a run, --overwrite replaces it: choose one")
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
