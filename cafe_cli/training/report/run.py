"""Read the folder of a training run."""

from dataclasses import dataclass
from pathlib import Path

from cafe_cli.classes import ClassTable
from cafe_cli.config.load import load_config
from cafe_cli.config.schema import Config
from cafe_cli.errors import InputError
from cafe_cli.evaluation.metrics import Scores
from cafe_cli.model import model_file
from cafe_cli.model.cafe import CaFE
from cafe_cli.model.card import ModelCard
from cafe_cli.system.untrusted import parse_json
from cafe_cli.tilesets.tileset import TileSet, load_tileset
from cafe_cli.training.history import HISTORY_FILE, EpochRecord, read_history
from cafe_cli.training.report import tile_scores
from cafe_cli.training.report.tile_scores import TileScore

BEST, FINAL, SCORES = "best.safetensors", "final.safetensors", "scores.json"


@dataclass(frozen=True)
class Run:
    """The content of the folder of a training run that has ended.

    Attributes
    ----------
    folder, tiles : Path
        Folders of the run and of its tile set.
    tileset : TileSet
    config : Config
    rows : list of EpochRecord
        The history, a row per epoch; at least one.
    scores : Scores or None
        Scores of the best epoch; None without validation tiles.
    tile_scores : list of TileScore
        Errors per tile of the best epoch; empty without validation tiles.
    network : CaFE
        Network of the best epoch, on the CPU.
    card : ModelCard
    """

    folder: Path
    tiles: Path
    tileset: TileSet
    config: Config
    rows: list[EpochRecord]
    scores: Scores | None
    tile_scores: list[TileScore]
    network: CaFE
    card: ModelCard

    @property
    def classes(self) -> ClassTable:
        """The classes of the tile set."""
        return self.tileset.classes


def read_run(folder: Path, tileset: Path) -> Run:
    """Read the folder of a run that has ended.

    Parameters
    ----------
    folder, tileset : Path
        Folders of the run and of its tile set.

    Raises
    ------
    ConfigError, InputError, ModelFileError
        A file that every run leaves is missing or damaged.
    """
    network, card = model_file.load(folder / BEST)
    table = folder / tile_scores.VALIDATION_FILE
    return Run(
        folder=folder,
        tiles=tileset,
        tileset=load_tileset(tileset),
        config=load_config(folder / "config.toml"),
        rows=_read_rows(folder / HISTORY_FILE),
        scores=_read_scores(folder / SCORES),
        tile_scores=tile_scores.read_tile_scores(table) if table.exists() else [],
        network=network,
        card=card,
    )


def _read_rows(path: Path) -> list[EpochRecord]:
    rows = read_history(path)
    if not rows:
        raise InputError(f"{path} has no epoch; train at least one")
    return rows


def _read_scores(path: Path) -> Scores | None:
    if not path.exists():
        return None
    try:
        return Scores.from_json(parse_json(path.read_bytes()))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} does not hold scores: {error}; cafe train writes it") from error
