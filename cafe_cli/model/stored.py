"""What a model file says about itself, read without torch: its card, size and statistics.

A model is a safetensors file, which `cafe train` writes, or an ONNX file, which `cafe export` makes
of it. Reading either cannot run code.
"""

import hashlib
import math
import reprlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from safetensors import SafetensorError, safe_open

from cafe_cli.errors import ModelFileError
from cafe_cli.model import onnx_file
from cafe_cli.model.card import ModelCard, parse_card
from cafe_cli.system.untrusted import check_file

TRAINING = "training/"
"""Prefix of the tensors of a checkpoint that are not the network's."""

SUFFIXES = (".safetensors", ".onnx")
"""How model files are named."""

_BUFFERS = ("running_mean", "running_var", "num_batches_tracked")
_STATISTICS = ("optical_mean", "optical_std", "height_mean", "height_std")
_LIMITS = ("optical_low", "optical_high")


@dataclass(frozen=True)
class StoredModel:
    """A model file, of which only the header was read.

    Attributes
    ----------
    path : Path
    card : ModelCard
    parameters : int
        Number of weights that were trained.
    statistics : mapping
        ``optical_mean``, ``optical_std``, ``height_mean`` and ``height_std``, which standardise the
        inputs, as lists of numbers; empty for an ONNX file.
    """

    path: Path
    card: ModelCard
    parameters: int
    statistics: Mapping[str, list[float]]

    @property
    def is_onnx(self) -> bool:
        """Whether the file is an ONNX file."""
        return onnx_file.is_onnx(self.path)


def read_model(path: Path) -> StoredModel:
    """Read what a model file says about itself.

    Raises
    ------
    ModelFileError
        The file is not a model file, is damaged, or has another version.
    """
    if onnx_file.is_onnx(path):
        check_model_path(path)
        card, parameters = onnx_file.read_header(path)
        return StoredModel(path, card, parameters, {})
    file = open_safetensors(path, "np")
    card = parse_card(path, file.metadata() or {})
    shapes = {name: file.get_slice(name).get_shape() for name in _own(file)}
    parameters = sum(math.prod(shape) for name, shape in shapes.items() if not _is_buffer(name))
    known = [name for name in _STATISTICS if name in shapes]
    try:
        statistics = {name: file.get_tensor(name).astype(float).tolist() for name in known}
    except (AttributeError, SafetensorError, TypeError, ValueError):
        statistics = {}  # of a type that numpy lacks
    return StoredModel(path, card, parameters, statistics)


def read_card(path: Path) -> ModelCard:
    """Read what a model file says of its model; torch is not needed.

    Parameters
    ----------
    path : Path
        A model in safetensors or ONNX.

    Raises
    ------
    ModelFileError
        The file is not a model file, is damaged, or has another version.
    """
    return read_model(path).card


def check_weights(path: Path) -> None:
    """Refuse a safetensors file with weights that are NaN or infinite.

    Raises
    ------
    ModelFileError
        The message names the first such tensor.
    """
    file = open_safetensors(path, "np")
    wrong: dict[str, tuple[int, int]] = {}
    for name in _own(file):
        try:
            values = file.get_tensor(name)
        except (AttributeError, SafetensorError, TypeError):  # bfloat16
            continue
        if values.dtype.kind == "f" and (count := int((~np.isfinite(values)).sum())):
            wrong[name] = count, values.size
    if wrong:
        raise nonfinite_error(path, wrong)


def nonfinite_error(path: Path, wrong: Mapping[str, tuple[int, int]]) -> ModelFileError:
    """Return the error for NaN or infinite weights: how many values of which tensors."""
    name, (count, size) = next(iter(wrong.items()))
    return ModelFileError(
        f"{path}: {count:,} of {size:,} values of {reprlib.repr(name)} are NaN or infinite, and so "
        f"are values of {len(wrong) - 1} other tensors: the file is damaged, or its training "
        "failed; use another model, or train again with a lower train.learning_rate"
    )


def open_safetensors(path: Path, framework: Literal["np", "pt"]) -> Any:
    """Open a safetensors file for reading as arrays of numpy or tensors of torch.

    Raises
    ------
    ModelFileError
        It is missing, a folder, of another format or damaged.
    """
    check_model_path(path)
    try:
        return safe_open(path, framework=framework, device="cpu")
    except (SafetensorError, OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ModelFileError(f"{path} is not a cafe model, or it is damaged: {reason}") from error


def check_model_path(path: Path) -> None:
    """Refuse what is no file.

    Raises
    ------
    ModelFileError
        The file is missing, or a folder.
    """
    check_file(str(path))
    if path.is_dir():
        raise ModelFileError(f"{path} is a folder; name the model in it, e.g. best.safetensors")
    if not path.exists():
        raise ModelFileError(f"{path} does not exist")


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _own(file: Any) -> Iterator[str]:
    """Yield the names of the network's tensors."""
    return (name for name in file.keys() if not name.startswith(TRAINING))  # noqa: SIM118


def _is_buffer(name: str) -> bool:
    return name.endswith(_BUFFERS) or name in (*_STATISTICS, *_LIMITS)
