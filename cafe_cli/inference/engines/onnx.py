"""The forward pass by ONNX Runtime, on CPUs: an extra, ``pip install cafe-cli[onnx]``.

The network is exported when it is needed and kept in memory. That takes a core 2 to 5 seconds, for
which 15 to 60 windows pay: no file has to be kept, trusted or cleared away.
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
from cafe_cli.inference.engines.torch import TOLERANCE, example, folded
from cafe_cli.model.cafe import CaFE

_Given = tuple[Tensor | None, ...]

_INPUTS = ("optical", "optical_valid", "height", "height_valid")
_OPSET = 18
_ERRORS_ONLY = 3


def available() -> bool:
    """Return whether what it takes is installed."""
    return all(find_spec(name) for name in ("onnx", "onnxruntime"))


class OnnxNetwork:
    """A network for windows of one shape, called like `CaFE.forward`; same inputs, same bytes.

    Parameters
    ----------
    network : CaFE
        In inference mode, on the CPU; not needed afterwards.
    *shape : int
        Batch, height and width in pixels.

    Raises
    ------
    ConfigError
        ONNX Runtime is not installed, or cannot run the encoder.
    """

    def __init__(self, network: CaFE, *shape: int) -> None:
        runtime: Any = _runtime()
        inputs = example(network, *shape)
        graph, wanted = _export(network, inputs)
        self._session = runtime.InferenceSession(
            graph, _options(runtime), providers=["CPUExecutionProvider"]
        )
        error, largest = (self._run(inputs) - wanted).abs().max(), wanted.abs().max()
        if not error <= TOLERANCE * largest:
            raise ConfigError(
                f"ONNX Runtime computes {network.architecture.optical_encoder!r} differently (by "
                f"{error / largest:.2g} of the largest score): use --engine torch"
            )

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
            As in `CaFE.forward`, on the CPU and of the shape that this was built for; pixel values
            and metres of any data type.
        """
        return self._run((optical, optical_valid, height, height_valid))

    def _run(self, inputs: _Given) -> Tensor:
        given = zip(_INPUTS, inputs, strict=True)
        feed = {name: _array(tensor) for name, tensor in given if tensor is not None}
        return torch.from_numpy(self._session.run(None, feed)[0])


def _runtime() -> Any:
    try:
        importlib.import_module("onnx")  # the exporter's
        return importlib.import_module("onnxruntime")
    except ImportError as error:
        raise ConfigError("--engine onnx needs: pip install cafe-cli[onnx]") from error


def _options(runtime: Any) -> Any:
    options = runtime.SessionOptions()
    options.log_severity_level = _ERRORS_ONLY
    # A number of its own would be that of the machine, whatever the process may use of it.
    options.intra_op_num_threads = torch.get_num_threads()
    options.inter_op_num_threads = 1
    # Known from the second run on, and by then the first one has its memory: twice as much in all.
    options.enable_mem_pattern = False
    # Threads that wait for the next window would take a core from those that read and write.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    return options


def _export(network: CaFE, inputs: _Given) -> tuple[bytes, Tensor]:
    """Return the network as an ONNX graph, and what it makes of the inputs."""
    buffer: Any = io.BytesIO()  # which the exporter is only said not to write to
    results: list[Tensor] = []
    names = [name for name, tensor in zip(_INPUTS, inputs, strict=True) if tensor is not None]
    watch = network.register_forward_hook(lambda _, __, logits: results.append(logits))
    try:
        with warnings.catch_warnings(), _no_stdout(), torch.no_grad():
            warnings.simplefilter("ignore")
            # The other exporter (dynamo=True) takes 2 to 6 times as long, for the same speed.
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
    """Keep the process's standard output clean: an export that fails prints its graph, from C++."""
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


class OnnxModel:
    """A network in ONNX Runtime, built for each shape of batches.

    It is built before there are threads that read: what the exporter prints, it prints past Python,
    and is kept from doing so by means that concern the whole process.
    """

    def __init__(self, model: CaFE, shapes: Sequence[tuple[int, int, int]]) -> None:
        self._model = model
        network = folded(model)
        self._built = {shape: OnnxNetwork(network, *shape) for shape in shapes}

    def __call__(
        self, optical: Tensor, optical_valid: Tensor, height: Tensor, height_valid: Tensor
    ) -> Tensor:
        """Return the logits; see `cafe_cli.model.cafe.CaFE.forward`."""
        heights = (height, height_valid) if self._model.architecture.heights else (None, None)
        batch, rows, columns = optical_valid.shape
        if (batch, rows, columns) not in self._built:  # a batch that was halved
            network = OnnxNetwork(folded(self._model), batch, rows, columns)
            self._built[batch, rows, columns] = network
        return self._built[batch, rows, columns](optical, optical_valid, *heights)
