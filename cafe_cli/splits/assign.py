"""Assign spatial blocks of ground to training, validation and test, balanced by class."""

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
_ASSIGNED = 2000  # blocks assigned in all attempts together, which limits the attempts
_SAMPLE = 200  # blocks among which the best swap is sought
_SWAPS = 300  # swaps in one attempt


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


def divide_into_blocks(width: int, height: int, side: int) -> Iterator[Window]:
    """Divide a raster into near-square blocks of at least `side` pixels, if it is that large."""
    for top, bottom in pairwise(block_edges(height, side)):
        for left, right in pairwise(block_edges(width, side)):
            yield Window.from_bounds(left, top, right, bottom)


def block_edges(length: int, side: int) -> list[int]:
    """Return the edges of the blocks along `length` pixels, both ends included."""
    edges = np.linspace(0, length, max(1, length // side) + 1)
    return list(map(int, edges.round()))


def assign_blocks(blocks: Sequence[Block], shares: Sequence[float], seed: int) -> list[int]:
    """Assign blocks to parts, each with about its share of the labels and of every class.

    The goals, the most important first: no part is empty; every class that occurs in at least as
    many blocks as there are parts occurs in each part; the squared deviations from the shares are
    small. Several random attempts are made and the best is kept. Each is an iterative
    stratification (Sechidis et al. 2011, doi 10.1007/978-3-642-23808-6_10) and then a local search,
    which swaps blocks as long as that helps: it brings the shares about 2 percentage points closer
    to the requested ones.

    Parameters
    ----------
    blocks : sequence of Block
    shares : sequence of float
        The share of each part; the sum is 1. ``[1 / k] * k`` makes k folds.
    seed : int
        The result is a function of blocks, shares and seed.

    Returns
    -------
    list of int
        The part of each block. Blocks without labels go to part 0, and parts with a share of 0 get
        no labels. With fewer labelled blocks than parts, the first parts get one block each.
    """
    if not blocks:
        return []
    counts = np.array([b.counts for b in blocks], float)
    labelled = np.flatnonzero(counts.any(axis=1))
    wanting = np.flatnonzero(np.asarray(shares) > 0)[: len(labelled)]
    parts = np.zeros(len(blocks), int)
    if len(wanting):
        wanted = np.asarray(shares, float)[wanting]
        parts[labelled] = wanting[_assign_labelled(counts[labelled], wanted / wanted.sum(), seed)]
    return list(map(int, parts))


@dataclass(frozen=True)
class Problem:
    """N blocks to assign to P parts, balanced by C quantities: all labels, and those per class.

    Attributes
    ----------
    amounts : ndarray of float64, (N, C)
        The share of each quantity that a block holds, times the weight of the quantity.
    present : ndarray of float64, (N, C)
        1 if a block holds some of a quantity, else 0.
    targets : ndarray of float64, (P, C)
        Target amount of each part, in the unit of `amounts`.
    penalties : ndarray of float64, (C,)
        Cost of a part that lacks a quantity.
    """

    amounts: NDArray[np.float64]
    present: NDArray[np.float64]
    targets: NDArray[np.float64]
    penalties: NDArray[np.float64]

    @classmethod
    def of(cls, counts: NDArray[np.float64], shares: NDArray[np.float64]) -> "Problem":
        """State the problem for labelled pixels per class (N, K) and the shares of parts (P,)."""
        counts = counts[:, counts.any(axis=0)]
        classes = counts.shape[1]
        columns = np.column_stack([counts.sum(axis=1), counts])
        present = (columns > 0).astype(float)
        # All labels weigh as much as all classes together; a root, since deviations are squared.
        weights = np.sqrt([classes, *[1] * classes])
        # Squared deviations add up to 4 per class at most, less than the penalty of a part that
        # lacks one class; all such penalties together are less than that of an empty part.
        penalties = np.where(present.sum(axis=0) >= len(shares), 4.0 * classes + 1, 0.0)
        penalties[0] *= classes * len(shares) + 1
        amounts = columns / columns.sum(axis=0) * weights
        return cls(amounts, present, np.outer(shares, weights), penalties)

    def state(self, parts: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return excess over the targets, and number of blocks with a quantity: (P, C) each."""
        assigned = np.eye(len(self.targets))[parts].T
        return assigned @ self.amounts - self.targets, assigned @ self.present

    def cost(self, parts: NDArray[np.int64]) -> float:
        """Return the cost of an assignment: squared deviations and penalties."""
        excess, _ = self.state(parts)
        return float((excess**2).sum()) + self.lacking(parts)

    def lacking(self, parts: NDArray[np.int64]) -> float:
        """Return the penalties of an assignment: for empty parts, and classes that parts lack."""
        _, holders = self.state(parts)
        return float(((holders == 0) @ self.penalties).sum())


def _assign_labelled(
    counts: NDArray[np.float64], shares: NDArray[np.float64], seed: int
) -> NDArray[np.int64]:
    """Assign labelled blocks (N, K) to at most N parts with shares above 0 (P,): (N,)."""
    problem = Problem.of(counts, shares)
    rng = np.random.default_rng(seed)
    attempts = min(1 + _ASSIGNED // len(counts), _ATTEMPTS)
    found = (_search(problem, _stratify(problem, rng), rng) for _ in range(attempts))
    return min(found, key=problem.cost)


def _stratify(problem: Problem, rng: np.random.Generator) -> NDArray[np.int64]:
    """Assign blocks one by one, rare classes first, to the part farthest below its target."""
    rarest = np.where(problem.present > 0, problem.present.sum(axis=0), np.inf).min(axis=1)
    parts = np.zeros(len(rarest), int)
    short = problem.targets.copy()
    lacking = np.tile(problem.penalties, (len(short), 1))
    # The noise changes the order of about equally rare blocks, so that attempts differ.
    for block in np.argsort(rarest * rng.uniform(1, 2, len(rarest))):
        amounts, present = problem.amounts[block], problem.present[block]
        part = (2 * short @ amounts + lacking @ present).argmax()
        parts[block] = part
        short[part] -= amounts
        lacking[part, present > 0] = 0
    return parts


def _search(
    problem: Problem, parts: NDArray[np.int64], rng: np.random.Generator
) -> NDArray[np.int64]:
    """Improve an assignment: make the best swap among a sample of the blocks until none helps."""
    for _ in range(_SWAPS):
        sample = rng.permutation(len(parts))[:_SAMPLE]
        # Append an empty block for each part: a swap with it moves a block.
        now = np.append(parts[sample], np.arange(len(problem.targets)))
        change = _swap_costs(problem, parts, sample)
        pair = list(np.unravel_index(change.argmin(), change.shape))
        if change[*pair] > -1e-9:
            break
        now[pair] = now[pair[::-1]]
        parts[sample] = now[: len(sample)]
    return parts


def _swap_costs(
    problem: Problem, parts: NDArray[np.int64], sample: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Return the change of the cost by each swap of two blocks: (S + P, S + P).

    The last P rows and columns are the empty blocks of the parts.
    """
    excess, holders = problem.state(parts)
    now = np.append(parts[sample], np.arange(len(excess)))
    empty = np.zeros_like(excess)
    amounts = np.vstack([problem.amounts[sample], empty])
    present = np.vstack([problem.present[sample], empty])
    # With d = amounts of the first block less those of the second, the squared deviations change by
    # 2 d * (excess of the second's part - excess of the first's part) + 2 d * d.
    pull, products = (amounts @ excess.T)[:, now], amounts @ amounts.T
    own, square = np.diag(pull), np.diag(products)
    shift = pull + pull.T - own - own[:, None]
    spread = square + square[:, None] - 2 * products
    only = present * ((holders == 1) * problem.penalties)[now]
    lost = only @ (1 - present).T
    gained = (present @ ((holders == 0) * problem.penalties).T)[:, now]
    change: NDArray[np.float64] = 2 * (shift + spread) + lost + lost.T - gained - gained.T
    return change
