"""The plan of a training run: all checks before it begins, for the run and for its dry run."""

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from cafe_cli import findings
from cafe_cli.config.schema import Config
from cafe_cli.splits.assign import SPLITS
from cafe_cli.tilesets.tileset import TileSet, load_tileset
from cafe_cli.training import fine_tuning, preflight
from cafe_cli.training.batch_size import find_batch_size, seconds_per_tile
from cafe_cli.training.data.sampler import BatchSampler
from cafe_cli.training.distributed import processes
from cafe_cli.training.distributed.processes import ProcessPlan
from cafe_cli.training.state import resumed, with_batch_size

log = logging.getLogger("cafe")

LAST = "last.safetensors"


@dataclass(frozen=True)
class TrainPlan:
    """A training run that has passed the checks.

    Attributes
    ----------
    folder : Path
        Folder of the tile set.
    tileset : TileSet
    output : Path
        Folder of the run.
    config : Config
        On a resume, with the batch size of the run to continue; otherwise with the architecture of
        the model to start from, if there is one.
    processes : ProcessPlan
    resume : bool
    """

    folder: Path
    tileset: TileSet
    output: Path
    config: Config
    processes: ProcessPlan
    resume: bool

    @property
    def batch_size(self) -> int:
        """Tiles of a step on all devices together; `settle_batch_size` finds it."""
        size = self.config.train.batch_size
        if size == "auto":
            raise TypeError("the batch size has not been settled")
        return size

    @property
    def warnings(self) -> list[str]:
        """Warnings about settings and tiles that may make the result poor."""
        found = preflight.warnings(self.folder, self.tileset, self.config.train)
        return found if self.resume else found + fine_tuning.warnings(self.tileset, self.config)


def plan(
    tileset_folder: Path,
    output: Path,
    config: Config,
    *,
    device: str = "auto",
    resume: bool = False,
    overwrite: bool = False,
    capture_errors: Callable[[str], AbstractContextManager[object]] = nullcontext,
) -> TrainPlan:
    """Check a run before any process is started; other parameters as those of `train`.

    Parameters
    ----------
    capture_errors : callable
        Called with a path, returns the context of a check that no later check depends on. A dry
        run passes one that records the error and goes on.

    Raises
    ------
    CafeError
        See `train`.
    """
    if resume and preflight.is_unused(output):
        # A scheduler or torchrun starts the same command the first time and after a failure.
        log.info("%s holds no run to resume: training begins", output)
        resume = False
    with capture_errors(str(output)):
        # Rank 0 creates the folder, perhaps before another process gets here.
        if not resume and processes.is_first():
            preflight.check_output(output, tileset_folder, overwrite)
            preflight.check_weights(output, config)
    planned = processes.plan(device, config.train)
    tileset = load_tileset(tileset_folder)
    preflight.check_tiles(tileset_folder, tileset)
    preflight.check_patience(tileset, config.train)
    preflight.check_augmentation(tileset, config.augment)
    last = output / LAST
    config = resumed(last, config, tileset) if resume else fine_tuning.settle_model(config)
    preflight.check_shares(len(tileset.of("train")), config.train, planned.world)
    return TrainPlan(tileset_folder, tileset, output, config, planned, resume)


def settle_batch_size(
    planned: TrainPlan,
    device: torch.device,
    autocast: Callable[[], AbstractContextManager[object]],
    agree: Callable[[int], int] = int,
) -> TrainPlan:
    """Replace ``batch_size = "auto"`` by the size that fits; check that BatchNorm can work on it.

    Parameters
    ----------
    planned : TrainPlan
    device : torch.device
        Device of this process.
    autocast : callable
        Returns the autocast context of the forward pass.
    agree : callable
        Takes the batch size that fits on this process's device, and returns the one that fits on
        the devices of all processes.

    Raises
    ------
    ConfigError
        See `preflight.check_normalisation`.
    """
    tileset, config, world = planned.tileset, planned.config, planned.processes.world
    if config.train.batch_size == "auto":
        size = find_batch_size(tileset, config, device, autocast, world)
        config = with_batch_size(config, agree(size))
    preflight.check_normalisation(tileset, config.train, world)
    return replace(planned, config=config)


def dry_run(
    tileset_folder: Path,
    output: Path,
    config: Config,
    *,
    device: str = "auto",
    resume: bool = False,
    overwrite: bool = False,
) -> findings.Report:
    """Check everything that `train` checks; estimate time and disk space. Parameters as there.

    Nothing is trained: the time is estimated from forward and backward passes of two blank tiles.
    """
    report = findings.Report("train")
    with report.capture_errors(str(tileset_folder)):
        planned = plan(
            tileset_folder, output, config,
            device=device, resume=resume, overwrite=overwrite, capture_errors=report.capture_errors,
        )  # fmt: skip
        target = planned.processes.device
        autocast = processes.precision_of(planned.config.train, target).forward_context
        planned = settle_batch_size(planned, target, autocast)
        report.facts |= _facts(planned, target)
        for message in planned.warnings:
            report.add(findings.Finding("warning", message, str(tileset_folder)))
    return report


def _facts(planned: TrainPlan, device: torch.device) -> dict[str, object]:
    """Return the size of the run, with an estimate of its time in seconds and its bytes on disk."""
    tileset, config = planned.tileset, planned.config
    training = len(tileset.of("train"))
    size = min(planned.batch_size, training)
    steps = len(BatchSampler(training, size, 0)) * config.train.epochs
    begun = fine_tuning.build(tileset, config, resume=planned.resume)
    network = begun.network
    parameters = sum(p.numel() for p in network.parameters())
    seconds = seconds_per_tile(network.to(device), tileset, config) * size * steps
    return {
        "tiles": {split: len(tileset.of(split)) for split in SPLITS},
        "pixels": {split: tileset.pixels[split] for split in SPLITS if tileset.of(split)},
        "shared_ground_m2": tileset.shared_ground,
        **({"from_model": fine_tuning.describe(config, begun)} if begun.taken else {}),
        "parameters": parameters,
        "batch_size": size,
        "steps": steps,
        "device": str(device),
        "estimate": {
            "seconds": float(f"{seconds / planned.processes.world:.2g}"),
            # float32: weights in three files, in one of them also the two moments of the optimiser
            # and the average.
            "disk": parameters * 4 * (6 if config.train.average else 5),
        },
    }
