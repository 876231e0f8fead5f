"""OUT/summary.md: goals and whether they were met, how parts ended, and every measurement."""

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

Row = dict[str, Any]
Rows = dict[str, list[Row]]
"""The measurements by part."""


class Goal(NamedTuple):
    """A question with a goal.

    Attributes
    ----------
    question, wanted : str
    part, what : str
        Where the measurements are.
    key : str
        The figure of a measurement; the last of several counts.
    met : callable
        Whether a figure meets the goal.
    match : mapping
        Other values that the measurement has.
    """

    question: str
    wanted: str
    part: str
    what: str
    key: str
    met: Callable[[Any], bool]
    match: Mapping[str, Any] = {}


def at_least(least: float) -> Callable[[Any], bool]:
    return lambda value: value >= least


GOALS = (
    Goal(
        "predict: whole over forward pass", "<= 1.15", "predict", "cafe predict", "of_forward",
        lambda value: value <= 1.15, {"run": 3},
    ),
    *(
        Goal(
            f"train: crops/s over the bare step, batch {batch}", ">= 0.95", "train", "cafe train",
            "of_bare_step", at_least(0.95), {"asked": batch},
        )
        for batch in (8, 32, "auto")
    ),
    Goal(
        "map on the GPU: labels as on the CPU", ">= 0.999", "same", "map of sample_data", "equal",
        at_least(0.999), {"precision": "bf16"},
    ),
    Goal(
        "the same in float32", ">= 0.999", "same", "map of sample_data", "equal", at_least(0.999),
        {"precision": "float32"},
    ),
    Goal(
        "predict: batch too large", "handled", "memory", "cafe predict, batch too large",
        "handled", bool,
    ),
    Goal(
        "predict: GPU nearly full", "handled", "memory", "cafe predict, GPU nearly full",
        "handled", bool,
    ),
    Goal(
        "train: batch too large", "one line", "memory", "cafe train, batch too large", "handled",
        bool,
    ),
    Goal(
        "train: GPU nearly full", "handled", "memory", "cafe train, GPU nearly full", "handled",
        bool,
    ),
    Goal(
        "--device all: labels as on one", "1", "devices", "--device", "equal",
        lambda value: value == 1, {"names": "all"},
    ),
    Goal(
        "one GPU named twice: labels as on one", "1", "devices", "--device", "equal",
        lambda value: value == 1, {"names": "cuda:0,cuda:0"},
    ),
    Goal(
        "heavy network: whole over forward pass", "<= 1.15", "heavy", "cafe predict", "of_forward",
        lambda value: value <= 1.15, {"run": 2},
    ),
)  # fmt: skip


def renew(out: Path, ended: Mapping[str, str]) -> str:
    """Write the summary of what was measured so far; return its text."""
    rows = {name: [*read(out / f"{name}.jsonl")] for name in ended}
    lines = ["# GPU", "", "| question | goal | measured | |", "|---|---|---|---|"]
    for goal in GOALS:
        value = measured(goal, rows)
        met = "not measured" if value is None else "met" if goal.met(value) else "**not met**"
        lines.append(
            f"| {goal.question} | {goal.wanted} | {'' if value is None else value} | {met} |"
        )
    lines += ["", "| part | ended |", "|---|---|"]
    lines += [f"| {name} | {how} |" for name, how in ended.items()]
    for name, found in rows.items():
        lines += ["", f"## {name}", "", *map(describe, found)]
    text = "\n".join(lines) + "\n"
    (out / "summary.md").write_text(text, encoding="utf-8")
    return text


def read(path: Path) -> Iterator[Row]:
    """Yield the measurements of a part; none, if it did not come that far."""
    if path.exists():
        yield from map(json.loads, path.read_text(encoding="utf-8").splitlines())


def measured(goal: Goal, rows: Rows) -> Any:
    """Return the last figure for a goal; None without one."""
    wanted = {"what": goal.what, **goal.match}
    found = [
        row[goal.key]
        for row in rows.get(goal.part, [])
        if goal.key in row and all(row.get(key) == value for key, value in wanted.items())
    ]
    return found[-1] if found else None


def describe(row: Row) -> str:
    """Return a measurement as an item of a list."""
    values = ", ".join(f"{key} {value}" for key, value in row.items() if key != "what")
    return f"- {row['what']}: {values}"
