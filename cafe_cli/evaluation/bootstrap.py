"""Intervals of scores by a bootstrap of spatial blocks.

Neighbouring pixels are right or wrong together, so that millions of them are worth far fewer.
Blocks of ground are drawn with replacement instead, each with all its pixels; the spread of a score
over many such draws is its uncertainty (Efron and Tibshirani 1993, "An introduction to the
bootstrap", chapters 8 and 13).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cafe_cli.classes import ClassTable

_DRAWS = 1000
_AT_ONCE = 4_000_000  # times that a block is drawn, in memory
_FEWEST = 10  # blocks; the spread of fewer says little
_TAILS = (2.5, 97.5)  # per cent

Interval = tuple[float, float]


@dataclass(frozen=True)
class Intervals:
    """95 % intervals of the scores of a map.

    Attributes
    ----------
    blocks : int
        Blocks with labels.
    side : int
        Side of a block in pixels.
    overall : dict
        Limits by ``miou``, ``mean_f1`` and ``overall_accuracy``; NaN where undefined.
    classes : dict
        By class name, then by ``iou``, ``f1``, ``precision`` and ``recall``.
    """

    blocks: int
    side: int
    overall: dict[str, Interval]
    classes: dict[str, dict[str, Interval]]

    def as_json(self) -> dict[str, object]:
        """Return plain values; an interval is a list of two numbers, or None."""
        return {
            "method": "bootstrap of spatial blocks",
            "blocks": self.blocks,
            "block_pixels": self.side,
            **{name: _plain(value) for name, value in self.overall.items()},
            "classes": {
                name: {key: _plain(value) for key, value in row.items()}
                for name, row in self.classes.items()
            },
        }


@dataclass(frozen=True)
class Difference:
    """A difference of two maps and its 95 % interval."""

    value: float
    low: float
    high: float

    def as_json(self) -> dict[str, float | None]:
        """Return plain values, as `cafe_cli.evaluation.stratified.Estimate` has them."""
        values = {"estimate": self.value, "low": self.low, "high": self.high}
        return {key: None if math.isnan(value) else value for key, value in values.items()}


def intervals(
    blocks: Sequence[NDArray[np.int64]], side: int, classes: ClassTable
) -> Intervals | None:
    """Return the intervals of the scores of a map; None with fewer than ten blocks.

    Parameters
    ----------
    blocks : sequence of ndarray of int64, (K, K)
        Confusion matrices, rows are the reference.
    side : int
        Of a block, in pixels.
    classes : ClassTable
    """
    if len(blocks) < _FEWEST:
        return None
    found = _scores(_draw(np.stack(blocks)), classes)
    return Intervals(
        len(blocks),
        side,
        {name: _limits(found[name]) for name in ("miou", "mean_f1", "overall_accuracy")},
        {
            land.name: {
                key: _limits(found[key][:, land.id]) for key in ("iou", "f1", "precision", "recall")
            }
            for land in classes
        },
    )


def differences(
    first: Sequence[NDArray[np.int64]],
    other: Sequence[NDArray[np.int64]],
    classes: ClassTable,
) -> dict[str, object]:
    """Return how much another map scores higher than the first, on the same blocks.

    Every draw takes the same blocks of both maps. Limits are None with fewer than ten blocks.
    """
    pair = [np.stack(first), np.stack(other)]
    whole = [_scores(blocks.sum(axis=0, dtype=float)[None], classes) for blocks in pair]
    drawn = [_scores(_draw(blocks), classes) for blocks in pair]
    few = len(first) < _FEWEST

    def difference(key: str, column: int | None = None) -> dict[str, float | None]:
        at = slice(None) if column is None else (slice(None), column)
        low, high = (math.nan, math.nan) if few else _limits(drawn[1][key][at] - drawn[0][key][at])
        return Difference(float((whole[1][key][at] - whole[0][key][at])[0]), low, high).as_json()

    return {
        **{key: difference(key) for key in ("overall_accuracy", "miou", "mean_f1")},
        "iou": {land.name: difference("iou", land.id) for land in classes},
    }


def _draw(blocks: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the sums of blocks drawn with replacement, (draws, K, K)."""
    count, classes = len(blocks), blocks.shape[1]
    random = np.random.default_rng(0)
    flat = blocks.reshape(count, -1).astype(float)
    parts = []
    for start in range(0, _DRAWS, step := max(_AT_ONCE // count, 1)):
        draws = min(step, _DRAWS - start)
        parts.append(random.multinomial(count, np.full(count, 1 / count), draws) @ flat)
    return np.concatenate(parts).reshape(-1, classes, classes)


def _scores(counts: NDArray[np.float64], classes: ClassTable) -> dict[str, NDArray[np.float64]]:
    """Return scores of matrices (D, K, K): (D,) each, of classes (D, K); NaN where undefined."""
    right = np.diagonal(counts, axis1=1, axis2=2)
    reference, predicted = counts.sum(axis=2), counts.sum(axis=1)
    iou = _ratio(right, reference + predicted - right)
    f1 = _ratio(2 * right, reference + predicted)
    return {
        "iou": iou,
        "f1": f1,
        "precision": _ratio(right, predicted),
        "recall": _ratio(right, reference),
        "miou": _mean(iou[:, classes.scored]),
        "mean_f1": _mean(f1[:, classes.scored]),
        "overall_accuracy": _ratio(right.sum(axis=1), reference.sum(axis=1)),
    }


def _ratio(part: NDArray[np.float64], whole: NDArray[np.float64]) -> NDArray[np.float64]:
    return part / np.where(whole == 0, np.nan, whole)


def _mean(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the means of rows over what is not NaN."""
    known = ~np.isnan(values)
    total = np.where(known, values, 0).sum(axis=1)
    return _ratio(total, known.sum(axis=1).astype(float))


def _limits(values: NDArray[np.float64]) -> Interval:
    known = values[~np.isnan(values)]
    if not known.size:
        return math.nan, math.nan
    low, high = np.percentile(known, _TAILS).tolist()
    return low, high


def _plain(value: Interval) -> list[float] | None:
    return None if math.isnan(value[0]) else list(value)
