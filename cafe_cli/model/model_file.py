"""Model files: weights and their metadata. Loading a file cannot run code.

A model is a safetensors file. Its tensors are the network's state dict. A checkpoint of training is
a model file with more tensors, whose names begin with ``training/``. The metadata has two JSON
texts: ``cafe`` (a `ModelCard`) and, in a checkpoint, ``training``.
"""

import dataclasses
import errno
import hashlib
import json
import os
import re
import reprlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PlainSerializer,
    PlainValidator,
    ValidationError,
)
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.overrides import TorchFunctionMode

from cafe_cli import __version__
from cafe_cli.classes import ClassTableField
from cafe_cli.config.schema import HeightSettings
from cafe_cli.config.types import GroundSamplingDistance, Name, PixelType, Window
from cafe_cli.errors import ConfigError, ModelFileError, OutputError
from cafe_cli.model.cafe import Architecture, CaFE
from cafe_cli.model.calibration import Calibration
from cafe_cli.model.distribution import PixelDistribution
from cafe_cli.system.atomic_write import remove, replace_atomically
from cafe_cli.system.untrusted import check_file, parse_json

_TRAINING = "training/"
# Encoder names are passed to other libraries: hub addresses and paths are not allowed.
_ENCODER = re.compile(r"[A-Za-z0-9_.+-]{1,64}")
_MAX_WIDTH = 4096

_Kind = Literal["float", "int", "bool"]
_STORED_AS: Mapping[_Kind, tuple[str, ...]] = {
    "float": ("F16", "BF16", "F32", "F64"), "int": ("I", "U"), "bool": ("BOOL",),
}  # fmt: skip
"""Names of the data types in a safetensors file."""


def _parse_architecture(value: Any) -> Architecture:
    """Validate an untrusted architecture: no hub addresses or paths, no unbounded memory."""
    if isinstance(value, Architecture):
        return value
    if not isinstance(value, dict):
        raise ValueError("input should be an object")
    known = {field.name for field in dataclasses.fields(Architecture)}
    if unknown := sorted(set(value) - known):
        raise ValueError(f"unknown architecture setting {reprlib.repr(unknown[0])}")
    for key in ("optical_encoder", "height_encoder"):
        name = value.get(key)
        if name is None and key == "height_encoder":
            continue
        if not isinstance(name, str) or not _ENCODER.fullmatch(name):
            raise ValueError(f"{key} {reprlib.repr(name)} is not the name of an encoder")
    for key in ("classes", "optical_bands", "width"):
        number = value.get(key)
        if not isinstance(number, int) or not 0 < number <= _MAX_WIDTH:
            raise ValueError(f"{key} is {reprlib.repr(number)}: it has to be 1 to {_MAX_WIDTH}")
    try:
        return Architecture(**value)
    except (ConfigError, TypeError) as error:
        raise ValueError(str(error)) from error


class ModelCard(BaseModel):
    """The description that travels with the weights.

    In the file it is JSON: the architecture as an object of its arguments, the class table as
    `ClassTable.as_json` returns it. Parsing checks both.

    Attributes
    ----------
    architecture : Architecture
        Architecture of the network.
    classes : ClassTable
        The classes that the network tells apart.
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
    epoch : int
        Epochs of training behind the weights.
    scores : dict or None
        Scores on the validation tiles as `cafe_cli.evaluation.metrics.Scores.as_json` returns them:
        plain values, since this package lies below `evaluation`.
    config : dict
        The settings of the training run.
    training_pixels : PixelDistribution or None
        Colours and heights of the training tiles; None in files of the format "cafe model 2".
    calibration : Calibration or None
        The temperature in the weights; None without validation tiles, and in older files.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal["cafe model 2", "cafe model 3"] = "cafe model 3"
    cafe_version: str = __version__
    torch_version: str = torch.__version__
    architecture: Annotated[
        Architecture, PlainValidator(_parse_architecture), PlainSerializer(dataclasses.asdict)
    ]
    classes: ClassTableField
    band_names: tuple[Name, ...]
    dtype: PixelType
    gsd: GroundSamplingDistance
    height: HeightSettings
    window: Window
    epoch: Annotated[int, Field(ge=0)]
    scores: dict[str, Any] | None
    config: dict[str, Any]
    training_pixels: PixelDistribution | None = None
    calibration: Calibration | None = None

    @property
    def has_height(self) -> bool:
        """Whether the network has a height stream."""
        return self.architecture.heights


def save(
    path: Path,
    model: CaFE,
    card: ModelCard,
    training: tuple[Mapping[str, Tensor], Mapping[str, Any]] | None = None,
) -> None:
    """Write a model file, or a checkpoint if `training` (tensors, plain values) is given."""
    tensors = {
        name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()
    }
    metadata = {"cafe": card.model_dump_json()}
    if training is not None:
        tensors |= {
            _TRAINING + name: t.detach().cpu().contiguous() for name, t in training[0].items()
        }
        metadata["training"] = json.dumps(training[1])
    with replace_atomically(path) as temporary:
        _write(tensors, metadata, path, temporary)


def _write(
    tensors: Mapping[str, Tensor], metadata: dict[str, str], path: Path, temporary: Path
) -> None:
    """Write the file `temporary`; errors name it `path`.

    safetensors writes a temporary file into the same folder, readable by its owner only, and leaves
    it there if the process is killed. It therefore writes into a folder that the next run removes.
    """
    folder = temporary.with_suffix("")
    try:
        folder.mkdir(exist_ok=True)
        rights = folder.stat().st_mode & 0o666
        save_file(dict(tensors), folder / temporary.name, metadata)
        (folder / temporary.name).chmod(rights)
        (folder / temporary.name).replace(temporary)
    except SafetensorError as error:
        number = re.search(r"os error (\d+)", str(error))
        reason = os.strerror(int(number[1]) if number else errno.EIO)
        raise OutputError(f"cannot write {path}: {reason}") from error
    finally:
        remove(folder)


def read_card(path: Path) -> ModelCard:
    """Read the card of a model file, without the weights.

    Raises
    ------
    ModelFileError
        The file is not a model file, is damaged, or has another version.
    """
    return _card(path, _open(path).metadata() or {})


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def load(path: Path) -> tuple[CaFE, ModelCard]:
    """Rebuild the network of a model file, in inference mode, on the CPU.

    Raises
    ------
    ModelFileError
        As `read_card`, or the weights do not fit the network that the card describes.
    """
    file = _open(path)
    card = _card(path, file.metadata() or {})
    shapes = {
        name: tuple(file.get_slice(name).get_shape())
        for name in file.keys()  # noqa: SIM118
        if not name.startswith(_TRAINING)
    }
    # On the meta device first, so that a file cannot allocate more memory than its weights take.
    with torch.device("meta"), _LinspaceOnCpu():
        expected = {n: tuple(t.shape) for n, t in _build(path, card).state_dict().items()}
    if expected != shapes:
        missing, other = sorted(expected.keys() - shapes), sorted(shapes.keys() - expected)
        wrong = sorted(n for n in expected.keys() & shapes if expected[n] != shapes[n])
        raise ModelFileError(
            f"{path}: weights do not fit the network: {len(missing)} missing, "
            f"{len(other)} unknown, {len(wrong)} of another shape, "
            f"e.g. {reprlib.repr([*missing, *other, *wrong][0])}"
        )
    model = _build(path, card)
    tensors = _read_tensors(path, file, {n: t.dtype for n, t in model.state_dict().items()})
    model.load_state_dict(tensors)
    check_finite(path, model.state_dict())  # float64 may have become infinite as float32
    return model.eval(), card


def load_training(path: Path) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Any]]:
    """Read a checkpoint: state dict of the network, training tensors, plain values.

    Raises
    ------
    ModelFileError
        The file is damaged, or is not a checkpoint.
    """
    file = _open(path)
    values = _values(path, file)
    tensors = _read_tensors(path, file, {})
    check_finite(path, tensors)
    own = {n: t for n, t in tensors.items() if not n.startswith(_TRAINING)}
    extra = {n.removeprefix(_TRAINING): t for n, t in tensors.items() if n.startswith(_TRAINING)}
    return own, extra, values


def read_training(path: Path) -> dict[str, Any]:
    """Read the plain values of a checkpoint, without its tensors; errors as `load_training`."""
    return _values(path, _open(path))


def _values(path: Path, file: Any) -> dict[str, Any]:
    metadata = file.metadata() or {}
    _card(path, metadata)
    if "training" not in metadata:
        raise ModelFileError(f"{path} is a model to predict with, not a checkpoint to go on from")
    try:
        return dict(parse_json(metadata["training"]))
    except (TypeError, ValueError) as error:
        raise ModelFileError(f"{path}: its state of training is damaged: {error}") from error


def check_finite(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Refuse weights that are NaN or infinite: every label would be the first class.

    Raises
    ------
    ModelFileError
        The message names the first such tensor.
    """
    wrong = [n for n, t in tensors.items() if t.is_floating_point() and not t.isfinite().all()]
    if wrong:
        count = int((~tensors[wrong[0]].isfinite()).sum())
        raise ModelFileError(
            f"{path}: {count:,} of {tensors[wrong[0]].numel():,} values of {_shown(wrong[0])} are "
            f"NaN or infinite, and so are values of {len(wrong) - 1} other tensors: the file is "
            "damaged, or its training failed; use another model, or train again with a lower "
            "train.learning_rate"
        )


def _read_tensors(path: Path, file: Any, expected: Mapping[str, torch.dtype]) -> dict[str, Tensor]:
    """Read the tensors named in `expected`, all if it is empty, whose types must be convertible.

    Weights are floating point numbers of any precision, counters are integers.
    """
    names = expected or file.keys()
    stored = {name: file.get_slice(name).get_dtype() for name in names}
    for name, dtype in expected.items():
        if not stored[name].startswith(_STORED_AS[_kind(dtype)]):
            raise ModelFileError(
                f"{path}: {_shown(name)} is stored as {stored[name]} where the network has "
                f"{str(dtype).removeprefix('torch.')}: the file is damaged, or a program has "
                "converted it; use the file that cafe train wrote"
            )
    try:
        return {name: file.get_tensor(name) for name in names}
    except (AttributeError, KeyError, RuntimeError, SafetensorError, TypeError) as error:
        raise ModelFileError(f"{path}: a tensor cannot be read: {error}") from error


def _kind(dtype: torch.dtype) -> _Kind:
    if dtype.is_floating_point:
        return "float"
    return "bool" if dtype == torch.bool else "int"


def _shown(name: str) -> str:
    return reprlib.repr(name)


class _LinspaceOnCpu(TorchFunctionMode):
    """Compute `torch.linspace` on the CPU, since encoders read drop path rates from its values."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if func is torch.linspace:
            kwargs = {**(kwargs or {}), "device": "cpu"}
        return func(*args, **(kwargs or {}))


def _open(path: Path) -> Any:
    check_file(str(path))
    if path.is_dir():
        raise ModelFileError(f"{path} is a folder; name the model in it, e.g. best.safetensors")
    if not path.exists():
        raise ModelFileError(f"{path} does not exist")
    try:
        return safe_open(path, framework="pt", device="cpu")
    except (SafetensorError, OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ModelFileError(f"{path} is not a cafe model, or it is damaged: {reason}") from error


def _card(path: Path, metadata: Mapping[str, str]) -> ModelCard:
    if "cafe" not in metadata:
        raise ModelFileError(
            f"{path} holds weights, but not those of a cafe model; weights of an encoder go to "
            "cafe train --weights"
        )
    try:
        card = ModelCard.model_validate_json(metadata["cafe"])
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "metadata"
        raise ModelFileError(
            f"{path}: its description cannot be used: {where}: "
            f"{first['msg'].removeprefix('Value error, ')}; it is damaged, or of another version "
            f"of cafe (this is {__version__})"
        ) from error
    network, classes = card.architecture, len(card.classes)
    if (network.classes, network.optical_bands) != (classes, len(card.band_names)):
        raise ModelFileError(
            f"{path}: a network of {network.classes} classes and {network.optical_bands} bands is "
            f"described with {classes} classes and {len(card.band_names)} bands"
        )
    return card


def _build(path: Path, card: ModelCard) -> CaFE:
    try:
        return CaFE(card.architecture, weights="none")
    except (ConfigError, ValueError, TypeError) as error:
        raise ModelFileError(f"{path}: cannot build its network: {error}") from error
