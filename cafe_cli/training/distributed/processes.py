"""The processes of a training run, one per device, through Lightning Fabric.

Fabric's launcher starts the processes (``--devices 2``), or torchrun or srun does and sets their
number in the environment. All processes take the same steps; rank 0 logs and writes files. An error
in one process has to end all of them: `Processes.sync_errors` exchanges expected errors.
"""

import logging
import os
import threading
import time
import warnings
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
    "another process of this run has ended, so this one ends too; its message, if any, is above; "
    "continue with --resume"
)


class Launcher(NamedTuple):
    """The launcher that started this process, its processes per node, and its nodes."""

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
        """Return the smallest of the processes' numbers (all-reduce)."""
        return -self.max(-value)

    def max(self, value: int) -> int:
        """Return the largest of the processes' numbers (all-reduce)."""
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

        All processes have to enter the context. Rank 0 raises the error, whichever process it comes
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
        """Return the exception to raise for an error that all processes have received.

        Rank 0 raises the error itself and so reports it; the others raise SystemExit.
        """
        if self.first:
            return error
        # Once a process that Fabric's launcher started exits with a code other than 0, the launcher
        # sends SIGKILL to all, itself included: rank 0 could not finish its message.
        return SystemExit(0 if self.spawned else error.exit_code)


def _is_peer_loss(error: RuntimeError) -> bool:
    # NCCL and the store raise subclasses of DistError. gloo raises a plain RuntimeError, which only
    # the path of its source file in the message, gloo/transport/..., identifies.
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
        Only `devices` and `num_nodes` are used.

    Raises
    ------
    ConfigError
        The device does not exist, or a launcher has started another number of processes.
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
    _warn_about_restarts()
    with _without_srun_hint():
        fabric = Fabric(
            accelerator=chosen.type,
            # cuda:N selects that GPU alone; otherwise the first `devices` GPUs are used.
            devices=devices if chosen.index is None else [chosen.index],
            num_nodes=nodes,
            plugins=precision_of(settings, chosen),
            # A static graph permits parameters without a gradient, which some encoders have.
            strategy=DDPStrategy(static_graph=True) if several else "auto",
        )
    fabric.launch()
    if chosen.type == "cuda":
        # All crops have one size, so cuDNN searches for the fastest convolutions only once.
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
        A SLURM job has several tasks, but its script started one process without srun, or does not
        say how many run on a node.
    """
    environment = os.environ
    if TorchElasticEnvironment.detect():
        world, local = (int(environment[k]) for k in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"))
        return Launcher("torchrun", local, world // local)
    with _without_srun_hint():
        in_slurm = SLURMEnvironment.detect()
    if in_slurm:
        nodes = int(environment.get("SLURM_NNODES", 1))
        tasks = int(environment["SLURM_NTASKS"])
        if tasks > 1 and "SLURM_STEP_ID" not in environment:
            raise ConfigError(
                f"the SLURM job has {tasks} tasks, but one process was started: begin the command "
                "with srun"
            )
        if tasks > 1 and "SLURM_NTASKS_PER_NODE" not in environment:
            raise ConfigError(
                f"the SLURM job has {tasks} tasks, but does not say how many run on a node: add "
                f"--ntasks-per-node, e.g. srun --nodes {nodes} --ntasks-per-node "
                f"{max(tasks // nodes, 1)}"
            )
        return Launcher("srun", tasks // nodes, nodes)
    return None


def _warn_about_restarts() -> None:
    """Warn where processes that torchrun starts again could not connect.

    The store in which they exchange addresses then still holds those of the processes before them:
    https://github.com/pytorch/pytorch/issues/135712.
    """
    restarts = os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0") != "0"
    if restarts and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
        log.warning(
            "torchrun will not succeed in restarting this run: begin with "
            "TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 torchrun --rdzv-backend c10d"
        )


@contextmanager
def _without_srun_hint() -> Iterator[None]:
    """Leave out Fabric's advice to begin with srun, given wherever SLURM is installed.

    A job of several tasks without srun is an error of `detect_launcher`.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The `srun` command is available")
        yield


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
            f"{device} is one GPU, but the run has {devices * nodes} processes: use --device "
            "cuda, or CUDA_VISIBLE_DEVICES to choose some"
        )
    if device.type == "cuda" and devices > (there := torch.cuda.device_count()):
        raise ConfigError(f"train.devices is {devices}, but {there} GPU(s) were found")
    needed = ("NODE_RANK", "MASTER_ADDR", "MASTER_PORT")
    if nodes > 1 and detect_launcher() is None and (missing := set(needed) - set(os.environ)):
        raise ConfigError(
            f"train.num_nodes is {nodes}: start the command on each node with {', '.join(needed)} "
            f"in its environment ({', '.join(sorted(missing))} is missing), or with torchrun or "
            "srun, which set them"
        )


class _Mixed(MixedPrecision):
    """Mixed precision that leaves the inputs, pixel values and metres, in float32.

    Fabric's own plugin converts them to bf16 before the network subtracts their means, which turns
    420.3 m into 420 m.
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

    Fabric's launcher ends all processes when one that it started fails. If the launching process
    itself is killed, the others would wait in a collective operation until its timeout.
    """
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True, name="parent").start()


# Set by torchrun (RANK), by srun (SLURM_PROCID), by the user on each node (NODE_RANK) and by
# Fabric's launcher (LOCAL_RANK).
_NAMES = ("RANK", "SLURM_PROCID", "NODE_RANK", "LOCAL_RANK")


def is_first() -> bool:
    """Tell from the environment, before `launch`, whether this process has rank 0."""
    if TorchElasticEnvironment.detect():  # srun, which may have started torchrun, counts otherwise
        return os.environ["RANK"] == "0"
    return all(os.environ.get(name, "0") == "0" for name in _NAMES)
