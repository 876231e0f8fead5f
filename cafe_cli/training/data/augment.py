"""Random changes to tiles: drawn for each tile from its own seed, made on the device to a batch.

What is drawn does not depend on what else is in the batch, on the device or on the settings of the
other changes. To add one: a field of `Change`, a line in `draw`, a function that `apply` calls.
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
"""Symmetries by quarter turns, see `Change`."""


class AugmentParams(NamedTuple):
    """What happens to a tile; of a batch with a leading axis.

    Attributes
    ----------
    corner : Tensor of int64, (2,)
        First row and column of what is cut from the tile, which is the reader's work.
    symmetry : Tensor of int64, ()
        One of the eight of a square: 4 if rows become columns, plus 2 if the rows are put into
        reverse after that, plus 1 if the columns are. It stays on the host.
    gain, offset : Tensor of float32, (bands,)
        Factor of the optical values, and what is added after that.
    lift : Tensor of float32, ()
        Metres to be added to the heights.
    void : Tensor of int64, (4,)
        First and last row (exclusive), first and last column between which heights are taken away.
    """

    corner: Tensor
    symmetry: Tensor
    gain: Tensor
    offset: Tensor
    lift: Tensor
    void: Tensor


def sample(
    settings: TrainSettings, size: int, std: NDArray[np.float32], random: np.random.Generator
) -> AugmentParams:
    """Draw what happens to one tile.

    Parameters
    ----------
    settings : TrainSettings
    size : int
        Side of the tile in pixels.
    std : ndarray of float32, (bands,)
        Standard deviation of each band, the measure of an offset.
    random : Generator
        As many numbers are drawn of it whatever is switched off.
    """
    side = crop_side(settings, size)
    corner = (random.uniform(size=2) * (size - side + 1)).astype(np.int64)
    turns, flip = (int(random.integers(n)) for n in (4, 2))
    gain, offset = random.uniform(-1, 1, (2, len(std))) * settings.color_jitter
    lift = random.normal() * settings.height_jitter
    return AugmentParams(
        torch.from_numpy(corner),
        torch.tensor(_QUARTERS[turns * settings.turns] ^ (flip * settings.flips)),
        torch.from_numpy((1 + gain).astype(np.float32)),
        torch.from_numpy((offset * std).astype(np.float32)),
        torch.tensor(lift, dtype=torch.float32),
        torch.tensor(_void(side, settings.height_dropout, random)),
    )


def crop_side(settings: TrainSettings, size: int) -> int:
    """Return the side in pixels of what is cut from a tile of a side."""
    return min(settings.crop or size, size)


def _void(side: int, probability: float, random: np.random.Generator) -> list[int]:
    """Draw where heights are taken away: nowhere, or the whole or a rectangle, equally often."""
    chosen, *ends = random.uniform(size=5)
    if chosen < probability / 2:
        return [0, side, 0, side]
    if chosen >= probability:
        return [0, 0, 0, 0]
    return [round(side * end) for pair in (ends[:2], ends[2:]) for end in sorted(pair)]


def stacked(changes: Sequence[AugmentParams], device: torch.device) -> AugmentParams:
    """Return the changes of a batch on a device."""
    batch = AugmentParams(*(torch.stack(parts) for parts in zip(*changes, strict=True)))
    moved = AugmentParams(*(values.to(device, non_blocking=True) for values in batch))
    return moved._replace(symmetry=batch.symmetry)


def apply(planes: PackedTiles[Tensor], change: AugmentParams) -> PackedTiles[Tensor]:
    """Change a batch of square crops.

    Parameters
    ----------
    planes : Planes of Tensor
        With a leading axis, on the device of `change`. They are left as they are.
    change : Change
        Of a batch.

    Returns
    -------
    Planes of Tensor
        New ones; optical is float32.
    """
    optical, flags, height, labels = apply_symmetry(planes, change.symmetry)
    flags = drop_heights(flags, change.void)
    return PackedTiles(
        jitter_bands(optical, change.gain, change.offset),
        flags,
        shift_heights(height, flags, change.lift),
        labels,
    )


def apply_symmetry(planes: PackedTiles[Tensor], symmetry: Tensor) -> PackedTiles[Tensor]:
    """Turn and flip each item of a batch by itself; `symmetry` is on the host, (batch,)."""
    result = PackedTiles(*(torch.empty_like(values) for values in planes))
    # At most eight groups, however large the batch; one copy of each item.
    for code in set(symmetry.tolist()):
        chosen = (symmetry == code).nonzero()[:, 0].to(planes.labels.device, non_blocking=True)
        for values, into in zip(map(_plain, planes), map(_plain, result), strict=True):
            into[chosen] = _symmetric(values[chosen], code)
    return result


def _plain(values: Tensor) -> Tensor:
    """Return 16 bits without a sign, with which torch can do little, as ones with a sign."""
    return values.view(torch.int16) if values.dtype == torch.uint16 else values


def _symmetric(values: Tensor, code: int) -> Tensor:
    values = values.mT if code & 4 else values
    flipped = [axis for axis, bit in ((-2, 2), (-1, 1)) if code & bit]
    return values.flip(flipped) if flipped else values


def jitter_bands(optical: Tensor, gain: Tensor, offset: Tensor) -> Tensor:
    """Scale and shift each band: (batch, bands, height, width) to float32."""
    values = optical.to(torch.float32) * gain[:, :, None, None]
    return values.add_(offset[:, :, None, None])


def drop_heights(flags: Tensor, void: Tensor) -> Tensor:
    """Take the heights away within the rectangles; (batch, height, width)."""
    number = torch.arange(flags.shape[-1], device=flags.device)
    top, bottom, left, right = void[:, :, None].unbind(1)
    rows, columns = (number >= top) & (number < bottom), (number >= left) & (number < right)
    inside = rows[:, :, None] & columns[:, None, :]
    return torch.where(inside, flags & OPTICAL_VALID, flags)


def shift_heights(height: Tensor, flags: Tensor, lift: Tensor) -> Tensor:
    """Shift the heights that are valid, and make the others 0; (batch, height, width)."""
    known = (flags & HEIGHT_VALID) > 0
    return torch.where(known, height + lift[:, None, None], 0.0)
