"""Exponential moving average (EMA) of the weights of a network in training."""

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from cafe_cli.model.cafe import CaFE


def build_average(network: CaFE, decay: float) -> AveragedModel:
    """Build the average of a network: `module` is a copy of it, which ``update_parameters`` moves.

    The running statistics of BatchNorm are averaged like the weights. The average of n networks
    keeps at most the share (1 + n) / (10 + n) of itself in an update, so that it does not carry the
    first weights along (as in TensorFlow's ExponentialMovingAverage).

    Parameters
    ----------
    network : CaFE
    decay : float
        Share of itself that the average keeps in an update, 0 to 1.
    """
    return AveragedModel(network, multi_avg_fn=partial(_update, decay), use_buffers=True)


@torch.no_grad()
def _update(
    decay: float, averaged: Sequence[Tensor], current: Sequence[Tensor], count: Tensor | int
) -> None:
    """Update tensors of one data type in place; `count` networks have been averaged before."""
    if averaged[0].is_floating_point():
        share = min(decay, (1 + int(count)) / (10 + int(count)))
        torch._foreach_lerp_(list(averaged), list(current), 1 - share)
    else:  # BatchNorm's count of batches
        torch._foreach_copy_(list(averaged), list(current))
