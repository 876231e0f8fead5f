"""``cafe train``: a loop over the tiles of a tile set.

Everything random is a function of the seed and of the step: the order of the tiles, what is cut and
jittered, dropout. So a run that was interrupted and resumed goes through the same states as one
that was not, and leaves the same history.
"""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from torch._dynamo.exc import TorchDynamoException

from cafe_cli import findings
from cafe_cli.config.schema import Config
from cafe_cli.errors import RunInterruptedError, TrainingError, out_of_memory
from cafe_cli.model import model_file
from cafe_cli.model.device import choose_device
from cafe_cli.model.model_file import ModelCard
from cafe_cli.splits.assign import SPLITS
from cafe_cli.text import first_line
from cafe_cli.tilesets.tileset import TileSet, load_tileset
from cafe_cli.training import preflight
from cafe_cli.training.batch_size import find_batch_size, seconds_per_tile
from cafe_cli.training.build import build_network
from cafe_cli.training.data.sampler import BatchSampler
from cafe_cli.training.distributed import processes
from cafe_cli.training.distributed.processes import Processes
from cafe_cli.training.history import EpochRecord
from cafe_cli.training.report.run import BEST as BEST
from cafe_cli.training.signals import ASKED, watching
from cafe_cli.training.state import resumed, with_batch_size
from cafe_cli.training.trainer import LAST as LAST
from cafe_cli.training.trainer import TrainingRun

log = logging.getLogger("cafe")


@dataclass(frozen=True)
class TrainCallbacks:
    """Whom to tell about progress: of steps (done, total, loss), of epochs (row, best so far)."""

    step: Callable[[int, int, float], None] = lambda step, total, loss: None
    epoch: Callable[[EpochRecord, bool], None] = lambda row, best: None


def train(
    tileset_folder: Path,
    output: Path,
    config: Config,
    *,
    device: str = "auto",
    resume: bool = False,
    overwrite: bool = False,
    report: TrainCallbacks | None = None,
) -> ModelCard:
    """Train a model on a tile set.

    Parameters
    ----------
    tileset_folder : Path
        Made by ``cafe tile``.
    output : Path
        Folder of the run: ``best.safetensors``, its ``scores.json`` and ``validation.csv``,
        ``last.safetensors``, ``history.csv``, ``tensorboard/``, ``curves.png``, ``report.html``,
        ``config.toml``.
    config : Config
        ``[model]`` and ``[train]`` count; on `resume` they have to be those of the run.
    device : str
        ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
    resume : bool
        Go on from the last checkpoint in `output`.
    overwrite : bool
        Replace what `output` holds.

    Returns
    -------
    ModelCard
        Of the best epoch on the validation tiles; of the last one without such tiles. When the
        time was up, of the best so far.

    Raises
    ------
    ConfigError
        A device that is not there, a step that cannot be shared, or settings that do not fit the
        tile set.
    InputError
        No tile set, one without training tiles, or a damaged tile.
    OutputError
        `output` exists and neither `resume` nor `overwrite` is set, or it is not a run; a full
        disk, which leaves the checkpoint before as it was.
    TrainingError
        A loss that is not finite, too little memory, or a resume with other settings.
    StoppedError
        Ctrl-C, or a signal to end; the state is saved.
    """
    started = time.monotonic()
    planned = processes.plan(device, config.train)
    tileset = load_tileset(tileset_folder)
    preflight.check_tiles(tileset_folder, tileset)
    preflight.check_patience(tileset, config.train)
    if resume:
        config = resumed(output / LAST, config, tileset)
    preflight.check_shares(len(tileset.of("train")), config.train, planned.world)
    if not resume and processes.is_first():  # it creates the folder, maybe already
        preflight.check_output(output, tileset_folder, overwrite)
    team = processes.launch(planned, config.train)
    with team.translate_peer_loss():
        with team.sync_errors():
            config = _with_batch_size(config, tileset, team)
            preflight.check_normalisation(tileset, config.train, team.world)
            # What is resumed brings its weights.
            weights = "none" if resume else config.model.weights
            run = TrainingRun(tileset_folder, tileset, output, config, team, weights)
            for message in preflight.warnings(tileset_folder, tileset, config.train):
                log.warning(message)
            run.restore() if resume else run.begin()
        with watching(config.train.time_limit, started) as stop:
            ended = _loop(run, report if report and team.first else TrainCallbacks(), stop)
        with team.sync_errors():
            # Of a run that was over already, too: it may have been killed just before.
            if team.first and run.progress.history:
                run.write_report(ended)
    return model_file.read_card(output / BEST)


def _loop(run: TrainingRun, report: TrainCallbacks, stop: Callable[[], int]) -> str:
    """Train until there is a reason not to, and return it in words; "" if all is done."""
    while (ended := run.progress.why_ended(run.config.train)) is None:
        with _explained(run.config, stop):
            reason = run.train_epoch(report.step, stop)
        if reason == ASKED or (reason and not run.epoch_is_over):
            return _break_off(run, reason)
        with _explained(run.config, stop):
            row, best = run.finish_epoch()
        report.epoch(row, best)
        if (reason := run.processes.largest(stop())) and not run.is_over:
            return _break_off(run, reason)
    if ended:
        log.info(ended)
    return ended


@contextmanager
def _explained(config: Config, stop: Callable[[], int]) -> Iterator[None]:
    """Say what to do about what goes wrong within torch."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if out_of_memory(error):
            raise TrainingError(_too_large(config)) from error
        if not (config.train.compile and isinstance(error, TorchDynamoException)):
            raise
        if stop() == ASKED:  # the Ctrl-C of a terminal ends the compiler, too
            raise KeyboardInterrupt from error
        raise TrainingError(
            f"torch.compile failed ({first_line(error)}): go on with --resume --set "
            "train.compile=false"
        ) from error


def _break_off(run: TrainingRun, reason: int) -> str:
    """Save a run that goes on another time."""
    done = f"at step {run.done} of {run.total}; go on with --resume -o {run.output}"
    if reason == ASKED:
        run.save_for_later()
        raise run.processes.ending(RunInterruptedError(f"stopped {done}"))
    # Whoever has waited for so long gets a model, be it of a part of an epoch.
    run.save_for_later(model=not run.progress.history)
    log.info("the time is up %s", done)
    return f"the time was up at step {run.done} of {run.total}"


def rehearse(
    tileset_folder: Path,
    output: Path,
    config: Config,
    *,
    device: str = "auto",
    resume: bool = False,
    overwrite: bool = False,
) -> findings.Report:
    """Check what `train` would, and say what it would take; arguments as there.

    Nothing is trained: the time of a step is that of two blank tiles through the network and back.
    """
    report = findings.Report("train")
    with report.capture_errors(str(output)):
        if not resume:
            preflight.check_output(output, tileset_folder, overwrite)
    with report.capture_errors(str(tileset_folder)):
        tileset = load_tileset(tileset_folder)
        preflight.check_tiles(tileset_folder, tileset)
        preflight.check_patience(tileset, config.train)
        if resume:
            config = resumed(output / LAST, config, tileset)
        training = len(tileset.of("train"))
        world = processes.plan(device, config.train).world
        preflight.check_shares(training, config.train, world)
        target, network = choose_device(device), build_network(tileset, config)
        size = config.train.batch_size
        if size == "auto":
            within = processes.precision_of(config.train, target).forward_context
            size = find_batch_size(tileset, config, target, within, world)
        preflight.check_normalisation(tileset, with_batch_size(config, size).train, world)
        steps = len(BatchSampler(training, size, 0)) * config.train.epochs
        each = seconds_per_tile(network.to(target), tileset, config)
        parameters = sum(p.numel() for p in network.parameters())
        report.facts |= {
            "tiles": {split: len(tileset.of(split)) for split in SPLITS},
            "pixels": {split: tileset.pixels[split] for split in SPLITS if tileset.of(split)},
            "shared_ground_m2": tileset.shared_ground,
            "parameters": parameters,
            "batch_size": min(size, training),
            "steps": steps,
            "device": str(target),
            # Weights, gradients and the two moments of the optimiser, in two files.
            "estimate": {
                "seconds": float(f"{each * min(size, training) * steps / world:.2g}"),
                "disk": parameters * 4 * 4,
            },
        }
        for message in preflight.warnings(tileset_folder, tileset, config.train):
            report.add(findings.Finding("warning", message, str(tileset_folder)))
    return report


def _with_batch_size(config: Config, tileset: TileSet, team: Processes) -> Config:
    """Put a number in the place of ``auto``: what fits."""
    if config.train.batch_size != "auto":
        return config
    fabric = team.fabric
    found = find_batch_size(tileset, config, fabric.device, fabric.autocast, team.world)
    size = -team.largest(-found)  # what fits everywhere
    log.info("train.batch_size: %d tiles", size)
    return with_batch_size(config, size)


def _too_large(config: Config) -> str:
    """Say what takes less memory."""
    settings = config.train
    ways = [
        f"lower train.batch_size (now {settings.batch_size})",
        f"train.crop (now {settings.crop or 'the whole tile'})",
        f"or model.width (now {config.model.width})",
    ]
    if not settings.checkpointing and not settings.compile:
        ways.append("set train.checkpointing = true")
    ways.append(f"raise train.accumulate (now {settings.accumulate})")
    return f"out of memory in training; {', '.join(ways)}"
