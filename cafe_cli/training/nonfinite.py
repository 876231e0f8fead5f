"""Find the tiles of a batch that made the loss NaN or infinite."""

from collections.abc import Sequence
from contextlib import AbstractContextManager

import torch

from cafe_cli.model.inputs import Inputs, Sample
from cafe_cli.tilesets.tileset import Tile
from cafe_cli.training.distributed.sync_batchnorm import batch_statistics
from cafe_cli.training.step import LossModule


def find_nonfinite_losses(
    losses: LossModule, batch: Sample, autocast: AbstractContextManager[object]
) -> list[int]:
    """Return the positions in a batch of the tiles whose own loss is not finite.

    The list is empty if all losses are finite, or if a single tile cannot be computed on its own.
    """
    losses.eval()
    found = []
    with batch_statistics(losses), autocast, torch.no_grad():
        for position in range(len(batch.labels)):
            one = slice(position, position + 1)
            inputs = Inputs(*(values[one] for values in batch.inputs))
            try:
                total = losses(Sample(inputs, batch.labels[one]))["total"]
            except ValueError:  # BatchNorm refuses a single tile of 32 pixels
                return []
            if not total.isfinite():
                found.append(position)
    return found


def find_nonfinite_inputs(batch: Sample) -> list[int]:
    """Return the positions in a batch of tiles with a valid pixel or height that is not finite."""
    inputs = batch.inputs
    wrong = ~inputs.optical.isfinite().all(dim=1) & inputs.optical_valid
    wrong |= ~inputs.height[:, 0].isfinite() & inputs.height_valid
    flags = wrong.flatten(1).any(dim=1).tolist()
    return [position for position, found in enumerate(flags) if found]


def describe_tiles(tiles: Sequence[Tile]) -> list[str]:
    """Return the names of tiles and where they come from, for a message."""
    return [f"{t.name} (scene {t.scene}, row {t.row}, column {t.col})" for t in tiles]
