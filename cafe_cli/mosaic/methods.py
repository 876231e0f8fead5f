"""Merge methods, which choose among the overlapping labels of a pixel."""

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from cafe_cli.classes import NODATA

Labels: TypeAlias = NDArray[np.uint8]
Confidence: TypeAlias = NDArray[np.int16]
Method: TypeAlias = Callable[[Labels, Confidence], NDArray[np.intp]]
"""From labels and confidences, both (inputs, height, width), to the index (height, width) of the
input whose label is taken."""

UNKNOWN = -1
"""Confidence of pixels for which the confidence raster has none."""


def _first(labels: Labels, _: Confidence) -> NDArray[np.intp]:
    return _argmax(labels != NODATA)


def _last(labels: Labels, _: Confidence) -> NDArray[np.intp]:
    return len(labels) - 1 - _argmax(labels[::-1] != NODATA)


def _majority(labels: Labels, _: Confidence) -> NDArray[np.intp]:
    votes = np.zeros(labels.shape, np.int32)
    for value in np.flatnonzero(np.bincount(labels.ravel(), minlength=NODATA)[:NODATA]):
        same = labels == value
        np.copyto(votes, same.sum(axis=0, dtype=np.int32), where=same)
    return _argmax(votes)


def _most_confident(labels: Labels, confidence: Confidence) -> NDArray[np.intp]:
    return _argmax(np.where(labels != NODATA, confidence, np.int16(UNKNOWN - 1)))


def _argmax(values: NDArray[np.generic]) -> NDArray[np.intp]:
    """Return the index of the input with the highest value; ties go to the first."""
    index: NDArray[np.intp] = values.argmax(axis=0)
    return index


METHODS: dict[str, Method] = {
    "first": _first,
    "last": _last,
    "majority": _majority,
    "confidence": _most_confident,
}
"""Methods by name: the ``first`` or ``last`` input that has a class, the class that the
``majority`` of the inputs has, or the class of the highest ``confidence``. Ties go to the first
input."""
