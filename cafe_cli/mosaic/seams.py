"""Where the inputs of a mosaic overlap, and how far they agree there."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cafe_cli.classes import NODATA
from cafe_cli.mosaic.methods import Labels


@dataclass(frozen=True)
class Seams:
    """Pixels that several inputs label, of a part of a mosaic or the whole.

    Attributes
    ----------
    overlap : int
        Pixels with a class in two inputs or more.
    disagreement : int
        Those of them where not all classes are the same.
    inputs : ndarray of int, (inputs, 2)
        For each input: its pixels in overlaps, and those where the map has another class.
    """

    overlap: int
    disagreement: int
    inputs: NDArray[np.int64]

    @property
    def share(self) -> float:
        """The share of the overlap where the inputs disagree, 0 to 1."""
        return self.disagreement / self.overlap if self.overlap else 0.0

    def worst(self) -> tuple[int, float] | None:
        """Return position and share of the input that differs most from the map, if one does."""
        shares = self.inputs[:, 1] / np.maximum(self.inputs[:, 0], 1)
        worst = int(shares.argmax())
        return (worst, float(shares[worst])) if shares[worst] > 0 else None


def find_seams(labels: Labels, chosen: Labels, positions: Sequence[int], count: int) -> Seams:
    """Compare the inputs of a window with each other and with the map.

    Parameters
    ----------
    labels : ndarray of uint8, (n, height, width)
    chosen : ndarray of uint8, (height, width)
    positions : sequence of int, n
        Which of all inputs these are.
    count : int
        Number of all inputs.
    """
    found = np.zeros((count, 2), np.int64)
    known = labels != NODATA
    several = known.sum(axis=0, dtype=np.uint16) > 1
    if len(labels) < 2 or not several.any():
        return Seams(0, 0, found)
    shared = known & several
    other = shared & (labels != chosen)
    found[list(positions), 0] = shared.sum(axis=(1, 2))
    found[list(positions), 1] = other.sum(axis=(1, 2))
    lowest = np.where(known, labels, np.uint8(NODATA)).min(axis=0)
    highest = np.where(known, labels, np.uint8(0)).max(axis=0)
    return Seams(int(several.sum()), int((several & (lowest != highest)).sum()), found)


def sum_seams(parts: Iterable[Seams], count: int) -> Seams:
    """Add up parts that do not overlap."""
    total = Seams(0, 0, np.zeros((count, 2), np.int64))
    for part in parts:
        total = Seams(
            total.overlap + part.overlap,
            total.disagreement + part.disagreement,
            total.inputs + part.inputs,
        )
    return total
