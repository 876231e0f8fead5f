"""Export of a network to an ONNX file that describes itself, with torch's exporter."""

import importlib
import io
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cafe_cli import __version__
from cafe_cli.config.schema import STRIDE
from cafe_cli.errors import ConfigError
from cafe_cli.model.cafe import CaFE
from cafe_cli.model.card import ModelCard
from cafe_cli.model.inputs import TOLERANCE, example_inputs
from cafe_cli.model.onnx_file import (
    AXES,
    INPUTS,
    LOGITS,
    PARAMETERS,
    PROBABILITIES,
    open_session,
)

_OPSET = 18
_CHECKED = (1, 64, 96)  # a window that is compared: neither square nor traced


def export_onnx(network: CaFE, card: ModelCard, *, softmax: bool = True) -> bytes:
    """Return a network as an ONNX file, see `cafe_cli.model.onnx_file`.

    Batch, rows and columns are free; rows and columns have to be multiples of 32 pixels.

    Parameters
    ----------
    network : CaFE
        In inference mode, on the CPU; it is not changed.
    card : ModelCard
        Goes into the metadata as JSON, under ``cafe``.
    softmax : bool
        Whether the output is class probabilities or logits.

    Raises
    ------
    ConfigError
        `onnx` is not installed, or the encoder cannot be exported.
    """
    graph = export_graph(network.deployed(), softmax=softmax)
    return add_metadata(graph, describe(network, card))


def export_graph(network: CaFE, *, softmax: bool = True) -> bytes:
    """Return the graph of a network for inference, without metadata, as `export_onnx` otherwise."""
    # Smaller windows have fewer cells than the neighbourhood of the attention, which then takes
    # another branch: the branch for large windows computes the same, but for rounding.
    side = network.architecture.attention // 2 + 3 * STRIDE
    inputs = example_inputs(network, 2, side, side + STRIDE)
    names = INPUTS if network.architecture.heights else INPUTS[:2]
    output = PROBABILITIES if softmax else LOGITS
    batch, rows, columns = AXES
    masks = {0: batch, 1: rows, 2: columns}
    images = {0: batch, 2: rows, 3: columns}
    axes = {name: masks if name.endswith("valid") else images for name in (*names, output)}
    module = _Probabilities(network) if softmax else network
    return trace(module, inputs, names, output, axes, network.architecture.optical_encoder)


def describe(network: CaFE, card: ModelCard) -> dict[str, str]:
    """Return what every file says about its model: the card, and the number of trained weights."""
    parameters = sum(parameter.numel() for parameter in network.parameters())
    return {"cafe": card.model_dump_json(), PARAMETERS: str(parameters)}


def add_metadata(
    graph: bytes, metadata: Mapping[str, str], output_shape: Sequence[int | str] | None = None
) -> bytes:
    """Return an ONNX file with metadata and, if given, the shape of its output.

    Parameters
    ----------
    graph : bytes
        From `trace`.
    metadata : mapping
    output_shape : sequence of (int or str), optional
        The exporter leaves lengths open that it could know; names stand for free axes.

    Raises
    ------
    ConfigError
        `onnx` is not installed.
    """
    onnx = require_onnx()
    proto = onnx.load_model_from_string(graph)
    onnx.helper.set_model_props(proto, dict(metadata))
    if output_shape is not None:
        made = proto.graph.output[0].type.tensor_type
        made.CopyFrom(onnx.helper.make_tensor_type_proto(made.elem_type, output_shape).tensor_type)
    proto.producer_name, proto.producer_version = "cafe", __version__
    return bytes(proto.SerializeToString())


def export_checked(network: CaFE, card: ModelCard) -> bytes:
    """Return what `export_onnx` does, after comparing its probabilities with those of torch.

    Raises
    ------
    ConfigError
        As `export_onnx`; or ONNX Runtime is not installed, or computes something else.
    """
    graph = export_onnx(network, card)
    encoder = Path(network.architecture.optical_encoder)
    inputs = example_inputs(network, *_CHECKED)
    arrays = zip(INPUTS, inputs, strict=True)
    feed = {name: x.numpy() for name, x in arrays if x is not None}
    found = torch.from_numpy(open_session(graph, encoder, _CHECKED).run(None, feed)[0])
    with torch.no_grad():
        wanted = network(*inputs).softmax(dim=1)
    if not (error := float((found - wanted).abs().max())) <= TOLERANCE:
        raise ConfigError(
            f"ONNX Runtime computes {str(encoder)!r} differently from torch (by {error:.2g} of a "
            "probability): use --engine torch"
        )
    return graph


class _Probabilities(nn.Module):
    """A network whose logits have gone through the softmax."""

    def __init__(self, network: CaFE) -> None:
        super().__init__()
        self.network = network

    def forward(self, *inputs: Tensor | None) -> Tensor:
        logits: Tensor = self.network(*inputs)
        return logits.softmax(dim=1)


def trace(
    module: nn.Module,
    inputs: tuple[Tensor | None, ...],
    names: Sequence[str],
    output: str,
    axes: Mapping[str, Mapping[int, str]],
    encoder: str,
) -> bytes:
    """Return the graph of a module, without metadata.

    Parameters
    ----------
    module : nn.Module
        In inference mode, on the CPU.
    inputs : tuple of (Tensor or None)
        Examples; those that are None are left out of `names`.
    names : sequence of str
        Of the inputs.
    output : str
        Name of the output.
    axes : mapping
        Free axes of inputs and output, by name: their names by number.
    encoder : str
        For messages.

    Raises
    ------
    ConfigError
        `onnx` is not installed, or the encoder cannot be exported.
    """
    require_onnx()  # for the exporter
    buffer: Any = io.BytesIO()  # the exporter writes to it, although its annotation says otherwise
    try:
        with warnings.catch_warnings(), _no_stdout(), torch.no_grad():
            warnings.simplefilter("ignore")
            # dynamo=True takes 2 to 6 times as long to export a graph of the same speed.
            torch.onnx.export(
                module, inputs, buffer, dynamo=False, input_names=list(names),
                output_names=[output], dynamic_axes={n: dict(a) for n, a in axes.items()},
                opset_version=_OPSET,
            )  # fmt: skip
    except (RuntimeError, TypeError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise ConfigError(
            f"encoder {encoder!r} cannot be exported to ONNX ({reason}): use --engine torch"
        ) from error
    return bytes(buffer.getvalue())


def require_onnx() -> Any:
    """Return the module `onnx`.

    Raises
    ------
    ConfigError
        It is not installed.
    """
    try:
        return importlib.import_module("onnx")
    except ImportError as error:
        raise ConfigError("exporting a model needs: pip install '.[onnx]'") from error


@contextmanager
def _no_stdout() -> Iterator[None]:
    """Discard the standard output of the process: a failed export prints its graph, from C++."""
    kept = os.dup(1)
    try:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), 1)
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)
