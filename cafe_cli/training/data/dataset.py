"""Tile set to tensors. What a sample looks like depends on its key only, never on when it is drawn.

That makes an interrupted run repeatable: the batches of an epoch are a pure function of the seed
and the epoch, and every random choice about a tile comes from the seed in its key.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from cafe_cli.config.schema import TrainSettings
from cafe_cli.model.inputs import Inputs, Sample
from cafe_cli.splits.assign import Split
from cafe_cli.tilesets import cache
from cafe_cli.tilesets.cache import Cache, PackedArrays, PackedTiles
from cafe_cli.tilesets.tile_rasters import TileReader
from cafe_cli.tilesets.tileset import TileSet
from cafe_cli.training.data import augment as augmentation
from cafe_cli.training.data.augment import AugmentParams
from cafe_cli.training.data.sampler import SampleKey

TileSource: TypeAlias = Callable[[int], PackedArrays]
"""Gives a tile of a dataset by its number. To be used in the thread that opened it."""

_COPIED_AS_THEY_ARE = ("uint8", "int16", "uint16")


def to_sample(planes: PackedTiles[Tensor], change: AugmentParams | None) -> Sample:
    """Turn a batch into what the network sees, changed unless `change` is None.

    The sample shares no memory with `planes` and lies on the same device.
    """
    if change is not None:
        planes = augmentation.apply(planes, change)
    copy = change is None  # what was changed is a copy already
    inputs = Inputs(
        planes.optical.to(torch.float32, copy=copy),
        planes.optical_valid,
        planes.height[:, None].to(torch.float32, copy=copy),
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
    augment : TrainSettings, optional
        Crop, turn, flip and jitter as these say; whole tiles as they are if None.
    decoded : Cache, optional
        Of the same tile set; without it the tiles are decoded each time. The samples are the same.

    Attributes
    ----------
    side : int
        Of a sample, in pixels.
    """

    def __init__(
        self,
        folder: Path,
        tileset: TileSet,
        split: Split,
        augment: TrainSettings | None = None,
        decoded: Cache | None = None,
    ) -> None:
        self._tileset, self._tiles = tileset, tileset.of(split)
        self._augment = augment
        self._decoded = decoded.of(split) if decoded else None
        self._reader = TileReader(folder, tileset)
        self._std = np.array(tileset.optical_statistics.std, np.float32)
        self.side = augmentation.crop_side(augment, tileset.size) if augment else tileset.size

    def __len__(self) -> int:
        """Return the number of tiles."""
        return len(self._tiles)

    def __getitem__(self, key: SampleKey) -> Sample:
        """Read one sample, without a batch axis, always from the same thread.

        For batches, and several threads, there is `cafe_cli.training.data.loader`.
        """
        planes = self.blank(1)
        place = PackedTiles(*(values[0].numpy() for values in planes))
        change = self.read(self._source(self._reader), key, place)
        changes = augmentation.stacked([change], torch.device("cpu")) if change else None
        inputs, labels = to_sample(planes, changes)
        return Sample(Inputs(*(values[0] for values in inputs)), labels[0])

    def blank(self, count: int, pinned: bool = False) -> PackedTiles[Tensor]:
        """Allocate room for some samples, in page-locked memory if `pinned`.

        The optical values have the data type of the tiles if they take a byte or two, and float32
        otherwise.
        """
        name = self._tileset.dtype if self._tileset.dtype in _COPIED_AS_THEY_ARE else "float32"
        flat, bands = (count, self.side, self.side), len(self._tileset.band_names)
        return PackedTiles(
            torch.zeros((count, bands, *flat[1:]), dtype=getattr(torch, name), pin_memory=pinned),
            torch.zeros(flat, dtype=torch.uint8, pin_memory=pinned),
            torch.zeros(flat, dtype=torch.float32, pin_memory=pinned),
            torch.zeros(flat, dtype=torch.uint8, pin_memory=pinned),
        )

    @contextmanager
    def opened(self) -> Iterator[TileSource]:
        """Make ready to read in one thread, which has to be the one that ends this."""
        with self._reader.for_thread() as reader:
            yield self._source(reader)

    def _source(self, reader: TileReader) -> TileSource:
        if (planes := self._decoded) is not None:
            return lambda number: PackedTiles(*(values[number] for values in planes))
        return lambda number: cache.pack(*reader.read(self._tiles[number]))

    def read(self, source: TileSource, key: SampleKey, into: PackedArrays) -> AugmentParams | None:
        """Copy what is cut from a tile; return what has to be done to it, None without `augment`.

        Parameters
        ----------
        source : Source
            What `opened` gave to this thread.
        key : Key
        into : Planes of ndarray
            One sample of `blank`.

        Raises
        ------
        InputError
            A file is missing, damaged, or changed since the virtual tile set was made.
        """
        change, (row, column) = None, (0, 0)
        if self._augment is not None:
            random = np.random.default_rng(key.seed)
            change = augmentation.sample(self._augment, self._tileset.size, self._std, random)
            row, column = change.corner.tolist()
        part = slice(row, row + self.side), slice(column, column + self.side)
        for place, values in zip(into, source(key.tile), strict=True):
            place[...] = values[..., *part]
        return change
