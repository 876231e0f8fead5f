"""The processes of a training run, one per device, through Lightning Fabric.

They are started by us (``--devices 2``), or by torchrun or srun, whose environment then says how
many there are. All of them take the same steps; the first one speaks and writes. What goes wrong in
one of them has to end all: errors that are expected are exchanged, see `Processes.sync_errors`.
"""

import logging
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import torch
import torch.distributed as dist
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments.slurm import SLURMEnvironment
from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning_fabric.plugins.precision import MixedPrecision, Precision
from lightning_fabric.strategies.ddp import DDPStrategy
from torch import Tensor

from cafe_cli.config.schema import TrainSettings
from cafe_cli.errors import CafeError, ConfigError, TrainingError
from cafe_cli.model.device import choose_device, has_native_bf16

log = logging.getLogger("cafe")

_LOST = ("Connection closed", "Connection reset", "Broken pipe", "gloo", "NCCL")
_ALONE = (
    "another process of this run has ended, and so does this one; what it said, if it could, is "
    "above; go on with --resume"
)


class Launched(NamedTuple):
    """What a launcher has started: so many processes on each of so many nodes."""

    launcher: str
    devices: int
    nodes: int


@dataclass(frozen=True)
class Processes:
    """The processes of a run, of which this one is one."""

    fabric: Fabric
    control: dist.ProcessGroup | None = None
    """For small messages, without the GPUs; None for a single process."""
    helper: bool = False
    """Whether the first process of this machine started this one."""

    @property
    def rank(self) -> int:
        """Number of this process."""
        return self.fabric.global_rank

    @property
    def world(self) -> int:
        """How many there are."""
        return self.fabric.world_size

    @property
    def first(self) -> bool:
        """Whether this is the one that speaks and writes."""
        return self.rank == 0

    def sum(self, values: Tensor) -> Tensor:
        """Add up what the processes have, on the CPU, so that all of them see the same."""
        values = values.cpu()
        if self.control is not None:
            dist.all_reduce(values, group=self.control)
        return values

    def largest(self, value: int) -> int:
        """Return the largest of the processes' numbers."""
        found = torch.tensor(value)
        if self.control is not None:
            dist.all_reduce(found, dist.ReduceOp.MAX, group=self.control)
        return int(found)

    def gather(self, words: list[str]) -> list[str]:
        """Join the lists of all processes, in their order."""
        if self.control is None:
            return words
        found: list[list[str]] = [[]] * self.world
        dist.all_gather_object(found, words, group=self.control)
        return [word for words in found for word in words]

    @contextmanager
    def sync_errors(self) -> Iterator[None]:
        """Let a `CafeError` of one process end them all; all have to come here alike.

        The first process raises the error, whose ever it is; the others end without a word.
        """
        if self.control is None:
            yield
            return
        failure: CafeError | None = None
        try:
            yield
        except CafeError as error:
            failure = error
        if not self.largest(int(failure is not None)):
            return
        errors: list[CafeError | None] = [None] * self.world
        dist.all_gather_object(errors, failure, group=self.control)
        raise self.ending(next(error for error in errors if error is not None)) from failure

    @contextmanager
    def translate_peer_loss(self) -> Iterator[None]:
        """Speak of errors that could not be exchanged, and of other processes that are gone."""
        try:
            yield
        except RuntimeError as error:
            if self.control is None or not any(word in str(error) for word in _LOST):
                raise
            raise self.ending(TrainingError(_ALONE)) from error
        except CafeError as error:
            if not self.first:
                log.error("process %d: %s", self.rank, error)
            raise

    def ending(self, error: CafeError) -> BaseException:
        """Return what this process ends with, after an error that all know and the first tells."""
        if self.first:
            return error
        # Whoever started helpers kills all when one of them fails, itself too: in mid-sentence.
        return SystemExit(0 if self.helper else error.exit_code)


class ProcessPlan(NamedTuple):
    """Which processes a run will have."""

    device: torch.device
    devices: int
    nodes: int

    @property
    def world(self) -> int:
        """How many."""
        return self.devices * self.nodes


def plan(device: str, settings: TrainSettings) -> ProcessPlan:
    """Say which processes settings, or a launcher, ask for.

    Parameters
    ----------
    device : str
        ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
    settings : TrainSettings
        `devices` and `num_nodes` count.

    Raises
    ------
    ConfigError
        A device that is not there, or another number of processes than a launcher has started.
    """
    chosen = choose_device(device)
    devices, nodes = _count(settings, launched())
    _check(chosen, devices, nodes)
    return ProcessPlan(chosen, devices, nodes)


def launch(planned: ProcessPlan, settings: TrainSettings) -> Processes:
    """Start the processes of a run, or join those that torchrun or srun has started."""
    chosen, devices, nodes = planned
    several = planned.world > 1
    helper = several and launched() is None and os.environ.get("LOCAL_RANK", "0") != "0"
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    fabric = Fabric(
        accelerator=chosen.type,
        # A GPU that was asked for by number is the only one; otherwise the first ones are taken.
        devices=devices if chosen.index is None else [chosen.index],
        num_nodes=nodes,
        plugins=precision_of(settings, chosen),
        # A static graph may have parts that no feature comes from, as some encoders do.
        strategy=DDPStrategy(static_graph=True) if several else "auto",
    )
    fabric.launch()
    if chosen.type == "cuda":
        # Crops all have one size, and it pays to try out which convolutions are fastest at it.
        torch.backends.cudnn.benchmark = True
    if helper:
        _end_with_parent()
    control = cast(dist.ProcessGroup, dist.new_group(backend="gloo")) if several else None
    return Processes(fabric, control, helper)


def launched() -> Launched | None:
    """Return what torchrun or srun has started, None if neither has started this process.

    Raises
    ------
    ConfigError
        A job script of SLURM that has several tasks, but starts one without srun.
    """
    environment = os.environ
    if TorchElasticEnvironment.detect():
        world, local = (int(environment[k]) for k in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"))
        return Launched("torchrun", local, world // local)
    if SLURMEnvironment.detect():
        nodes = int(environment.get("SLURM_NNODES", 1))
        tasks = int(environment["SLURM_NTASKS"])
        if tasks > 1 and "SLURM_STEP_ID" not in environment:
            raise ConfigError(
                f"the SLURM job has {tasks} tasks, but one process was started: begin the command "
                "with srun"
            )
        return Launched("srun", tasks // nodes, nodes)
    return None


def _count(settings: TrainSettings, found: Launched | None) -> tuple[int, int]:
    """Return devices per node and nodes: those of the launcher, or those of the settings."""
    if found is None:
        return settings.devices or 1, settings.num_nodes or 1
    for name, asked, started in (
        ("devices", settings.devices, found.devices),
        ("num_nodes", settings.num_nodes, found.nodes),
    ):
        if asked not in (None, started):
            raise ConfigError(
                f"train.{name} is {asked}, but {found.launcher} started {found.devices} "
                f"process(es) on each of {found.nodes} node(s): leave it out, or start as many"
            )
    return found.devices, found.nodes


def _check(device: torch.device, devices: int, nodes: int) -> None:
    if device.index is not None and devices * nodes > 1:
        raise ConfigError(
            f"{device} is one GPU, but there are to be {devices * nodes} processes: use --device "
            "cuda, or CUDA_VISIBLE_DEVICES to choose some"
        )
    if device.type == "cuda" and devices > (there := torch.cuda.device_count()):
        raise ConfigError(f"train.devices is {devices}, but {there} GPU(s) are there")
    needed = ("NODE_RANK", "MASTER_ADDR", "MASTER_PORT")
    if nodes > 1 and launched() is None and (missing := set(needed) - set(os.environ)):
        raise ConfigError(
            f"train.num_nodes is {nodes}: start the command on each node with {', '.join(needed)} "
            f"in its environment ({', '.join(sorted(missing))} is missing), or with torchrun or "
            "srun, which set them"
        )


class _Mixed(MixedPrecision):
    """bf16 where autocast takes it, but not for the inputs: pixel values, and metres.

    Fabric would round them to 8 bits before the network takes their means away: 420.3 m to 420.
    """

    def convert_input(self, data: Any) -> Any:
        return data


def precision_of(settings: TrainSettings, device: torch.device) -> Precision:
    """Return in what a network computes; its `forward_context` is what it has to run in."""
    mixed = settings.precision == "bf16-mixed"
    if settings.precision == "auto":
        mixed = has_native_bf16(device)
    return _Mixed("bf16-mixed", device.type) if mixed else Precision()


def _end_with_parent() -> None:
    """End this process when the one that started it is gone, whatever it waits for."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True, name="parent").start()


# Of torchrun; of srun; of a node, and on it, where a process starts the others.
_NAMES = ("RANK", "SLURM_PROCID", "NODE_RANK", "LOCAL_RANK")


def is_first() -> bool:
    """Tell whether this process is the only one of a training run, or the one that speaks."""
    return all(os.environ.get(name, "0") == "0" for name in _NAMES)
