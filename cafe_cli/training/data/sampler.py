"""The batches of an epoch, as a pure function of the seed and the epoch."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Sampler


class SampleKey(NamedTuple):
    """The number of a tile in its split, and the seed of its augmentation."""

    tile: int
    seed: int


class BatchSampler(Sampler[list[SampleKey]]):
    """Yields this process's share of each shuffled batch of an epoch.

    An incomplete last batch is dropped, unless it is the only one.

    Parameters
    ----------
    tiles : int
        Number of tiles of the split.
    batch_size : int
        Number of tiles of all processes together.
    seed : int
    rank, world : int
        Rank of this process, and number of processes.
    balance : float
        Share of an epoch's tiles that are drawn by `weights` and with replacement, in place of
        tiles of the shuffled order.
    weights : ndarray of float64, (tiles,), optional
        Probabilities of the tiles; needed if `balance` is not 0.

    Attributes
    ----------
    epoch : int
        Number of the epoch, from 0; set it before each epoch.
    start : int
        Number of the first batch to yield, to resume within an epoch.
    """

    def __init__(
        self,
        tiles: int,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world: int = 1,
        *,
        balance: float = 0.0,
        weights: NDArray[np.float64] | None = None,
    ) -> None:
        self._tiles, self._seed = tiles, seed
        self._batch_size = min(batch_size, tiles)
        self._rank, self._world = rank, world
        self._balance, self._weights = balance, weights
        self.epoch = 0
        self.start = 0

    def __len__(self) -> int:
        """Return the number of batches of a whole epoch."""
        return self._tiles // self._batch_size

    def __iter__(self) -> Iterator[list[SampleKey]]:
        """Iterate over the batches of `epoch`, from `start` on."""
        rng = np.random.default_rng([self._seed, self.epoch])
        order = rng.permutation(self._tiles)
        seeds = rng.integers(2**62, size=self._tiles)
        if self._balance:
            drawn = rng.choice(self._tiles, size=self._tiles, p=self._weights)
            order = np.where(rng.random(self._tiles) < self._balance, drawn, order)
        pairs = zip(order.tolist(), seeds.tolist(), strict=True)
        keys = [SampleKey(*pair) for pair in pairs]
        for batch in range(self.start, len(self)):
            first = batch * self._batch_size
            yield keys[first : first + self._batch_size][self._rank :: self._world]


def balance_classes(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return probabilities of tiles that draw the pixels of all classes equally often.

    Parameters
    ----------
    counts : ndarray of int64, (tiles, classes)
        Labelled pixels of each class.

    Returns
    -------
    ndarray of float64, (tiles,)
        The mean, over the classes that occur, of the tile's share of the class's pixels.
    """
    occurring = counts[:, counts.any(axis=0)]
    shares = occurring / occurring.sum(axis=0)
    weights: NDArray[np.float64] = shares.mean(axis=1)
    return weights


def batches_in_order(
    tiles: int, batch_size: int, rank: int = 0, world: int = 1
) -> list[list[SampleKey]]:
    """Return this process's share of all tiles, unshuffled, in batches."""
    keys = [SampleKey(i, 0) for i in range(rank, tiles, world)]
    return [keys[i : i + batch_size] for i in range(0, len(keys), batch_size)]
