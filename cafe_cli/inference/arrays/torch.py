"""Arrays of torch, for the torch engine on CPUs and GPUs."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from cafe_cli.inference.arrays.base import Batch, Fetched
from cafe_cli.model.device import device_context, has_native_bf16
from cafe_cli.model.host_memory import HostMemory, Layout
from cafe_cli.scenes.scene import Patch


@dataclass(frozen=True)
class _Copies:
    """Planes that are perhaps still being copied from a GPU.

    Attributes
    ----------
    tensors : mapping
        On the CPU.
    finite : Tensor or None
        One bool, on the CPU.
    ready : Event or None
        Recorded after the copy; None on a CPU.
    """

    tensors: Mapping[str, Tensor]
    finite: Tensor | None
    ready: torch.cuda.Event | None

    def wait(self) -> None:
        """Wait until the copy from the GPU is complete."""
        if self.ready is not None:
            self.ready.synchronize()

    def planes(self) -> Mapping[str, NDArray[np.uint8]]:
        """Return the planes."""
        return {name: tensor.numpy() for name, tensor in self.tensors.items()}

    def is_finite(self) -> bool:
        """Whether all scores behind the planes are numbers."""
        return self.finite is None or bool(self.finite)


class TorchArrays:
    """`Arrays` of torch; what is documented there is not repeated here."""

    def __init__(self, device: torch.device) -> None:
        self.device, self._device = str(device), device
        self.rows_at_once = None if device.type == "cuda" else 64
        self._layout: Layout | None = None
        self._memory: list[HostMemory] = []

    def zeros(self, *shape: int, dtype: Literal["float32", "uint8"] = "float32") -> Tensor:
        return torch.zeros(*shape, dtype=getattr(torch, dtype), device=self._device)

    def put(self, values: NDArray[Any]) -> Tensor:
        return torch.from_numpy(values).to(self._device)

    def batch(self, patches: Sequence[Patch], size: int) -> Batch:
        memory = self._next_memory(_layout(patches[0], size))
        for index, patch in enumerate(patches):
            for stack, values in zip(memory.tensors, patch, strict=True):
                stack[index].numpy()[...] = values
        for stack in memory.tensors:
            stack[len(patches) :] = 0
        return Batch(*memory.copy())

    def _next_memory(self, layout: Layout) -> HostMemory:
        """Return host memory that no copy to a GPU needs any more."""
        if self._device.type == "cpu":
            return HostMemory(layout, self._device)  # the batch itself, which may be kept
        if layout != self._layout:
            # Two, so that one is filled while the other is copied.
            self._layout, self._memory = layout, [HostMemory(layout, self._device) for _ in "ab"]
        self._memory.reverse()
        self._memory[0].wait()
        return self._memory[0]

    def float32(self, x: Tensor) -> Tensor:
        return x.float()

    def turn(self, x: Tensor, turns: int) -> Tensor:
        return torch.rot90(x, turns, (-2, -1))

    def mirror(self, x: Tensor) -> Tensor:
        return x.flip(-1)

    def where(self, condition: Tensor, x: Tensor, otherwise: float) -> Tensor:
        return torch.where(condition, x, otherwise)

    def at_least(self, x: Tensor, low: float) -> Tensor:
        return x.clamp_min(low)

    def resize(self, x: Tensor, side: int) -> Tensor:
        return F.interpolate(x, size=(side, side), mode="bilinear", align_corners=False)

    def add_product(self, total: Tensor, x: Tensor, weights: Tensor) -> None:
        total.addcmul_(x, weights)

    def best(self, scores: Tensor) -> tuple[Tensor, Tensor]:
        highest = scores.max(dim=0)
        return highest.indices, highest.values

    def percent(self, shares: Tensor) -> Tensor:
        return (shares * 100).round_()

    def all_finite(self, x: Tensor) -> Tensor:
        return x.isfinite().all()

    def fetch(self, planes: Mapping[str, Tensor], finite: Tensor | None) -> Fetched:
        moved = {name: plane.to("cpu", non_blocking=True) for name, plane in planes.items()}
        finite = None if finite is None else finite.to("cpu", non_blocking=True)
        if not any(plane.is_cuda for plane in planes.values()):
            return _Copies(moved, finite, None)
        ready = torch.cuda.Event()  # type: ignore[no-untyped-call]
        ready.record()
        return _Copies(moved, finite, ready)

    def computing(self) -> AbstractContextManager[object]:
        contexts = ExitStack()
        contexts.enter_context(torch.inference_mode())
        bf16 = has_native_bf16(self._device)
        contexts.enter_context(torch.autocast("cuda", torch.bfloat16, enabled=bf16))
        return contexts

    def on_device(self) -> AbstractContextManager[object]:
        return device_context(self._device)

    def free(self) -> None:
        self._layout, self._memory = None, []
        if self._device.type == "cuda":
            torch.cuda.empty_cache()


def _layout(patch: Patch, size: int) -> Layout:
    """Return shapes and data types of a batch of so many patches."""
    side = patch.optical_valid.shape
    kinds = (_tensor_dtype(patch.optical.dtype), torch.bool, torch.float32, torch.bool)
    shapes = (patch.optical.shape, side, patch.heights.shape, side)
    return [((size, *shape), kind) for shape, kind in zip(shapes, kinds, strict=True)]


def _tensor_dtype(dtype: np.dtype[np.generic]) -> torch.dtype:
    """Return the tensor type of pixels: their own, or float32 where torch cannot convert it."""
    known = ("uint8", "int8", "uint16", "int16", "int32", "float16", "float32")
    return getattr(torch, dtype.name) if dtype.name in known else torch.float32
