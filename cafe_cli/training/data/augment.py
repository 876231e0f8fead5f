"""Augmentation: parameters are sampled per tile, and applied to whole batches on the device.

The parameters of a tile depend on its seed only, not on the rest of the batch, the device or the
settings of the other augmentations. To add one: a field of `AugmentParams`, a line in `sample`, a
function that `apply` calls.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cafe_cli.config.schema import TrainSettings
from cafe_cli.tilesets.cache import HEIGHT_VALID, OPTICAL_VALID, PackedTiles

_QUARTERS = (0, 4 | 2, 2 | 1, 4 | 1)
"""Code of the symmetry for 0 to 3 quarter turns, see `AugmentParams`."""


class AugmentParams(NamedTuple):
    """The augmentation of a tile; with a leading axis, that of a batch.

    Attributes
    ----------
    corner : Tensor of int64, (2,)
        First row and column of the crop, which the reader cuts from the tile.
    symmetry : Tensor of int64, ()
        One of the eight symmetries of a square: 4 to transpose, plus 2 to reverse the rows after
        that, plus 1 to reverse the columns. It stays on the host.
    gain, offset : Tensor of float32, (bands,)
        Factor of the optical values, and the offset added after that.
    height_offset : Tensor of float32, ()
        Metres added to the heights.
    void : Tensor of int64, (4,)
        First row, last row (exclusive), first and last column (exclusive) of the rectangle whose
        heights are made invalid.
    """

    corner: Tensor
    symmetry: Tensor
    gain: Tensor
    offset: Tensor
    height_offset: Tensor
    void: Tensor


def sample(
    settings: TrainSettings, size: int, std: NDArray[np.float32], random: np.random.Generator
) -> AugmentParams:
    """Sample the augmentation of one tile.

    Parameters
    ----------
    settings : TrainSettings
    size : int
        Side of the tile in pixels.
    std : ndarray of float32, (bands,)
        Standard deviation of each band, the unit of its offset.
    random : Generator
        The same numbers are drawn whichever augmentations are switched off.
    """
    side = crop_side(settings, size)
    corner = (random.uniform(size=2) * (size - side + 1)).astype(np.int64)
    turns, flip = (int(random.integers(n)) for n in (4, 2))
    gain, offset = random.uniform(-1, 1, (2, len(std))) * settings.color_jitter
    height_offset = random.normal() * settings.height_jitter
    return AugmentParams(
        torch.from_numpy(corner),
        torch.tensor(_QUARTERS[turns * settings.turns] ^ (flip * settings.flips)),
        torch.from_numpy((1 + gain).astype(np.float32)),
        torch.from_numpy((offset * std).astype(np.float32)),
        torch.tensor(height_offset, dtype=torch.float32),
        torch.tensor(_sample_void(side, settings.height_dropout, random)),
    )


def crop_side(settings: TrainSettings, size: int) -> int:
    """Return the side in pixels of the crop from a tile of `size` pixels."""
    return min(settings.crop or size, size)


def _sample_void(side: int, probability: float, random: np.random.Generator) -> list[int]:
    """Sample the rectangle without heights: with `probability`, the whole tile or a part of it."""
    chosen, *ends = random.uniform(size=5)
    if chosen < probability / 2:
        return [0, side, 0, side]
    if chosen >= probability:
        return [0, 0, 0, 0]
    return [round(side * end) for pair in (ends[:2], ends[2:]) for end in sorted(pair)]


def stack(params: Sequence[AugmentParams], device: torch.device) -> AugmentParams:
    """Stack the parameters of the tiles of a batch, on its device."""
    batch = AugmentParams(*(torch.stack(parts) for parts in zip(*params, strict=True)))
    moved = AugmentParams(*(values.to(device, non_blocking=True) for values in batch))
    return moved._replace(symmetry=batch.symmetry)


def apply(planes: PackedTiles[Tensor], params: AugmentParams) -> PackedTiles[Tensor]:
    """Augment a batch of square crops.

    Parameters
    ----------
    planes : PackedTiles of Tensor
        With a leading axis, on the device of `params`. They are not modified.
    params : AugmentParams
        Of the batch.

    Returns
    -------
    PackedTiles of Tensor
        New tensors; optical is float32.
    """
    optical, flags, height, labels = apply_symmetry(planes, params.symmetry)
    flags = drop_heights(flags, params.void)
    return PackedTiles(
        jitter_bands(optical, params.gain, params.offset),
        flags,
        shift_heights(height, flags, params.height_offset),
        labels,
    )


def apply_symmetry(planes: PackedTiles[Tensor], symmetry: Tensor) -> PackedTiles[Tensor]:
    """Apply a symmetry to each item of a batch; `symmetry`, (batch,), is on the host."""
    result = PackedTiles(*(torch.empty_like(values) for values in planes))
    # One pass per symmetry that occurs, at most eight; each item is copied once.
    for code in set(symmetry.tolist()):
        chosen = (symmetry == code).nonzero()[:, 0].to(planes.labels.device, non_blocking=True)
        for values, into in zip(map(_as_int16, planes), map(_as_int16, result), strict=True):
            into[chosen] = _symmetric(values[chosen], code)
    return result


def _as_int16(values: Tensor) -> Tensor:
    """View uint16, for which torch lacks most operations, as int16."""
    return values.view(torch.int16) if values.dtype == torch.uint16 else values


def _symmetric(values: Tensor, code: int) -> Tensor:
    values = values.mT if code & 4 else values
    flipped = [axis for axis, bit in ((-2, 2), (-1, 1)) if code & bit]
    return values.flip(flipped) if flipped else values


def jitter_bands(optical: Tensor, gain: Tensor, offset: Tensor) -> Tensor:
    """Scale and offset each band of (batch, bands, height, width); returns float32."""
    values = optical.to(torch.float32) * gain[:, :, None, None]
    return values.add_(offset[:, :, None, None])


def drop_heights(flags: Tensor, void: Tensor) -> Tensor:
    """Clear the flag of valid heights within the rectangles; (batch, height, width)."""
    number = torch.arange(flags.shape[-1], device=flags.device)
    top, bottom, left, right = void[:, :, None].unbind(1)
    rows, columns = (number >= top) & (number < bottom), (number >= left) & (number < right)
    inside = rows[:, :, None] & columns[:, None, :]
    return torch.where(inside, flags & OPTICAL_VALID, flags)


def shift_heights(height: Tensor, flags: Tensor, offset: Tensor) -> Tensor:
    """Add an offset to the valid heights, and set the others to 0; (batch, height, width)."""
    known = (flags & HEIGHT_VALID) > 0
    return torch.where(known, height + offset[:, None, None], 0.0)
