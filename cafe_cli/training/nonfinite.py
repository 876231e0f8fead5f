"""Which tile it was: after a loss that is no number."""

from collections.abc import Sequence
from contextlib import AbstractContextManager

import torch

from cafe_cli.model.inputs import Inputs, Sample
from cafe_cli.tilesets.tileset import Tile
from cafe_cli.training.distributed.sync_batchnorm import batch_statistics
from cafe_cli.training.step import LossModule


def find(losses: LossModule, batch: Sample, precision: AbstractContextManager[object]) -> list[int]:
    """Return the places in a batch of the tiles whose loss is no number on their own.

    None if all are: then it is the network.
    """
    losses.eval()
    found = []
    with batch_statistics(losses), precision, torch.no_grad():
        for place in range(len(batch.labels)):
            here = slice(place, place + 1)
            inputs = Inputs(*(values[here] for values in batch.inputs))
            try:
                total = losses(Sample(inputs, batch.labels[here]))["total"]
            except ValueError:  # one tile of 32 pixels has no batch to normalise by
                return []
            if not total.isfinite():
                found.append(place)
    return found


def spoilt(batch: Sample) -> list[int]:
    """Return the places in a batch of the tiles with a valid pixel or height that is no number."""
    inputs = batch.inputs
    wrong = ~inputs.optical.isfinite().all(dim=1) & inputs.optical_valid
    wrong |= ~inputs.height[:, 0].isfinite() & inputs.height_valid
    return [place for place, found in enumerate(wrong.flatten(1).any(dim=1).tolist()) if found]


def describe(tiles: Sequence[Tile]) -> list[str]:
    """Name tiles and where they come from."""
    return [f"{t.name} (scene {t.scene}, row {t.row}, column {t.col})" for t in tiles]
