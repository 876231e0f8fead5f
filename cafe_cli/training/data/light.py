"""Augmentation of the optical image: the light, the air, the camera and the file format.

Pixel values are shares of the range of the tile set, so that 0 is black and 1 is white, whatever
the data type. All functions take (batch, bands, height, width) float32, and parameters (batch,).
"""

import functools
import math

import torch
from torch import Tensor

from cafe_cli.classes import NODATA
from cafe_cli.training.data.fields import blur, smooth_noise, white_noise

HAZE = 0.8  # brightness of haze
_CLASS_EDGE = 1.5  # pixels
_CELLS = 6  # shadows are as wide as a sixth of a tile
_EDGE = 8.0  # how sharp the edges of shadows are

# Table K.1 of the JPEG standard (ITU-T T.81, 1992): quality 50, in units of 1/255.
_QUANTISATION = (
    (16, 11, 10, 16, 24, 40, 51, 61), (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56), (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77), (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101), (72, 92, 95, 98, 112, 100, 103, 99),
)  # fmt: skip


def expand(parameter: Tensor) -> Tensor:
    """Return parameters (batch,) or (batch, bands) with the axes of an image behind them."""
    missing = 4 - parameter.ndim
    return parameter[(...,) + (None,) * missing]


def tint(image: Tensor, saturation: Tensor, hue: Tensor) -> Tensor:
    """Scale the colours by `saturation`, and turn those of the first three bands by `hue`.

    Colours are the differences of the bands from their mean: with a saturation of 0 the image is
    grey. `hue` is an angle in radians, about the grey axis.
    """
    grey = image.mean(dim=1, keepdim=True)
    colour = image - grey
    if image.shape[1] >= 3:
        first = colour[:, :3] - colour[:, :3].mean(dim=1, keepdim=True)
        # Rodrigues' rotation of a vector that is perpendicular to the axis (1, 1, 1) / sqrt(3).
        across = (first.roll(1, dims=1) - first.roll(-1, dims=1)) / math.sqrt(3)
        turned = first * hue.cos()[:, None, None, None] + across * hue.sin()[:, None, None, None]
        colour = torch.cat([colour[:, :3] + turned - first, colour[:, 3:]], dim=1)
    return grey + colour * expand(saturation)


def repaint(image: Tensor, labels: Tensor, gain: Tensor, offset: Tensor) -> Tensor:
    """Give each class colours of its own: green rivers, red meadows, white roofs.

    Parameters
    ----------
    image : Tensor
    labels : Tensor of uint8, (batch, height, width)
        `NODATA` where there is none; such pixels take the last row below.
    gain, offset : Tensor, (batch, classes + 1, bands)
        Factor of the values and what is added after that; without rows, nothing changes. Both
        change gradually across an edge, within two pixels or so: a sharp one would tell where the
        classes meet.
    """
    if not gain.shape[1]:
        return image
    rows = torch.where(labels == NODATA, gain.shape[1] - 1, labels.long())
    table = torch.cat([gain, offset], dim=2).mT  # (batch, 2 * bands, rows)
    places = rows.flatten(1)[:, None].expand(-1, table.shape[1], -1)
    values = table.gather(2, places).view(*table.shape[:2], *labels.shape[1:])
    factor, added = blur(values, gain.new_full((len(gain),), _CLASS_EDGE)).chunk(2, dim=1)
    return image * factor + added


def expose(
    image: Tensor, gain: Tensor, offset: Tensor, contrast: Tensor, gamma: Tensor, haze: Tensor
) -> Tensor:
    """Change brightness, contrast and gamma, and lay haze over the image.

    `gain` and `offset` are (batch, bands). `contrast` is a factor on the differences from the mean
    of the image, `gamma` an exponent, `haze` the share of the light that comes from the air.
    """
    image = image * expand(gain) + expand(offset)
    # In float64, the order of the sum, which depends on the batch, does not matter.
    mean = image.mean(dim=(1, 2, 3), keepdim=True, dtype=torch.float64).to(image.dtype)
    image = mean + (image - mean) * expand(contrast)
    image = image.clamp(1e-4, 1) ** expand(gamma)
    return image + (HAZE - image) * expand(haze)


def shade(image: Tensor, start: Tensor, level: Tensor, darkness: Tensor) -> Tensor:
    """Darken patches, as clouds, trees and houses do: shadow is not water.

    `start` (batch, 2) chooses the field of `fields.smooth_noise` whose parts above `level` lose
    the share `darkness` of their light, the bands at the end (blue, infrared) a little less.
    """
    patches = smooth_noise(start, image.shape[-1], _CELLS)[:, None]
    shadow = ((patches - expand(level)) * _EDGE).sigmoid() * expand(darkness)
    bands = image.shape[1]
    # Skylight is blue: red loses most. Bands are taken to be in the order red, green, blue.
    less = torch.linspace(1.0, 0.8, bands, device=image.device)[:, None, None]
    return image * (1 - shadow * less)


def add_noise(image: Tensor, start: Tensor, strength: Tensor) -> Tensor:
    """Add the noise of a sensor; `start` (batch, bands, 2), `strength` in shares of the range."""
    return image + white_noise(start, image.shape[-1]) * expand(strength)


@functools.cache
def _cosines() -> Tensor:
    """Return the matrix of the discrete cosine transform of 8 values, orthonormal."""
    k, n = torch.arange(8)[:, None], torch.arange(8)[None]
    matrix = torch.cos((2 * n + 1) * k * math.pi / 16) / 2
    matrix[0] /= math.sqrt(2)
    return matrix


def compress(image: Tensor, strength: Tensor) -> Tensor:
    """Lose what JPEG loses, with `strength` times the quantisation of quality 50; 0 loses nothing.

    Band by band, without the coarser colours that most writers use; only whole blocks of 8 pixels
    are compressed, the rest at the right and at the bottom stays.
    """
    height, width = (size // 8 * 8 for size in image.shape[-2:])
    cosines = _cosines().to(image.device)
    steps = torch.tensor(_QUANTISATION, dtype=torch.float32, device=image.device) / 255
    steps = steps * strength.clamp(min=1e-4)[:, None, None, None, None, None]
    batch, bands = image.shape[:2]
    blocks = image[..., :height, :width].reshape(batch, bands, height // 8, 8, width // 8, 8)
    blocks = blocks.transpose(3, 4)  # (batch, bands, rows, columns, 8, 8)
    spectrum = cosines @ blocks @ cosines.T
    lossy = cosines.T @ ((spectrum / steps).round() * steps) @ cosines
    result = image.clone()
    result[..., :height, :width] = lossy.transpose(3, 4).reshape(batch, bands, height, width)
    return torch.where(expand(strength) > 0, result, image)
