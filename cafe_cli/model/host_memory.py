"""Host memory that is copied to a device in one piece, and then used again."""

import math
from collections.abc import Sequence
from typing import TypeAlias

import torch
from torch import Tensor

Layout: TypeAlias = Sequence[tuple[Sequence[int], torch.dtype]]
"""Shapes and data types of tensors."""

_ALIGNMENT = 512  # bytes, as torch aligns what it allocates on a GPU


class HostMemory:
    """Tensors in one piece of host memory; one copy brings all of them to a device.

    For a GPU the memory is page-locked: the host need not wait for the copy, and tells by `wait`
    when it may write to the tensors again.

    Parameters
    ----------
    layout : sequence of (shape, dtype)
    device : torch.device
        Where the tensors are to be copied to.

    Attributes
    ----------
    tensors : tuple of Tensor
        Zeros, on the host.
    """

    def __init__(self, layout: Layout, device: torch.device) -> None:
        self._layout, self._device = layout, device
        self._starts = [0]
        for shape, kind in layout:
            end = self._starts[-1] + math.prod(shape) * kind.itemsize
            self._starts.append(-(-end // _ALIGNMENT) * _ALIGNMENT)
        self._bytes = torch.zeros(
            self._starts[-1], dtype=torch.uint8, pin_memory=device.type == "cuda"
        )
        self.tensors = self._views(self._bytes)
        self._copied: torch.cuda.Event | None = None

    def copy(self) -> tuple[Tensor, ...]:
        """Return the tensors on the device, perhaps still being copied; on a CPU themselves."""
        if self._device.type == "cpu":
            return self.tensors
        moved = self._bytes.to(self._device, non_blocking=True)
        self._copied = torch.cuda.current_stream(self._device).record_event()
        return self._views(moved)

    def wait(self) -> None:
        """Wait until the last copy to a GPU is complete."""
        if self._copied is not None:
            self._copied.synchronize()

    def _views(self, flat: Tensor) -> tuple[Tensor, ...]:
        return tuple(
            flat[start : start + math.prod(shape) * kind.itemsize].view(kind).view(*shape)
            for (shape, kind), start in zip(self._layout, self._starts, strict=False)
        )
