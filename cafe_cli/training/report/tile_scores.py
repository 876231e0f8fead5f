"""``validation.csv``: the errors of each validation tile, and which tiles are the worst."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cafe_cli.classes import ClassTable
from cafe_cli.errors import InputError
from cafe_cli.system.atomic_write import write_text
from cafe_cli.system.tables import read_csv
from cafe_cli.tilesets.tileset import Tile

VALIDATION_FILE = "validation.csv"
"""Table in the folder of a run; like ``scores.json`` it describes the best epoch."""

_COLUMNS = ("name", "scene", "row", "col", "labelled", "wrong", "reference", "predicted", "pixels")


@dataclass(frozen=True)
class TileScore:
    """The errors in one validation tile.

    Attributes
    ----------
    name, scene : str
    row, col : int
        Upper left pixel in the scene.
    labelled, wrong : int
        Number of labelled pixels, and of those predicted wrongly.
    reference, predicted : str
        Names of the two classes of the commonest mistake; empty without mistakes.
    pixels : int
        Number of pixels with that mistake.
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


def write_tile_scores(
    path: Path, rows: NDArray[np.int64], tiles: Sequence[Tile], classes: ClassTable
) -> None:
    """Write a table of tiles, those with the most wrong pixels first.

    Parameters
    ----------
    path : Path
    rows : ndarray of int64, (tiles, 5)
        See `cafe_cli.training.validation.ValidationAccumulator`.
    tiles : sequence of Tile
    classes : ClassTable

    Raises
    ------
    OutputError
        The file cannot be written.
    """
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(_COLUMNS)
    for index in np.argsort(-rows[:, 1], kind="stable"):
        tile, (labelled, wrong, reference, predicted, pixels) = tiles[index], rows[index].tolist()
        pair = (classes[reference].name, classes[predicted].name) if pixels else ("", "")
        place = (tile.name, tile.scene, tile.row, tile.col)
        table.writerow((*place, labelled, wrong, *pair, pixels))
    write_text(path, text.getvalue())


def read_tile_scores(path: Path) -> list[TileScore]:
    """Read the table that `write_tile_scores` writes.

    Raises
    ------
    InputError
        The file cannot be read, or is not such a table.
    """
    try:
        table = read_csv(path)
        if tuple(table.header) != _COLUMNS:
            raise ValueError(f"its columns are {table.header or 'missing'}")
        return [_score(row) for row in table.records()]
    except (InputError, ValueError) as error:
        raise InputError(
            f"{path} is not a table of validation tiles: {error}; cafe train writes one"
        ) from error


def _score(row: dict[str, str]) -> TileScore:
    text = {name: row[name] for name in ("name", "scene", "reference", "predicted")}
    numbers = {name: int(row[name]) for name in ("row", "col", "labelled", "wrong", "pixels")}
    return TileScore(**text, **numbers)  # type: ignore[arg-type]


def worst_tiles(scores: Sequence[TileScore], count: int, size: int) -> list[TileScore]:
    """Return the tiles with the most wrong pixels; of tiles that overlap, only the worst.

    Parameters
    ----------
    scores : sequence of TileScore
    count : int
        Upper limit of the number of tiles.
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
