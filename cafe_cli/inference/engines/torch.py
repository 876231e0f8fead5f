"""The forward pass by torch: BatchNorm folded into convolutions, freed memory kept for reuse."""

import ctypes
import logging
import platform
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from timm.layers.norm_act import BatchNormAct2d
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from cafe_cli.model.cafe import CaFE

# From malloc.h.
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3

_LARGEST = 2**30  # bytes; a larger block is rather given back


def keep_memory() -> bool:
    """Let this process keep what it frees; elsewhere than on Linux with glibc, do nothing.

    It holds for what the main thread allocates: glibc's memory of other threads is in pieces of at
    most 64 MiB.

    Returns
    -------
    bool
        Whether it was done.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    glibc = ctypes.CDLL(None)
    # mallopt returns 1, or 0 for a value that this glibc does not take.
    settings = ((_M_MMAP_THRESHOLD, _LARGEST), (_M_TRIM_THRESHOLD, 2 * _LARGEST - 1))
    return all(glibc.mallopt(*setting) == 1 for setting in settings)


log = logging.getLogger("cafe")

TOLERANCE = 1e-3
"""How far folded logits may be off, as a share of the largest one. Rounding alone leaves 1e-6 to
3e-6 on networks of 40 to 240 layers, a BatchNorm in the wrong place 0.1 and more: the limit is far
from both, and an error of its size changes the labels of no pixels but those that are ties."""

_KINDS = (nn.BatchNorm2d, BatchNormAct2d)  # what others do beside normalising is not known

_Module = TypeVar("_Module", bound=nn.Module)


def example(network: CaFE, *shape: int) -> tuple[Tensor | None, ...]:
    """Draw inputs of `CaFE.forward` that look to the network like what it was trained on.

    Parameters
    ----------
    network : CaFE
        Its statistics say which pixel values and heights are usual.
    *shape : int
        Batch, height and width in pixels.

    Returns
    -------
    tuple of (Tensor or None)
        Optical, its mask, heights and their mask, on the CPU; no heights for a network without.
    """
    random = torch.Generator().manual_seed(0)
    batch, *size = shape
    valid = torch.rand(shape, generator=random) < 0.95

    def draw(mean: Tensor, std: Tensor) -> Tensor:
        noise = torch.randn(batch, len(mean), *size, generator=random)
        return noise * std.cpu()[:, None, None] + mean.cpu()[:, None, None]

    optical = draw(network.optical_mean, network.optical_std)
    if not network.architecture.heights:
        return optical, valid, None, None
    return optical, valid, draw(network.height_mean, network.height_std), valid


def fold(model: _Module, *inputs: Tensor | None) -> _Module:
    """Fold every BatchNorm2d whose input is the output of a convolution and used nowhere else.

    Parameters
    ----------
    model : nn.Module
        In inference mode; it is changed. A network without BatchNorm stays as it is.
    *inputs : Tensor or None
        An example to run it on, on its device; 64 x 64 pixels are enough.

    Returns
    -------
    nn.Module
        `model` itself: folded, or as it was if its results would differ by over `TOLERANCE`.
    """
    with torch.no_grad():
        with _Watch() as watch:
            before = model(*inputs)
        pairs = _pairs(model, watch)
        for pair in pairs:
            pair.fold()
        if not _close(model(*inputs), before):
            for pair in pairs:
                pair.unfold()
            log.info("BatchNorm is left as it is: folded, the results would differ")
    return model


class _Watch(TorchFunctionMode):
    """Notes what convolutions give, what BatchNorms take, and how often the former is used."""

    def __init__(self) -> None:
        super().__init__()
        # Tensors are told apart by their ids: these here live until the watch ends.
        self.convolved: dict[int, tuple[Tensor, Tensor]] = {}
        """By the id of the output: the output and the weight it was made with."""
        self.normalised: list[tuple[Tensor, Tensor]] = []
        """Input and running mean of each BatchNorm, in the order they ran."""
        self.uses: Counter[int] = Counter()
        """By the id of a tensor: how often another one was computed from it."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        # Shapes and the like are asked of a tensor without harm.
        if any(isinstance(leaf, Tensor) for leaf in tree_leaves(result)):
            self.uses.update(
                id(leaf) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)
            )
        if func is F.conv2d:
            self.convolved[id(result)] = (result, args[1])
            self.uses[id(result)] = 0  # a tensor that is gone may have had the id
        elif func is F.batch_norm:
            self.normalised.append((args[0], args[1]))
        return result

    def pairs(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the weight of a convolution and the running mean of the BatchNorm it feeds."""
        for x, mean in self.normalised:
            if id(x) in self.convolved and self.uses[id(x)] == 1:
                weight = self.convolved[id(x)][1]
                # Weights that serve two places have to stay as they are.
                if self.uses[id(weight)] == self.uses[id(mean)] == 1:
                    yield weight, mean


class _Pair:
    """A convolution and the BatchNorm it feeds, folded and back again."""

    def __init__(self, model: nn.Module, conv: nn.Conv2d, norm: nn.BatchNorm2d) -> None:
        self.conv, self.norm = conv, norm
        self.own = conv.weight, conv.bias
        self.places = [
            (parent, name)
            for parent in model.modules()
            for name, child in parent.named_children()
            if child is norm
        ]

    def fold(self) -> None:
        """Let the convolution do the work of both; of the other, its activation is left."""
        fused = fuse_conv_bn_eval(self.conv, self.norm)
        left = self.norm.act if isinstance(self.norm, BatchNormAct2d) else nn.Identity()
        self._put((fused.weight, fused.bias), left)

    def unfold(self) -> None:
        """Bring back what was there before."""
        self._put(self.own, self.norm)

    def _put(self, weights: tuple[Tensor, Tensor | None], after: nn.Module) -> None:
        self.conv.weight, self.conv.bias = weights
        for parent, name in self.places:
            parent.add_module(name, after)


def _pairs(model: nn.Module, watch: _Watch) -> list[_Pair]:
    """Return the modules that the tensors of `watch` belong to."""
    convs = {id(m.weight): m for m in model.modules() if isinstance(m, nn.Conv2d)}
    batch_norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    norms = {id(m.running_mean): m for m in batch_norms if type(m) in _KINDS}
    return [
        _Pair(model, convs[id(weight)], norms[id(mean)])
        for weight, mean in watch.pairs()
        if id(weight) in convs and id(mean) in norms
    ]


def _close(found: Tensor, wanted: Tensor) -> bool:
    return bool((found - wanted).abs().max() <= TOLERANCE * wanted.abs().max())


def folded(model: CaFE) -> CaFE:
    """Return the deployed network of a model, with BatchNorm folded."""
    network = model.deployed()
    return fold(network, *example(network, 1, 64, 64))
