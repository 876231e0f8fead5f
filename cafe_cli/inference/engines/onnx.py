"""The ONNX engine: ONNX Runtime on CPUs, which needs neither torch nor the model's encoder library.

It runs ONNX files of `cafe export`, and of other models the file that was exported when they ran
here for the first time (`cafe_cli.model.onnx_cache`). Only that first export imports torch, and
takes 5 to 6 seconds of a core.
"""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cafe_cli.model import onnx_cache
from cafe_cli.model.onnx_file import INPUTS, open_session
from cafe_cli.model.stored import StoredModel

if TYPE_CHECKING:
    from cafe_cli.model.cafe import CaFE

log = logging.getLogger("cafe")


class OnnxNetwork:
    """A network in ONNX Runtime, called with arrays of numpy; its results are deterministic.

    There is a session for every input shape. The session of a batch that is halved later is built
    at its first call.

    Parameters
    ----------
    graph : Path or bytes
        The ONNX file, or its content.
    name : Path
        The model, for messages.
    shapes : sequence of (int, int, int)
        Batch size, height and width in pixels.

    Raises
    ------
    ConfigError
        ONNX Runtime is not installed.
    ModelFileError
        The file is damaged.
    """

    def __init__(
        self, graph: Path | bytes, name: Path, shapes: Sequence[tuple[int, int, int]]
    ) -> None:
        self._graph, self._name = graph, name
        self._sessions = {shape: open_session(graph, name, shape) for shape in shapes}

    def __call__(
        self,
        optical: NDArray[np.float32],
        optical_valid: NDArray[np.bool_],
        height: NDArray[np.float32],
        height_valid: NDArray[np.bool_],
    ) -> NDArray[np.float32]:
        """Return class probabilities (batch, K, height, width); arguments as those of a `Batch`."""
        session = self._session(optical_valid.shape)
        given = zip(INPUTS, (optical, optical_valid, height, height_valid), strict=True)
        wanted = {node.name for node in session.get_inputs()}
        feed = {name: np.ascontiguousarray(x) for name, x in given if name in wanted}
        probabilities: NDArray[np.float32] = session.run(None, feed)[0]
        return probabilities

    def _session(self, shape: tuple[int, ...]) -> Any:
        batch, rows, columns = shape
        key = batch, rows, columns
        if key not in self._sessions:
            self._sessions[key] = open_session(self._graph, self._name, key)
        return self._sessions[key]


def find_graph(model: StoredModel, digest: str) -> Path | None:
    """Return the ONNX file of a model if there is one already.

    Parameters
    ----------
    model : StoredModel
    digest : str
        SHA-256 of the model file.
    """
    return model.path if model.is_onnx else onnx_cache.find(digest)


def make_graph(model: StoredModel, digest: str, network: "CaFE") -> Path | bytes:
    """Export a model to ONNX; return the file in the cache, or its content without a cache.

    Parameters
    ----------
    model : StoredModel
    digest : str
        SHA-256 of the model file.
    network : CaFE
        The loaded model.

    Raises
    ------
    ConfigError
        `onnx` or ONNX Runtime is not installed, or they cannot run the encoder.
    """
    from cafe_cli.model.onnx_export import export_checked

    log.info("%s is exported to ONNX, once", model.path)
    graph = export_checked(network, model.card)
    return onnx_cache.store(digest, graph) or graph
