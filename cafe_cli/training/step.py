"""One step of training: forward, backward, and the optimiser's move."""

import gc
import math
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
from cafe_cli.training.activation_checkpointing import Context, recomputed
from cafe_cli.training.build import build_optimizer, learning_rate
from cafe_cli.training.distributed import sync_batchnorm
from cafe_cli.training.distributed.processes import Processes
from cafe_cli.training.losses import training_loss

_SEEDS = 1_000_003  # a prime: seeds of one run meet those of another late


class NotFiniteError(TrainingError):
    """The loss, or the norm of its gradient, is no number."""


class PendingStep(NamedTuple):
    """A step whose gradients a GPU may still be computing.

    Attributes
    ----------
    number : int
        From 0.
    losses : dict of str to Tensor
        Of this process's share.
    norm : Tensor
        Length of the gradient, 0 if any length goes.
    """

    number: int
    losses: dict[str, Tensor]
    norm: Tensor


class LossModule(nn.Module):
    """The network and its loss as one module, the form in which several processes share it.

    `within` is the context that the network is run in.
    """

    def __init__(
        self, network: CaFE, settings: TrainSettings, within: Context | None = None
    ) -> None:
        super().__init__()
        self.network, self.settings = network, settings
        self.within = within or nullcontext()

    def forward(self, batch: Sample) -> dict[str, Tensor]:
        """Return the parts of the loss by name, and their sum, "total"."""
        settings = self.settings
        twice = encoders(self.network) if settings.checkpointing else []
        with self.within, recomputed(twice, self.within):
            outputs = self.network.training_outputs(*batch.inputs, batch.labels)
        return training_loss(outputs, batch.labels, settings.distill_weight, settings.dice)


class Step:
    """The network, the optimiser, and how one moves the other.

    A step is the same whether the tiles of a batch are computed at once, one part after the other
    (`TrainSettings.accumulate`) or by several processes: each part counts by its labelled pixels.
    What remains: the heads of the pyramid, which see their own sample of the labels, are weighed by
    those of the finest; Dice is that of a part; and batch normalisation sees the parts that are
    computed at the same time.

    Parameters
    ----------
    network : CaFE
    settings : TrainSettings
    processes : Processes
    total : int
        Steps of the whole run.
    """

    def __init__(
        self, network: CaFE, settings: TrainSettings, processes: Processes, total: int
    ) -> None:
        self.network, self._settings, self._total = network, settings, total
        self._processes, self._fabric = processes, processes.fabric
        self._within = sync_batchnorm.share(network, self._fabric.device, processes.world)
        # The memory format in which convolutions are fastest, on CPUs and GPUs alike.
        network.to(self._fabric.device).to(memory_format=torch.channels_last)
        if settings.compile:
            compile_encoders(network)
        moved = self._fabric.setup_optimizers(build_optimizer(network, settings))
        self.optimizer = cast(torch.optim.Optimizer, moved)
        self._frozen: bool | None = None
        self._losses: Any = None

    def begin_epoch(self, epoch: int) -> None:
        """Get ready to train; `epoch` counts from 0."""
        frozen = epoch < self._settings.freeze_epochs
        if frozen != self._frozen:
            self._wrap(frozen)
        self._losses.train()
        for encoder in encoders(self.network):
            encoder.train(not frozen)

    def _wrap(self, frozen: bool) -> None:
        """Get the processes to share the gradients of what is to be trained."""
        self._frozen = frozen
        for encoder in encoders(self.network):
            encoder.requires_grad_(not frozen)
        del self._losses
        gc.collect()  # a wrapper leaves the network when it is deleted
        losses = LossModule(self.network, self._settings, self._within)
        self._losses, self._fresh = self._fabric.setup_module(losses), True

    def learning_rate(self, step: int) -> float:
        """Return the rate of a step."""
        return learning_rate(step, self._total, self._settings)

    def __call__(self, batch: Sample, step: int) -> dict[str, float]:
        """Take a step: `begin` and `end` it."""
        return self.end(self.begin(batch, step))

    def begin(self, batch: Sample, step: int) -> PendingStep:
        """Compute the gradients of a step, or have a GPU do so: whoever calls need not wait.

        Parameters
        ----------
        batch : Sample
            This process's share of the tiles, on its device.
        step : int
            From 0; dropout and the learning rate are functions of it.
        """
        seed = self._settings.seed * _SEEDS + step
        torch.manual_seed(seed + (self._processes.rank << 40))
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate(step)
        self.optimizer.zero_grad()
        return PendingStep(step, self._backward(batch), self._clip())

    def end(self, begun: PendingStep) -> dict[str, float]:
        """Wait for the gradients, and make the optimiser's move.

        Returns
        -------
        dict of str to float
            The loss and its parts, over the tiles of all processes.

        Raises
        ------
        NotFiniteError
            In all processes; the weights are as they were before.
        """
        found = self._processes.sum(torch.stack(list(begun.losses.values()))).tolist()
        losses = dict(zip(begun.losses, found, strict=True))
        loss, norm = losses.pop("total"), float(begun.norm)
        if not (math.isfinite(loss) and math.isfinite(norm)):
            what = "loss" if math.isfinite(norm) else "norm of the gradient"
            value = norm if math.isfinite(loss) else loss
            raise NotFiniteError(f"the {what} is {value} at step {begun.number + 1}")
        self.optimizer.step()
        return {"loss": loss, **losses}

    def _backward(self, batch: Sample) -> dict[str, Tensor]:
        parts = split(batch, self._settings.accumulate)
        pixels = torch.stack([(part.labels != NODATA).sum() for part in parts])
        everywhere = self._everywhere(pixels.sum()).clamp(min=1)
        sums: dict[str, Tensor] = {}
        for number, (part, share) in enumerate(zip(parts, pixels / everywhere, strict=True)):
            with self._apart(number + 1 < len(parts)):
                losses = self._losses(part)
                # Of several processes the mean gradient is taken, and the sum is wanted.
                self._fabric.backward(losses["total"] * (share * self._processes.world))
            self._fresh = False
            for name, value in losses.items():
                sums[name] = sums.get(name, 0) + value.detach() * share
        return sums

    def _apart(self, more: bool) -> AbstractContextManager[object]:
        """Let the processes add up gradients when there is no more to come in this step.

        The first time they have to, to learn which ones there are; no harm but the time comes of
        it.
        """
        return self._fabric.no_backward_sync(self._losses, enabled=more and not self._fresh)

    def _everywhere(self, pixels: Tensor) -> Tensor:
        """Add up labelled pixels over the processes, on their devices: the host need not wait."""
        if self._processes.world > 1:
            # Not by way of Fabric, where hosts wait for each other, and for their GPUs, before it.
            dist.all_reduce(pixels)
        return pixels

    def _clip(self) -> Tensor:
        """Shorten the gradient if it is too long; return how long it was, 0 if any length goes."""
        if not (limit := self._settings.clip):
            return torch.zeros(())
        return nn.utils.clip_grad_norm_(self.network.parameters(), limit)


def split(batch: Sample, parts: int) -> list[Sample]:
    """Cut a batch into parts whose numbers of tiles differ by one at most."""
    inputs = zip(*(tensor.tensor_split(parts) for tensor in batch.inputs), strict=True)
    labels = batch.labels.tensor_split(parts)
    return [Sample(Inputs(*i), part) for i, part in zip(inputs, labels, strict=True)]


def compile_encoders(network: CaFE) -> None:
    """Have torch compile the encoders when they are run first: minutes, for faster steps.

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
    """Return the encoders of a network: two, or one without heights."""
    names = ("optical_encoder", "height_encoder")
    return [getattr(network, name) for name in names if hasattr(network, name)]
