"""The torch engine: BatchNorm folded into convolutions, freed memory kept for the next window."""

import copy
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from cafe_cli.inference.arrays.torch import TorchArrays
from cafe_cli.inference.engines.cuda_graphs import GraphedNetwork
from cafe_cli.inference.forward import BatchedForward, TTATransform, blank_patch
from cafe_cli.model import model_file
from cafe_cli.model.cafe import CaFE
from cafe_cli.model.device import windows_that_fit
from cafe_cli.model.inputs import TOLERANCE, example_inputs
from cafe_cli.system.malloc import keep_memory

log = logging.getLogger("cafe")

# Errors of symbolic tracing where control flow or shapes depend on data.
_NOT_TRACEABLE = (AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)

_Module = TypeVar("_Module", bound=nn.Module)


class TorchNetwork:
    """A network of torch that returns class probabilities.

    Parameters
    ----------
    logits : callable
        Called like `CaFE.forward`.
    """

    def __init__(self, logits: Callable[..., Tensor]) -> None:
        self._logits = logits

    def __call__(self, *inputs: Tensor) -> Tensor:
        """Return class probabilities (batch, K, height, width); arguments as those of a `Batch`."""
        return self._logits(*inputs).float().softmax(dim=1)


def set_threads(count: int) -> None:
    """Set the threads that compute on a CPU; sums depend on them in their last digits."""
    torch.set_num_threads(count)


def load_models(paths: Sequence[Path]) -> list[CaFE]:
    """Load model files.

    Raises
    ------
    ModelFileError
        A file is damaged.
    """
    return [model_file.load(path)[0] for path in paths]


def build_forward(
    models: Sequence[CaFE],
    device_name: str,
    batch_size: int | None,
    transforms: Sequence[TTATransform],
    window: int,
    cuda_graphs: bool = False,
) -> BatchedForward:
    """Bring models to a device.

    Parameters
    ----------
    models : sequence of CaFE
    device_name : str
        ``cpu``, ``cuda`` or ``cuda:N``.
    batch_size : int or None
        Windows per batch; None for as many as fit on a GPU, and one on a CPU.
    transforms : sequence of TTATransform
    window : int
        Side of the windows in pixels.
    cuda_graphs : bool
        Replay passes from CUDA graphs; without effect on a CPU.
    """
    device = torch.device(device_name)
    if device.type == "cpu":
        keep_memory()
    networks = [TorchNetwork(prepare_network(model, device)) for model in models]
    arrays = TorchArrays(device)
    if device.type == "cpu":
        return BatchedForward(networks, arrays, batch_size or 1, transforms)
    if batch_size is None:
        alone = BatchedForward(networks, arrays, 1, transforms)
        blank = blank_patch(models[0].architecture, window)
        batch_size = windows_that_fit(device, lambda: alone([blank]))
    # Recorded passes keep memory: how much a window takes is measured before.
    chosen = [*map(GraphedNetwork, networks)] if cuda_graphs else networks
    return BatchedForward(chosen, arrays, batch_size, transforms)


def prepare_network(model: CaFE, device: torch.device) -> CaFE:
    """Return a copy of a model for inference on a device: folded and in channels_last."""
    network = model.deployed()
    folded = fold_batchnorm(network, *example_inputs(network, 1, 64, 64))
    return folded.to(device).to(memory_format=torch.channels_last)


def fold_batchnorm(network: _Module, *inputs: Tensor | None) -> _Module:
    """Fold every BatchNorm that directly follows a convolution into its weights.

    Convolutions and norms are paired by symbolic tracing (torch.fx); modules that cannot be traced
    as a whole, because of data-dependent control flow, are traced part by part.

    Parameters
    ----------
    network : nn.Module
        In inference mode, on the CPU; it is not changed.
    *inputs : Tensor or None
        Example inputs; 64 x 64 pixels are enough.

    Returns
    -------
    nn.Module
        A folded copy, or `network` itself if there is nothing to fold, or if the results of the
        copy differ by more than `TOLERANCE`.
    """
    folded = copy.deepcopy(network)
    pairs = [pair for pair in _pairs(folded) if _fold_pair(folded, *pair)]
    if not pairs:
        return network
    with torch.no_grad():
        if _close(folded(*inputs), network(*inputs)):
            return folded
    log.info("BatchNorm is left as it is: folded, the results would differ")
    return network


class _Tracer(fx.Tracer):
    """Treats convolutions and norms, which some libraries subclass, as leaves of the graph."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Whether a call of the module is one node of the graph."""
        known = isinstance(m, nn.Conv2d | nn.BatchNorm2d)
        return known or super().is_leaf_module(m, module_qualified_name)


def _pairs(module: nn.Module) -> Iterator[tuple[nn.Conv2d, nn.BatchNorm2d]]:
    """Yield each convolution whose output goes only into a norm, with that norm."""
    if not any(isinstance(part, nn.BatchNorm2d) for part in module.modules()):
        return
    try:
        graph = _Tracer().trace(module)
    except _NOT_TRACEABLE:
        for child in module.children():
            yield from _pairs(child)
        return
    nodes = graph.find_nodes(op="call_module")
    called = {node: module.get_submodule(str(node.target)) for node in nodes}
    calls = Counter(called.values())
    for node, norm in called.items():
        source = next(iter(node.all_input_nodes), node)
        conv = called.get(source)
        if not isinstance(conv, nn.Conv2d) or not isinstance(norm, nn.BatchNorm2d):
            continue
        if calls[conv] == calls[norm] == len(source.users) == 1:
            yield conv, norm


def _fold_pair(network: nn.Module, conv: nn.Conv2d, norm: nn.BatchNorm2d) -> bool:
    """Fold a norm into a convolution, unless a subclass of either changes what it computes."""
    if norm.running_mean is None:
        return False
    fused = fuse_conv_bn_eval(conv, norm)
    activation = getattr(norm, "act", None)  # of the BatchNormAct2d of timm
    rest = activation if isinstance(activation, nn.Module) else nn.Identity()
    rows, columns = (8 + d * k for d, k in zip(conv.dilation, conv.kernel_size, strict=True))
    x = torch.randn(1, conv.in_channels, rows, columns, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        if not _close(rest(fused(x)), norm(conv(x))):
            return False
    conv.weight, conv.bias = fused.weight, fused.bias
    for parent in network.modules():
        for name, child in [*parent.named_children()]:
            if child is norm:
                parent.add_module(name, rest)
    return True


def _close(found: Tensor, wanted: Tensor) -> bool:
    return bool((found - wanted).abs().max() <= TOLERANCE * wanted.abs().max())
