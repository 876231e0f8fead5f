"""Weighted overlap-add of the class scores of windows; memory does not depend on the height."""

import math
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cafe_cli.inference.arrays.base import Array, Arrays

Blend = Literal["hann", "gaussian", "crop"]

_SIGMA = 1 / 8  # of the window size, as in nnU-Net (Isensee et al., Nature Methods 2021)
_TINY = float(np.finfo(np.float32).tiny)
_FRINGE = 1e-6  # weight of a cropped margin, which matters only where no other window lies


def window_weights(
    size: int, blend: Blend = "hann", overlap: int | None = None
) -> NDArray[np.float32]:
    """Return the blending weights of a window's pixels, (size, size) float32, never zero.

    Parameters
    ----------
    size : int
        Window size in pixels.
    blend : {"hann", "gaussian", "crop"}
        ``hann`` is sampled at pixel centres, so that its zeros fall between pixels; ``gaussian``
        has a standard deviation of an eighth of the size; ``crop`` cuts off half of the overlap on
        every side, except at the edge of the scene, where no other window has these pixels.
    overlap : int, optional
        Overlap of neighbouring windows in pixels, for ``crop``.
    """
    middle = np.arange(size) + 0.5
    match blend:
        case "hann":
            line = np.sin(middle * (math.pi / size)) ** 2
        case "gaussian":
            line = np.exp(-0.5 * ((middle - size / 2) / (size * _SIGMA)) ** 2)
        case "crop":
            margin = (overlap or 0) // 2
            line = np.where((middle > margin) & (middle < size - margin), 1.0, _FRINGE)
    return np.outer(line, line).astype(np.float32)


class Blender:
    """Weighted overlap-add of class scores, row of windows by row of windows.

    Memory holds the sums of the current window, and those sums of its row and of the row above that
    later windows overlap.

    Parameters
    ----------
    classes : int
        Number of classes K.
    width : int
        Pixels that a row of windows spans.
    weights : ndarray
        (size, size), see `window_weights`.
    stride : int
        Pixels between the first pixels of neighbouring windows, and of neighbouring rows.
    arrays : Arrays
        Library and device of the scores.
    """

    def __init__(
        self,
        classes: int,
        width: int,
        weights: NDArray[np.float32],
        stride: int,
        arrays: Arrays,
    ) -> None:
        size = len(weights)
        self.arrays, self._stride = arrays, stride
        self._window = arrays.put(weights)
        self._above = _Sums.zeros(classes, size - stride, width, arrays)
        self._here = _Sums.zeros(classes, size, size, arrays)
        self._col = 0

    def move_to(self, col: int) -> None:
        """Move to the first or next window of the row, at pixel column `col`."""
        size, overlap = len(self._window), len(self._window) - self._stride
        self._col = col
        new = slice(overlap if col else 0, size)
        for above, here in zip(self._above, self._here, strict=True):
            for left in range(0, new.start, self._stride):  # in pieces: both may overlap
                right = min(left + self._stride, new.start)
                moved = here[..., left + self._stride : right + self._stride]
                here[..., left:right] = moved
            here[..., :overlap, new] = above[..., col + new.start : col + size]
            here[..., overlap:, new] = 0

    def add(self, scores: Array) -> None:
        """Add the scores (K, size, size) of the current window."""
        self.arrays.add_product(self._here.scores, scores, self._window)
        self._here.weights[...] += self._window

    def best(self, rows: slice, columns: slice) -> tuple[Array, Array]:
        """Decide labels of pixels of the current window that no later window overlaps.

        Returns
        -------
        labels : array of integers, (rows, columns)
            Class of the highest score; ties go to the lowest id.
        scores : array of float32, (rows, columns)
            Its weighted mean, 0 where no window was added.
        """
        labels, scores = self.arrays.best(self._here.scores[:, rows, columns])
        return labels, scores / self._divisor(rows, columns)

    def means(self, rows: slice, columns: slice) -> Array:
        """Return the weighted mean of every score, (K, rows, columns), 0 without a window."""
        return self._here.scores[:, rows, columns] / self._divisor(rows, columns)

    def save_overlap(self, columns: slice) -> None:
        """Save the sums that the next row of windows overlaps.

        Parameters
        ----------
        columns : slice
            Columns of the current window that no later window of the row overlaps.
        """
        place = slice(self._col + columns.start, self._col + columns.stop)
        for above, here in zip(self._above, self._here, strict=True):
            above[..., place] = here[..., self._stride :, columns]

    def _divisor(self, rows: slice, columns: slice) -> Array:
        weights = self._here.weights[rows, columns]
        return self.arrays.at_least(weights, _TINY)


class _Sums(NamedTuple):
    scores: Array
    weights: Array

    @classmethod
    def zeros(cls, classes: int, height: int, width: int, arrays: Arrays) -> "_Sums":
        return cls(arrays.zeros(classes, height, width), arrays.zeros(height, width))
