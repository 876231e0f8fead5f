"""Overlapping windows of class scores to finished rows, in memory that does not grow with rows."""

import math

import torch
from torch import Tensor


def hann_weights(size: int) -> Tensor:
    """Return the weights of a window's pixels, (size, size): high in the middle, never zero.

    The Hann window, sampled at pixel centres so that its zeros fall between pixels.
    """
    line = torch.sin((torch.arange(size, dtype=torch.float64) + 0.5) * (math.pi / size)) ** 2
    return torch.outer(line, line).float()


class RowBlender:
    """Weighted overlap-add of window scores, kept for one row of windows at a time.

    Parameters
    ----------
    classes : int
    width : int
        Pixels in a row.
    size : int
        Side of a window.
    device : torch.device
        Where the scores are, and stay until the rows are finished.
    """

    def __init__(self, classes: int, width: int, size: int, device: torch.device) -> None:
        self._window = hann_weights(size).to(device)
        self._scores = torch.zeros(classes, size, width, device=device)
        self._weights = torch.zeros(size, width, device=device)

    def add(self, col: int, scores: Tensor) -> None:
        """Add the scores (K, size, size) of a window; what reaches beyond the row is dropped."""
        first, last = max(col, 0), min(col + scores.shape[-1], self._weights.shape[-1])
        inside = slice(first - col, last - col)
        weights = self._window[:, inside]
        self._scores[:, :, first:last] += scores[:, :, inside] * weights
        self._weights[:, first:last] += weights

    def finish(self, rows: int) -> tuple[Tensor, Tensor]:
        """Take the upper `rows` rows, which no later window touches, and move on.

        Returns
        -------
        scores : Tensor of float32, (K, rows, width)
            Weighted means.
        seen : Tensor of bool, (rows, width)
            Where any window was added.
        """
        weights = self._weights[:rows]
        scores = self._scores[:, :rows] / weights.clamp_min(torch.finfo(weights.dtype).tiny)
        seen = weights > 0
        self._scores = _shifted(self._scores, rows)
        self._weights = _shifted(self._weights, rows)
        return scores, seen


def _shifted(values: Tensor, rows: int) -> Tensor:
    """Drop the upper rows and append as many of zeros."""
    moved = torch.zeros_like(values)
    moved[..., : values.shape[-2] - rows, :] = values[..., rows:, :]
    return moved
