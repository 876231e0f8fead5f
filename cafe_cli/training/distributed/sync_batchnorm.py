"""Synchronised batch normalisation: statistics over the tiles of all processes."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, cast

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.overrides import TorchFunctionMode


def sync_batch_norm(
    network: nn.Module, device: torch.device, world: int
) -> AbstractContextManager[object]:
    """Synchronise the batch statistics of a network among processes.

    On GPUs the BatchNorm layers are converted to torch's SyncBatchNorm in place. SyncBatchNorm does
    not support CPUs, where the context manager intercepts F.batch_norm instead.

    Returns
    -------
    context manager
        The forward passes of training have to run in it.
    """
    if world == 1:
        return nullcontext()
    if device.type == "cuda":
        from timm.layers.norm_act import convert_sync_batchnorm  # slow to import

        convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]
        return nullcontext()
    return _SyncBatchNormMode()


class _SyncBatchNormMode(TorchFunctionMode):
    """Replaces F.batch_norm in training by one that synchronises the statistics."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        shared = func is F.batch_norm and kwargs is not None and kwargs.get("training")
        return (_batch_norm if shared else func)(*args, **(kwargs or {}))


def _batch_norm(
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    *,
    weight: Tensor | None,
    bias: Tensor | None,
    momentum: float,
    eps: float,
    training: bool,
) -> Tensor:
    """Compute F.batch_norm of x (B, C, ...) with mean and variance over all processes."""
    axes = [axis for axis in range(x.ndim) if axis != 1]
    column = (1, -1, *[1] * (x.ndim - 2))
    values = x.float()
    count = values.new_full((1,), x.numel() / x.shape[1])
    sums, total = _sum(torch.cat([values.sum(axes), count])).tensor_split([x.shape[1]])
    mean = sums / total
    centred = values - mean.view(column)
    var = _sum(centred.square().sum(axes)) / total
    if running_mean is not None and running_var is not None:
        with torch.no_grad():
            running_mean.lerp_(mean, momentum)
            running_var.lerp_(var * total / (total - 1), momentum)
    y: Tensor = centred * (var + eps).rsqrt().view(column)
    if weight is not None and bias is not None:
        y = y * weight.view(column) + bias.view(column)
    return y.to(x.dtype)


class _AllReduceSum(torch.autograd.Function):
    """Sum tensors over the processes, and their gradients in the backward pass."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        total = values.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].clone()
        dist.all_reduce(total)
        return total


def _sum(values: Tensor) -> Tensor:
    return cast(Tensor, _AllReduceSum.apply(values))


@contextmanager
def batch_statistics(network: nn.Module) -> Iterator[None]:
    """Use the statistics of the batch in evaluation mode; leave the running ones as they are."""
    norms = [part for part in network.modules() if isinstance(part, _BatchNorm)]
    kept = [(norm.running_mean, norm.running_var) for norm in norms]
    for norm in norms:
        norm.running_mean = norm.running_var = None
    try:
        yield
    finally:
        for norm, (mean, var) in zip(norms, kept, strict=True):
            norm.running_mean, norm.running_var = mean, var
