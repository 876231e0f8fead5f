"""ONNX files of models: their metadata and sessions of ONNX Runtime; free of torch.

The graph takes a batch of windows of any size that is a multiple of 32 pixels, raw pixel values and
metres, and returns class probabilities. Reading a file cannot run code: the graph is made of
operators that ONNX Runtime knows, and no library is loaded with it.
"""

import importlib
import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from cafe_cli.errors import ConfigError, ModelFileError
from cafe_cli.model.card import ModelCard, parse_card
from cafe_cli.system.threads import cores

INPUTS = ("optical", "optical_valid", "height", "height_valid")
"""Names of the inputs; a network without a height stream has the first two."""
PROBABILITIES, LOGITS = "probabilities", "logits"
"""Names of the output, (batch, K, rows, columns) float32."""
AXES = ("batch", "rows", "columns")
"""Names of the axes that are free in the graph."""
PARAMETERS = "parameters"
"""Metadata key of the number of trained weights."""

_SUFFIX = ".onnx"
_ERRORS_ONLY = 3


def is_onnx(path: Path) -> bool:
    """Whether a file is named like an ONNX file."""
    return path.suffix.lower() == _SUFFIX


def available() -> bool:
    """Return whether ONNX Runtime is installed."""
    return find_spec("onnxruntime") is not None


def can_export() -> bool:
    """Return whether `onnx` and ONNX Runtime are installed, which an export needs."""
    return available() and find_spec("onnx") is not None


def read_header(path: Path) -> tuple[ModelCard, int]:
    """Return the card of an ONNX file, and the number of trained weights.

    Raises
    ------
    ConfigError
        ONNX Runtime is not installed.
    ModelFileError
        The file is damaged, or no model that `cafe export` has made for cafe.
    """
    runtime = _runtime()
    options = _options(runtime)
    options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = _open(runtime, path, path, options)
    metadata = session.get_modelmeta().custom_metadata_map
    if "cafe" not in metadata:
        raise ModelFileError(
            f"{path} is an ONNX file, but not of a cafe model; make one with cafe export"
        )
    card = parse_card(path, metadata)
    _check_interface(path, session, card)
    try:
        return card, int(metadata.get(PARAMETERS, ""))
    except ValueError as error:
        raise ModelFileError(f"{path}: its metadata {PARAMETERS!r} are damaged") from error


def open_session(source: Path | bytes, path: Path, shape: tuple[int, int, int]) -> Any:
    """Return a session of ONNX Runtime for one input shape; its results are deterministic.

    Parameters
    ----------
    source : Path or bytes
        The ONNX file, or its content.
    path : Path
        The model's name, for messages.
    shape : (int, int, int)
        Windows, and pixel rows and columns of each. Fixed axes are as fast as a graph that was
        exported for them; free ones are 8 to 15 % slower.

    Raises
    ------
    ConfigError
        ONNX Runtime is not installed.
    ModelFileError
        The file is damaged.
    """
    runtime = _runtime()
    options = _options(runtime)
    for axis, length in zip(AXES, shape, strict=True):
        options.add_free_dimension_override_by_name(axis, length)
    return _open(runtime, source, path, options)


def _open(runtime: Any, source: Path | bytes, path: Path, options: Any) -> Any:
    given = source if isinstance(source, bytes) else str(source)
    try:
        return runtime.InferenceSession(given, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # the classes of ONNX Runtime's errors are not public
        reason = " ".join(str(error).split())
        raise ModelFileError(f"{path} is not an ONNX file, or it is damaged: {reason}") from error


def _check_interface(path: Path, session: Any, card: ModelCard) -> None:
    wanted = INPUTS if card.has_height else INPUTS[:2]
    found = tuple(given.name for given in session.get_inputs())
    outputs = [made.name for made in session.get_outputs()]
    if found != wanted or outputs != [PROBABILITIES]:
        raise ModelFileError(
            f"{path} takes {', '.join(found)} and returns {', '.join(outputs)}: it was made for "
            "another program; export the model again without --for and --logits"
        )


def _runtime() -> Any:
    try:
        return importlib.import_module("onnxruntime")
    except ImportError as error:
        raise ConfigError(
            "ONNX models need ONNX Runtime: pip install onnxruntime, or use the .safetensors file "
            "with --engine torch"
        ) from error


def _options(runtime: Any) -> Any:
    options = runtime.SessionOptions()
    options.log_severity_level = _ERRORS_ONLY
    # By default ONNX Runtime uses all cores of the machine, even if the process may not.
    options.intra_op_num_threads = threads()
    options.inter_op_num_threads = 1
    # A memory pattern doubles the memory: that of the first run, which finds it, is kept.
    options.enable_mem_pattern = False
    # Buffers that are planned for several results live on between them: 923 MB instead of 520 for a
    # window of 1120 pixels. Without the plan a pass takes 1 to 3 % longer.
    options.enable_mem_reuse = False
    # Threads that spin while they wait for a window take cores from those that read and write.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    return options


def threads() -> int:
    """Return the number of threads that compute: ``OMP_NUM_THREADS``, as for torch, or one a core.

    Returns
    -------
    int
        At least 1.
    """
    given = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0]
    return int(given) if given.isdecimal() and int(given) > 0 else cores()
