"""Encoders of segmentation-models-pytorch for any number of bands, and their weights.

Encoders have the names of that library (``tu-`` marks encoders of timm); their last four features
have strides 4, 8, 16 and 32. Weights are downloaded or read from a local file, without running code
of the file.
"""

import pickle
import re
from collections.abc import Sequence
from pathlib import Path

import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from segmentation_models_pytorch.encoders import get_encoder, get_encoder_names
from torch import Tensor, nn

from cafe_cli.config.schema import STRIDE
from cafe_cli.errors import ConfigError, ModelFileError
from cafe_cli.text import closest, first_line

STRIDES = (4, 8, 16, STRIDE)
"""Input pixels per feature pixel, level by level."""

# torch.load unpickles any file, and unpickling arbitrary bytes raises any of these.
_DAMAGED = (
    AttributeError, EOFError, LookupError, RuntimeError, TypeError, ValueError,
    pickle.UnpicklingError, SafetensorError,
)  # fmt: skip


def build_encoder(name: str, bands: int, weights: str) -> nn.Module:
    """Build an encoder for a number of bands, with weights as in `CaFE`.

    Raises
    ------
    ConfigError
        No encoder has that name, or the encoder has no such weights.
    ModelFileError
        The weights cannot be downloaded or read, or belong to another encoder.
    """
    universal = name.startswith("tu-")  # encoders of timm, whose names include the weights
    known = [*get_encoder_names(), *(f"tu-{model}" for model in timm.list_models())]
    if (name.partition(".")[0] if universal else name) not in known:
        near = ", ".join(closest(name, known, 3)) or "resnet18, tu-convnext_atto"
        raise ConfigError(f"no encoder is named {name!r}: did you mean one of {near}?")
    download: str | bool | None = None
    if weights != "none" and not is_file(weights):
        download = True if universal else weights
    try:
        encoder: nn.Module = get_encoder(name, in_channels=bands, weights=download)
    except (OSError, SafetensorError) as error:
        raise ModelFileError(
            f"weights {weights!r} of encoder {name!r} could not be downloaded "
            f'({first_line(error)}): use weights = "none" or the path of a local file'
        ) from error
    except (KeyError, RuntimeError, ValueError) as error:
        raise ConfigError(
            f"encoder {name!r} with weights {weights!r}: {first_line(error)}"
        ) from error
    if is_file(weights):
        load_weights(encoder, Path(weights).expanduser())
    return encoder


def feature_channels(encoder: nn.Module, name: str, bands: int) -> list[int]:
    """Run an encoder once: return the channels of its features at strides 4, 8, 16 and 32.

    Raises
    ------
    ConfigError
        The encoder takes only images of a fixed size, or its features have other strides.
    """
    height, width = 64, 96  # neither square nor a usual input size
    try:
        with torch.no_grad():
            features = encoder.eval()(torch.zeros(1, bands, height, width))[-4:]
    except (AssertionError, RuntimeError, ValueError) as error:
        raise ConfigError(
            f"encoder {name!r} does not take windows of any size ({first_line(error)}): "
            "choose a convolutional one such as resnet50 or tu-convnext_tiny"
        ) from error
    encoder.train()
    if [f.shape[-2:] for f in features] != [(height // s, width // s) for s in STRIDES]:
        strides = ", ".join(f"{height / f.shape[-2]:g}" for f in features)
        raise ConfigError(f"encoder {name!r} has features at strides {strides}, not 4, 8, 16, 32")
    return [f.shape[1] for f in features]


def is_file(weights: str) -> bool:
    """Return whether weights are a file, not a name to download."""
    return Path(weights).suffix in {".safetensors", ".pth", ".pt"}


def load_weights(encoder: nn.Module, path: Path) -> None:
    """Load a state dict for 3 bands (of smp, torchvision or timm) into an encoder for any number.

    Parts that the encoder does not have, such as a classifier, are skipped.

    Raises
    ------
    ModelFileError
        The file cannot be read, or belongs to another encoder.
    """
    file = read_weights(path)
    stored = {canonical(key): value for key, value in file.items()}
    state = encoder.state_dict()
    fitted = {
        key: fit_bands(stored[canonical(key)], own.shape)
        for key, own in state.items()
        if canonical(key) in stored
    }
    needed = [key for key in state if not key.endswith("num_batches_tracked")]
    missing = [k for k in needed if k not in fitted or fitted[k].shape != state[k].shape]
    known, parts = {canonical(key) for key in state}, {part(key) for key in state}
    unexpected = [key for key in file if canonical(key) not in known and part(key) in parts]
    if missing or unexpected:
        raise ModelFileError(
            f"{path} is of another encoder: {len(missing)} of {len(needed)} tensors are missing or "
            f"have another shape, {len(unexpected)} are unexpected "
            f"(first: {(missing + unexpected)[0]!r})"
        )
    for key, value in fitted.items():
        state[key].copy_(value)


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read a state dict without running code from the file."""
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise ModelFileError(f"weights {path} cannot be read: {error.strerror or error}") from error
    except _DAMAGED as error:
        raise ModelFileError(
            f"weights {path} are damaged, or no state dict in a file of torch or safetensors: "
            f"{first_line(error)}"
        ) from error
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise ModelFileError(f"weights {path}: the file does not hold a state dict (name: tensor)")
    return state


def fit_bands(weight: Tensor, shape: Sequence[int]) -> Tensor:
    """Repeat a kernel for 3 bands over the bands of `shape`, scaled to keep its sum over bands."""
    if weight.ndim != 4 or weight.shape[1] != 3 or len(shape) != 4 or shape[1] == 3:
        return weight
    bands = shape[1]
    if bands == 1:
        return weight.sum(dim=1, keepdim=True)
    return weight[:, [band % 3 for band in range(bands)]] * (3 / bands)


def canonical(key: str) -> str:
    """Return a tensor's name without the wrapper prefixes of smp and timm.

    ``stages.0.conv.weight`` of a timm file is ``model.stages_0.conv.weight`` in the encoder.
    """
    return re.sub(r"^(model\.)+", "", key).replace(".", "_")


def part(key: str) -> str:
    """Return the top module that a tensor belongs to: ``stages`` in the example above."""
    return re.sub(r"^(model\.)+|(_\d+)?\..*$", "", key)
