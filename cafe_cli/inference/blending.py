"""Weighted overlap-add of the class scores of windows; memory does not depend on the height."""

import math
from typing import Literal, NamedTuple

import torch
from torch import Tensor

Blend = Literal["hann", "gaussian", "crop"]

_SIGMA = 1 / 8  # of the window size, as in nnU-Net (Isensee et al., Nature Methods 2021)
_FRINGE = 1e-6  # weight of a cropped margin, which matters only where no other window lies


def window_weights(size: int, blend: Blend = "hann", overlap: int | None = None) -> Tensor:
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
    middle = torch.arange(size, dtype=torch.float64) + 0.5
    match blend:
        case "hann":
            line = torch.sin(middle * (math.pi / size)) ** 2
        case "gaussian":
            line = torch.exp(-0.5 * ((middle - size / 2) / (size * _SIGMA)) ** 2)
        case "crop":
            margin = (overlap or 0) // 2
            line = torch.where((middle > margin) & (middle < size - margin), 1.0, _FRINGE)
    return torch.outer(line, line).float()


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
    weights : Tensor
        (size, size), see `window_weights`.
    stride : int
        Pixels between the first pixels of neighbouring windows, and of neighbouring rows.
    device : torch.device
        Device of the scores.
    """

    def __init__(
        self, classes: int, width: int, weights: Tensor, stride: int, device: torch.device
    ) -> None:
        size = len(weights)
        self.device, self._stride = device, stride
        self._window = weights.to(device)
        self._above = _Sums.zeros(classes, size - stride, width, device)
        self._here = _Sums.zeros(classes, size, size, device)
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

    def add(self, scores: Tensor) -> None:
        """Add the scores (K, size, size) of the current window."""
        self._here.scores.addcmul_(scores, self._window)
        self._here.weights.add_(self._window)

    def best(self, rows: slice, columns: slice) -> tuple[Tensor, Tensor]:
        """Decide labels of pixels of the current window that no later window overlaps.

        Returns
        -------
        labels : Tensor of int64, (rows, columns)
            Class of the highest score; ties go to the lowest id.
        scores : Tensor of float32, (rows, columns)
            Its weighted mean, 0 where no window was added.
        """
        best = self._here.scores[:, rows, columns].max(dim=0)
        return best.indices, best.values / self._divisor(rows, columns)

    def means(self, rows: slice, columns: slice) -> Tensor:
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

    def _divisor(self, rows: slice, columns: slice) -> Tensor:
        weights = self._here.weights[rows, columns]
        return weights.clamp_min(torch.finfo(weights.dtype).tiny)


class _Sums(NamedTuple):
    scores: Tensor
    weights: Tensor

    @classmethod
    def zeros(cls, classes: int, height: int, width: int, device: torch.device) -> "_Sums":
        scores = torch.zeros(classes, height, width, device=device)
        return cls(scores, torch.zeros(height, width, device=device))
