"""Activation checkpointing: recompute the blocks of an encoder in the backward pass.

Only the inputs of the blocks are kept, and the activations of one block at a time. A step takes
about a third more time.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any, TypeAlias

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

Context: TypeAlias = AbstractContextManager[object]


@contextmanager
def checkpoint_blocks(encoders: Iterable[nn.Module], recompute: Context) -> Iterator[None]:
    """Checkpoint each block of encoders that run in this context.

    Parameters
    ----------
    encoders : iterable of Module
    recompute : context manager
        Entered when the backward pass recomputes a block, e.g. autocast.
    """
    own = [block for encoder in encoders for block in blocks(encoder)]
    for block in own:
        block.forward = _checkpointed(block.forward, partial(_contexts, block, recompute))
    try:
        yield
    finally:
        for block in own:
            del block.forward


def blocks(module: nn.Module) -> Iterator[nn.Module]:
    """Yield the outermost modules with submodules, other than containers, of an encoder."""
    for part in module.children():
        if _is_container(part):
            yield from blocks(part)
        elif any(True for _ in part.children()):
            yield part


def _is_container(module: nn.Module) -> bool:
    """Tell whether a module is a Sequential, ModuleList or ModuleDict, or a subclass of one."""
    return isinstance(module, nn.Sequential | nn.ModuleList | nn.ModuleDict)


def _contexts(block: nn.Module, recompute: Context) -> tuple[Context, Context]:
    """Return the contexts of the forward pass and of the recomputation."""
    return nullcontext(), _statistics_unchanged(block, recompute)


@contextmanager
def _statistics_unchanged(block: nn.Module, recompute: Context) -> Iterator[None]:
    """Recompute a block without a second update of the running statistics of its BatchNorms."""
    norms = [part for part in block.modules() if isinstance(part, _BatchNorm)]
    kept = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm, (_, count) in zip(norms, kept, strict=True):
        # Checkpointing requires both passes to save the same tensors, and SyncBatchNorm requires a
        # count: momentum 0 and a count of zero keep both without changing the statistics.
        norm.momentum = 0.0
        norm.num_batches_tracked = None if count is None else torch.zeros_like(count)
    try:
        with recompute:
            yield
    finally:
        for norm, (momentum, count) in zip(norms, kept, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, count


def _checkpointed(forward: Callable[..., Any], contexts: Callable[[], Any]) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        return checkpoint(forward, *args, use_reentrant=False, context_fn=contexts, **kwargs)

    return call
