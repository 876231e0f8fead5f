"""Model files: weights and their metadata. Loading a file cannot run code.

A model is a safetensors file. Its tensors are the network's state dict. A checkpoint of training is
a model file with more tensors, whose names begin with ``training/``. The metadata has two JSON
texts: ``cafe`` (a `ModelCard`) and, in a checkpoint, ``training``.
"""

import errno
import json
import os
import re
import reprlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor
from torch.overrides import TorchFunctionMode

from cafe_cli.errors import ConfigError, ModelFileError, OutputError
from cafe_cli.model.cafe import CaFE
from cafe_cli.model.card import ModelCard, parse_card
from cafe_cli.model.encoders import STORED
from cafe_cli.model.stored import TRAINING, nonfinite_error, open_safetensors
from cafe_cli.system.atomic_write import remove, replace_atomically
from cafe_cli.system.untrusted import parse_json

_Kind = Literal["float", "int", "bool"]
_STORED_AS: Mapping[_Kind, tuple[str, ...]] = {
    "float": ("F16", "BF16", "F32", "F64"), "int": ("I", "U"), "bool": ("BOOL",),
}  # fmt: skip
"""Names of the data types in a safetensors file."""


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
            TRAINING + name: t.detach().cpu().contiguous() for name, t in training[0].items()
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


def load(path: Path) -> tuple[CaFE, ModelCard]:
    """Rebuild the network of a model file, in inference mode, on the CPU.

    Raises
    ------
    ModelFileError
        As `read_card`, or the weights do not fit the network that the card describes.
    """
    file = open_safetensors(path, "pt")
    card = parse_card(path, file.metadata() or {})
    shapes = {
        name: tuple(file.get_slice(name).get_shape())
        for name in file.keys()  # noqa: SIM118
        if not name.startswith(TRAINING)
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
    file = open_safetensors(path, "pt")
    values = _values(path, file)
    tensors = _read_tensors(path, file, {})
    check_finite(path, tensors)
    own = {n: t for n, t in tensors.items() if not n.startswith(TRAINING)}
    extra = {n.removeprefix(TRAINING): t for n, t in tensors.items() if n.startswith(TRAINING)}
    return own, extra, values


def read_training(path: Path) -> dict[str, Any]:
    """Read the plain values of a checkpoint, without its tensors; errors as `load_training`."""
    return _values(path, open_safetensors(path, "pt"))


def _values(path: Path, file: Any) -> dict[str, Any]:
    metadata = file.metadata() or {}
    parse_card(path, metadata)
    if "training" not in metadata:
        raise ModelFileError(f"{path} is a model for prediction, not a checkpoint to resume from")
    try:
        return dict(parse_json(metadata["training"]))
    except (TypeError, ValueError) as error:
        raise ModelFileError(f"{path}: its training state is damaged: {error}") from error


def check_finite(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Refuse weights that are NaN or infinite: every label would be the first class.

    Raises
    ------
    ModelFileError
        The message names the first such tensor.
    """
    wrong = {
        name: (int((~tensor.isfinite()).sum()), tensor.numel())
        for name, tensor in tensors.items()
        if tensor.is_floating_point() and not tensor.isfinite().all()
    }
    if wrong:
        raise nonfinite_error(path, wrong)


def _read_tensors(path: Path, file: Any, expected: Mapping[str, torch.dtype]) -> dict[str, Tensor]:
    """Read the tensors named in `expected`, all if it is empty, whose types must be convertible.

    Weights are floating point numbers of any precision, counters are integers.
    """
    names = expected or file.keys()
    stored = {name: file.get_slice(name).get_dtype() for name in names}
    for name, dtype in expected.items():
        if not stored[name].startswith(_STORED_AS[_kind(dtype)]):
            raise ModelFileError(
                f"{path}: {reprlib.repr(name)} is stored as {stored[name]} where the network has "
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


def _build(path: Path, card: ModelCard) -> CaFE:
    try:
        return CaFE(card.architecture, weights=STORED, height_weights=STORED)
    except (ConfigError, ValueError, TypeError) as error:
        raise ModelFileError(f"{path}: cannot build its network: {error}") from error
