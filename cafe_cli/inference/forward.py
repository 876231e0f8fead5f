"""Class probabilities of windows: batches of one shape, averaged over models and transforms."""

import itertools
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from cafe_cli.config.schema import STRIDE
from cafe_cli.errors import out_of_memory
from cafe_cli.model.device import has_native_bf16
from cafe_cli.model.inputs import Inputs
from cafe_cli.scenes.scene import Patch

log = logging.getLogger("cafe")

Augmentation = Literal["none", "flips", "d4"]
Network: TypeAlias = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""A callable with the arguments and the result of `cafe_cli.model.cafe.CaFE.forward`."""


@dataclass(frozen=True)
class TTATransform:
    """A transform of test-time augmentation (TTA).

    Attributes
    ----------
    turns : int
        Counter-clockwise rotation in units of 90 degrees.
    mirrored : bool
        Whether the window is flipped left to right after the rotation.
    scale : float
        Factor by which the window is resampled.
    """

    turns: int = 0
    mirrored: bool = False
    scale: float = 1.0

    def apply(self, x: Tensor) -> Tensor:
        """Rotate and flip x (..., size, size)."""
        x = torch.rot90(x, self.turns, (-2, -1)) if self.turns else x
        return x.flip(-1) if self.mirrored else x

    def invert(self, x: Tensor) -> Tensor:
        """Undo `apply`."""
        x = x.flip(-1) if self.mirrored else x
        return torch.rot90(x, -self.turns, (-2, -1)) if self.turns else x

    def side(self, size: int) -> int:
        """Return the size of a window after scaling, rounded to the network's stride."""
        return max(round(size * self.scale / STRIDE), 1) * STRIDE if self.scale != 1 else size


def tta_transforms(
    augmentation: Augmentation = "none", scales: Sequence[float] = (1.0,)
) -> list[TTATransform]:
    """Return the transforms over which test-time augmentation averages.

    ``flips`` are the four symmetries of a rectangle (identity, both flips, rotation by 180
    degrees), ``d4`` the eight symmetries of a square; each of them is used at every scale.
    """
    turns = {"none": [0], "flips": [0, 2], "d4": [0, 1, 2, 3]}[augmentation]
    mirrored = [False] if augmentation == "none" else [False, True]
    return [TTATransform(t, m, s) for s, t, m in itertools.product(scales, turns, mirrored)]


def to_batch(patches: Sequence[Patch], size: int, device: torch.device) -> Inputs:
    """Stack patches to a batch on a device; pixels keep their values and their data type.

    Parameters
    ----------
    patches : sequence of Patch
        At least one, all of the same shape.
    size : int
        Batch size. Samples beyond the patches are zero, and nothing in them is valid.
    device : torch.device
    """
    first = patches[0]
    side = first.optical_valid.shape
    shapes = [first.optical.shape, side, (1, *side), side]
    kinds = [_tensor_dtype(first.optical.dtype), torch.bool, torch.float32, torch.bool]
    pinned = device.type == "cuda"
    stacks = [
        torch.zeros((size, *shape), dtype=kind, pin_memory=pinned)
        for shape, kind in zip(shapes, kinds, strict=True)
    ]
    for index, patch in enumerate(patches):
        for stack, values in zip(stacks, patch, strict=True):
            stack[index].numpy()[...] = values
    return Inputs(*(stack.to(device, non_blocking=True) for stack in stacks))


def transform_inputs(inputs: Inputs, transform: TTATransform) -> Inputs:
    """Return a batch scaled, rotated and flipped, in float32."""
    optical, valid = inputs.optical.float(), inputs.optical_valid
    height, known = inputs.height, inputs.height_valid
    size = valid.shape[-1]
    if (side := transform.side(size)) != size:
        optical, valid = _scaled(optical, valid, side)
        height, known = _scaled(height, known, side)
    return Inputs(*map(transform.apply, (optical, valid, height, known)))


class BatchedForward:
    """Runs networks over batches of windows and averages their class probabilities.

    Every batch has the same shape, so that the scores of a window do not depend on the number of
    other windows in its batch.

    Parameters
    ----------
    networks : sequence of Network
        Networks on `device`.
    device : torch.device
    batch_size : int
        Windows per batch; halved once if memory runs out.
    transforms : sequence of TTATransform
    """

    def __init__(
        self,
        networks: Sequence[Network],
        device: torch.device,
        batch_size: int,
        transforms: Sequence[TTATransform] = (TTATransform(),),
    ) -> None:
        self.networks, self.transforms = networks, transforms
        self.device, self.batch_size = device, batch_size
        self._halved = False

    def __call__(self, patches: Sequence[Patch]) -> Tensor:
        """Return the probabilities (len(patches), K, size, size) float32 of at most a batch."""
        batch = to_batch(patches, self.batch_size, self.device)
        mixed = torch.autocast("cuda", torch.bfloat16, enabled=has_native_bf16(self.device))
        with torch.inference_mode(), mixed:
            return self._mean(batch)[: len(patches)]

    def batches(self, patches: Sequence[Patch]) -> Iterator[tuple[int, Tensor]]:
        """Yield (index of the first patch, probabilities) for every batch."""
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
        for transform in self.transforms:
            inputs = transform_inputs(batch, transform)
            for network in self.networks:
                probabilities = transform.invert(network(*inputs).float().softmax(dim=1))
                if probabilities.shape[-1] != batch.optical_valid.shape[-1]:
                    probabilities = _resized(probabilities, batch.optical_valid.shape[-1])
                total = probabilities if total is None else total.add_(probabilities)
        if total is None:
            raise ValueError("no network to run")
        count = len(self.transforms) * len(self.networks)
        return total if count == 1 else total.div_(count)

    def _halve(self, error: Exception) -> None:
        """Halve the batch size after the first out-of-memory error; raise any other error."""
        if not out_of_memory(error) or self._halved or self.batch_size == 1:
            raise error
        self._halved = True
        self.batch_size //= 2
        log.warning("out of memory: continuing with --batch-size %d", self.batch_size)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()


def blank_patch(bands: int, size: int) -> Patch:
    """Return a patch (bands, size, size) of valid zeros, for trial runs of a network."""
    shape, valid = (size, size), np.ones((size, size), bool)
    return Patch(np.zeros((bands, *shape), np.uint8), valid, np.zeros(shape, np.float32), valid)


def _tensor_dtype(dtype: np.dtype[np.generic]) -> torch.dtype:
    """Return the tensor type of pixels: their own, or float32 where torch cannot convert it."""
    known = ("uint8", "int8", "uint16", "int16", "int32", "float16", "float32")
    return getattr(torch, dtype.name) if dtype.name in known else torch.float32


def _resized(x: Tensor, side: int) -> Tensor:
    return F.interpolate(x, size=(side, side), mode="bilinear", align_corners=False)


def _scaled(x: Tensor, valid: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """Resample x (n, bands, h, w) to side x side pixels, as weighted means of valid pixels only."""
    share = _resized(valid[:, None].float(), side)
    clean = torch.where(valid[:, None], x, 0.0)
    return _resized(clean, side) / share.clamp_min(1e-6), share[:, 0] > 0.5
