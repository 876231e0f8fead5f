"""One training step: forward, backward, and the optimiser's update."""

import gc
import math
from collections.abc import Collection, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

from cafe_cli.classes import NODATA
from cafe_cli.config.schema import TrainSettings
from cafe_cli.errors import ConfigError, TrainingError
from cafe_cli.model.cafe import CaFE
from cafe_cli.model.inputs import Inputs, Sample
from cafe_cli.training.activation_checkpointing import Context, checkpoint_blocks
from cafe_cli.training.averaging import build_average
from cafe_cli.training.build import (
    build_optimizer,
    learning_rate,
    optimizer_tensors,
    restore_optimizer,
)
from cafe_cli.training.distributed import sync_batchnorm
from cafe_cli.training.distributed.processes import Processes
from cafe_cli.training.losses import training_loss, without_borders

_AVERAGE = "average/"  # prefix of the tensors of the average in a checkpoint

_SEEDS = 1_000_003  # factor of a run's seed; runs of fewer steps share no seed of a step


class NotFiniteError(TrainingError):
    """The loss, or the norm of its gradient, is NaN or infinite."""


class PendingStep(NamedTuple):
    """A step whose backward pass may still be running on a GPU.

    Attributes
    ----------
    number : int
        Number of the step, from 0.
    losses : dict of str to Tensor
        Scalars: the contributions of this process's tiles to the loss and its parts.
    norm : Tensor
        Scalar, the norm of the gradient before clipping; 0 without clipping.
    """

    number: int
    losses: dict[str, Tensor]
    norm: Tensor


class LossModule(nn.Module):
    """The network and its loss as one module, which DistributedDataParallel can wrap.

    Parameters
    ----------
    network : CaFE
    settings : TrainSettings
    forward_context : context manager, optional
        Entered for each forward pass of the network.
    """

    def __init__(
        self, network: CaFE, settings: TrainSettings, forward_context: Context | None = None
    ) -> None:
        super().__init__()
        self.network, self.settings = network, settings
        self.forward_context = forward_context or nullcontext()

    def forward(self, batch: Sample) -> dict[str, Tensor]:
        """Return the parts of the loss by name, and their sum, "total"."""
        settings = self.settings
        checkpointed = encoders(self.network) if settings.checkpointing else []
        with self.forward_context, checkpoint_blocks(checkpointed, self.forward_context):
            outputs = self.network.training_outputs(*batch.inputs, batch.labels)
        return training_loss(
            outputs,
            batch.labels,
            settings.distill_weight,
            settings.dice,
            smoothing=settings.label_smoothing,
            stream_heads=settings.stream_heads,
            category_contrast=settings.category_contrast,
        )


class Step:
    """Computes gradients of batches and updates the weights.

    A step is the same whether a batch is computed at once, in parts one after the other (gradient
    accumulation, `TrainSettings.accumulate`) or by several processes: each part is weighted by its
    share of the labelled pixels. Three things differ: the coarse heads of the pyramid, which see a
    subsample of the labels, are weighted by the labelled pixels of the finest; Dice is computed per
    part; and BatchNorm statistics cover only the parts computed at the same time.

    Parameters
    ----------
    network : CaFE
    settings : TrainSettings
    processes : Processes
    total : int
        Steps of the whole run.
    pretrained : collection of str
        See `build_optimizer`.

    Attributes
    ----------
    average : AveragedModel or None
        Average of the weights after each step; None without averaging.
    """

    def __init__(
        self,
        network: CaFE,
        settings: TrainSettings,
        processes: Processes,
        total: int,
        pretrained: Collection[str] = (),
    ) -> None:
        self.network, self._settings, self._total = network, settings, total
        self._processes, self._fabric = processes, processes.fabric
        self._forward_context = sync_batchnorm.sync_batch_norm(
            network, self._fabric.device, processes.world
        )
        # The memory format in which convolutions are fastest, on CPUs and GPUs alike.
        network.to(self._fabric.device).to(memory_format=torch.channels_last)
        self.average = build_average(network, settings.average) if settings.average else None
        if settings.compile:
            compile_encoders(network)
        optimizer = self._fabric.setup_optimizers(build_optimizer(network, settings, pretrained))
        self.optimizer = cast(torch.optim.Optimizer, optimizer)
        self._frozen: bool | None = None
        self._loss_module: Any = None

    @property
    def result(self) -> CaFE:
        """The network to validate and to predict with: the average, if there is one."""
        return self.network if self.average is None else cast(CaFE, self.average.module)

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors that a checkpoint needs besides the network, by name."""
        found = optimizer_tensors(self.optimizer)
        if self.average is None:
            return found
        averaged = self.average.state_dict()
        return found | {_AVERAGE + name: value for name, value in averaged.items()}

    def restore(self, stored: Mapping[str, Tensor]) -> None:
        """Load what `tensors` returned.

        Raises
        ------
        LookupError, RuntimeError, ValueError
            The tensors do not fit.
        """
        averaged = {k.removeprefix(_AVERAGE): v for k, v in stored.items() if _is_average(k)}
        restore_optimizer(self.optimizer, {k: v for k, v in stored.items() if not _is_average(k)})
        if self.average is not None:
            self.average.load_state_dict(averaged)

    def begin_epoch(self, epoch: int) -> None:
        """Freeze or unfreeze the encoders, and set training mode; `epoch` counts from 0."""
        frozen = epoch < self._settings.freeze_epochs
        if frozen != self._frozen:
            self._wrap(frozen)
        self._loss_module.train()
        for encoder in encoders(self.network):
            encoder.train(not frozen)

    def _wrap(self, frozen: bool) -> None:
        """Freeze or unfreeze the encoders, then wrap the network in DistributedDataParallel."""
        self._frozen = frozen
        for encoder in encoders(self.network):
            encoder.requires_grad_(not frozen)
        del self._loss_module
        gc.collect()  # DistributedDataParallel removes its hooks when it is deleted
        losses = LossModule(self.network, self._settings, self._forward_context)
        self._loss_module, self._never_synced = self._fabric.setup_module(losses), True

    def learning_rate(self, step: int) -> float:
        """Return the learning rate of a step, for what starts from random weights."""
        return learning_rate(step, self._total, self._settings)

    def __call__(self, batch: Sample, step: int) -> dict[str, float]:
        """Take a step: call `backward` and `update`."""
        return self.update(self.backward(batch, step))

    def backward(self, batch: Sample, step: int) -> PendingStep:
        """Start the backward pass of a step; on a GPU this returns before it has finished.

        Parameters
        ----------
        batch : Sample
            This process's share of the tiles, on its device.
        step : int
            Number of the step, from 0, which determines dropout and the learning rate.
        """
        seed = self._settings.seed * _SEEDS + step
        torch.manual_seed(seed + (self._processes.rank << 40))
        for group in self.optimizer.param_groups:
            group["lr"] = group["factor"] * self.learning_rate(step)
        self.optimizer.zero_grad()
        return PendingStep(step, self._accumulate_gradients(batch), self._clip())

    def update(self, pending: PendingStep) -> dict[str, float]:
        """Wait for the gradients and update the weights.

        Returns
        -------
        dict of str to float
            The loss and its parts, over the tiles of all processes.

        Raises
        ------
        NotFiniteError
            The loss or the norm of the gradient is not finite; raised in all processes. The weights
            are unchanged.
        """
        found = self._processes.sum(torch.stack(list(pending.losses.values()))).tolist()
        losses = dict(zip(pending.losses, found, strict=True))
        loss, norm = losses.pop("total"), float(pending.norm)
        if not (math.isfinite(loss) and math.isfinite(norm)):
            what = "loss" if math.isfinite(norm) else "norm of the gradient"
            value = norm if math.isfinite(loss) else loss
            raise NotFiniteError(f"the {what} is {value} at step {pending.number + 1}")
        self.optimizer.step()
        if self.average is not None:
            self.average.update_parameters(self.network)
        return {"loss": loss, **losses}

    def _accumulate_gradients(self, batch: Sample) -> dict[str, Tensor]:
        labels = without_borders(batch.labels, self._settings.ignore_border)
        parts = split_batch(Sample(batch.inputs, labels), self._settings.accumulate)
        pixels = torch.stack([(part.labels != NODATA).sum() for part in parts])
        everywhere = self._all_reduce(pixels.sum()).clamp(min=1)
        sums: dict[str, Tensor] = {}
        for number, (part, share) in enumerate(zip(parts, pixels / everywhere, strict=True)):
            with self._no_sync(number + 1 < len(parts)):
                losses = self._loss_module(part)
                # DistributedDataParallel averages the gradients; times `world`, that is their sum.
                self._fabric.backward(losses["total"] * (share * self._processes.world))
            self._never_synced = False
            for name, value in losses.items():
                sums[name] = sums.get(name, 0) + value.detach() * share
        return sums

    def _no_sync(self, more_parts: bool) -> AbstractContextManager[object]:
        """Skip the all-reduce of gradients (no_sync) while more parts of the step are to come.

        The first backward pass must not skip it: with a static graph, that is where
        DistributedDataParallel learns which parameters get gradients.
        """
        enabled = more_parts and not self._never_synced
        return self._fabric.no_backward_sync(self._loss_module, enabled=enabled)

    def _all_reduce(self, pixels: Tensor) -> Tensor:
        """Sum labelled pixels over the processes on their devices, without blocking the host."""
        if self._processes.world > 1:
            # Fabric.all_reduce has a barrier first, at which hosts wait for their GPUs.
            dist.all_reduce(pixels)
        return pixels

    def _clip(self) -> Tensor:
        """Clip the gradient norm; return the norm before clipping, or 0 without clipping."""
        if not (limit := self._settings.clip):
            return torch.zeros(())
        return nn.utils.clip_grad_norm_(self.network.parameters(), limit)


def _is_average(name: str) -> bool:
    return name.startswith(_AVERAGE)


def split_batch(batch: Sample, parts: int) -> list[Sample]:
    """Split a batch into parts whose numbers of tiles differ by one at most."""
    inputs = zip(*(tensor.tensor_split(parts) for tensor in batch.inputs), strict=True)
    labels = batch.labels.tensor_split(parts)
    return [Sample(Inputs(*i), part) for i, part in zip(inputs, labels, strict=True)]


def compile_encoders(network: CaFE) -> None:
    """Set up torch.compile for the encoders; compiling takes minutes in their first forward pass.

    Raises
    ------
    ConfigError
        There is no compiler on this machine.
    """
    try:
        torch.compile(torch.square)(torch.ones(2, device=network.optical_mean.device))
    except RuntimeError as error:
        reason = str(error).partition("\n")[0]
        raise ConfigError(
            f"train.compile needs a working compiler ({reason}): install one, such as g++, or "
            "leave train.compile out"
        ) from error
    for encoder in encoders(network):
        encoder.compile()


def encoders(network: CaFE) -> list[nn.Module]:
    """Return the encoders of a network: optical and, if it takes heights, height."""
    names = ("optical_encoder", "height_encoder")
    return [getattr(network, name) for name in names if hasattr(network, name)]
