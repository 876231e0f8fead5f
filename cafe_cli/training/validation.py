"""Validation: confusion counts of all tiles, the errors of each tile, and sums to calibrate by."""

import math
from collections.abc import Callable, Collection, Iterable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cafe_cli.classes import NODATA
from cafe_cli.errors import LabelError
from cafe_cli.model.cafe import CaFE
from cafe_cli.model.calibration import CalibrationSums
from cafe_cli.tilesets.tileset import Tile, TileSet
from cafe_cli.training.data.loader import Batch
from cafe_cli.training.distributed.processes import Processes
from cafe_cli.training.signals import StopReason, StopRequestedError

_PIXELS, _PIXELS_OF_A_TILE = 262_144, 4096  # sampled for the temperature, at most


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
    calibration : CalibrationSums
        Of a sample of the labelled pixels, with about as many from every tile.
    """

    def __init__(self, tiles: Sequence[Tile], classes: int, watched: Collection[int] = ()) -> None:
        self.counts: NDArray[np.int64] = np.zeros((classes, classes), np.int64)
        self.rows: NDArray[np.int64] = np.zeros((len(tiles), 5), np.int64)
        self._tiles = tiles
        self.watched: dict[int, NDArray[np.uint8]] = {}
        self._wanted = frozenset(watched)
        self.calibration = CalibrationSums()
        self._sampled = min(_PIXELS // max(len(tiles), 1), _PIXELS_OF_A_TILE)

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

    def add_logits(self, labels: Tensor, logits: Tensor) -> None:
        """Add a sample of a batch's logits (batch, K, height, width) to the calibration."""
        # An odd step: logits are upsampled by a factor of 4, and all places between count.
        step = math.ceil(math.sqrt(labels[0].numel() / max(self._sampled, 1))) | 1
        labels, logits = (x[..., ::step, ::step] for x in (labels, logits))
        known = labels != NODATA
        pixels = logits.movedim(1, -1)[known].float().cpu().numpy()
        self.calibration.add(pixels, labels[known].cpu().numpy())

    def reduce(self, processes: Processes) -> None:
        """Replace the sums of this process by those of all processes (all-reduce)."""
        sums = self.calibration
        self.counts = processes.sum(torch.from_numpy(self.counts)).numpy()
        self.rows = processes.sum(torch.from_numpy(self.rows)).numpy()
        sums.likelihood = processes.sum(torch.from_numpy(sums.likelihood)).numpy()
        sums.bins = processes.sum(torch.from_numpy(sums.bins)).numpy()

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
    rounds: int,
    stop: Callable[[], StopReason],
) -> None:
    """Predict and count this process's `batches`, then all-reduce the counts.

    Parameters
    ----------
    network : CaFE
    batches : iterable of Batch
    counted : ValidationAccumulator
    processes : Processes
    rounds : int
        Number of batches of the process that has most.
    stop : callable
        Returns the reason to stop; only signals stop a validation.

    Raises
    ------
    InputError, LabelError
        A tile cannot be read or used; raised in all processes.
    StopRequestedError
        A process received a signal; raised in all processes.
    """
    # Bypass DistributedDataParallel, which needs equally many batches in all processes.
    network.eval()
    following = iter(batches)
    with torch.inference_mode(), processes.fabric.autocast():
        for _ in range(rounds):
            with processes.sync_errors():
                if (batch := next(following, None)) is not None:
                    _count(network, batch, counted)
            if (reason := StopReason(processes.max(stop()))).signal:
                raise StopRequestedError(reason)
    counted.reduce(processes)


def _count(network: CaFE, batch: Batch, counted: ValidationAccumulator) -> None:
    inputs, labels = batch.sample
    logits = network(*inputs)
    counted.add([key.tile for key in batch.keys], labels, logits.argmax(dim=1))
    counted.add_logits(labels, logits)


def describe_shared_scenes(tileset: TileSet) -> str:
    """Say that scores flatter where scenes both train and validate; empty if none does."""
    training, validation = (tileset.scenes_of(split) for split in ("train", "validation"))
    if not training & validation:
        return ""
    text = (
        "The validation tiles lie in scenes that were trained on, so these scores are "
        "optimistic: expect lower ones on other ground."
    )
    if len(training | validation) > 1:
        text += ' To validate on whole scenes, cut the tiles with split.unit = "scene".'
    return text
