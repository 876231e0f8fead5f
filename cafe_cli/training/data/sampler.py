"""Which tiles make a batch, as a pure function of the seed and the epoch."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from torch.utils.data import Sampler


class SampleKey(NamedTuple):
    """Which tile, and the seed of every random choice about it."""

    tile: int
    seed: int


class BatchSampler(Sampler[list[SampleKey]]):
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

    def __iter__(self) -> Iterator[list[SampleKey]]:
        """Iterate over the batches of the epoch that is set."""
        random = np.random.default_rng([self._seed, self.epoch])
        order = random.permutation(self._tiles).tolist()
        seeds = random.integers(2**62, size=self._tiles).tolist()
        keys = [SampleKey(*pair) for pair in zip(order, seeds, strict=True)]
        for batch in range(self.start, len(self)):
            first = batch * self._batch_size
            yield keys[first : first + self._batch_size][self._rank :: self._world]


def batches_in_order(
    tiles: int, batch_size: int, rank: int = 0, world: int = 1
) -> list[list[SampleKey]]:
    """Return every tile once, in batches, for this process."""
    keys = [SampleKey(i, 0) for i in range(rank, tiles, world)]
    return [keys[i : i + batch_size] for i in range(0, len(keys), batch_size)]
