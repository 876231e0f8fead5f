"""Tile set to tensors. What a sample looks like depends on its key only, never on when it is drawn.

That makes an interrupted run repeatable: the batches of an epoch are a pure function of the seed
and the epoch, and every random choice about a tile comes from the seed in its key.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from cafe_cli import tiles
from cafe_cli.config import TrainSettings
from cafe_cli.scene import Patch
from cafe_cli.split import Split
from cafe_cli.tiles import TileSet
from cafe_cli.windows import Window

Labels = np.ndarray[tuple[int, int], np.dtype[np.uint8]]


class Key(NamedTuple):
    """Which tile, and the seed of every random choice about it."""

    tile: int
    seed: int


class Inputs(NamedTuple):
    """What the network sees of a batch of patches (or of one, without the batch axis).

    Attributes
    ----------
    optical : Tensor of float32, (batch, bands, height, width)
        Raw pixel values.
    optical_valid, height_valid : Tensor of bool, (batch, height, width)
    height : Tensor of float32, (batch, 1, height, width)
        Metres.
    """

    optical: Tensor
    optical_valid: Tensor
    height: Tensor
    height_valid: Tensor


class Sample(NamedTuple):
    """Inputs and labels (batch, height, width), int64, 255 where there is none."""

    inputs: Inputs
    labels: Tensor


def to_tensors(patch: Patch) -> Inputs:
    """Turn one patch into tensors without a batch axis."""
    return Inputs(
        torch.from_numpy(np.ascontiguousarray(patch.optical, np.float32)),
        torch.from_numpy(np.ascontiguousarray(patch.optical_valid)),
        torch.from_numpy(np.ascontiguousarray(patch.height[None])),
        torch.from_numpy(np.ascontiguousarray(patch.height_valid)),
    )


class TileDataset(Dataset[Sample]):
    """The tiles of one split.

    Parameters
    ----------
    folder : Path
        The tile set's folder.
    tileset : TileSet
    split : {'train', 'validation', 'test'}
    augment : TrainSettings, optional
        Crop, turn, flip and jitter as these say; whole tiles as they are if None.
    """

    def __init__(
        self, folder: Path, tileset: TileSet, split: Split, augment: TrainSettings | None = None
    ) -> None:
        self._reader = tiles.Reader(folder, tileset)
        self._tileset = tileset
        self._tiles = tileset.of(split)
        self._augment = augment

    def __len__(self) -> int:
        """Return the number of tiles."""
        return len(self._tiles)

    def __getitem__(self, key: Key) -> Sample:
        """Read one tile."""
        patch, labels = self._reader.read(self._tiles[key.tile])
        if self._augment is not None:
            random = np.random.default_rng(key.seed)
            std = np.array(self._tileset.optical_statistics.std, np.float32)
            patch, labels = augment(patch, labels, self._augment, std, random)
        return Sample(to_tensors(patch), torch.from_numpy(labels.astype(np.int64)))


class Batches(Sampler[list[Key]]):
    """The batches of an epoch, from batch `start` on: this process's share of each.

    A last batch that is not full is left out, unless it is the only one.
    """

    def __init__(
        self, tiles: int, batch_size: int, seed: int, rank: int = 0, world: int = 1
    ) -> None:
        self._tiles, self._seed = tiles, seed
        self._batch_size = min(batch_size, tiles)
        self._rank, self._world = rank, world
        self.epoch = 0
        self.start = 0

    def __len__(self) -> int:
        """Return the number of batches in a whole epoch."""
        return self._tiles // self._batch_size

    def __iter__(self) -> Iterator[list[Key]]:
        """Iterate over the batches of the epoch that is set."""
        random = np.random.default_rng([self._seed, self.epoch])
        order = random.permutation(self._tiles).tolist()
        seeds = random.integers(2**62, size=self._tiles).tolist()
        keys = [Key(*pair) for pair in zip(order, seeds, strict=True)]
        for batch in range(self.start, len(self)):
            first = batch * self._batch_size
            yield keys[first : first + self._batch_size][self._rank :: self._world]


def in_order(tiles: int, batch_size: int, rank: int = 0, world: int = 1) -> list[list[Key]]:
    """Return every tile once, in batches, for this process."""
    keys = [Key(i, 0) for i in range(rank, tiles, world)]
    return [keys[i : i + batch_size] for i in range(0, len(keys), batch_size)]


def augment(
    patch: Patch,
    labels: Labels,
    settings: TrainSettings,
    std: np.ndarray[tuple[int], np.dtype[np.float32]],
    random: np.random.Generator,
) -> tuple[Patch, Labels]:
    """Crop, turn and flip everything alike; jitter colours and heights, leave some heights out.

    `std` is the standard deviation of each band, the measure of an offset.
    """
    patch, labels = _crop(patch, labels, settings.crop, random)
    turns = int(random.integers(4)) if settings.turns else 0
    flip = settings.flips and bool(random.integers(2))

    def turned(values: np.ndarray) -> np.ndarray:
        values = np.rot90(values, turns, axes=(-2, -1))
        return values[..., ::-1] if flip else values

    strength = settings.color_jitter
    gain, offset = random.uniform(-strength, strength, (2, len(std), 1, 1)).astype(np.float32)
    optical = patch.optical.astype(np.float32) * (1 + gain) + offset * std[:, None, None]
    lift = np.float32(random.normal(0, settings.height_jitter))
    known = patch.height_valid & ~_void(labels.shape, settings.height_dropout, random)
    jittered = Patch(
        turned(optical),
        turned(patch.optical_valid),
        turned(np.where(known, patch.height + lift, np.float32(0))),
        turned(known),
    )
    return jittered, np.ascontiguousarray(turned(labels))


def _void(
    shape: tuple[int, int], probability: float, random: np.random.Generator
) -> np.ndarray[tuple[int, int], np.dtype[np.bool_]]:
    """Draw where the heights will be taken away: the whole tile or a rectangle, equally often."""
    mask = np.zeros(shape, bool)
    # All drawn in any case, so that the other random choices do not depend on this one.
    chosen, *ends = random.uniform(size=5)
    if chosen < probability / 2:
        mask[:] = True
    elif chosen < probability:
        (top, bottom), (left, right) = (
            sorted(round(n * end) for end in pair)
            for n, pair in zip(shape, (ends[:2], ends[2:]), strict=True)
        )
        mask[top:bottom, left:right] = True
    return mask


def _crop(
    patch: Patch, labels: Labels, size: int | None, random: np.random.Generator
) -> tuple[Patch, Labels]:
    height, width = labels.shape
    if size is None or (size >= height and size >= width):
        return patch, labels
    window = Window(
        int(random.integers(max(width - size, 0) + 1)),
        int(random.integers(max(height - size, 0) + 1)),
        min(size, width),
        min(size, height),
    )
    here = window.slices()
    return patch.at(here), labels[here]
