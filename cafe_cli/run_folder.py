"""The folder of a training run, read back."""

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from cafe_cli import checkpoint, history, tile_scores, tiles
from cafe_cli import config as settings_file
from cafe_cli.checkpoint import ModelCard
from cafe_cli.classes import ClassTable
from cafe_cli.config import Config
from cafe_cli.epoch_row import Row
from cafe_cli.errors import InputError
from cafe_cli.model import CaFE
from cafe_cli.tile_scores import TileScore
from cafe_cli.tiles import TileSet

BEST, SCORES = "best.safetensors", "scores.json"


@dataclass(frozen=True)
class Run:
    """A training run that has ended, one way or another.

    Attributes
    ----------
    folder, tiles : Path
        Of the run and of its tile set.
    tileset : TileSet
    config : Config
    rows : list of dict
        The history, one row per epoch; at least one.
    scores : dict or None
        Of the best epoch, as in ``scores.json``; None without validation tiles.
    tile_scores : list of TileScore
        Of the best epoch; empty without validation tiles.
    network : CaFE
        The best one, on the CPU.
    card : ModelCard
    """

    folder: Path
    tiles: Path
    tileset: TileSet
    config: Config
    rows: list[Row]
    scores: dict[str, Any] | None
    tile_scores: list[TileScore]
    network: CaFE
    card: ModelCard

    @cached_property
    def classes(self) -> ClassTable:
        """The classes."""
        return self.tileset.class_table


def read(folder: Path, tileset: Path) -> Run:
    """Read what a run has left.

    Parameters
    ----------
    folder, tileset : Path
        Of the run and of its tile set.

    Raises
    ------
    ConfigError, InputError, ModelFileError
        Something that every run leaves is missing, or damaged.
    """
    network, card = checkpoint.load(folder / BEST)
    each = folder / tile_scores.FILE
    return Run(
        folder=folder,
        tiles=tileset,
        tileset=tiles.load(tileset),
        config=settings_file.load(folder / "config.toml"),
        rows=_rows(folder / history.FILE),
        scores=_scores(folder / SCORES),
        tile_scores=tile_scores.read(each) if each.exists() else [],
        network=network,
        card=card,
    )


def _rows(path: Path) -> list[Row]:
    rows = history.read(path)
    if not rows:
        raise InputError(f"{path} has no epoch; train at least one")
    return rows


def _scores(path: Path) -> dict[str, Any] | None:
    if not path.exists():
        return None
    try:
        return dict(json.loads(path.read_bytes()))
    except (OSError, TypeError, ValueError) as error:
        raise InputError(f"{path} does not hold scores: {error}; cafe train writes it") from error
