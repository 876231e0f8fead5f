"""The ONNX engine: ONNX Runtime on CPUs, with ``pip install onnx onnxruntime``.

A network is exported in memory for every run, so that there is no file to keep, to trust or to
remove. The export takes 2 to 5 seconds of a core, which pays off from 15 to 60 windows on. The
exporter folds BatchNorm into convolutions.
"""

import importlib
import io
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cafe_cli.errors import ConfigError
from cafe_cli.model.cafe import CaFE
from cafe_cli.model.inputs import TOLERANCE, example_inputs

_Inputs = tuple[Tensor | None, ...]

_INPUTS = ("optical", "optical_valid", "height", "height_valid")
_OPSET = 18
_ERRORS_ONLY = 3


def available() -> bool:
    """Return whether ``onnx`` and ``onnxruntime`` are installed."""
    return all(find_spec(name) for name in ("onnx", "onnxruntime"))


class OnnxNetwork:
    """A network in ONNX Runtime, called like `CaFE.forward`; its results are deterministic.

    There is a session for every input shape. The constructor builds them, before threads read
    rasters: to silence the exporter, it redirects the standard output of the whole process. The
    session of a batch that is halved later is built at its first call.

    Parameters
    ----------
    model : CaFE
        In inference mode, on the CPU.
    shapes : sequence of (int, int, int)
        Batch size, height and width in pixels.

    Raises
    ------
    ConfigError
        ONNX Runtime is not installed, or cannot run the encoder.
    """

    def __init__(self, model: CaFE, shapes: Sequence[tuple[int, int, int]]) -> None:
        self._model = model
        self._sessions = {shape: _build_session(model, shape) for shape in shapes}

    def __call__(
        self,
        optical: Tensor,
        optical_valid: Tensor,
        height: Tensor | None,
        height_valid: Tensor | None,
    ) -> Tensor:
        """Return the logits (batch, K, height, width) float32.

        Parameters
        ----------
        optical, optical_valid, height, height_valid : Tensor or None
            As in `CaFE.forward`, on the CPU; pixel values and metres of any data type. Heights are
            ignored by a network without a height stream.
        """
        batch, rows, columns = optical_valid.shape
        shape = batch, rows, columns
        if shape not in self._sessions:
            self._sessions[shape] = _build_session(self._model, shape)
        heights = (height, height_valid) if self._model.architecture.heights else (None, None)
        return _run(self._sessions[shape], (optical, optical_valid, *heights))


def _build_session(model: CaFE, shape: tuple[int, int, int]) -> Any:
    """Export a model for one input shape, and compare its results with those of torch."""
    runtime: Any = _runtime()
    network = model.deployed()
    inputs = example_inputs(network, *shape)
    graph, wanted = _export(network, inputs)
    session = runtime.InferenceSession(graph, _options(runtime), providers=["CPUExecutionProvider"])
    error, largest = (_run(session, inputs) - wanted).abs().max(), wanted.abs().max()
    if not error <= TOLERANCE * largest:
        raise ConfigError(
            f"ONNX Runtime computes {network.architecture.optical_encoder!r} differently from "
            f"torch (by {error / largest:.2g} of the largest score): use --engine torch"
        )
    return session


def _run(session: Any, inputs: _Inputs) -> Tensor:
    given = zip(_INPUTS, inputs, strict=True)
    feed = {name: _array(tensor) for name, tensor in given if tensor is not None}
    return torch.from_numpy(session.run(None, feed)[0])


def _runtime() -> Any:
    try:
        importlib.import_module("onnx")  # for the exporter
        return importlib.import_module("onnxruntime")
    except ImportError as error:
        raise ConfigError("--engine onnx needs: pip install onnx onnxruntime") from error


def _options(runtime: Any) -> Any:
    options = runtime.SessionOptions()
    options.log_severity_level = _ERRORS_ONLY
    # By default ONNX Runtime uses all cores of the machine, even if the process may not.
    options.intra_op_num_threads = torch.get_num_threads()
    options.inter_op_num_threads = 1
    # A memory pattern doubles the memory: that of the first run, which finds it, is kept.
    options.enable_mem_pattern = False
    # Threads that spin while they wait for a window take cores from those that read and write.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    return options


def _export(network: CaFE, inputs: _Inputs) -> tuple[bytes, Tensor]:
    """Return the network as an ONNX graph, and its logits for the inputs."""
    buffer: Any = io.BytesIO()  # the exporter writes to it, although its annotation says otherwise
    results: list[Tensor] = []
    names = [name for name, tensor in zip(_INPUTS, inputs, strict=True) if tensor is not None]
    watch = network.register_forward_hook(lambda _, __, logits: results.append(logits))
    try:
        with warnings.catch_warnings(), _no_stdout(), torch.no_grad():
            warnings.simplefilter("ignore")
            # dynamo=True takes 2 to 6 times as long to export a graph of the same speed.
            torch.onnx.export(
                network, inputs, buffer, dynamo=False, input_names=names, opset_version=_OPSET
            )
    except (RuntimeError, TypeError, ValueError) as error:
        encoder = network.architecture.optical_encoder
        reason = str(error).strip().partition("\n")[0]
        raise ConfigError(
            f"encoder {encoder!r} cannot be exported to ONNX ({reason}): use --engine torch"
        ) from error
    finally:
        watch.remove()
    return buffer.getvalue(), results[-1]


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


def _array(tensor: Tensor) -> Any:
    dtype = bool if tensor.dtype == torch.bool else np.float32
    return np.ascontiguousarray(tensor.numpy(), dtype)
