"""The tiles of a split as a torch dataset. A sample is a pure function of its key.

An interrupted run is therefore repeatable: the batches of an epoch are a pure function of the seed
and the epoch, and all randomness of a sample comes from the seed in its key. Only the last bits of
the arithmetic of the augmentation depend on the batch that a sample is computed in.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from cafe_cli.classes import NODATA
from cafe_cli.config.schema import Config
from cafe_cli.model.distribution import DistributionSampler, PixelDistribution
from cafe_cli.model.host_memory import Layout
from cafe_cli.model.inputs import Inputs, Sample
from cafe_cli.splits.assign import Split
from cafe_cli.tilesets import cache
from cafe_cli.tilesets.cache import Cache, PackedArrays, PackedTiles
from cafe_cli.tilesets.tile_rasters import TileReader
from cafe_cli.tilesets.tileset import TileSet
from cafe_cli.training.data import augment
from cafe_cli.training.data.augment import Augmentation, AugmentParams
from cafe_cli.training.data.crop import read_crop
from cafe_cli.training.data.sampler import SampleKey

TileSource: TypeAlias = Callable[[int], PackedArrays]
"""Function that returns a tile by its number; call it in the thread that opened the source."""

_MEASURED = 128  # tiles for the distribution of pixels
_COPIED_AS_THEY_ARE = ("uint8", "int16", "uint16")


def to_sample(planes: PackedTiles[Tensor], params: AugmentParams | None) -> Sample:
    """Convert a batch to the inputs of the network, augmented unless `params` is None.

    The sample shares no memory with `planes` and lies on the same device.
    """
    if params is not None:
        planes = augment.apply(planes, params)
    copy = params is None  # augmented planes are a copy already
    inputs = Inputs(
        planes.optical.to(torch.float32, copy=copy),
        planes.optical_valid,
        planes.height.to(torch.float32, copy=copy),
        planes.height_valid,
    )
    return Sample(inputs, planes.labels.to(torch.int64))


class TileDataset(Dataset[Sample]):
    """The tiles of one split.

    Parameters
    ----------
    folder : Path
        The tile set's folder.
    tileset : TileSet
    split : {'train', 'validation', 'test'}
    config : Config, optional
        Crop and augment by its settings; whole, unchanged tiles if None.
    decoded : Cache, optional
        Cache of the same tile set; without it tiles are decoded on each read. Samples are the same.

    Attributes
    ----------
    side : int
        Side of a sample in pixels.
    """

    def __init__(
        self,
        folder: Path,
        tileset: TileSet,
        split: Split,
        config: Config | None = None,
        decoded: Cache | None = None,
    ) -> None:
        self._tileset, self._tiles = tileset, tileset.of(split)
        self._augmentation = Augmentation.of(tileset, config) if config else None
        self._decoded = decoded.of(split) if decoded else None
        self._reader = TileReader(folder, tileset)
        self.side = self._augmentation.side if self._augmentation else tileset.size

    def __len__(self) -> int:
        """Return the number of tiles."""
        return len(self._tiles)

    def __getitem__(self, key: SampleKey) -> Sample:
        """Read one sample, without a batch axis, always from the same thread.

        For batches, and several threads, there is `cafe_cli.training.data.loader`.
        """
        planes = self.blank(1)
        place = PackedTiles(*(values[0].numpy() for values in planes))
        drawn = self.read(self._source(self._reader), key, place)
        params = augment.stack([drawn], torch.device("cpu")) if drawn else None
        inputs, labels = to_sample(planes, params)
        return Sample(Inputs(*(values[0] for values in inputs)), labels[0])

    def layout(self, count: int) -> Layout:
        """Return shapes and data types of the planes of `count` samples.

        The optical values have the data type of the tiles if it has 8 or 16 bits, and are float32
        otherwise.
        """
        name = self._tileset.dtype if self._tileset.dtype in _COPIED_AS_THEY_ARE else "float32"
        flat, bands = (count, self.side, self.side), len(self._tileset.band_names)
        return PackedTiles(
            ((count, bands, *flat[1:]), getattr(torch, name)),
            (flat, torch.uint8),
            ((count, self._tileset.height.planes, *flat[1:]), torch.float32),
            (flat, torch.uint8),
        )

    def blank(self, count: int) -> PackedTiles[Tensor]:
        """Allocate memory for `count` samples."""
        return PackedTiles(*(torch.zeros(shape, dtype=kind) for shape, kind in self.layout(count)))

    @contextmanager
    def opened(self) -> Iterator[TileSource]:
        """Open the tiles for the current thread, which also has to leave the context."""
        with self._reader.for_thread() as reader:
            yield self._source(reader)

    def distribution(self) -> PixelDistribution | None:
        """Measure up to 128 whole tiles, evenly spread over the split.

        Returns
        -------
        PixelDistribution or None
            None if none of their pixels is valid.

        Raises
        ------
        InputError
            As `read`.
        """
        sampler, step = DistributionSampler(), -(-len(self) // _MEASURED) or 1
        with self.opened() as source:
            for tile in map(source, range(0, len(self), step)):
                sampler.add(tile.optical, tile.optical_valid, tile.height[0], tile.height_valid)
        return sampler.distribution()

    def class_counts(self) -> NDArray[np.int64]:
        """Count the labelled pixels of each tile by class: (tiles, classes).

        Raises
        ------
        InputError
            As `read`.
        """
        classes = len(self._tileset.classes)
        counts = np.zeros((len(self), classes), np.int64)
        with self.opened() as source:
            for number in range(len(self)):
                labels = source(number).labels
                counts[number] = np.bincount(labels.ravel(), minlength=NODATA + 1)[:classes]
        return counts

    def _source(self, reader: TileReader) -> TileSource:
        if (planes := self._decoded) is not None:
            return lambda number: PackedTiles(*(values[number] for values in planes))
        return lambda number: cache.pack(*reader.read(self._tiles[number]))

    def read(self, source: TileSource, key: SampleKey, into: PackedArrays) -> AugmentParams | None:
        """Read the crop of a tile; return its augmentation, None for whole tiles.

        Parameters
        ----------
        source : TileSource
            The source that `opened` yielded in this thread.
        key : SampleKey
        into : PackedTiles of ndarray
            Memory of one sample from `blank`; it is overwritten.

        Raises
        ------
        InputError
            A file is missing, damaged, or changed since the virtual tile set was made.
        """
        planes = source(key.tile)
        if self._augmentation is None:
            for place, values in zip(into, planes, strict=True):
                place[...] = values
            return None
        params = self._augmentation.sample(np.random.default_rng(key.seed))
        read_crop(planes, params.corner.tolist(), int(params.extent), into)
        return params
