"""``cafe train``: a loop over the tiles of a tile set.

Everything random is a function of the seed and of the step: the order of the tiles, what is cut and
jittered, dropout. So a run that was interrupted and resumed goes through the same states as one
that was not, and leaves the same history.
"""

import hashlib
import json
import logging
import math
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, Literal, cast

import torch
from lightning_fabric import Fabric
from lightning_fabric.strategies.ddp import DDPStrategy
from lightning_fabric.utilities.rank_zero import rank_zero_only
from torch import Tensor, nn
from torch.utils.data import DataLoader

from cafe_cli import checkpoint, history, optimizer, tiles
from cafe_cli import config as settings_file
from cafe_cli import report as findings
from cafe_cli.checkpoint import ModelCard
from cafe_cli.classes import ClassTable
from cafe_cli.config import Config, TrainSettings
from cafe_cli.dataset import Batches, Inputs, Sample, TileDataset, in_order
from cafe_cli.device import choose
from cafe_cli.errors import (
    CafeError,
    ConfigError,
    InputError,
    ModelFileError,
    OutputError,
    StoppedError,
    TrainingError,
)
from cafe_cli.files import remove, write_text
from cafe_cli.history import Row
from cafe_cli.losses import training_loss
from cafe_cli.metrics import Confusion, Scores, scores
from cafe_cli.model import Architecture, CaFE
from cafe_cli.split import SPLITS
from cafe_cli.tiles import TileSet

log = logging.getLogger("cafe")

LAST, BEST, SCORES = "last.safetensors", "best.safetensors", "scores.json"


@dataclass(frozen=True)
class Report:
    """Whom to tell about progress."""

    step: Callable[[int, int, float], None] = lambda step, total, loss: None
    epoch: Callable[[Row], None] = lambda row: None


@dataclass
class Progress:
    """Where a run is, as plain values. `sums` are those of the epoch under way."""

    epoch: int = 0
    batch: int = 0
    sums: dict[str, float] = field(default_factory=dict)
    history: list[Row] = field(default_factory=list)
    best: float = -1.0


def train(
    tileset_folder: Path,
    output: Path,
    config: Config,
    *,
    device: str = "auto",
    resume: bool = False,
    overwrite: bool = False,
    report: Report | None = None,
) -> ModelCard:
    """Train a model on a tile set.

    Parameters
    ----------
    tileset_folder : Path
        Made by ``cafe tile``.
    output : Path
        Folder of the run: ``best.safetensors``, its ``scores.json``, ``last.safetensors``,
        ``history.csv``, ``tensorboard/``, ``curves.png``, ``config.toml``.
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
        Of the best epoch on the validation tiles; of the last one without such tiles.

    Raises
    ------
    ConfigError
        A device that is not there, or a batch that cannot be shared among the devices.
    InputError
        No tile set, or one without training tiles.
    OutputError
        `output` exists and neither `resume` nor `overwrite` is set, or it is not a run.
    TrainingError
        A loss that is not finite, or a resume with other settings.
    StoppedError
        Ctrl-C; the state is saved.
    """
    tileset = tiles.load(tileset_folder)
    if not resume:
        _check_output(output, tileset_folder, overwrite)
    fabric = _fabric(device, config.train, len(tileset.of("train")))
    report = report if report and fabric.is_global_zero else Report()
    run = _Run(tileset_folder, tileset, output, config, fabric)
    if resume:
        run.restore()
    else:
        run.begin()
    with _interrupt_flag() as interrupted:
        while run.progress.epoch < config.train.epochs:
            run.train_epoch(report, interrupted)
            row = run.finish_epoch()
            report.epoch(row)
    return run.close()


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
    with report.noting(str(output)):
        if not resume:
            _check_output(output, tileset_folder, overwrite)
    with report.noting(str(tileset_folder)):
        tileset = tiles.load(tileset_folder)
        training = len(tileset.of("train"))
        if not training:
            raise InputError(f"{tileset_folder} has no training tiles")
        settings, network = config.train, _network(tileset, config)
        steps = len(Batches(training, settings.batch_size, settings.seed)) * settings.epochs
        target = choose(device)
        seconds = _time_two_tiles(network.to(target), tileset, config) / 2 * settings.batch_size
        parameters = sum(p.numel() for p in network.parameters())
        report.facts |= {
            "tiles": {split: len(tileset.of(split)) for split in SPLITS},
            "pixels": {split: tileset.pixels[split] for split in SPLITS if tileset.of(split)},
            "shared_ground_m2": tileset.shared_ground,
            "parameters": parameters,
            "steps": steps,
            "device": str(target),
            # Weights, gradients and the two moments of the optimiser, in two files.
            "estimate": {"seconds": float(f"{seconds * steps:.2g}"), "disk": parameters * 4 * 4},
        }
        if not tileset.of("validation"):
            message = "no validation tiles: the last epoch counts as the best"
            report.add(findings.Finding("warning", message, str(tileset_folder)))
    return report


def _time_two_tiles(network: CaFE, tileset: TileSet, config: Config) -> float:
    side = min(config.train.crop or tileset.size, tileset.size)
    shape = (2, side, side)
    device = network.optical_mean.device
    valid = torch.ones(shape, dtype=torch.bool, device=device)
    optical = torch.zeros(2, len(tileset.band_names), side, side, device=device)
    height = torch.zeros(2, 1, side, side, device=device)
    labels = torch.zeros(shape, dtype=torch.int64, device=device)
    losses = _Losses(network, config.train)
    elapsed = math.inf
    for _ in range(2):  # the first time is no measure
        start = time.perf_counter()
        batch = Sample(Inputs(optical, valid, height, valid), labels)
        losses(batch)["total"].backward()
        if device.type == "cuda":
            torch.cuda.synchronize()
        elapsed = min(elapsed, time.perf_counter() - start)
    return elapsed


class _Losses(nn.Module):
    """A training step as a module, the form in which several processes can share it."""

    def __init__(self, network: CaFE, settings: TrainSettings) -> None:
        super().__init__()
        self.network, self.settings = network, settings

    def forward(self, batch: Sample) -> dict[str, Tensor]:
        outputs = self.network.training_outputs(*batch.inputs, batch.labels)
        settings = self.settings
        return training_loss(outputs, batch.labels, settings.distill_weight, settings.dice)


class _Run:
    """A run's network, optimiser and place in time."""

    def __init__(
        self, folder: Path, tileset: TileSet, output: Path, config: Config, fabric: Fabric
    ) -> None:
        self.tileset, self.output, self.config, self.fabric = tileset, output, config, fabric
        self.classes: ClassTable = tileset.class_table
        self.progress = Progress()
        settings = config.train
        training, validation = tileset.of("train"), tileset.of("validation")
        if not training:
            raise InputError(f"{folder} has no training tiles")
        if not validation:
            log.warning("%s has no validation tiles: the last epoch counts as the best", folder)
        ranks = (fabric.global_rank, fabric.world_size)
        self.batches = Batches(len(training), settings.batch_size, settings.seed, *ranks)
        self.total = len(self.batches) * settings.epochs
        self.loader = self._loader(
            TileDataset(folder, tileset, "train", settings), self.batches, persistent=True
        )
        order = in_order(len(validation), settings.batch_size, *ranks)
        self.validation = self._loader(TileDataset(folder, tileset, "validation"), order)
        torch.manual_seed(settings.seed)
        self.network = _network(tileset, config)
        # The memory format in which convolutions are fastest, on CPUs and GPUs alike.
        self.network.to(memory_format=torch.channels_last)
        stepper = optimizer.build(self.network, settings)
        self.losses, self.optimizer = fabric.setup(_Losses(self.network, settings), stepper)

    def _loader(
        self, dataset: TileDataset, batches: Any, persistent: bool = False
    ) -> DataLoader[Sample]:
        workers = self.config.train.workers
        on_gpu = self.fabric.device.type == "cuda"
        if workers is None:
            # On a CPU the network needs the cores more than the reading does.
            workers = min(8, torch.get_num_threads()) if on_gpu else 0
        return DataLoader(
            dataset,
            batch_sampler=batches,
            num_workers=workers,
            pin_memory=on_gpu,
            persistent_workers=persistent and workers > 0,
            worker_init_fn=_ignore_interrupts,
        )

    def begin(self) -> None:
        """Start a new run in an empty folder; killed in its first epoch, it can be resumed too."""
        if self.fabric.is_global_zero:
            remove(self.output)
            try:
                self.output.mkdir(parents=True)
                write_text(self.output / "config.toml", settings_file.dump(self.config))
                self._save_last()
            except OSError as error:
                raise OutputError(f"cannot create {self.output}: {error.strerror}") from error
            except OutputError:
                remove(self.output)
                raise
        self.fabric.barrier()

    def restore(self) -> None:
        """Take up the state of the last checkpoint."""
        path = self.output / LAST
        if not path.exists():
            raise InputError(f"cannot resume: {self.output} holds no {LAST}")
        tensors, extra, values = checkpoint.load_training(path)
        try:
            self._check_settings(values["settings"])
            self.network.load_state_dict(tensors)
            optimizer.restore(self.optimizer, extra)
            self.progress = Progress(**values["progress"])
        except (AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
            raise ModelFileError(f"cannot resume: {path} is damaged: {error}") from error
        if self.fabric.is_global_zero and self.progress.history:
            # Killed right after the checkpoint was written, the run lacks the row of its epoch.
            self._write_history()

    def _check_settings(self, before: Mapping[str, Any]) -> None:
        now = _fixed_settings(self.config, self.tileset)
        if changed := [k for k in now if before.get(k) != now[k]]:
            key = changed[0]
            raise TrainingError(
                f"cannot resume {self.output}: {key} was {before.get(key)}, now it is {now[key]}; "
                "set it back, or start anew with --overwrite"
            )

    def train_epoch(self, report: Report, interrupted: Callable[[], bool]) -> None:
        """Go through the rest of the epoch under way."""
        progress = self.progress
        self.batches.epoch, self.batches.start = progress.epoch, progress.batch
        self.losses.train()
        self.started = time.monotonic()
        for batch in _drawn(self.loader):
            losses = self._step(self.fabric.to_device(batch))
            for name, value in losses.items():
                progress.sums[name] = progress.sums.get(name, 0.0) + value
            progress.batch += 1
            step = progress.epoch * len(self.batches) + progress.batch
            report.step(step, self.total, losses["loss"])
            if self._sum(torch.tensor(float(interrupted()))).item():
                self._save_last()
                self.fabric.barrier()
                raise StoppedError(
                    f"stopped at step {step} of {self.total}; go on with --resume -o {self.output}"
                )

    def _step(self, batch: Sample) -> dict[str, float]:
        settings = self.config.train
        step = self.progress.epoch * len(self.batches) + self.progress.batch
        torch.manual_seed(settings.seed * 1_000_003 + step)
        for group in self.optimizer.param_groups:
            group["lr"] = optimizer.learning_rate(step, self.total, settings)
        parts = self.losses(batch)
        total = parts.pop("total")
        values = self._sum(torch.stack([total, *parts.values()]).detach()) / self.fabric.world_size
        losses = dict(zip(["loss", *parts], values.tolist(), strict=True))
        if not math.isfinite(losses["loss"]):
            raise TrainingError(
                f"the loss is {losses['loss']} at step {step + 1}; lower train.learning_rate "
                f"(now {settings.learning_rate}) or use train.precision = '32-true'"
            )
        self.optimizer.zero_grad()
        self.fabric.backward(total)
        self.optimizer.step()
        return losses

    def _sum(self, values: Tensor) -> Tensor:
        """Add up what the processes have, so that all of them see the same."""
        summed = self.fabric.all_reduce(values.to(self.fabric.device), reduce_op="sum")
        return cast(Tensor, summed)

    def finish_epoch(self) -> Row:
        """Validate, write the history and save `last`, and `best` if it is."""
        progress = self.progress
        result = self._validate()
        step = (progress.epoch + 1) * len(self.batches)
        row: Row = {"epoch": progress.epoch + 1, "step": step}
        row["learning_rate"] = optimizer.learning_rate(step - 1, self.total, self.config.train)
        row |= {name: value / len(self.batches) for name, value in progress.sums.items()}
        row |= history.score_columns(result, self.classes)
        row["seconds"] = round(time.monotonic() - self.started, 2)
        progress.history.append(row)
        progress.epoch, progress.batch, progress.sums = progress.epoch + 1, 0, {}
        # Without a score the last epoch is the best, unless an earlier one had a score.
        score = math.nan if result is None else result.miou
        better = progress.best < 0 if math.isnan(score) else score > progress.best
        if not math.isnan(score):
            progress.best = max(score, progress.best)
        # `best` first: a run killed before `last` is written repeats the epoch, and `best` with it.
        if self.fabric.is_global_zero:
            if better:
                best = self.network.deployed()
                checkpoint.save(self.output / BEST, best, self._card(best, result))
                if result is not None:
                    write_text(self.output / SCORES, json.dumps(result.as_json(), indent=1))
            self._save_last(result)
            self._write_history()
        self.fabric.barrier()
        return row

    def _validate(self) -> Scores | None:
        if not self.tileset.of("validation"):
            return None
        confusion = Confusion(len(self.classes))
        # Not through the wrapper for several processes, which wants as many batches of each.
        network = self.network.eval()
        if self.fabric.world_size > 1:  # the running statistics that are saved are the first one's
            for buffer in network.buffers():
                torch.distributed.broadcast(buffer, 0)
        with torch.inference_mode(), self.fabric.autocast():
            for batch in _drawn(self.validation):
                inputs, labels = self.fabric.to_device(batch)
                predicted = network(*inputs).argmax(dim=1)
                confusion.add(labels.cpu().numpy(), predicted.cpu().numpy())
        confusion.counts = self._sum(torch.from_numpy(confusion.counts)).cpu().numpy()
        return scores(confusion, self.classes)

    def _card(self, network: CaFE, result: Scores | None) -> ModelCard:
        tileset = self.tileset
        return ModelCard(
            architecture=asdict(network.architecture),
            classes=tileset.classes,
            band_names=tileset.band_names,
            dtype=tileset.dtype,
            gsd=tileset.gsd,
            height=tileset.height,
            window=min(self.config.train.crop or tileset.size, tileset.size),
            epoch=self.progress.epoch,
            scores=result.as_json() if result else None,
            config=self.config.model_dump(mode="json", exclude_none=True, exclude={"root"}),
        )

    def _save_last(self, result: Scores | None = None) -> None:
        if not self.fabric.is_global_zero:
            return
        values = {
            "progress": asdict(self.progress),
            "settings": _fixed_settings(self.config, self.tileset),
        }
        state = optimizer.tensors(self.optimizer)
        card = self._card(self.network, result)
        checkpoint.save(self.output / LAST, self.network, card, (state, values))

    def _write_history(self) -> None:
        history.write(self.output, self.progress.history, self.classes)

    def close(self) -> ModelCard:
        """Return what is known of the best epoch."""
        return checkpoint.read_card(self.output / BEST)


def _check_output(output: Path, tileset: Path, overwrite: bool) -> None:
    """Refuse to write over what exists, and to delete what is not a run."""
    if (
        getattr(rank_zero_only, "rank", 0) or not output.exists()
    ):  # the first process creates it, maybe already
        return
    if not overwrite:
        raise OutputError(
            f"{output} exists; pass --resume to go on with it or --overwrite to replace it"
        )
    if tileset.resolve().is_relative_to(output.resolve()):
        raise OutputError(f"{output} holds the tile set {tileset}; name another folder")
    if not (output / "config.toml").exists():
        raise OutputError(
            f"{output} is not the folder of a run; remove it yourself or name another"
        )


def _fabric(device: str, settings: TrainSettings, training: int) -> Fabric:
    chosen = choose(device)
    several = chosen.index is None and settings.devices > 1
    if chosen.type == "cuda" and settings.devices > torch.cuda.device_count():
        raise ConfigError(
            f"train.devices is {settings.devices}, but {torch.cuda.device_count()} GPU(s) are there"
        )
    if several and (settings.batch_size % settings.devices or training < settings.devices):
        raise ConfigError(
            f"{training} training tiles in batches of {settings.batch_size} cannot be shared among "
            f"{settings.devices} devices: train.batch_size has to be a multiple of train.devices"
        )
    precision = settings.precision
    if precision == "auto":
        bf16 = chosen.type == "cuda" and torch.cuda.is_bf16_supported()
        precision = "bf16-mixed" if bf16 else "32-true"
    # A GPU that was asked for by number is the only one; otherwise the first ones are taken.
    devices = settings.devices if chosen.index is None else [chosen.index]
    # A static graph may have parts that no feature comes from, as some encoders do.
    strategy = DDPStrategy(static_graph=True) if several else "auto"
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    fabric = Fabric(
        accelerator=chosen.type, devices=devices, precision=precision, strategy=strategy
    )
    fabric.launch()
    return fabric


def _network(tileset: TileSet, config: Config) -> CaFE:
    settings = config.model
    crop = min(config.train.crop or tileset.size, tileset.size)
    architecture = Architecture(
        classes=len(tileset.classes),
        optical_bands=len(tileset.band_names),
        heights=tileset.has_height,
        attention=_attention(settings.attention, crop),
        **settings.model_dump(exclude={"weights", "attention"}),
    )
    network = CaFE(architecture, weights=settings.weights)
    optical, height = tileset.optical_statistics, tileset.height_statistics
    limits = (optical.low, optical.high) if optical.low and optical.high else None
    network.set_statistics(optical.mean, optical.std, height.mean[0], height.std[0], limits)
    return network


def _attention(asked: int | Literal["auto"], crop: int) -> int:
    """Return the neighbourhood of the attention in pixels; as a rule, all that training sees."""
    return -(-crop // 32) * 64 if asked == "auto" else asked


def _fixed_settings(config: Config, tileset: TileSet) -> dict[str, Any]:
    """Return what may not change between a run and its continuation."""
    sections = {"model": config.model, "train": config.train}
    fixed = {
        f"{section}.{key}": value
        for section, settings in sections.items()
        for key, value in settings.model_dump(mode="json").items()
        if (section, key) not in {("train", "workers"), ("model", "weights")}
    }
    digest = hashlib.sha256(tileset.model_dump_json().encode()).hexdigest()[:8]
    return fixed | {"the tile set (checksum of tileset.json)": digest}


def _ignore_interrupts(worker: int) -> None:
    """Leave Ctrl-C, which reaches every process, to the one that saves the state."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _drawn(loader: DataLoader[Sample]) -> Iterator[Sample]:
    """Iterate over batches; the error of a worker process is what its last line says."""
    try:
        yield from loader
    except CafeError as error:
        message = (
            str(error)
            .splitlines()[-1]
            .removeprefix(f"{type(error).__module__}.{type(error).__name__}: ")
        )
        raise type(error)(message) from error


@contextmanager
def _interrupt_flag() -> Iterator[Callable[[], bool]]:
    """Turn the first Ctrl-C into a flag that is looked at between steps; the second one stops."""
    asked = False

    def ask(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = True
        log.warning("stopping after this step; Ctrl-C again stops at once")

    try:
        before = signal.signal(signal.SIGINT, ask)
    except ValueError:  # not in the main thread: whoever called handles Ctrl-C
        yield lambda: False
        return
    try:
        yield lambda: asked
    finally:
        signal.signal(signal.SIGINT, before)
