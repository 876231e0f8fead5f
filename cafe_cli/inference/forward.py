"""Class probabilities of windows: batches of one shape, averaged over models and transforms."""

import itertools
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from cafe_cli.config.schema import STRIDE
from cafe_cli.errors import out_of_memory
from cafe_cli.inference.arrays.base import Array, Arrays, Batch, Network
from cafe_cli.model.architecture import Architecture
from cafe_cli.scenes.scene import Patch

log = logging.getLogger("cafe")

Augmentation = Literal["none", "flips", "d4"]


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

    def apply(self, x: Array, arrays: Arrays) -> Array:
        """Rotate and flip x (..., size, size)."""
        x = arrays.turn(x, self.turns) if self.turns else x
        return arrays.mirror(x) if self.mirrored else x

    def invert(self, x: Array, arrays: Arrays) -> Array:
        """Undo `apply`."""
        x = arrays.mirror(x) if self.mirrored else x
        return arrays.turn(x, -self.turns) if self.turns else x

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


def transform_inputs(batch: Batch, transform: TTATransform, arrays: Arrays) -> Batch:
    """Return a batch scaled, rotated and flipped, in float32."""
    optical, valid = arrays.float32(batch.optical), batch.optical_valid
    height, known = batch.height, batch.height_valid
    size = valid.shape[-1]
    if (side := transform.side(size)) != size:
        optical, valid = _scaled(optical, valid, side, arrays)
        height, known = _scaled(height, known, side, arrays)
    return Batch(*(transform.apply(x, arrays) for x in (optical, valid, height, known)))


class BatchedForward:
    """Runs networks over batches of windows and averages their class probabilities.

    Every batch has the same shape, so that the scores of a window do not depend on the number of
    other windows in its batch.

    Parameters
    ----------
    networks : sequence of Network
        Networks for arrays of `arrays`.
    arrays : Arrays
    batch_size : int
        Windows per batch; halved while memory does not suffice.
    transforms : sequence of TTATransform
    """

    def __init__(
        self,
        networks: Sequence[Network],
        arrays: Arrays,
        batch_size: int,
        transforms: Sequence[TTATransform] = (TTATransform(),),
    ) -> None:
        self.networks, self.transforms = networks, transforms
        self.arrays, self.batch_size = arrays, batch_size

    def __call__(self, patches: Sequence[Patch]) -> Array:
        """Return the probabilities (len(patches), K, size, size) float32 of at most a batch."""
        batch = self.arrays.batch(patches, self.batch_size)
        with self.arrays.computing():
            return self._mean(batch)[: len(patches)]

    def batches(self, patches: Sequence[Patch]) -> Iterator[tuple[int, Array]]:
        """Yield (index of the first patch, probabilities) for every batch."""
        start = 0
        while start < len(patches):
            part = patches[start : start + self.batch_size]
            scores = self._attempt(part)
            if scores is None:
                self.arrays.free()  # now that the error holds none of it
                continue
            yield start, scores
            start += len(part)

    def _attempt(self, patches: Sequence[Patch]) -> Array | None:
        """Return the probabilities; None, and halve the batch size, where memory runs out."""
        try:
            return self(patches)
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error) or self.batch_size == 1:
                raise
        self.batch_size //= 2
        log.warning("out of memory: continuing with --batch-size %d", self.batch_size)
        return None

    def _mean(self, batch: Batch) -> Array:
        total: Array | None = None
        side = batch.optical_valid.shape[-1]
        for transform in self.transforms:
            inputs = transform_inputs(batch, transform, self.arrays)
            for network in self.networks:
                probabilities = transform.invert(network(*inputs), self.arrays)
                if probabilities.shape[-1] != side:
                    probabilities = self.arrays.resize(probabilities, side)
                if total is None:
                    total = probabilities
                else:
                    total += probabilities
        if total is None:
            raise ValueError("no network to run")
        count = len(self.transforms) * len(self.networks)
        if count > 1:
            total /= count
        return total


def blank_patch(architecture: Architecture, size: int) -> Patch:
    """Return a patch of size x size valid zeros, for trial runs of a network."""
    shape, valid = (size, size), np.ones((size, size), bool)
    image = np.zeros((architecture.optical_bands, *shape), np.uint8)
    heights = np.zeros((architecture.height_planes, *shape), np.float32)
    return Patch(image, valid, heights, valid)


def _scaled(x: Array, valid: Array, side: int, arrays: Arrays) -> tuple[Array, Array]:
    """Resample x (n, bands, h, w) to side x side pixels, as weighted means of valid pixels only."""
    share = arrays.resize(arrays.float32(valid[:, None]), side)
    clean = arrays.where(valid[:, None], x, 0.0)
    return arrays.resize(clean, side) / arrays.at_least(share, 1e-6), share[:, 0] > 0.5
