"""The processes of a training run, one per device, through Lightning Fabric.

Fabric's launcher starts them (``--devices 2``), or torchrun or srun does, whose environment then
says how many there are. All of them take the same steps; the first one logs and writes files. An
error in one process has to end all: expected errors are exchanged, see `Processes.sync_errors`.
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

_PEER_LOST = (
    "another process of this run has ended, and so does this one; what it said, if it could, is "
    "above; go on with --resume"
)


class Launcher(NamedTuple):
    """The launcher that started this process, and how many it started on each of how many nodes."""

    name: str
    devices: int
    nodes: int


@dataclass(frozen=True)
class Processes:
    """The processes of a run, seen from this one.

    Attributes
    ----------
    fabric : Fabric
    control : ProcessGroup or None
        A gloo group for small messages on the CPU; None for a single process.
    spawned : bool
        Whether Fabric's launcher in the first process of this machine started this one.
    """

    fabric: Fabric
    control: dist.ProcessGroup | None = None
    spawned: bool = False

    @property
    def rank(self) -> int:
        """Rank of this process among all, from 0."""
        return self.fabric.global_rank

    @property
    def world(self) -> int:
        """Number of processes, on all nodes."""
        return self.fabric.world_size

    @property
    def first(self) -> bool:
        """Whether this is the process that logs and writes files: rank 0."""
        return self.rank == 0

    def sum(self, values: Tensor) -> Tensor:
        """Return the sum of the processes' tensors, on the CPU (all-reduce)."""
        values = values.cpu()
        if self.control is not None:
            dist.all_reduce(values, group=self.control)
        return values

    def min(self, value: int) -> int:
        """Return the smallest of the processes' numbers."""
        return -self.max(-value)

    def max(self, value: int) -> int:
        """Return the largest of the processes' numbers."""
        found = torch.tensor(value)
        if self.control is not None:
            dist.all_reduce(found, dist.ReduceOp.MAX, group=self.control)
        return int(found)

    def gather(self, words: list[str]) -> list[str]:
        """Return the concatenated lists of all processes, by rank (all-gather)."""
        if self.control is None:
            return words
        found: list[list[str]] = [[]] * self.world
        dist.all_gather_object(found, words, group=self.control)
        return [word for words in found for word in words]

    @contextmanager
    def sync_errors(self) -> Iterator[None]:
        """End all processes if one of them raises a `CafeError` in this context.

        All processes have to enter it. The first one raises the error, whichever process it comes
        from; the others exit silently.
        """
        if self.control is None:
            yield
            return
        failure: CafeError | None = None
        try:
            yield
        except CafeError as error:
            failure = error
        if not self.max(int(failure is not None)):
            return
        errors: list[CafeError | None] = [None] * self.world
        dist.all_gather_object(errors, failure, group=self.control)
        raise self.ending(next(error for error in errors if error is not None)) from failure

    @contextmanager
    def translate_peer_loss(self) -> Iterator[None]:
        """Translate torch's errors about a lost process; log errors that were not exchanged."""
        try:
            yield
        except RuntimeError as error:
            if self.control is None or not _is_peer_loss(error):
                raise
            raise self.ending(TrainingError(_PEER_LOST)) from error
        except CafeError as error:
            if not self.first:
                log.error("process %d: %s", self.rank, error)
            raise

    def ending(self, error: CafeError) -> BaseException:
        """Return what to raise for an error that all processes know of.

        That is the error itself in the first process, which reports it, and SystemExit in others.
        """
        if self.first:
            return error
        # Fabric's launcher sends SIGKILL to all processes, its own too, once one that it started
        # exits with another code than 0: the first process could not finish its message.
        return SystemExit(0 if self.spawned else error.exit_code)


def _is_peer_loss(error: RuntimeError) -> bool:
    # NCCL and the store raise subclasses of DistError. gloo raises a plain RuntimeError, which
    # tells only by the path of its source file, gloo/transport/..., in the message.
    return isinstance(error, dist.DistError) or "gloo/" in str(error)


class ProcessPlan(NamedTuple):
    """The device of a run, its processes per node, and its nodes."""

    device: torch.device
    devices: int
    nodes: int

    @property
    def world(self) -> int:
        """Number of processes, on all nodes."""
        return self.devices * self.nodes


def plan(device: str, settings: TrainSettings) -> ProcessPlan:
    """Return the processes that the settings, or a launcher, ask for.

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
    devices, nodes = _count(settings, detect_launcher())
    _check(chosen, devices, nodes)
    return ProcessPlan(chosen, devices, nodes)


def launch(planned: ProcessPlan, settings: TrainSettings) -> Processes:
    """Start the other processes of a run, or connect to those that torchrun or srun has started."""
    chosen, devices, nodes = planned
    several = planned.world > 1
    spawned = several and detect_launcher() is None and os.environ.get("LOCAL_RANK", "0") != "0"
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    fabric = Fabric(
        accelerator=chosen.type,
        # A GPU given by number is the only one; otherwise the first ones are taken.
        devices=devices if chosen.index is None else [chosen.index],
        num_nodes=nodes,
        plugins=precision_of(settings, chosen),
        # Some encoders have parameters that get no gradient, which a static graph permits.
        strategy=DDPStrategy(static_graph=True) if several else "auto",
    )
    fabric.launch()
    if chosen.type == "cuda":
        # All crops have one size, for which cuDNN tries out the fastest convolutions once.
        torch.backends.cudnn.benchmark = True
    if spawned:
        _exit_with_parent()
    control = cast(dist.ProcessGroup, dist.new_group(backend="gloo")) if several else None
    return Processes(fabric, control, spawned)


def detect_launcher() -> Launcher | None:
    """Return the launcher that started this process, torchrun or srun; None if neither did.

    Raises
    ------
    ConfigError
        A job script of SLURM that has several tasks, but starts one without srun.
    """
    environment = os.environ
    if TorchElasticEnvironment.detect():
        world, local = (int(environment[k]) for k in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"))
        return Launcher("torchrun", local, world // local)
    if SLURMEnvironment.detect():
        nodes = int(environment.get("SLURM_NNODES", 1))
        tasks = int(environment["SLURM_NTASKS"])
        if tasks > 1 and "SLURM_STEP_ID" not in environment:
            raise ConfigError(
                f"the SLURM job has {tasks} tasks, but one process was started: begin the command "
                "with srun"
            )
        return Launcher("srun", tasks // nodes, nodes)
    return None


def _count(settings: TrainSettings, found: Launcher | None) -> tuple[int, int]:
    """Return (devices per node, nodes) of the launcher, or of the settings without one."""
    if found is None:
        return settings.devices or 1, settings.num_nodes or 1
    for name, asked, started in (
        ("devices", settings.devices, found.devices),
        ("num_nodes", settings.num_nodes, found.nodes),
    ):
        if asked not in (None, started):
            raise ConfigError(
                f"train.{name} is {asked}, but {found.name} started {found.devices} "
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
    if nodes > 1 and detect_launcher() is None and (missing := set(needed) - set(os.environ)):
        raise ConfigError(
            f"train.num_nodes is {nodes}: start the command on each node with {', '.join(needed)} "
            f"in its environment ({', '.join(sorted(missing))} is missing), or with torchrun or "
            "srun, which set them"
        )


class _Mixed(MixedPrecision):
    """Mixed precision that leaves the inputs, pixel values and metres, in float32.

    Fabric's own converts them to bf16 before the network subtracts their means: 420.3 m to 420 m.
    """

    def convert_input(self, data: Any) -> Any:
        return data


def precision_of(settings: TrainSettings, device: torch.device) -> Precision:
    """Return Fabric's precision plugin; its `forward_context` is the autocast of forward passes."""
    mixed = settings.precision == "bf16-mixed"
    if settings.precision == "auto":
        mixed = has_native_bf16(device)
    return _Mixed("bf16-mixed", device.type) if mixed else Precision()


def _exit_with_parent() -> None:
    """Exit when the process that started this one is gone.

    Fabric's launcher ends all processes when one that it started fails, but nothing ends those if
    the launching process itself is killed: they would wait in a collective until its timeout.
    """
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True, name="parent").start()


# Set by torchrun; by srun; and by Fabric's launcher, or by whoever starts it on each node.
_NAMES = ("RANK", "SLURM_PROCID", "NODE_RANK", "LOCAL_RANK")


def is_first() -> bool:
    """Tell from the environment, before `launch`, whether this process has rank 0."""
    return all(os.environ.get(name, "0") == "0" for name in _NAMES)
