"""Class probabilities of windows: batches of a fixed shape, several models, several views."""

import itertools
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from cafe_cli.errors import out_of_memory
from cafe_cli.inference.tiling import STRIDE
from cafe_cli.model.device import computes_in_bf16
from cafe_cli.model.inputs import Inputs
from cafe_cli.scenes.scene import Patch

log = logging.getLogger("cafe")

Augmentation = Literal["none", "flips", "d4"]
Network: TypeAlias = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""Takes what `cafe_cli.model.cafe.CaFE.forward` takes, and returns logits."""


@dataclass(frozen=True)
class TTATransform:
    """One way to look at a window: turned by quarters, then mirrored, and at another scale."""

    turns: int = 0
    mirrored: bool = False
    scale: float = 1.0

    def show(self, x: Tensor) -> Tensor:
        """Turn and mirror (..., size, size)."""
        x = torch.rot90(x, self.turns, (-2, -1)) if self.turns else x
        return x.flip(-1) if self.mirrored else x

    def restore(self, x: Tensor) -> Tensor:
        """Undo it."""
        x = x.flip(-1) if self.mirrored else x
        return torch.rot90(x, -self.turns, (-2, -1)) if self.turns else x

    def side(self, size: int) -> int:
        """Return the side of a window of that size in this view: a multiple of the stride."""
        return max(round(size * self.scale / STRIDE), 1) * STRIDE if self.scale != 1 else size


def tta_transforms(
    augmentation: Augmentation = "none", scales: Sequence[float] = (1.0,)
) -> list[TTATransform]:
    """Return the views that test-time augmentation averages.

    ``flips`` are the four of a rectangle (as it is, mirrored either way, turned by 180 degrees),
    ``d4`` the eight symmetries of a square; each of them at every scale.
    """
    turns = {"none": [0], "flips": [0, 2], "d4": [0, 1, 2, 3]}[augmentation]
    mirrored = [False] if augmentation == "none" else [False, True]
    return [TTATransform(t, m, s) for s, t, m in itertools.product(scales, turns, mirrored)]


def to_batch(patches: Sequence[Patch], size: int, device: torch.device) -> Inputs:
    """Bring patches to a device, pixels raw in their own data type.

    Parameters
    ----------
    patches : sequence of Patch
    size : int
        Of the batch; beyond the patches nothing is valid.
    device : torch.device
    """
    first = patches[0]
    side = first.optical_valid.shape
    shapes = [first.optical.shape, side, (1, *side), side]
    kinds = [_readable(first.optical.dtype), torch.bool, torch.float32, torch.bool]
    pinned = device.type == "cuda"
    stacks = [
        torch.zeros((size, *shape), dtype=kind, pin_memory=pinned)
        for shape, kind in zip(shapes, kinds, strict=True)
    ]
    for index, patch in enumerate(patches):
        fields = (patch.optical, patch.optical_valid, patch.height, patch.height_valid)
        for stack, values in zip(stacks, fields, strict=True):
            stack[index].numpy()[...] = values
    return Inputs(*(stack.to(device, non_blocking=True) for stack in stacks))


def in_view(inputs: Inputs, view: TTATransform) -> Inputs:
    """Return a batch turned, mirrored and scaled, in float32."""
    optical, valid = inputs.optical.float(), inputs.optical_valid
    height, known = inputs.height, inputs.height_valid
    size = valid.shape[-1]
    if (side := view.side(size)) != size:
        optical, valid = _scaled(optical, valid, side)
        height, known = _scaled(height, known, side)
    return Inputs(*map(view.show, (optical, valid, height, known)))


class BatchedForward:
    """Runs networks over batches of windows and averages their class probabilities.

    Every call has the same shape, so that a window's scores do not depend on how many others there
    are in its batch.

    Parameters
    ----------
    networks : sequence of Network
    device : torch.device
    batch_size : int
        Windows at a time; halved once if memory runs out.
    seen : sequence of View
    """

    def __init__(
        self,
        networks: Sequence[Network],
        device: torch.device,
        batch_size: int,
        seen: Sequence[TTATransform] = (TTATransform(),),
    ) -> None:
        self.networks, self.device, self.batch_size, self.views = networks, device, batch_size, seen
        self._halved = False

    def __call__(self, patches: Sequence[Patch]) -> Tensor:
        """Return probabilities (len(patches), K, size, size) float32; no more than a batch."""
        batch = to_batch(patches, self.batch_size, self.device)
        mixed = torch.autocast("cuda", torch.bfloat16, enabled=computes_in_bf16(self.device))
        with torch.inference_mode(), mixed:
            return self._mean(batch)[: len(patches)]

    def batches(self, patches: Sequence[Patch]) -> Iterator[tuple[int, Tensor]]:
        """Yield (number of the first patch, probabilities), batch after batch."""
        start = 0
        while start < len(patches):
            part = patches[start : start + self.batch_size]
            try:
                scores = self(part)
            except (RuntimeError, MemoryError) as error:
                self._halve(error)
                continue
            yield start, scores
            start += len(part)

    def _mean(self, batch: Inputs) -> Tensor:
        total: Tensor | None = None
        for view in self.views:
            shown = in_view(batch, view)
            for network in self.networks:
                odds = view.restore(network(*shown).float().softmax(dim=1))
                if odds.shape[-1] != batch.optical_valid.shape[-1]:
                    odds = _resized(odds, batch.optical_valid.shape[-1])
                total = odds if total is None else total.add_(odds)
        if total is None:
            raise ValueError("no network to run")
        count = len(self.views) * len(self.networks)
        return total if count == 1 else total.div_(count)

    def _halve(self, error: Exception) -> None:
        """Go on with half of the batch, once; there is no use in trying for long."""
        if not out_of_memory(error) or self._halved or self.batch_size == 1:
            raise error
        self._halved = True
        self.batch_size //= 2
        log.warning("out of memory: going on with --batch-size %d", self.batch_size)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()


def blank(bands: int, size: int) -> Patch:
    """Return a window of zeros, all of them valid, to try networks with."""
    shape, valid = (size, size), np.ones((size, size), bool)
    return Patch(np.zeros((bands, *shape), np.uint8), valid, np.zeros(shape, np.float32), valid)


def _readable(dtype: np.dtype[np.generic]) -> torch.dtype:
    """Return what pixels travel as: their own type, unless torch has no arithmetic for it."""
    fine = ("uint8", "int8", "uint16", "int16", "int32", "float16", "float32")
    return getattr(torch, dtype.name) if dtype.name in fine else torch.float32


def _resized(x: Tensor, side: int) -> Tensor:
    return F.interpolate(x, size=(side, side), mode="bilinear", align_corners=False)


def _scaled(x: Tensor, valid: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """Resample (n, bands, h, w) to a side; what is not valid never enters."""
    share = _resized(valid[:, None].float(), side)
    clean = torch.where(valid[:, None], x, 0.0)
    return _resized(clean, side) / share.clamp_min(1e-6), share[:, 0] > 0.5
