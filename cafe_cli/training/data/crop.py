"""Read a square from a tile, and resample it to the size of a sample."""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from cafe_cli.tilesets.cache import HEIGHT_VALID, PackedArrays


def read_crop(tile: PackedArrays, corner: Sequence[int], extent: int, into: PackedArrays) -> None:
    """Copy a square of a tile, resampled if it is not as large as the sample.

    Parameters
    ----------
    tile : PackedTiles of ndarray
    corner : (row, column)
        Of the square; it may begin before the tile and end behind it, which goes on mirrored.
    extent : int
        Side of the square in pixels of the tile.
    into : PackedTiles of ndarray
        Memory of one sample, which is overwritten: optical values are resampled bilinearly, and
        averaged where the pixels get larger; so are heights, but for those next to voids, which are
        the nearest, as are masks and labels.
    """
    rows, columns = (np.arange(start, start + extent) for start in corner)
    size = tile.labels.shape[-1]
    if min(corner) < 0 or max(corner) + extent > size:
        rows, columns = _mirror(rows, size), _mirror(columns, size)
        square = type(tile)(*(values[..., rows[:, None], columns] for values in tile))
    else:
        part = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
        square = type(tile)(*(values[..., *part] for values in tile))
    if extent == into.labels.shape[-1]:
        for place, values in zip(into, square, strict=True):
            place[...] = values
    else:
        _resample(square, into)


def _mirror(lines: NDArray[np.int64], size: int) -> NDArray[np.int64]:
    """Return the numbers of lines beyond a tile of `size` lines, mirrored at its edges."""
    lines = lines % (2 * size)
    return np.where(lines < size, lines, 2 * size - 1 - lines)


def _resample(square: PackedArrays, into: PackedArrays) -> None:
    side, extent = into.labels.shape[-1], square.labels.shape[-1]
    nearest = ((np.arange(side) + 0.5) * extent / side).astype(np.int64)
    at = (..., nearest[:, None], nearest)
    into.flags[...], into.labels[...] = square.flags[at], square.labels[at]
    optical = _bilinear(square.optical, side)
    if into.optical.dtype.kind in "iu":
        limits = np.iinfo(into.optical.dtype)
        optical = optical.round().clip(limits.min, limits.max)
    into.optical[...] = optical
    valid = (square.flags & HEIGHT_VALID) > 0
    height = np.where(valid, square.height, 0)
    inside = _bilinear(valid[None], side)[0] > 1 - 1e-4
    into.height[...] = np.where(inside, _bilinear(height, side), height[at])


def _bilinear(values: NDArray[np.generic], side: int) -> NDArray[np.float32]:
    """Resample (channels, extent, extent) to (channels, side, side) float32."""
    tensor = torch.from_numpy(np.ascontiguousarray(values, np.float32))[None]
    resampled = F.interpolate(
        tensor, (side, side), mode="bilinear", align_corners=False, antialias=True
    )
    result: NDArray[np.float32] = resampled[0].numpy()
    return result
