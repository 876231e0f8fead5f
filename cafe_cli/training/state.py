"""The state of a training run, and the settings that must not change on a resume."""

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from cafe_cli.config.schema import Config, TrainSettings
from cafe_cli.errors import InputError, ModelFileError, TrainingError
from cafe_cli.model import model_file
from cafe_cli.text import short_repr
from cafe_cli.tilesets.tileset import TileSet
from cafe_cli.training.fine_tuning import restore_model_settings
from cafe_cli.training.history import EpochRecord

_FREE = {
    "model": {"weights", "height_weights"},
    "train": {
        "cache", "checkpointing", "compile", "devices", "num_nodes", "patience", "time_limit",
        "workers",
    },
}  # fmt: skip
"""Settings that may change on a resume: they alter results at most by rounding, or only when the
run ends."""


class _StoredState(BaseModel):
    """A `TrainState` as a checkpoint holds it; NaN is a score that no pixel gave."""

    model_config = ConfigDict(extra="forbid")

    epoch: Annotated[int, Field(ge=0)] = 0
    batch: Annotated[int, Field(ge=0)] = 0
    sums: dict[str, float] = {}
    history: list[dict[str, float]]
    best: Annotated[float, Field(ge=-1, le=1)] = -1.0
    stale: Annotated[int, Field(ge=0)] = 0


@dataclass
class TrainState:
    """The state of a training run, apart from its tensors.

    Attributes
    ----------
    epoch, batch : int
        Epochs done, and steps done of the current epoch.
    sums : dict of str to float
        Losses of the current epoch, summed over its steps.
    history : list of EpochRecord
    best : float
        The best mean IoU so far, -1 if there is none.
    stale : int
        Epochs since the best one.
    """

    epoch: int = 0
    batch: int = 0
    sums: dict[str, float] = field(default_factory=dict)
    history: list[EpochRecord] = field(default_factory=list)
    best: float = -1.0
    stale: int = 0

    def add(self, losses: Mapping[str, float]) -> None:
        """Add the losses of a step."""
        for name, value in losses.items():
            self.sums[name] = self.sums.get(name, 0.0) + value
        self.batch += 1

    def as_json(self) -> dict[str, Any]:
        """Return the state as plain values for the checkpoint."""
        return vars(self) | {"history": [record.as_row() for record in self.history]}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "TrainState":
        """Read the values of `as_json`; fields that an older checkpoint lacks get defaults.

        Raises
        ------
        ValueError
            A value is missing, of another type, or beyond its limits.
        """
        stored = _StoredState.model_validate(values)
        history = [EpochRecord.from_row(row) for row in stored.history]
        if [record.epoch for record in history] != list(range(1, len(history) + 1)) or (
            len(history) != stored.epoch
        ):
            raise ValueError(f"its history is not that of the epochs 1 to {stored.epoch}")
        return cls(**{**stored.model_dump(), "history": history})

    def close_epoch(self, record: EpochRecord, score: float) -> bool:
        """Append the record of an epoch; return whether its score (NaN for none) is the best."""
        self.history.append(record)
        self.epoch, self.batch, self.sums = self.epoch + 1, 0, {}
        # Without a score the last epoch is the best, unless an earlier one had a score.
        better = self.best < 0 if math.isnan(score) else score > self.best
        if not math.isnan(score):
            self.best = max(score, self.best)
        self.stale = 0 if better else self.stale + 1
        return better

    def why_ended(self, settings: TrainSettings) -> str | None:
        """Return why training is over, "" if all epochs are done; None if it is not over."""
        if self.epoch >= settings.epochs:
            return ""
        if settings.patience and self.stale >= settings.patience:
            best = self.epoch - self.stale
            return (
                f"stopped early: no better mIoU than {self.best:.4f}, of epoch {best}, for "
                f"{self.stale} epochs"
            )
        return None


def fixed_settings(config: Config, tileset: TileSet) -> dict[str, Any]:
    """Return the settings that must not change on a resume."""
    sections = {"model": config.model, "train": config.train}
    fixed = {
        f"{section}.{key}": value
        for section, settings in sections.items()
        for key, value in settings.model_dump(mode="json", exclude=_FREE[section]).items()
    }
    digest = hashlib.sha256(tileset.model_dump_json().encode()).hexdigest()[:8]
    return fixed | {
        # The files may be gone, but learning rates depend on whether there were any.
        "what starts from model.weights": list(config.model.pretrained),
        "the tile set (checksum of tileset.json)": digest,
    }


def check_settings(
    before: Mapping[str, Any], config: Config, tileset: TileSet, output: Path
) -> None:
    """Refuse to resume with other settings.

    A setting that `before` lacks is newer than the run, which then used its default.

    Raises
    ------
    TrainingError
        A setting differs; the message names the first.
    """
    unset = fixed_settings(Config(), tileset)
    for key, now in fixed_settings(config, tileset).items():
        if (then := before.get(key, unset[key])) != now:
            raise TrainingError(
                f"cannot resume {output}: {key} was {then}, now it is {now}; set it back, or "
                "start again with --overwrite"
            )


def with_batch_size(config: Config, size: int) -> Config:
    """Return a config with another batch size."""
    settings = config.train.model_copy(update={"batch_size": size})
    return config.model_copy(update={"train": settings})


def _stored_batch_size(before: Mapping[str, Any]) -> int:
    size = before["train.batch_size"]
    if not isinstance(size, int) or size < 1:
        raise ValueError(f"its batch size is {short_repr(size)}")
    return size


def resumed(path: Path, config: Config, tileset: TileSet) -> Config:
    """Check the config of a run to resume; replace ``batch_size = "auto"`` by its size.

    Parameters
    ----------
    path : Path
        The run's last checkpoint.
    config : Config
        The current one.
    tileset : TileSet

    Raises
    ------
    InputError
        There is no checkpoint.
    ModelFileError
        The checkpoint is damaged.
    TrainingError
        The run had other settings.
    """
    if not path.exists():
        raise InputError(f"cannot resume: {path.parent} holds no {path.name}")
    values = model_file.read_training(path)
    try:
        before = values["settings"]
        config = restore_model_settings(config, before)
        if config.train.batch_size == "auto":
            config = with_batch_size(config, _stored_batch_size(before))
        check_settings(before, config, tileset, path.parent)
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise ModelFileError(f"cannot resume: {path} is damaged: {error}") from error
    return config
