"""Optimiser and learning rate, and the optimiser's state as plain tensors."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from cafe_cli.config import TrainSettings


def learning_rate(step: int, total: int, settings: TrainSettings) -> float:
    """Return the rate of a step: a linear rise over the warm-up, then a cosine to zero."""
    warmup = math.ceil(settings.warmup * total)
    if step < warmup:
        return settings.learning_rate * (step + 1) / warmup
    done = (step - warmup) / max(total - warmup, 1)
    return settings.learning_rate * 0.5 * (1 + math.cos(math.pi * done))


def build(network: nn.Module, settings: TrainSettings) -> torch.optim.Optimizer:
    """Build AdamW or SGD for a network."""
    # Biases and normalisation scales are not decayed: shrinking them regularises nothing.
    plain = [p for p in network.parameters() if p.ndim <= 1]
    decayed = [p for p in network.parameters() if p.ndim > 1]
    groups = [
        {"params": decayed, "weight_decay": settings.weight_decay},
        {"params": plain, "weight_decay": 0.0},
    ]
    if settings.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=settings.learning_rate, momentum=settings.momentum)
    return torch.optim.AdamW(groups, lr=settings.learning_rate, fused=True)


def tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return the state of every parameter, by the parameter's number and the state's name."""
    state = optimizer.state_dict()["state"]
    return {
        f"{index}/{name}": value
        for index, values in state.items()
        for name, value in values.items()
        if isinstance(value, Tensor)
    }


def restore(optimizer: torch.optim.Optimizer, stored: Mapping[str, Tensor]) -> None:
    """Put back what `tensors` returned."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in stored.items():
        index, name = key.split("/")
        state.setdefault(int(index), {})[name] = value
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for number, values in state.items():
        # In the memory format of the weights: in another one the sums are rounded otherwise.
        like = torch.empty_like(parameters[number], device="cpu")
        state[number] = {
            name: like.clone().copy_(value) if value.shape == like.shape else value
            for name, value in values.items()
        }
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})
