"""One epoch in numbers: what the columns of a history are."""

from collections.abc import Sequence

Row = dict[str, float]
"""One epoch: ``epoch`` and ``step`` (from 1), the loss and its parts, scores, what the engine did.

Only the first three are always there. ``data_wait`` is the share of the time that was spent waiting
for tiles, 0 to 1.
"""

SCORES = ("miou", "mean_f1", "overall_accuracy", "iou_", "f1_")
"""How the names of scores begin; the first three are whole names."""

_COUNTERS = ("epoch", "step")
_ENGINE = ("seconds", "data_wait", "crops_per_second")


def group(name: str) -> str:
    """Return what a column is about: ``validation``, ``engine``, ``train``; empty for a counter."""
    if name in _COUNTERS:
        return ""
    if name in _ENGINE:
        return "engine"
    return "validation" if name.startswith(SCORES) else "train"


def columns(rows: Sequence[Row]) -> list[str]:
    """Return the names of all columns, in the order in which they first occur."""
    return list(dict.fromkeys(name for row in rows for name in row))


def losses(rows: Sequence[Row]) -> list[str]:
    """Return the names of the loss and of its parts."""
    return [name for name in columns(rows) if group(name) == "train" and name != "learning_rate"]
