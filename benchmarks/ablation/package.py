"""What the study takes from those parts of `cafe_cli` that may move, and nothing else does.

Everything else (losses, model, metrics, optimiser, tile sets) is imported where it is used.
"""

from collections.abc import Generator, Iterable, Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.ablation import baselines, variants
from cafe_cli.config.schema import Config, TrainSettings
from cafe_cli.errors import ConfigError
from cafe_cli.model.inputs import Inputs, Sample
from cafe_cli.splits.assign import Split
from cafe_cli.tilesets import cache
from cafe_cli.tilesets.tileset import TileSet
from cafe_cli.training.build import build_network
from cafe_cli.training.data.dataset import TileDataset
from cafe_cli.training.data.loader import Loader
from cafe_cli.training.data.sampler import BatchSampler, SampleKey

__all__ = ["Inputs", "Sample", "SampleKey", "Tiles", "batch_size", "build", "decode", "epochs"]


def build(kind: variants.Network, tileset: TileSet, config: Config) -> baselines.Network:
    """Build a network for a tile set, with its statistics."""
    if kind.startswith("unet"):
        height = tileset.height_statistics if kind == "unet" else None
        encoder, classes = config.model.optical_encoder, len(tileset.classes)
        return baselines.StackedUnet(encoder, classes, tileset.optical_statistics, height)
    return build_network(tileset.model_copy(update={"has_height": kind == "cafe"}), config)


def decode(folder: Path, tileset: TileSet) -> None:
    """Decode a tile set once, so that reading tiles is next to nothing in the time of a run."""
    cache.prepare(folder, tileset, "auto")


def batch_size(settings: TrainSettings) -> int:
    """Return the number of tiles in a step.

    Raises
    ------
    ConfigError
        It depends on the machine.
    """
    if settings.batch_size == "auto":
        raise ConfigError("the study compares equal steps: --set train.batch_size=8, not auto")
    return settings.batch_size


def epochs(count: int, settings: TrainSettings) -> Iterator[list[SampleKey]]:
    """Return the batches of `count` tiles, epoch after epoch, without end."""
    batches = BatchSampler(count, batch_size(settings), settings.seed)
    while True:
        yield from batches
        batches.epoch += 1


class Tiles:
    """The tiles of one split, augmented if there is a config."""

    def __init__(
        self, folder: Path, tileset: TileSet, split: Split, config: Config | None = None
    ) -> None:
        self.tiles = tileset.of(split)
        decoded = cache.prepare(folder, tileset, "auto")
        self._dataset = TileDataset(folder, tileset, split, config, decoded)

    def __len__(self) -> int:
        """Return the number of tiles."""
        return len(self.tiles)

    def counts(self, classes: int) -> NDArray[np.int64]:
        """Count the labelled pixels of each class in each tile, (tiles, classes)."""
        with self._dataset.opened() as source:
            labels = [source(number).labels.ravel() for number in range(len(self))]
        return np.array([np.bincount(y, minlength=256)[:classes] for y in labels])

    def batches(
        self, keys: Iterable[list[SampleKey]], device: torch.device
    ) -> Generator[Sample, None, None]:
        """Yield batches on a device; closed, it ends its threads."""
        with closing(Loader(self._dataset, device).batches(keys)) as drawn:
            for batch in drawn:
                yield batch.sample
