"""Overlapping windows of class scores to finished rows, in memory that does not grow with rows."""

import math
from typing import Literal

import torch
from torch import Tensor

Blend = Literal["hann", "gaussian", "crop"]

_SIGMA = 1 / 8  # of the side of a window, as nnU-Net has it (Isensee et al., Nature Methods 2021)
_FRINGE = 1e-6  # weight of a cropped margin: it counts where there is nothing else


def window_weights(size: int, blend: Blend = "hann", overlap: int | None = None) -> Tensor:
    """Return the weights of a window's pixels, (size, size) float32: never zero.

    Parameters
    ----------
    size : int
        Side of the window.
    blend : {"hann", "gaussian", "crop"}
        ``hann`` is sampled at pixel centres, so that its zeros fall between pixels; ``gaussian``
        has a standard deviation of an eighth of the side; ``crop`` cuts off half of the overlap on
        every side, except at the edge of the scene, where no other window has these pixels.
    overlap : int, optional
        Of neighbouring windows, for ``crop``.
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


class RowBlender:
    """Weighted overlap-add of window scores, kept for one row of windows at a time.

    Parameters
    ----------
    classes : int
    width : int
        Pixels in a row.
    weights : Tensor
        (size, size), see `window_weights`.
    device : torch.device
        Where the scores are, and stay until the rows are finished.
    """

    def __init__(self, classes: int, width: int, weights: Tensor, device: torch.device) -> None:
        self.device = device
        self._window = weights.to(device)
        self._scores = torch.zeros(classes, len(weights), width, device=device)
        self._weights = torch.zeros(len(weights), width, device=device)

    def add(self, col: int, scores: Tensor) -> None:
        """Add the scores (K, size, size) of a window; what reaches beyond the row is dropped."""
        first, last = max(col, 0), min(col + scores.shape[-1], self._weights.shape[-1])
        inside = slice(first - col, last - col)
        weights = self._window[:, inside]
        self._scores[:, :, first:last].addcmul_(scores[:, :, inside], weights)
        self._weights[:, first:last] += weights

    def best(self, rows: slice) -> tuple[Tensor, Tensor]:
        """Decide rows that no later window touches.

        Returns
        -------
        labels : Tensor of int64, (rows, width)
            Class of the highest score, the lower id of two that are equal.
        scores : Tensor of float32, (rows, width)
            Its weighted mean, 0 where no window was added.
        """
        best = self._scores[:, rows].max(dim=0)
        return best.indices, best.values / self._divisor(rows)

    def means(self, rows: slice) -> Tensor:
        """Return the weighted means of all scores, (K, rows, width), 0 where there is no window."""
        return self._scores[:, rows] / self._divisor(rows)

    def advance(self, rows: int) -> None:
        """Drop the upper rows, if any, and append as many of zeros."""
        if not rows:
            return
        for values in (self._scores, self._weights):
            height = values.shape[-2]
            # In place, piece by piece, because the two may overlap.
            for row in range(0, height - rows, rows):
                end = min(row + rows, height - rows)
                values[..., row:end, :] = values[..., row + rows : end + rows, :]
            values[..., max(height - rows, 0) :, :] = 0

    def _divisor(self, rows: slice) -> Tensor:
        return self._weights[rows].clamp_min(torch.finfo(self._weights.dtype).tiny)
