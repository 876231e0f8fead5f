"""Augmentation of the heights: another survey of the same ground, or another ground estimate.

All functions take heights (batch, height, width) float32 in metres.
"""

import torch
from torch import Tensor

from cafe_cli.scenes.valley_floor import HIGHEST, UNKNOWN
from cafe_cli.tilesets.cache import HEIGHT_VALID, OPTICAL_VALID
from cafe_cli.training.data.fields import blur, smooth_noise, white_noise

_CELLS = 8  # voids are as wide as an eighth of a tile


def shift(height: Tensor, slope: Tensor, offset: Tensor) -> Tensor:
    """Add a plane: `slope` (batch, 2) in metres per pixel down and to the right, and `offset`.

    The plane is `offset` in the middle of the tile. So does an estimate of the ground drift.
    """
    side = height.shape[-1]
    away = torch.arange(side, device=height.device) - (side - 1) / 2
    down, right = slope[:, 0, None] * away, slope[:, 1, None] * away
    return height + down[:, :, None] + right[:, None, :] + offset[:, None, None]


def smooth(height: Tensor, valid: Tensor, sigma: Tensor) -> Tensor:
    """Blur by `sigma` (batch,) pixels: surfaces of image matching are smoother than of LiDAR.

    Only valid heights, (batch, height, width) bool, count; the others become 0.
    """
    weights = valid.to(height.dtype)
    blurred, total = blur(torch.stack([height * weights, weights], dim=1), sigma).unbind(1)
    return torch.where(valid, blurred / total.clamp(min=1e-6), 0.0)


def add_noise(height: Tensor, start: Tensor, strength: Tensor) -> Tensor:
    """Add the noise of a survey; `start` (batch, 2), `strength` (batch,) in metres."""
    return height + white_noise(start, height.shape[-1]) * strength[:, None, None]


def stretch_valleys(above: Tensor, factor: Tensor, hidden: Tensor) -> Tensor:
    """Stretch heights above a valley floor as if by other relief, or hide them.

    Parameters
    ----------
    above : Tensor, (batch, height, width)
        See `cafe_cli.scenes.valley_floor.height_above`.
    factor : Tensor, (batch,)
    hidden : Tensor of bool, (batch,)
        Tiles where they are not known.
    """
    stretched = (above * factor[:, None, None]).clamp(max=HIGHEST)
    return torch.where((above < 0) | hidden[:, None, None], UNKNOWN, stretched)


def cut_rectangle(flags: Tensor, void: Tensor) -> Tensor:
    """Clear the flag of valid heights within the rectangles (batch, 4), see `AugmentParams`."""
    number = torch.arange(flags.shape[-1], device=flags.device)
    top, bottom, left, right = void[:, :, None].unbind(1)
    rows, columns = (number >= top) & (number < bottom), (number >= left) & (number < right)
    inside = rows[:, :, None] & columns[:, None, :]
    return torch.where(inside, flags & OPTICAL_VALID, flags)


def cut_blobs(flags: Tensor, start: Tensor, level: Tensor) -> Tensor:
    """Clear the flag of valid heights where a field of `fields.smooth_noise` is above `level`."""
    field = smooth_noise(start, flags.shape[-1], _CELLS)
    return torch.where(field > level[:, None, None], flags & OPTICAL_VALID, flags)


def known(flags: Tensor) -> Tensor:
    """Return where there is a height, (batch, height, width) bool."""
    return (flags & HEIGHT_VALID) > 0
