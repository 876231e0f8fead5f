"""The record of an epoch, its columns, and ``history.csv``."""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cafe_cli.errors import InputError
from cafe_cli.system.tables import read_csv

HISTORY_FILE = "history.csv"

MEAN_SCORES = ("miou", "mean_f1", "overall_accuracy")
"""Columns of the scores over all classes."""

_COUNTERS = ("epoch", "step")
_ENGINE = ("data_wait", "crops_per_second", "seconds")
_IOU, _F1 = "iou_", "f1_"  # prefixes of the columns of a class


@dataclass(frozen=True)
class EpochRecord:
    """One epoch of a training run.

    Values that a run did not measure are None or missing: scores without validation tiles, columns
    that earlier versions of cafe did not write.

    Attributes
    ----------
    epoch, step : int
        Epochs and steps done, from 1.
    learning_rate : float or None
        Learning rate of the last step.
    losses : dict of str to float
        The training loss, ``loss``, and then its parts; means over the steps of the epoch.
    miou, mean_f1, overall_accuracy : float or None
        On the validation tiles, 0 to 1; NaN where undefined.
    iou, f1 : dict of str to float
        By class name, 0 to 1; NaN where undefined.
    data_wait : float or None
        Share of the training time spent waiting for tiles, 0 to 1.
    crops_per_second : float or None
        In training, without validation.
    seconds : float or None
        Time of training and validation.
    """

    epoch: int
    step: int
    learning_rate: float | None = None
    losses: Mapping[str, float] = field(default_factory=dict)
    miou: float | None = None
    mean_f1: float | None = None
    overall_accuracy: float | None = None
    iou: Mapping[str, float] = field(default_factory=dict)
    f1: Mapping[str, float] = field(default_factory=dict)
    data_wait: float | None = None
    crops_per_second: float | None = None
    seconds: float | None = None

    @classmethod
    def from_row(cls, row: Mapping[str, float]) -> "EpochRecord":
        """Read a row of ``history.csv`` or of the checkpoint; unknown columns are losses.

        Raises
        ------
        ValueError
            The row has no epoch or no step.
        """
        if missing := [name for name in _COUNTERS if name not in row]:
            raise ValueError(f"an epoch without {' and '.join(missing)}")
        names = (*MEAN_SCORES, *_ENGINE, "learning_rate")
        return cls(
            epoch=int(row["epoch"]),
            step=int(row["step"]),
            losses={name: value for name, value in row.items() if is_loss(name)},
            iou=_by_class(row, _IOU),
            f1=_by_class(row, _F1),
            **{name: row[name] for name in names if name in row},
        )

    def as_row(self) -> dict[str, float]:
        """Return the columns, in the order of ``history.csv``."""
        row: dict[str, float | None] = {"epoch": self.epoch, "step": self.step}
        row |= {"learning_rate": self.learning_rate, **self.losses}
        row |= {name: getattr(self, name) for name in MEAN_SCORES}
        for name in dict.fromkeys([*self.iou, *self.f1]):
            row |= {_IOU + name: self.iou.get(name), _F1 + name: self.f1.get(name)}
        row |= {name: getattr(self, name) for name in _ENGINE}
        return {name: value for name, value in row.items() if value is not None}


def _by_class(row: Mapping[str, float], prefix: str) -> dict[str, float]:
    return {k.removeprefix(prefix): v for k, v in row.items() if k.startswith(prefix)}


def group(column: str) -> str:
    """Return the group of a column: ``validation``, ``engine``, ``train``; empty for a counter."""
    if column in _COUNTERS:
        return ""
    if column in _ENGINE:
        return "engine"
    return "validation" if column.startswith((*MEAN_SCORES, _IOU, _F1)) else "train"


def is_loss(column: str) -> bool:
    """Tell whether a column is the training loss or a part of it."""
    return group(column) == "train" and column != "learning_rate"


def columns(records: Sequence[EpochRecord]) -> list[str]:
    """Return the names of all columns, in the order in which they first occur."""
    return list(dict.fromkeys(name for record in records for name in record.as_row()))


def loss_names(records: Sequence[EpochRecord]) -> list[str]:
    """Return the names of the loss and of its parts, in the order in which they first occur."""
    return list(dict.fromkeys(name for record in records for name in record.losses))


def to_csv(records: Sequence[EpochRecord]) -> str:
    """Write the history as CSV, one row per epoch; a column is empty where a record lacks it."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns(records), lineterminator="\n")
    writer.writeheader()
    writer.writerows(record.as_row() for record in records)
    return text.getvalue()


def read_history(path: Path) -> list[EpochRecord]:
    """Read a history that `to_csv` wrote.

    Raises
    ------
    InputError
        The file cannot be read, or holds something else than numbers.
    """
    try:
        rows = read_csv(path).records()
        numbers = [{k: float(v) for k, v in row.items() if v != ""} for row in rows]
        return [EpochRecord.from_row(row) for row in numbers]
    except (InputError, ValueError) as error:
        raise InputError(
            f"{path} is not the history of a run: {error}; cafe train writes one"
        ) from error
