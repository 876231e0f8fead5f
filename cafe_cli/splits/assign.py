"""Which ground trains, validates and tests: spatial blocks, never random tiles."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from cafe_cli.raster.window import Window

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")

_ATTEMPTS = 30
_DEALT = 2000  # blocks dealt in all attempts together: many blocks get few
_SAMPLE = 200  # blocks among which the best swap is sought
_SWAPS = 300  # in one attempt


@dataclass(frozen=True)
class Block:
    """A part of a scene that goes to one split as a whole.

    Attributes
    ----------
    scene : str
    window : Window
    counts : ndarray of int64, (K,)
        Labelled pixels per class.
    """

    scene: str
    window: Window
    counts: NDArray[np.int64]


def divide(width: int, height: int, side: int) -> Iterator[Window]:
    """Divide a raster into near-square blocks of at least `side` pixels where it is that large."""
    columns, rows = (
        np.linspace(0, n, max(1, n // side) + 1).round().astype(int).tolist()
        for n in (width, height)
    )
    for top, bottom in pairwise(rows):
        for left, right in pairwise(columns):
            yield Window.from_bounds(left, top, right, bottom)


def assign(blocks: Sequence[Block], shares: Sequence[float], seed: int) -> list[int]:
    """Deal blocks out to parts, each with about its share of the labels and of every class.

    First of all, no part goes empty; then, every class that occurs in at least as many blocks as
    there are parts occurs in each; then, the squared deviations from the shares are small. Blocks
    are dealt one by one to the part that lacks most, as in iterative stratification (Sechidis et
    al. 2011, doi 10.1007/978-3-642-23808-6_10), and then swapped as long as that helps.

    Parameters
    ----------
    blocks : sequence of Block
    shares : sequence of float
        The share of each part; the sum is 1. ``[1 / k] * k`` makes k folds.
    seed : int
        The same blocks, shares and seed give the same parts.

    Returns
    -------
    list of int
        The part of each block. Blocks without labels go to part 0, parts with a share of 0 get no
        labels, and of fewer labelled blocks than parts the first parts get one each.
    """
    if not blocks:
        return []
    counts = np.array([b.counts for b in blocks], float)
    labelled = np.flatnonzero(counts.any(axis=1))
    takers = np.flatnonzero(np.asarray(shares) > 0)[: len(labelled)]
    parts = np.zeros(len(blocks), int)
    if len(takers):
        wanted = np.asarray(shares, float)[takers]
        parts[labelled] = takers[_deal(counts[labelled], wanted / wanted.sum(), seed)]
    return list(map(int, parts))


@dataclass(frozen=True)
class _Stock:
    """What is dealt: N blocks, to P parts, of C quantities (all labels, and those of each class).

    Attributes
    ----------
    amounts : ndarray of float64, (N, C)
        The share of each quantity that a block holds, times its weight.
    present : ndarray of float64, (N, C)
        1 where a block holds some of a quantity, else 0.
    goals : ndarray of float64, (P, C)
        What each part should get, in the unit of `amounts`.
    worth : ndarray of float64, (C,)
        What it costs when a part has nothing of a quantity.
    """

    amounts: NDArray[np.float64]
    present: NDArray[np.float64]
    goals: NDArray[np.float64]
    worth: NDArray[np.float64]

    @classmethod
    def of(cls, counts: NDArray[np.float64], shares: NDArray[np.float64]) -> "_Stock":
        counts = counts[:, counts.any(axis=0)]
        classes = counts.shape[1]
        columns = np.column_stack([counts.sum(axis=1), counts])
        present = (columns > 0).astype(float)
        # All labels together weigh as much as all classes; a root, as deviations are squared.
        weights = np.sqrt([classes, *[1] * classes])
        # Squared deviations add up to 4 per class at most: less than one class that a part lacks;
        # and all the classes that all parts may lack are less than one part that is empty.
        worth = np.where(present.sum(axis=0) >= len(shares), 4.0 * classes + 1, 0.0)
        worth[0] *= classes * len(shares) + 1
        amounts = columns / columns.sum(axis=0) * weights
        return cls(amounts, present, np.outer(shares, weights), worth)

    def state(self, parts: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return how far each part exceeds its goals, and the blocks that hold what: (P, C)."""
        dealt = np.eye(len(self.goals))[parts].T
        return dealt @ self.amounts - self.goals, dealt @ self.present

    def cost(self, parts: NDArray[np.int64]) -> float:
        """Return how bad it is to deal the blocks like this."""
        excess, holders = self.state(parts)
        return float((excess**2).sum() + ((holders == 0) @ self.worth).sum())


def _deal(counts: NDArray[np.float64], shares: NDArray[np.float64], seed: int) -> NDArray[np.int64]:
    """Deal labelled blocks (N, K) to at most N parts with shares above 0 (P,): (N,)."""
    stock = _Stock.of(counts, shares)
    random = np.random.default_rng(seed)
    attempts = min(1 + _DEALT // len(counts), _ATTEMPTS)
    dealt = (_swap(stock, _spread(stock, random), random) for _ in range(attempts))
    return min(dealt, key=stock.cost)


def _spread(stock: _Stock, random: np.random.Generator) -> NDArray[np.int64]:
    """Deal block by block, rare classes first, each to the part that lacks most of what it has."""
    rarest = np.where(stock.present > 0, stock.present.sum(axis=0), np.inf).min(axis=1)
    parts = np.zeros(len(rarest), int)
    short = stock.goals.copy()
    lacking = np.tile(stock.worth, (len(short), 1))
    # The noise mixes what is about equally rare, so that no two attempts are alike.
    for block in np.argsort(rarest * random.uniform(1, 2, len(rarest))):
        amounts, present = stock.amounts[block], stock.present[block]
        part = (2 * short @ amounts + lacking @ present).argmax()
        parts[block] = part
        short[part] -= amounts
        lacking[part, present > 0] = 0
    return parts


def _swap(
    stock: _Stock, parts: NDArray[np.int64], random: np.random.Generator
) -> NDArray[np.int64]:
    """Make the best swap among some of the blocks, again and again until none helps."""
    for _ in range(_SWAPS):
        sample = random.permutation(len(parts))[:_SAMPLE]
        # One blank for each part comes after them: a swap with a blank is a move.
        now = np.append(parts[sample], np.arange(len(stock.goals)))
        change = _changes(stock, parts, sample)
        pair = list(np.unravel_index(change.argmin(), change.shape))
        if change[*pair] > -1e-9:
            break
        now[pair] = now[pair[::-1]]
        parts[sample] = now[: len(sample)]
    return parts


def _changes(
    stock: _Stock, parts: NDArray[np.int64], sample: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Return by how much every swap of two changes the cost: (S + P, S + P), blanks last."""
    excess, holders = stock.state(parts)
    now = np.append(parts[sample], np.arange(len(excess)))
    blanks = np.zeros_like(excess)
    amounts = np.vstack([stock.amounts[sample], blanks])
    present = np.vstack([stock.present[sample], blanks])
    # Of d, the first block less the second, times the excess of the second's part less the first's.
    pull, like = (amounts @ excess.T)[:, now], amounts @ amounts.T
    own, square = np.diag(pull), np.diag(like)
    shift = pull + pull.T - own - own[:, None]
    spread = square + square[:, None] - 2 * like
    only = present * ((holders == 1) * stock.worth)[now]
    lost = only @ (1 - present).T
    gained = (present @ ((holders == 0) * stock.worth).T)[:, now]
    change: NDArray[np.float64] = 2 * (shift + spread) + lost + lost.T - gained - gained.T
    return change
