"""The table of epochs that training prints: a header, and a line per epoch."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rich.cells import cell_len, set_cell_size

from cafe_cli.text import short_duration
from cafe_cli.training.history import EpochRecord

_GAP = "  "
_NAME = (12, 8, 6)  # widths for class names; the first at which all columns fit is used
_LISTED = 16  # width of a name in the column of the worst classes


@dataclass(frozen=True)
class _Column:
    title: str
    width: int
    text: Callable[[EpochRecord], str]
    left: bool = False  # left-aligned

    @property
    def room(self) -> int:
        return self.width + len(_GAP)


class EpochTable:
    """Formats the epochs of a run; the first epoch determines the columns.

    Parameters
    ----------
    width : int
        Characters of a line. Columns are added as long as they fit: the loss, mean IoU and times
        first; then the IoU of each class, or of the worst ones if not all fit; then the parts of
        the loss.
    total : int
        Steps of the whole run; 0 if unknown.
    """

    def __init__(self, width: int, total: int = 0) -> None:
        self._width, self._total = width, total
        self._columns: list[_Column] = []
        self._step = self._steps = 0
        self._seconds = 0.0
        self._best = -math.inf

    def lines(self, record: EpochRecord, best: bool | None = None) -> list[str]:
        """Return the line of an epoch, after the header if it is the first.

        Parameters
        ----------
        record : EpochRecord
        best : bool, optional
            Whether it is the best of the run; if None, it is compared with the epochs seen here.
        """
        score = -math.inf if record.miou is None else record.miou
        better = score > self._best if best is None else best
        self._best = max(self._best, score) if score == score else self._best
        self._count(record)
        lines = []
        if not self._columns:
            self._columns = self._choose(record)
            lines = [_GAP.join(_fit(c.title, c) for c in self._columns).rstrip()]
        cells = (_fit(column.text(record), column) for column in self._columns)
        return [*lines, _GAP.join([*cells, "best" if better else ""]).rstrip()]

    def _count(self, record: EpochRecord) -> None:
        """Add an epoch's steps and seconds, from which the time left is estimated.

        On a resume, the first epoch seen follows earlier ones; its number of steps is then the
        average.
        """
        step = record.step
        each = round(step / record.epoch)
        self._steps += step - self._step if self._step else each
        self._seconds += record.seconds or 0
        self._step = step

    def _choose(self, record: EpochRecord) -> list[_Column]:
        head = [_Column("epoch", self._epoch_width(record), self._epoch)]
        loss, *parts = [_number(name) for name in record.losses]
        score = [] if record.miou is None else [_Column("mIoU", 5, lambda r: f"{r.miou:.3f}")]
        pace = [
            column
            for name, column in {
                "data_wait": _Column("wait", 4, lambda r: _percent(r.data_wait or 0)),
                "seconds": _Column("time", 5, lambda r: short_duration(r.seconds or 0)),
            }.items()
            if getattr(record, name) is not None
        ]
        if self._total and self._seconds:
            pace.append(_Column("left", 5, self._left))
        spare = self._width - len(_GAP + "best")
        spare -= sum(c.room for c in [*head, loss, *score, *pace])
        classes = _class_columns(record, spare)
        spare -= sum(c.room for c in classes)
        if sum(c.room for c in parts) > spare:
            parts = []
        return [*head, loss, *parts, *score, *classes, *pace]

    def _epoch_width(self, record: EpochRecord) -> int:
        return max(5, len(self._epoch(record)), 2 * len(str(self._epochs(record))) + 1)

    def _epochs(self, record: EpochRecord) -> int:
        return round(self._total / (record.step / record.epoch))

    def _epoch(self, record: EpochRecord) -> str:
        return str(record.epoch) + (f"/{self._epochs(record)}" if self._total else "")

    def _left(self, record: EpochRecord) -> str:
        return short_duration((self._total - record.step) * self._seconds / self._steps)


def _class_columns(record: EpochRecord, spare: int) -> list[_Column]:
    """Return a column per class, or one that lists the worst if not all fit, or none."""
    names = list(record.iou)
    for longest in _NAME:
        columns = [_class_column(name, longest) for name in names]
        titles = {_fit(column.title, column) for column in columns}
        if sum(column.room for column in columns) <= spare and len(titles) == len(names):
            return columns
    width = min(spare - len(_GAP), 60)
    if width < 20:
        return []
    return [_Column("worst classes", width, lambda r: _worst(r, names, width), left=True)]


def _class_column(name: str, longest: int) -> _Column:
    title = " ".join(name.split())
    width = max(4, min(cell_len(title), longest))
    return _Column(title, width, lambda record: f"{record.iou[name]:.2f}")


def _worst(record: EpochRecord, names: Sequence[str], width: int) -> str:
    known = [name for name in names if not math.isnan(record.iou[name])]
    text = ""
    for name in sorted(known, key=lambda n: record.iou[n]):
        more = f"{text}, " if text else ""
        more += f"{_shorten(' '.join(name.split()), _LISTED)} {record.iou[name]:.2f}"
        if text and cell_len(more) > width:
            break
        text = more
    return text


def _number(name: str) -> _Column:
    title = name.replace("_", " ")
    return _Column(title, max(len(title), 6), lambda record: f"{record.losses[name]:.4f}")


def _percent(share: float) -> str:
    return f"{100 * share:.1f}%" if share < 0.0995 else f"{100 * share:.0f}%"


def _shorten(text: str, width: int) -> str:
    """Cut a text that takes more than `width` columns of a terminal, and mark the cut."""
    return text if cell_len(text) <= width else set_cell_size(text, width - 1) + "…"


def _fit(text: str, column: _Column) -> str:
    """Cut or pad a text to the width of a column."""
    text = _shorten(text, column.width)
    if column.left:
        return set_cell_size(text, column.width)
    return " " * (column.width - cell_len(text)) + text
