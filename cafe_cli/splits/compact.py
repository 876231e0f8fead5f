"""Keep held-out ground together where scattered blocks would cost too many training tiles.

A training tile is lost if it touches a block of validation or test, or the buffer around it. Blocks
of two tiles that lie scattered lose tiles on all their sides; neighbours share theirs.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from cafe_cli.raster.window import Window
from cafe_cli.splits.assign import Block, Problem
from cafe_cli.splits.tiling import overlapping, training_starts, training_windows

Worth: TypeAlias = Callable[[str, Sequence[Window]], NDArray[np.bool_]]
"""Says which windows of a scene have enough pixels for training, (N,)."""

ENOUGH = 2 / 3
"""Share of the training tiles that the shares of the split promise. Scattered blocks that leave as
many are not moved: they show more of the ground than a few places do."""

_CLUSTERS = (8, 4, 2, 1)  # places in which the ground of one part lies, the most scattered first
_GROWN = 4000  # blocks grown in all attempts together, which limits the attempts
_ATTEMPTS = 40


@dataclass(frozen=True)
class TrainingTiles:
    """The training tiles of all scenes that are divided into blocks, if nothing were held out.

    Attributes
    ----------
    total : int
        Number of tiles with enough pixels.
    near : list of ndarray of int64
        For each block, the tiles that are lost if it is held out.
    """

    total: int
    near: list[NDArray[np.int64]]

    @classmethod
    def of(
        cls,
        blocks: Sequence[Block],
        extents: Mapping[str, Window],
        tiling: tuple[int, int],
        buffer: int,
        worth: Worth,
    ) -> "TrainingTiles":
        """Find the tiles; `tiling` is their size and stride in pixels."""
        total, numbers = 0, {}
        for name in dict.fromkeys(b.scene for b in blocks):
            windows = list(training_windows(extents[name], *tiling, []))
            kept = worth(name, windows)
            ids = np.where(kept, total + np.cumsum(kept) - 1, -1)
            starts = training_starts(extents[name], *tiling)
            numbers[name] = starts, ids.reshape([len(first) for first in starts])
            total += int(kept.sum())
        near = []
        for block in blocks:
            starts, ids = numbers[block.scene]
            hit = ids[overlapping(starts, tiling[0], block.window.expand(buffer))]
            near.append(hit[hit >= 0])
        return cls(total, near)

    def left(self, held: NDArray[np.bool_]) -> int:
        """Return how many tiles are left if the blocks `held`, (N,), are held out."""
        lost = np.zeros(self.total, bool)
        for block in np.flatnonzero(held):
            lost[self.near[block]] = True
        return int(self.total - lost.sum())


def keep_together(
    blocks: Sequence[Block],
    parts: Sequence[int],
    shares: Sequence[float],
    tiles: TrainingTiles,
    seed: int,
) -> list[int]:
    """Hold out neighbouring blocks if those of an assignment cost too many training tiles.

    Parameters
    ----------
    blocks : sequence of Block
    parts : sequence of int
        The part of each block, from `assign_blocks`; part 0 trains, the others are held out.
    shares : sequence of float
        The share of each part.
    tiles : TrainingTiles
    seed : int

    Returns
    -------
    list of int
        `parts` if it leaves `ENOUGH` of the training tiles that the shares promise. Else the
        assignment to the largest number of places, at most 8 per part, that does; or the one that
        leaves most. None lacks a class in a part where `parts` does not.
    """
    given = np.array(parts)
    labelled = np.array([bool(b.counts.any()) for b in blocks])
    if not given.any() or not labelled[given == 0].any():
        return list(parts)
    counts = np.array([b.counts for b in blocks], float)[labelled]
    enough = ENOUGH * shares[0] * tiles.total
    wanted = np.flatnonzero(shares)
    problem = Problem.of(counts, np.asarray(shares, float)[wanted])

    def rank(parts: NDArray[np.int64]) -> tuple[float, float, float]:
        """Rank an assignment, lower is better: classes that lack, tiles, balance."""
        own = np.searchsorted(wanted, parts[labelled])
        left = min(float(tiles.left(parts > 0)), enough)
        return problem.lacking(own), -left, problem.cost(own)

    best, score = given, rank(given)
    grower = _Grower(blocks, tiles, shares)
    rng = np.random.default_rng(seed)
    for clusters in _CLUSTERS:
        if -score[1] >= enough:
            break
        for found in grower.attempts(clusters, rng):
            if (better := rank(found)) < score:
                best, score = found, better
    return list(map(int, best))


class _Grower:
    """Grows held-out ground from single blocks, by the neighbours that cost fewest tiles."""

    def __init__(
        self, blocks: Sequence[Block], tiles: TrainingTiles, shares: Sequence[float]
    ) -> None:
        labels = np.array([b.counts.sum() for b in blocks], float)
        self._amounts, self._tiles, self._shares = labels / labels.sum(), tiles, shares
        self._neighbours = _neighbours(blocks)

    def attempts(self, clusters: int, rng: np.random.Generator) -> Iterator[NDArray[np.int64]]:
        """Yield assignments whose held-out parts lie in `clusters` places each."""
        for _ in range(min(1 + _GROWN // len(self._amounts), _ATTEMPTS)):
            parts = np.zeros(len(self._amounts), int)
            lost = np.zeros(self._tiles.total, bool)
            for part, share in enumerate(self._shares[1:], start=1):
                taken = 0.0
                for goal in np.linspace(0, share, clusters + 1)[1:].tolist():
                    taken = self._grow(parts, lost, part, taken, goal, rng)
            yield parts

    def _grow(
        self,
        parts: NDArray[np.int64],
        lost: NDArray[np.bool_],
        part: int,
        taken: float,
        goal: float,
        rng: np.random.Generator,
    ) -> float:
        """Add neighbouring blocks to a part until it has the share `goal`; return its share."""
        front: set[int] = set()
        while taken < goal:
            block = self._next(parts, lost, front, rng)
            # The last block is left out if the goal is then missed by less.
            if block is None or (taken and taken + self._amounts[block] / 2 > goal):
                break
            parts[block] = part
            lost[self._tiles.near[block]] = True
            taken += self._amounts[block]
            front.update(self._neighbours[block])
        return taken

    def _next(
        self,
        parts: NDArray[np.int64],
        lost: NDArray[np.bool_],
        front: set[int],
        rng: np.random.Generator,
    ) -> int | None:
        """Return the neighbour that costs fewest tiles per label, or a block elsewhere."""
        free = np.flatnonzero((parts == 0) & (self._amounts > 0))
        if len(free) < 2:  # one is left for training
            return None
        near = [block for block in sorted(front) if parts[block] == 0 and self._amounts[block] > 0]
        if not near:
            return int(rng.choice(free))
        costs = [(~lost[self._tiles.near[b]]).sum() / self._amounts[b] for b in near]
        return near[int(np.argmin(costs))]


def _neighbours(blocks: Sequence[Block]) -> list[list[int]]:
    """Return the blocks that share an edge with each block."""
    ends = {(b.scene, b.window.col, b.window.row): i for i, b in enumerate(blocks)}
    found: list[list[int]] = [[] for _ in blocks]
    for i, block in enumerate(blocks):
        window = block.window
        for place in ((window.right, window.row), (window.col, window.bottom)):
            if (other := ends.get((block.scene, *place))) is not None:
                found[i].append(other)
                found[other].append(i)
    return found
