"""Merge methods, which choose among the overlapping labels of a pixel."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from cafe_cli.classes import NODATA

Labels: TypeAlias = NDArray[np.uint8]
Scores: TypeAlias = NDArray[np.int16] | NDArray[np.float32]
"""Confidences in per cent, or distances in metres."""
Choose: TypeAlias = Callable[[Labels, Scores], NDArray[np.intp]]
"""From labels and scores, both (inputs, height, width), to the index (height, width) of the
input whose label is taken."""

UNKNOWN = -1
"""Score of pixels that have none."""


@dataclass(frozen=True)
class Method:
    """A merge method.

    Attributes
    ----------
    choose : callable or None
        None where the label is not that of an input, but the class of the highest sum.
    needs : {"confidences", "probabilities", "distances"} or None
        What it compares besides the labels.
    """

    choose: Choose | None
    needs: Literal["confidences", "probabilities", "distances"] | None = None


def _first(labels: Labels, _: Scores) -> NDArray[np.intp]:
    return _argmax(labels != NODATA)


def _last(labels: Labels, _: Scores) -> NDArray[np.intp]:
    return len(labels) - 1 - _argmax(labels[::-1] != NODATA)


def _majority(labels: Labels, _: Scores) -> NDArray[np.intp]:
    votes = np.zeros(labels.shape, np.int32)
    for value in np.flatnonzero(np.bincount(labels.ravel(), minlength=NODATA)[:NODATA]):
        same = labels == value
        np.copyto(votes, same.sum(axis=0, dtype=np.int32), where=same)
    return _argmax(votes)


def _highest(labels: Labels, scores: Scores) -> NDArray[np.intp]:
    return _argmax(np.where(labels != NODATA, scores, scores.dtype.type(UNKNOWN - 1)))


def _argmax(values: NDArray[np.generic]) -> NDArray[np.intp]:
    """Return the index of the input with the highest value; ties go to the first."""
    index: NDArray[np.intp] = values.argmax(axis=0)
    return index


METHODS: dict[str, Method] = {
    "first": Method(_first),
    "last": Method(_last),
    "majority": Method(_majority),
    "confidence": Method(_highest, "confidences"),
    "probabilities": Method(None, "probabilities"),
    "distance": Method(_highest, "distances"),
}
"""Methods by name: the ``first`` or ``last`` input that has a class, the class that the
``majority`` of the inputs has, the class of the highest ``confidence`` or of the highest sum of
``probabilities``, or the class of the input whose edge is farthest away (``distance``). Ties go to
the first input, of probabilities to the first class."""
