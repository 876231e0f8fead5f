"""Overlapping windows of class scores to pixels, in memory that does not grow with rows."""

import math
from typing import Literal, NamedTuple

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


class Blender:
    """Weighted overlap-add of window scores, row of windows by row of windows.

    Where a window is added, all of it is in memory; of the others in its row and in the row above,
    only what the next ones overlap.

    Parameters
    ----------
    classes : int
    width : int
        Pixels that a row of windows spans.
    weights : Tensor
        (size, size), see `window_weights`.
    step : int
        From one window to the next, and from one row to the next.
    device : torch.device
        Where the scores are, and stay until they are decided.
    """

    def __init__(
        self, classes: int, width: int, weights: Tensor, step: int, device: torch.device
    ) -> None:
        size = len(weights)
        self.device, self._step = device, step
        self._window = weights.to(device)
        self._above = _Sums.zeros(classes, size - step, width, device)
        self._here = _Sums.zeros(classes, size, size, device)
        self._col = 0

    def go_to(self, col: int) -> None:
        """Begin with the window at column `col` of the row: the first one, or the next."""
        size, reach = len(self._window), len(self._window) - self._step
        self._col = col
        new = slice(reach if col else 0, size)
        for above, here in zip(self._above, self._here, strict=True):
            for left in range(0, new.start, self._step):  # in pieces, because they may overlap
                right = min(left + self._step, new.start)
                moved = here[..., left + self._step : right + self._step]
                here[..., left:right] = moved
            here[..., :reach, new] = above[..., col + new.start : col + size]
            here[..., reach:, new] = 0

    def add(self, scores: Tensor) -> None:
        """Add the scores (K, size, size) of the window."""
        self._here.scores.addcmul_(scores, self._window)
        self._here.weights.add_(self._window)

    def best(self, rows: slice, columns: slice) -> tuple[Tensor, Tensor]:
        """Decide pixels of the window that no later one touches.

        Returns
        -------
        labels : Tensor of int64, (rows, columns)
            Class of the highest score, the lower id of two that are equal.
        scores : Tensor of float32, (rows, columns)
            Its weighted mean, 0 where no window was added.
        """
        best = self._here.scores[:, rows, columns].max(dim=0)
        return best.indices, best.values / self._divisor(rows, columns)

    def means(self, rows: slice, columns: slice) -> Tensor:
        """Return the weighted means of all scores, (K, rows, columns), 0 without a window."""
        return self._here.scores[:, rows, columns] / self._divisor(rows, columns)

    def leave(self, columns: slice) -> None:
        """Keep of columns that no later window of the row touches what the next row overlaps."""
        place = slice(self._col + columns.start, self._col + columns.stop)
        for above, here in zip(self._above, self._here, strict=True):
            above[..., place] = here[..., self._step :, columns]

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
