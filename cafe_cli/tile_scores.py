"""How each validation tile came out: which of them a look is worth."""

import csv
import io
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cafe_cli.classes import NODATA, ClassTable
from cafe_cli.errors import InputError, LabelError
from cafe_cli.files import write_text
from cafe_cli.tiles import Tile

FILE = "validation.csv"
"""Name of the table in the folder of a run; it belongs to the best epoch, as `scores.json` does."""

_COLUMNS = ("name", "scene", "row", "col", "labelled", "wrong", "reference", "predicted", "pixels")


class Tally:
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


@dataclass(frozen=True)
class TileScore:
    """What is known of a validation tile.

    Attributes
    ----------
    name, scene : str
    row, col : int
        Its first pixel in the scene.
    labelled, wrong : int
        Pixels.
    reference, predicted : str
        The two classes of the commonest mistake; empty without mistakes.
    pixels : int
        Of that mistake.
    """

    name: str
    scene: str
    row: int
    col: int
    labelled: int
    wrong: int
    reference: str
    predicted: str
    pixels: int


def write(path: Path, rows: NDArray[np.int64], tiles: Sequence[Tile], classes: ClassTable) -> None:
    """Write a table of tiles, the most wrong pixels first; `rows` as in `Tally.rows`."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(_COLUMNS)
    for index in np.argsort(-rows[:, 1], kind="stable"):
        tile, (labelled, wrong, reference, predicted, pixels) = tiles[index], rows[index].tolist()
        pair = (classes[reference].name, classes[predicted].name) if pixels else ("", "")
        place = (tile.name, tile.scene, tile.row, tile.col)
        table.writerow((*place, labelled, wrong, *pair, pixels))
    write_text(path, text.getvalue())


def read(path: Path) -> list[TileScore]:
    """Read the table that `write` wrote.

    Raises
    ------
    InputError
        It cannot be read, or is not such a table.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            table = csv.DictReader(file)
            if tuple(table.fieldnames or ()) != _COLUMNS:
                raise ValueError(f"its columns are {table.fieldnames or 'missing'}")
            return [_score(row) for row in table]
    except (OSError, TypeError, ValueError) as error:
        raise InputError(
            f"{path} is not a table of validation tiles: {error}; cafe train writes one"
        ) from error


def _score(row: dict[str, str]) -> TileScore:
    text = {name: row[name] for name in ("name", "scene", "reference", "predicted")}
    numbers = {name: int(row[name]) for name in ("row", "col", "labelled", "wrong", "pixels")}
    return TileScore(**text, **numbers)  # type: ignore[arg-type]


def worst(scores: Sequence[TileScore], count: int, size: int) -> list[TileScore]:
    """Return the tiles with the most wrong pixels; of tiles that overlap, only the worst.

    Parameters
    ----------
    count : int
        At most so many.
    size : int
        Side of a tile in pixels.
    """
    chosen: list[TileScore] = []
    for score in sorted(scores, key=lambda s: s.wrong, reverse=True):
        if len(chosen) == count or not score.wrong:
            break
        if not any(_overlap(score, other, size) for other in chosen):
            chosen.append(score)
    return chosen


def _overlap(a: TileScore, b: TileScore, size: int) -> bool:
    return a.scene == b.scene and abs(a.row - b.row) < size and abs(a.col - b.col) < size
