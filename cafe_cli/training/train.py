"""``cafe train``: the loop over the epochs of a training run.

All randomness is a function of the seed and the step: the order of the tiles, crops, augmentation,
dropout. An interrupted and resumed run therefore goes through the same states, and leaves the same
history, as an uninterrupted run.
"""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from torch._dynamo.exc import TorchDynamoException

from cafe_cli.config.schema import Config
from cafe_cli.errors import OutputError, RunInterruptedError, TrainingError, out_of_memory
from cafe_cli.model import stored
from cafe_cli.model.card import ModelCard
from cafe_cli.model.transfer import TakenPart
from cafe_cli.system.locks import lock_folder
from cafe_cli.text import first_line
from cafe_cli.training import preflight
from cafe_cli.training.distributed import processes
from cafe_cli.training.distributed.processes import Processes
from cafe_cli.training.history import EpochRecord
from cafe_cli.training.plan import LAST, TrainPlan, plan, settle_batch_size
from cafe_cli.training.report.run import BEST
from cafe_cli.training.signals import StopReason, StopRequestedError, watch_for_stop
from cafe_cli.training.trainer import TrainingRun

log = logging.getLogger("cafe")


@dataclass(frozen=True)
class TrainCallbacks:
    """Called during a run.

    Attributes
    ----------
    step, epoch : callable
        Called after each step (steps done, total steps, loss) and each epoch (record, is best).
    start : callable
        Called before the first step of a run that starts from a model, with what was taken of it.
    """

    step: Callable[[int, int, float], None] = lambda step, total, loss: None
    epoch: Callable[[EpochRecord, bool], None] = lambda record, best: None
    start: Callable[[Sequence[TakenPart]], None] = lambda taken: None


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
        Tile set made by ``cafe tile``.
    output : Path
        Folder of the run: ``best.safetensors``, its ``scores.json`` and ``validation.csv``,
        ``final.safetensors``, ``last.safetensors``, ``history.csv``, ``tensorboard/``,
        ``curves.png``, ``report.html``, ``config.toml``.
    config : Config
        Only ``[model]`` and ``[train]`` are used; on `resume` they have to be those of the run.
    device : str
        ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
    resume : bool
        Go on from the last checkpoint in `output`; begin if it does not exist or is empty.
    overwrite : bool
        Replace the run in `output`.
    report : TrainCallbacks, optional
        Called in the first process only.

    Returns
    -------
    ModelCard
        Card of the epoch with the best score on the validation tiles (of the last epoch without
        such tiles); after a time limit, of the best epoch so far.

    Raises
    ------
    ConfigError
        The device does not exist, the batch cannot be divided among the processes, or settings do
        not fit the tile set.
    InputError
        There is no tile set, it has no training tiles, or a tile is damaged.
    OutputError
        `output` exists and neither `resume` nor `overwrite` is set, or it is not a run; or the
        disk is full, which leaves the previous checkpoint as it was.
    TrainingError
        The loss is not finite, memory is too small, or the settings of a resumed run differ.
    RunInterruptedError
        Ctrl-C, or a signal to end; the state is saved.
    """
    started = time.monotonic()
    planned = plan(
        tileset_folder, output, config, device=device, resume=resume, overwrite=overwrite
    )
    with _claim(planned, overwrite):
        _run(planned, report or TrainCallbacks(), started)
    return stored.read_card(output / BEST)


@contextmanager
def _claim(planned: TrainPlan, overwrite: bool) -> Iterator[None]:
    """Lock the folder of the run, in the first of its processes."""
    if not processes.is_first():
        yield
        return
    with lock_folder(planned.output):
        if not planned.resume:  # another process may have written it
            preflight.check_output(planned.output, planned.folder, overwrite)
        yield


def _run(planned: TrainPlan, report: TrainCallbacks, started: float) -> None:
    """Train in all processes, and write the report in the first."""
    team = processes.launch(planned.processes, planned.config.train)
    with team.translate_peer_loss():
        with team.sync_errors():
            run = _set_up(planned, team)
        if team.first and run.taken:
            report.start(run.taken)
        with watch_for_stop(planned.config.train.time_limit, started) as stop:
            ended = _loop(run, report if team.first else TrainCallbacks(), stop)
        with team.sync_errors():
            # Also on a resume of a finished run, which may have been killed before its report.
            if team.first and run.state.history:
                run.write_report(ended)


def _set_up(planned: TrainPlan, team: Processes) -> TrainingRun:
    """Build the network and the loaders, and create the folder of the run or read its state.

    Raises
    ------
    OutputError
        Some processes have found a run to resume, and others have not.
    """
    resumes = int(planned.resume)
    if team.max(resumes) != team.min(resumes):
        raise OutputError(
            f"only some processes of the run find {planned.output / LAST}: the folder has to be on "
            "a disk that all machines share"
        )
    found = settle_batch_size(planned, team.fabric.device, team.fabric.autocast, team.min)
    if found.config != planned.config:
        log.info("train.batch_size: %d tiles", found.batch_size)
    run = TrainingRun(found, team)
    for message in found.warnings:
        log.warning(message)
    if planned.resume:
        run.restore()
    else:
        run.create()
    return run


def _loop(run: TrainingRun, report: TrainCallbacks, stop: Callable[[], StopReason]) -> str:
    """Train until there is a reason to stop; return that reason, "" if all epochs are done."""
    try:
        return _train_epochs(run, report, stop)
    except StopRequestedError as asked:
        return _stop_early(run, asked.reason, stop)


def _train_epochs(run: TrainingRun, report: TrainCallbacks, stop: Callable[[], StopReason]) -> str:
    while (ended := run.state.why_ended(run.config.train)) is None:
        with _translate_torch_errors(run.config, stop):
            reason = run.train_epoch(report.step, stop)
        if reason.signal or (reason and not run.epoch_is_over):
            return _stop_early(run, reason, stop)
        with _translate_torch_errors(run.config, stop):
            record, best = run.finish_epoch(stop)
        report.epoch(record, best)
        if (reason := StopReason(run.processes.max(stop()))) and not run.is_over:
            return _stop_early(run, reason, stop)
    if ended:
        log.info(ended)
    return ended


@contextmanager
def _translate_torch_errors(config: Config, stop: Callable[[], StopReason]) -> Iterator[None]:
    """Translate torch's out-of-memory and compiler errors into messages that say what to do."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if out_of_memory(error):
            raise TrainingError(_out_of_memory_message(config)) from error
        if not (config.train.compile and isinstance(error, TorchDynamoException)):
            raise
        if stop().signal:  # Ctrl-C interrupts the compiler's process, too
            raise KeyboardInterrupt from error
        raise TrainingError(
            f"torch.compile failed ({first_line(error)}): continue with --resume --set "
            "train.compile=false"
        ) from error


def _stop_early(run: TrainingRun, reason: StopReason, stop: Callable[[], StopReason]) -> str:
    """Save a run to be resumed; raise on a signal, return the reason after a time limit."""
    done = f"at step {run.done} of {run.total}; continue with --resume -o {run.output}"
    if reason.signal:
        run.save_for_later()
        raise run.processes.ending(RunInterruptedError(f"stopped {done}", reason.signal))
    # A time limit always leaves a model, even within the first epoch.
    run.save_for_later(None if run.state.history else stop)
    log.info("time limit reached %s", done)
    return f"the time limit was reached at step {run.done} of {run.total}"


def _out_of_memory_message(config: Config) -> str:
    """Return a message that names the settings that reduce memory."""
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
