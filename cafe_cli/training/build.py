"""Build the network, the optimiser and the learning rate schedule of a training run."""

import math
from collections.abc import Collection, Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from cafe_cli.config.schema import FROM_MODEL, STRIDE, Config, TrainSettings
from cafe_cli.model.architecture import Architecture
from cafe_cli.model.cafe import CaFE
from cafe_cli.tilesets.tileset import TileSet
from cafe_cli.training.data.augment import crop_side


def build_network(tileset: TileSet, config: Config, pretrained: bool = True) -> CaFE:
    """Build the network of a run on the CPU, normalised by the statistics of its tiles.

    All weights are random unless `pretrained`, and those of encoders that a model to start from
    gives, which `cafe_cli.training.fine_tuning.build` copies.

    Raises
    ------
    ConfigError, ModelFileError
        See `CaFE`.
    """
    settings = config.model
    architecture = Architecture(
        classes=len(tileset.classes),
        optical_bands=len(tileset.band_names),
        heights=tileset.has_height,
        height_planes=tileset.height.planes,
        height_encoder=None if settings.height_encoder == "same" else settings.height_encoder,
        attention=_attention(settings.attention, crop_side(config.train, tileset.size)),
        stream_heads=config.train.stream_heads > 0,
        **settings.model_dump(exclude={"weights", "height_encoder", "height_weights", "attention"}),
    )
    initial = settings.initial_weights if pretrained else ("none", "none")
    weights = ("none" if name == FROM_MODEL else name for name in initial)
    network = CaFE(architecture, *weights)
    optical, height = tileset.optical_statistics, tileset.height_statistics
    limits = (optical.low, optical.high) if optical.low and optical.high else None
    pixels = tileset.pixels["train"]
    counts = [float(pixels.get(name, 0)) for name in tileset.classes.names]
    network.set_prior(counts, config.train.logit_adjustment)
    network.set_statistics(optical.mean, optical.std, height.mean, height.std, limits)
    return network


def _attention(asked: int | Literal["auto"], crop: int) -> int:
    """Return the neighbourhood of the attention in pixels; by default it covers a whole crop."""
    return -(-crop // STRIDE) * 2 * STRIDE if asked == "auto" else asked


def learning_rate(step: int, total: int, settings: TrainSettings) -> float:
    """Return the learning rate of a step: linear warm-up, then cosine decay to zero."""
    warmup = math.ceil(settings.warmup * total)
    if step < warmup:
        return settings.learning_rate * (step + 1) / warmup
    done = (step - warmup) / max(total - warmup, 1)
    return settings.learning_rate * 0.5 * (1 + math.cos(math.pi * done))


def build_optimizer(
    network: nn.Module, settings: TrainSettings, pretrained: Collection[str] = ()
) -> torch.optim.Optimizer:
    """Build AdamW or SGD for a network.

    Parameters
    ----------
    network : nn.Module
    settings : TrainSettings
    pretrained : collection of str
        Names of the submodules that train at `TrainSettings.encoder_learning_rate`.

    Returns
    -------
    Optimizer
        The entry "factor" of its parameter groups is a factor on the learning rate.
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in network.named_parameters():
        factor = settings.encoder_learning_rate if name.partition(".")[0] in pretrained else 1.0
        # No weight decay for biases and the scales of normalisation layers.
        decay = settings.weight_decay if parameter.ndim > 1 else 0.0
        groups.setdefault((factor, decay), []).append(parameter)
    described = [
        {"params": parameters, "weight_decay": decay, "factor": factor}
        for (factor, decay), parameters in groups.items()
    ]
    if settings.optimizer == "sgd":
        return torch.optim.SGD(described, lr=settings.learning_rate, momentum=settings.momentum)
    return torch.optim.AdamW(described, lr=settings.learning_rate, fused=True)


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return the state tensors of an optimiser, named ``<number of the parameter>/<name>``."""
    state = optimizer.state_dict()["state"]
    return {
        f"{index}/{name}": value
        for index, values in state.items()
        for name, value in values.items()
        if isinstance(value, Tensor)
    }


def restore_optimizer(optimizer: torch.optim.Optimizer, stored: Mapping[str, Tensor]) -> None:
    """Load the tensors that `optimizer_tensors` returned into an optimiser."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in stored.items():
        index, name = key.split("/")
        state.setdefault(int(index), {})[name] = value
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for number, values in state.items():
        # Sums round as before the interruption only in the memory format of the weights.
        like = torch.empty_like(parameters[number], device="cpu")
        state[number] = {
            name: like.clone().copy_(value) if value.shape == like.shape else value
            for name, value in values.items()
        }
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})
