"""Random fields and blurs for whole batches, the same on every device.

White noise comes from one fixed table, of which each tile takes a window that begins where its
parameters say: normal numbers drawn on a GPU would differ from those drawn on a CPU.
"""

import functools

import torch
import torch.nn.functional as F
from torch import Tensor

TABLE = 512
"""Side of the table of noise; windows that reach beyond it go on at its other end."""

_REACH = 4  # pixels; kernels are cut off here, and normalised


@functools.cache
def _table() -> Tensor:
    """Return normal noise, (TABLE, TABLE) float32 on the CPU, the same in every process."""
    return torch.randn(TABLE, TABLE, generator=torch.Generator().manual_seed(1))


def white_noise(start: Tensor, side: int) -> Tensor:
    """Return normal noise for each item of a batch: mean 0, standard deviation 1.

    Parameters
    ----------
    start : Tensor of int64, (..., 2)
        Row and column of the table at which each field begins.
    side : int

    Returns
    -------
    Tensor of float32, (..., side, side)
    """
    lines = torch.arange(side, device=start.device)
    rows = (start[..., 0, None] + lines) % TABLE
    columns = (start[..., 1, None] + lines) % TABLE
    return _table().to(start.device)[rows[..., :, None], columns[..., None, :]]


def smooth_noise(start: Tensor, side: int, cells: int) -> Tensor:
    """Return smooth noise, (batch, side, side) float32: `cells` normal numbers along a side.

    Values between the cells are interpolated; the field is a landscape of blobs as wide as a cell.
    """
    coarse = white_noise(start, cells)[:, None]
    return F.interpolate(coarse, (side, side), mode="bicubic", align_corners=False)[:, 0]


def blur(values: Tensor, sigma: Tensor) -> Tensor:
    """Blur each item of (batch, channels, height, width) by a Gaussian of its own.

    Parameters
    ----------
    values : Tensor of float32
    sigma : Tensor of float32, (batch,)
        Standard deviation in pixels, up to 2 or so; 0 leaves the item as it is.
    """
    away = torch.arange(-_REACH, _REACH + 1, device=values.device)
    kernel = torch.exp(-0.5 * (away / sigma.clamp(min=1e-3)[:, None]) ** 2)
    kernel = kernel / kernel.sum(dim=1, keepdim=True)
    padded = F.pad(values, (_REACH,) * 4, mode="replicate")
    return _weighted(_weighted(padded, kernel, -2), kernel, -1)


def _weighted(values: Tensor, kernel: Tensor, axis: int) -> Tensor:
    """Sum shifted copies of each item, weighted by its kernel (batch, taps), along an axis.

    Unlike a convolution, this rounds in the same way whatever the number of items.
    """
    size = values.shape[axis] - kernel.shape[1] + 1
    total = torch.zeros_like(values.narrow(axis, 0, size))
    for tap, weights in enumerate(kernel.T):
        total.addcmul_(values.narrow(axis, tap, size), weights[:, None, None, None])
    return total
