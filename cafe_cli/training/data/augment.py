"""Augmentation: parameters are sampled per tile, and applied to whole batches on the device.

Each augmentation stands for something that differs between the training ground and other ground:
the light, the camera, the survey of the heights, the ground estimate. docs/augmentation.md shows a
tile under each. The libraries of the field augment images of three bands, one by one on the host;
here heights, any number of bands and a mask change together, on the device, and a tile's parameters
depend on its seed only, not on the rest of the batch, the device or the settings of the other
augmentations. To add one: a key of `AugmentSettings`, a field of `AugmentParams`, a line at the end
of `Augmentation.sample`, a function that `apply` calls.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cafe_cli.config.schema import AugmentSettings, Config, TrainSettings
from cafe_cli.model.host_memory import HostMemory
from cafe_cli.tilesets.cache import HEIGHT_VALID, OPTICAL_VALID, PackedTiles
from cafe_cli.tilesets.tileset import TileSet
from cafe_cli.training.data import fields, light, relief

_QUARTERS = (0, 4 | 2, 2 | 1, 4 | 1)
"""Code of the symmetry for 0 to 3 quarter turns, see `AugmentParams`."""

_SELDOM = 0.3
"""Share of the tiles that blur, noise, haze, JPEG, shadows, tilt and smoothing change. They take
away what tells water from grass, so most tiles have to be without."""

_SHADOW_LEVELS = (0.3, 1.5)  # standard deviations: shadows cover 38 % to 7 % of a tile
_VOID_LEVELS = (0.6, 2.0)  # blobs without heights: 27 % to 2 %
_OFFSET = 0.2  # of the optical values, as a share of the strength of their gain
_GROUND_ERROR = 5.0  # metres, mean of an exponential distribution
_UPWARD = 0.75  # share of these errors that leave heights too large: the ground was cut
_CLASSES_REPAINTED = 0.5  # share of the classes of a tile that `class_light` changes
_NEVER = math.inf  # a level that no field reaches


class AugmentParams(NamedTuple):
    """The augmentation of a tile; with a leading axis, that of a batch. float32 unless said.

    Attributes
    ----------
    corner : Tensor of int64, (2,)
        First row and column of the square that the reader cuts from the tile.
    extent : Tensor of int64, ()
        Side of that square in pixels of the tile; the reader resamples it to the side of the crop.
    symmetry : Tensor of int64, ()
        One of the eight symmetries of a square: 4 to transpose, plus 2 to reverse the rows after
        that, plus 1 to reverse the columns. It stays on the host.
    low, span : Tensor, (bands,)
        The range of the pixel values, from black to white: its low end and its width. Everything
        about the optical image below is in shares of it.
    saturation, hue : Tensor, ()
        Factor of the colours; angle in radians.
    gain, offset : Tensor, (bands,)
        Factor of the optical values, and the offset added after that.
    contrast, gamma, haze : Tensor, ()
        See `light.expose`.
    darkness, shadow_level : Tensor, ()
        See `light.shade`.
    blur : Tensor, ()
        Standard deviation in pixels.
    noise, compression : Tensor, ()
        See `light.add_noise` and `light.compress`.
    optical_dropped : Tensor of bool, ()
    stretch : Tensor, ()
        Factor of the heights.
    slope : Tensor, (2,)
        Metres per pixel, down and to the right.
    height_offset, height_noise : Tensor, ()
        Metres.
    height_blur : Tensor, ()
        Standard deviation in pixels.
    void : Tensor of int64, (4,)
        First row, last row (exclusive), first and last column (exclusive) of the rectangle whose
        heights are made invalid.
    void_level : Tensor, ()
        See `relief.cut_blobs`.
    starts : Tensor of int64, (3 + bands, 2)
        Where the random fields begin in the table of noise: of shadows, blobs, heights, each band.
    class_gain, class_offset : Tensor, (classes + 1, bands)
        See `light.repaint`; (0, bands) where no tile is changed so.
    valleys_hidden : Tensor of bool, ()
    """

    corner: Tensor
    extent: Tensor
    symmetry: Tensor
    low: Tensor
    span: Tensor
    saturation: Tensor
    hue: Tensor
    gain: Tensor
    offset: Tensor
    contrast: Tensor
    gamma: Tensor
    haze: Tensor
    darkness: Tensor
    shadow_level: Tensor
    blur: Tensor
    noise: Tensor
    compression: Tensor
    optical_dropped: Tensor
    stretch: Tensor
    slope: Tensor
    height_offset: Tensor
    height_noise: Tensor
    height_blur: Tensor
    void: Tensor
    void_level: Tensor
    starts: Tensor
    class_gain: Tensor
    class_offset: Tensor
    valleys_hidden: Tensor


@dataclass(frozen=True)
class Augmentation:
    """Draws the augmentation of the tiles of a set.

    Parameters
    ----------
    settings : AugmentSettings
    size, side : int
        Side of a tile, and of the crop from it, in pixels.
    gsd : float
        Metres per pixel.
    low, span : ndarray of float32, (bands,)
        The range of the pixel values, see `AugmentParams`.
    classes : sequence of str
        Names of the classes by id.
    """

    settings: AugmentSettings
    size: int
    side: int
    gsd: float
    low: NDArray[np.float32]
    span: NDArray[np.float32]
    classes: Sequence[str]

    @classmethod
    def of(cls, tileset: TileSet, config: Config) -> Self:
        """Return the augmentation that a config asks for."""
        low, span = value_range(tileset)
        side = crop_side(config.train, tileset.size)
        names = tileset.classes.names
        return cls(config.augment, tileset.size, side, tileset.gsd, low, span, names)

    def sample(self, rng: np.random.Generator) -> AugmentParams:
        """Draw the augmentation of one tile.

        The same numbers are drawn whichever augmentations are switched off.
        """
        s, bands = self.settings, len(self.low)

        def around(strength: float) -> float:
            """Draw from -strength to strength."""
            return rng.uniform(-1, 1) * strength

        def seldom(strength: float) -> float:
            """Draw up to strength for some of the tiles, 0 for the others."""
            chosen, amount = rng.uniform(size=2)
            return amount * strength if chosen < _SELDOM else 0.0

        extent = max(round(self.side * math.exp(around(math.log(s.scale)))), 1)
        spare = self.size - extent
        corner = (rng.uniform(size=2) * (abs(spare) + 1)).astype(np.int64) + min(spare, 0)
        turns, flip = (int(rng.integers(n)) for n in (4, 2))
        hue, grey = around(s.hue), rng.uniform()
        saturation = 0.0 if grey < s.grey else 1 + around(s.saturation)
        gain, offset = rng.uniform(-1, 1, (2, bands)) * s.color_jitter
        gain, offset = (1 + gain) * (1 + around(s.brightness)), offset + around(s.brightness)
        offset *= _OFFSET
        contrast, gamma = 1 + around(s.contrast), math.exp(around(s.gamma))
        darkness, shadow_level = seldom(s.shadow), rng.uniform(*_SHADOW_LEVELS)
        haze, blurred, noise, compression = map(seldom, (s.haze, s.blur, s.noise, s.jpeg))
        stretch = math.exp(around(s.height_stretch))
        tilt, heading = math.radians(seldom(s.height_tilt)), around(math.pi)
        height_offset = rng.normal() * s.height_jitter
        wrong, metres, up = rng.uniform(), rng.exponential(), rng.uniform()
        if wrong < s.ground_error:
            height_offset += metres * _GROUND_ERROR * (1 if up < _UPWARD else -1)
        height_noise, height_blur = seldom(s.height_noise), seldom(s.height_blur)
        void, void_level = self._sample_void(rng)
        dropped = rng.uniform()
        if dropped < s.height_dropout:
            void = [0, self.side, 0, self.side]
        starts = rng.integers(fields.TABLE, size=(3 + bands, 2))
        class_gain, class_offset = self._sample_class_light(rng)
        valleys_hidden = rng.uniform() < s.valley_dropout
        rise = math.tan(tilt) * self.gsd
        numbers = {
            "saturation": saturation, "hue": math.radians(hue), "gain": gain, "offset": offset,
            "contrast": contrast, "gamma": gamma, "haze": haze, "darkness": darkness,
            "shadow_level": shadow_level, "blur": blurred, "noise": noise,
            "compression": compression, "stretch": stretch,
            "slope": (rise * math.sin(heading), rise * math.cos(heading)),
            "height_offset": height_offset, "height_noise": height_noise,
            "height_blur": height_blur, "void_level": void_level, "low": self.low,
            "span": self.span, "class_gain": class_gain, "class_offset": class_offset,
        }  # fmt: skip
        return AugmentParams(
            corner=torch.from_numpy(corner),
            extent=torch.tensor(extent),
            symmetry=torch.tensor(_QUARTERS[turns * s.turns] ^ (flip * s.flips)),
            void=torch.tensor(void),
            optical_dropped=torch.tensor(dropped >= 1 - s.optical_dropout),
            starts=torch.from_numpy(starts),
            valleys_hidden=torch.tensor(valleys_hidden),
            **{name: torch.tensor(np.float32(value)) for name, value in numbers.items()},
        )

    def _sample_void(self, rng: np.random.Generator) -> tuple[list[int], float]:
        """Draw a rectangle or blobs without heights, with the probability of the settings."""
        chosen, level, *ends = rng.uniform(size=6)
        if chosen < self.settings.height_voids / 2:
            low, high = _VOID_LEVELS
            return [0, 0, 0, 0], low + level * (high - low)
        if chosen >= self.settings.height_voids:
            return [0, 0, 0, 0], _NEVER
        sides = [round(self.side * end) for pair in (ends[:2], ends[2:]) for end in sorted(pair)]
        return sides, _NEVER

    def _sample_class_light(
        self, rng: np.random.Generator
    ) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
        """Draw the gain and the offset of each class, and 1 and 0 for what has no label."""
        rows, bands, strength = len(self.classes) + 1, len(self.low), self.settings.class_light
        named = self.settings.class_light_of or self.classes
        chosen = rng.uniform(size=(rows, 1)) < _CLASSES_REPAINTED
        chosen &= np.array([name in named for name in self.classes] + [False])[:, None]

        def common_and_own(common: float, own: float) -> NDArray[np.floating]:
            values = rng.uniform(-1, 1, (rows, 1)) * common
            return (values + rng.uniform(-1, 1, (rows, bands)) * own) * strength * chosen

        gain, offset = np.exp(common_and_own(1.0, 0.5)), common_and_own(0.15, 0.08)
        return (gain, offset) if strength else (gain[:0], offset[:0])


def value_range(tileset: TileSet) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the low end and the width of the range of the pixel values, (bands,) each.

    That is 0 to 255 for bytes, and elsewhere the range that the network clips its inputs to.
    """
    statistics, bands = tileset.optical_statistics, len(tileset.band_names)
    if tileset.dtype == "uint8":
        return np.zeros(bands, np.float32), np.full(bands, 255, np.float32)
    mean, std = (np.array(v, np.float32) for v in (statistics.mean, statistics.std))
    low = np.array(statistics.low or mean - 3 * std, np.float32)
    high = np.array(statistics.high or mean + 3 * std, np.float32)
    span = high - low
    return low, np.where(span > 0, span, np.float32(1))


def crop_side(settings: TrainSettings, size: int) -> int:
    """Return the side in pixels of the crop from a tile of `size` pixels."""
    return min(settings.crop or size, size)


def stack(params: Sequence[AugmentParams], device: torch.device) -> AugmentParams:
    """Stack the parameters of the tiles of a batch, on its device but for the symmetries."""
    batch = AugmentParams(*(torch.stack(parts) for parts in zip(*params, strict=True)))
    memory = HostMemory([(values.shape, values.dtype) for values in batch], device)
    for place, values in zip(memory.tensors, batch, strict=True):
        place.copy_(values)
    return AugmentParams(*memory.copy())._replace(symmetry=batch.symmetry)


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
    height = change_heights(height, relief.known(flags), params)
    flags = relief.cut_rectangle(flags, params.void)
    flags = relief.cut_blobs(flags, params.starts[:, 1], params.void_level)
    flags = torch.where(params.optical_dropped[:, None, None], flags & HEIGHT_VALID, flags)
    return PackedTiles(
        change_light(optical, (flags & OPTICAL_VALID) > 0, labels, params),
        flags,
        torch.where(relief.known(flags)[:, None], height, 0.0),
        labels,
    )


def change_heights(height: Tensor, valid: Tensor, params: AugmentParams) -> Tensor:
    """Apply the augmentations of the heights, (batch, planes, height, width), but for voids."""
    first, *valleys = height.unbind(1)
    first = torch.where(valid, first, 0.0) * params.stretch[:, None, None]
    first = relief.smooth(first, valid, params.height_blur)
    first = relief.shift(first, params.slope, params.height_offset)
    first = relief.add_noise(first, params.starts[:, 2], params.height_noise)
    hidden = params.valleys_hidden
    others = [relief.stretch_valleys(above, params.stretch, hidden) for above in valleys]
    return torch.stack([first, *others], dim=1)


def change_light(optical: Tensor, valid: Tensor, labels: Tensor, params: AugmentParams) -> Tensor:
    """Apply the augmentations of the optical image (batch, bands, height, width); float32.

    Pixels that are not valid, (batch, height, width), count as black, and become 0. `labels` are
    (batch, height, width).
    """
    low, span = params.low[..., None, None], params.span[..., None, None]
    shares = (optical.to(torch.float32) - low) / span
    shares = torch.where(valid[:, None], shares, 0.0)
    shares = light.repaint(shares, labels, params.class_gain, params.class_offset)
    shares = fields.blur(shares, params.blur)
    shares = light.tint(shares, params.saturation, params.hue)
    shares = light.shade(shares, params.starts[:, 0], params.shadow_level, params.darkness)
    shares = light.expose(
        shares, params.gain, params.offset, params.contrast, params.gamma, params.haze
    )
    shares = light.add_noise(shares, params.starts[:, 3:], params.noise)
    shares = light.compress(shares, params.compression).clamp(0, 1)
    return torch.where(valid[:, None], shares * span + low, 0.0)


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
