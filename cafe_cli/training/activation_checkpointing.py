"""Activation checkpointing: compute the blocks of an encoder again instead of keeping their inside.

The memory of a step is then that of one block, and of the inputs of all; time is a third more.
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
def recomputed(encoders: Iterable[nn.Module], within: Context) -> Iterator[None]:
    """Keep nothing of what happens within the blocks of encoders that are run meanwhile.

    Parameters
    ----------
    encoders : iterable of Module
    within : context manager
        What they are run in the second time, in the course of the way back.
    """
    own = [block for encoder in encoders for block in blocks(encoder)]
    for block in own:
        block.forward = _kept_out(block.forward, partial(_contexts, block, within))
    try:
        yield
    finally:
        for block in own:
            del block.forward


def blocks(module: nn.Module) -> Iterator[nn.Module]:
    """Find the largest parts of an encoder that are called as they are, rather than taken apart."""
    for part in module.children():
        if _is_container(part):
            yield from blocks(part)
        elif any(True for _ in part.children()):
            yield part


def _is_container(module: nn.Module) -> bool:
    """Whether a module is a mere list of others, or of a class that is one too."""
    return isinstance(module, nn.Sequential | nn.ModuleList | nn.ModuleDict)


def _contexts(block: nn.Module, within: Context) -> tuple[Context, Context]:
    return nullcontext(), _again(block, within)


@contextmanager
def _again(block: nn.Module, within: Context) -> Iterator[None]:
    """Run a block as before, but for the running statistics, which are up to date already."""
    norms = [part for part in block.modules() if isinstance(part, _BatchNorm)]
    kept = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm, (_, count) in zip(norms, kept, strict=True):
        # Not without the statistics: the second time has to keep as many tensors as the first.
        # Nor without a count, which layers that are shared by processes insist on.
        norm.momentum = 0.0
        norm.num_batches_tracked = None if count is None else torch.zeros_like(count)
    try:
        with within:
            yield
    finally:
        for norm, (momentum, count) in zip(norms, kept, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, count


def _kept_out(forward: Callable[..., Any], contexts: Callable[[], Any]) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        return checkpoint(forward, *args, use_reentrant=False, context_fn=contexts, **kwargs)

    return call
