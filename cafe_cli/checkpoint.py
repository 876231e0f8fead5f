"""Model files: weights and what is needed to use them. Loading one cannot run code.

A model is a safetensors file. Its tensors are the network's state dict; a checkpoint that training
can go on from holds more of them under names that begin with ``training/``. Its metadata has two
JSON texts: ``cafe`` (`ModelCard`) and, in a checkpoint, ``training``.
"""

import dataclasses
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from cafe_cli import __version__
from cafe_cli.classes import ClassTable
from cafe_cli.config import HeightSettings
from cafe_cli.errors import ConfigError, ModelFileError
from cafe_cli.files import replacing
from cafe_cli.model import Architecture, CaFE

_TRAINING = "training/"
# Encoder names become constructor arguments in other libraries: no hub addresses, no paths.
_ENCODER = re.compile(r"[A-Za-z0-9_.+-]{1,64}")
_MAX_WIDTH = 4096


class ModelCard(BaseModel):
    """What travels with the weights.

    Attributes
    ----------
    architecture : dict
        Arguments of `cafe_cli.model.Architecture`.
    classes : list of dict
        The class table.
    band_names : tuple of str
        Optical bands in the order the network expects.
    dtype : str
        Data type of the optical rasters it was trained on.
    gsd : float
        Metres per pixel.
    height : HeightSettings
        How heights were brought to metres (above ground).
    window : int
        Side of the windows it was trained on, in pixels.
    scores : dict or None
        On the validation tiles.
    config : dict
        The settings of the training run.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal["cafe model 1"] = "cafe model 1"
    cafe_version: str = __version__
    torch_version: str = torch.__version__
    architecture: dict[str, Any]
    classes: list[dict[str, object]]
    band_names: tuple[str, ...]
    dtype: str
    gsd: float
    height: HeightSettings
    window: int
    epoch: int
    scores: dict[str, Any] | None
    config: dict[str, Any]

    @property
    def class_table(self) -> ClassTable:
        """The classes."""
        return ClassTable.from_json(self.classes)

    @property
    def has_height(self) -> bool:
        """Whether the network has a height stream."""
        return bool(self.architecture.get("heights", True))


def save(
    path: Path,
    model: CaFE,
    card: ModelCard,
    training: tuple[Mapping[str, Tensor], Mapping[str, Any]] | None = None,
) -> None:
    """Write a model file; with `training` (tensors, plain values) one to go on from."""
    tensors = {
        name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()
    }
    metadata = {"cafe": card.model_dump_json()}
    if training is not None:
        tensors |= {
            _TRAINING + name: t.detach().cpu().contiguous() for name, t in training[0].items()
        }
        metadata["training"] = json.dumps(training[1])
    with replacing(path) as beside:
        try:
            save_file(tensors, beside, metadata)
        except SafetensorError as error:
            raise OSError(28, str(error)) from error


def read_card(path: Path) -> ModelCard:
    """Read what travels with the weights, without the weights.

    Raises
    ------
    ModelFileError
        Not a model file, a damaged one, or one of another version.
    """
    return _card(path, _open(path).metadata() or {})


def load(path: Path) -> tuple[CaFE, ModelCard]:
    """Rebuild the network of a model file, in inference mode, on the CPU.

    Raises
    ------
    ModelFileError
        Not a model file, a damaged one, or weights that do not fit the network it describes.
    """
    file = _open(path)
    card = _card(path, file.metadata() or {})
    shapes = {
        name: tuple(file.get_slice(name).get_shape())
        for name in file.keys()  # noqa: SIM118
        if not name.startswith(_TRAINING)
    }
    # First without memory: a file cannot ask for more than the weights it brings.
    with torch.device("meta"):
        expected = {n: tuple(t.shape) for n, t in _build(path, card).state_dict().items()}
    if expected != shapes:
        missing, other = sorted(expected.keys() - shapes), sorted(shapes.keys() - expected)
        wrong = sorted(n for n in expected.keys() & shapes if expected[n] != shapes[n])
        raise ModelFileError(
            f"{path}: weights do not fit the network: {len(missing)} missing, "
            f"{len(other)} unknown, {len(wrong)} of another shape, "
            f"e.g. {[*missing, *other, *wrong][0]}"
        )
    model = _build(path, card)
    model.load_state_dict({name: file.get_tensor(name) for name in shapes})
    return model.eval(), card


def load_training(path: Path) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Any]]:
    """Read a checkpoint to go on from: network state, training tensors, plain values.

    Raises
    ------
    ModelFileError
        The file is damaged, or a model without the state of a training run.
    """
    file = _open(path)
    metadata = file.metadata() or {}
    _card(path, metadata)
    if "training" not in metadata:
        raise ModelFileError(f"{path} is a model to predict with, not a checkpoint to go on from")
    tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    own = {n: t for n, t in tensors.items() if not n.startswith(_TRAINING)}
    extra = {n.removeprefix(_TRAINING): t for n, t in tensors.items() if n.startswith(_TRAINING)}
    return own, extra, json.loads(metadata["training"])


def _open(path: Path) -> Any:
    if not path.is_file():
        raise ModelFileError(f"{path} does not exist")
    try:
        return safe_open(path, framework="pt", device="cpu")
    except (SafetensorError, OSError, ValueError) as error:
        raise ModelFileError(f"{path} is not a cafe model, or it is damaged: {error}") from error


def _card(path: Path, metadata: Mapping[str, str]) -> ModelCard:
    if "cafe" not in metadata:
        raise ModelFileError(f"{path} holds weights, but not those of a cafe model")
    try:
        card = ModelCard.model_validate_json(metadata["cafe"])
        _ = card.class_table
    except (ValidationError, ConfigError, KeyError, ValueError) as error:
        line = str(error).splitlines()[0]
        raise ModelFileError(f"{path}: its description cannot be used: {line}") from error
    return card


def _build(path: Path, card: ModelCard) -> CaFE:
    known = {f.name for f in dataclasses.fields(Architecture)}
    if unknown := sorted(set(card.architecture) - known):
        raise ModelFileError(f"{path}: unknown architecture setting {unknown[0]!r}")
    encoders = [card.architecture.get(k) or "" for k in ("optical_encoder", "height_encoder")]
    fits = all(isinstance(e, str) and (not e or _ENCODER.fullmatch(e)) for e in encoders)
    numbers = [card.architecture.get(k) for k in ("classes", "optical_bands", "width")]
    if not fits or not all(isinstance(n, int) and 0 < n <= _MAX_WIDTH for n in numbers):
        raise ModelFileError(f"{path}: architecture out of bounds: {card.architecture}")
    try:
        return CaFE(Architecture(**card.architecture), weights="none")
    except (ConfigError, ValueError, TypeError) as error:
        raise ModelFileError(f"{path}: cannot build its network: {error}") from error
