"""Validation: confusion counts of all validation tiles, and the errors of each tile."""

from collections.abc import Collection, Iterable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cafe_cli.classes import NODATA
from cafe_cli.errors import LabelError
from cafe_cli.model.cafe import CaFE
from cafe_cli.tilesets.tileset import Tile
from cafe_cli.training.data.loader import Batch
from cafe_cli.training.distributed.processes import Processes


class ValidationAccumulator:
    """Accumulates the confusion matrices of the validation tiles.

    Parameters
    ----------
    tiles : sequence of Tile
        The validation tiles; a tile's number is its index here.
    classes : int
        Number of classes.
    watched : collection of int
        Numbers of the tiles whose predictions are kept.

    Attributes
    ----------
    counts : ndarray of int64, (classes, classes)
        Confusion of all tiles; rows are the reference.
    rows : ndarray of int64, (tiles, 5)
        Per tile: labelled pixels, wrong pixels, and the most frequent confusion: reference class,
        predicted class, pixels. Zero where another process has the tile, so that the rows of all
        processes can be summed.
    watched : dict of int to ndarray of uint8, (height, width)
        Class ids predicted for the watched tiles.
    """

    def __init__(self, tiles: Sequence[Tile], classes: int, watched: Collection[int] = ()) -> None:
        self.counts: NDArray[np.int64] = np.zeros((classes, classes), np.int64)
        self.rows: NDArray[np.int64] = np.zeros((len(tiles), 5), np.int64)
        self._tiles = tiles
        self.watched: dict[int, NDArray[np.uint8]] = {}
        self._wanted = frozenset(watched)

    def add(self, numbers: Sequence[int], labels: Tensor, predicted: Tensor) -> None:
        """Add the confusion matrices of a batch.

        Parameters
        ----------
        numbers : sequence of int
            Numbers of the tiles.
        labels, predicted : Tensor of int64, (batch, height, width)
            Class ids; 255 in `labels` for pixels without a label.

        Raises
        ------
        LabelError
            A label is neither a class nor 255.
        """
        self._check(numbers, labels)
        each = confusions(labels, predicted, len(self.counts))
        self.counts += each.sum(axis=0)
        for place, (number, counts) in enumerate(zip(numbers, each, strict=True)):
            self.rows[number] = _summary(counts)
            if number in self._wanted:
                self.watched[number] = predicted[place].cpu().numpy().astype(np.uint8)

    def _check(self, numbers: Sequence[int], labels: Tensor) -> None:
        classes = len(self.counts)
        invalid = ((labels >= classes) & (labels != NODATA)).flatten(1).sum(dim=1).tolist()
        for number, count in zip(numbers, invalid, strict=True):
            if count:
                raise LabelError(
                    f"{count} pixels of the labels of tile {self._tiles[number].name} are neither "
                    f"a class, 0 to {classes - 1}, nor {NODATA}; run cafe tile again"
                )


def confusions(labels: Tensor, predicted: Tensor, classes: int) -> NDArray[np.int64]:
    """Return the confusion matrix of each tile of a batch: (batch, classes, classes)."""
    batch = len(labels)
    tile = torch.arange(batch, device=labels.device)[:, None, None]
    pairs = (tile * classes + labels) * classes + predicted
    known = pairs[labels != NODATA]
    counts = torch.bincount(known, minlength=batch * classes**2)
    return counts.reshape(batch, classes, classes).cpu().numpy()


def _summary(counts: NDArray[np.int64]) -> tuple[int, ...]:
    """Return a row of `ValidationAccumulator.rows` from the confusion matrix of a tile."""
    wrong = counts.copy()
    np.fill_diagonal(wrong, 0)
    pair = divmod(int(wrong.argmax()), len(counts))
    return int(counts.sum()), int(wrong.sum()), *pair, int(wrong[pair])


def validate(
    network: CaFE,
    batches: Iterable[Batch],
    counted: ValidationAccumulator,
    processes: Processes,
) -> None:
    """Predict and count this process's `batches`, then all-reduce the counts.

    Raises
    ------
    InputError, LabelError
        A tile cannot be read or used; raised in all processes.
    """
    # Bypass DistributedDataParallel, which needs equally many batches in all processes.
    network.eval()
    with processes.sync_errors(), torch.inference_mode(), processes.fabric.autocast():
        for batch in batches:
            inputs, labels = batch.sample
            predicted = network(*inputs).argmax(dim=1)
            counted.add([key.tile for key in batch.keys], labels, predicted)
    counted.counts = processes.sum(torch.from_numpy(counted.counts)).numpy()
    counted.rows = processes.sum(torch.from_numpy(counted.rows)).numpy()
