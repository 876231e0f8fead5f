"""What a network makes of the validation tiles, counted tile by tile."""

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
    """Counts the pixels of validation tiles as they are predicted.

    Parameters
    ----------
    tiles : sequence of Tile
        The validation tiles; their places in it are their numbers.
    classes : int
        How many there are.
    watched : collection of int
        Numbers of the tiles whose predictions are kept.

    Attributes
    ----------
    counts : ndarray of int64, (classes, classes)
        Confusion of all tiles; rows are the reference.
    rows : ndarray of int64, (tiles, 5)
        Per tile: labelled pixels, wrong ones, and the commonest mistake: the class of the
        reference, the one predicted, its pixels. Zero where another process has the tile, so that
        those of all processes add up.
    watched : dict of int to ndarray of uint8, (height, width)
        Class ids predicted for tiles that are watched.
    """

    def __init__(self, tiles: Sequence[Tile], classes: int, watched: Collection[int] = ()) -> None:
        self.counts: NDArray[np.int64] = np.zeros((classes, classes), np.int64)
        self.rows: NDArray[np.int64] = np.zeros((len(tiles), 5), np.int64)
        self._tiles = tiles
        self.watched: dict[int, NDArray[np.uint8]] = {}
        self._wanted = frozenset(watched)

    def add(self, numbers: Sequence[int], labels: Tensor, predicted: Tensor) -> None:
        """Count a batch.

        Parameters
        ----------
        numbers : sequence of int
            Which tiles they are.
        labels, predicted : Tensor of int64, (batch, height, width)
            Class ids, 255 in `labels` where there is none.

        Raises
        ------
        LabelError
            Labels that are neither a class nor 255.
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
        strange = ((labels >= classes) & (labels != NODATA)).flatten(1).sum(dim=1).tolist()
        for number, count in zip(numbers, strange, strict=True):
            if count:
                raise LabelError(
                    f"{count} pixels of the labels of tile {self._tiles[number].name} are neither "
                    f"a class, 0 to {classes - 1}, nor {NODATA}; run cafe tile again"
                )


def confusions(labels: Tensor, predicted: Tensor, classes: int) -> NDArray[np.int64]:
    """Count the pairs of classes of each tile of a batch: (batch, classes, classes)."""
    batch = len(labels)
    tile = torch.arange(batch, device=labels.device)[:, None, None]
    pairs = (tile * classes + labels) * classes + predicted
    known = pairs[labels != NODATA]
    counts = torch.bincount(known, minlength=batch * classes**2)
    return counts.reshape(batch, classes, classes).cpu().numpy()


def _summary(counts: NDArray[np.int64]) -> tuple[int, ...]:
    wrong = counts.copy()
    np.fill_diagonal(wrong, 0)
    pair = divmod(int(wrong.argmax()), len(counts))
    return int(counts.sum()), int(wrong.sum()), *pair, int(wrong[pair])


def validate(
    network: CaFE, batches: Iterable[Batch], tally: ValidationAccumulator, processes: Processes
) -> None:
    """Count every tile once; `batches` are this process's, `tally` becomes that of all.

    Raises
    ------
    InputError, LabelError
        A tile that cannot be read, or used; in all processes.
    """
    # Not through the wrapper for several processes, which wants as many batches of each.
    network.eval()
    with processes.sync_errors(), torch.inference_mode(), processes.fabric.autocast():
        for batch in batches:
            inputs, labels = batch.sample
            predicted = network(*inputs).argmax(dim=1)
            tally.add([key.tile for key in batch.keys], labels, predicted)
    tally.counts = processes.sum(torch.from_numpy(tally.counts)).numpy()
    tally.rows = processes.sum(torch.from_numpy(tally.rows)).numpy()
