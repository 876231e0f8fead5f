"""The lines of results.jsonl, and the table made of them."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.faults.inject import Row

RESULTS = "results.jsonl"
_FIGURES = {
    "seconds": "{} s",
    "peak_mb": "{} MB at most",
    "slope_mb_per_minute": "{:+} MB a minute after the first third",
    "files": "{0[0]} to {0[1]} open files",
}


def add(out: Path, row: Row) -> None:
    """Add a line at once, so that a run which is cut off has told what it found."""
    with (out / RESULTS).open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")


def read(out: Path) -> list[Row]:
    """Read the lines; a last one that is cut off is left out."""
    rows = []
    for line in (out / RESULTS).read_text(encoding="utf-8").splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return rows


def table(rows: Sequence[Row]) -> str:
    """Return a table in Markdown: a line for each fault and command, then what was lost."""
    lines = [
        "| fault | command | injected | survived | lost | more |",
        "|---|---|---:|---:|---:|---|",
        *_lines([row for row in rows if "peak_mb" not in row]),
    ]
    soaks = [row for row in rows if "peak_mb" in row]
    for row in soaks:
        said = [text.format(row[key]) for key, text in _FIGURES.items()]
        lines.append(f"\n{row['fault']}: {', '.join(said)}")
    lost = [f"- {row['fault']}, {row['case']}: {'; '.join(row['lost'])}" for row in rows
            if row["lost"]]  # fmt: skip
    return "\n".join([*lines, *(["", "Lost:", *sorted(set(lost))] if lost else [])]) + "\n"


def _lines(rows: Sequence[Row]) -> Iterator[str]:
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row["fault"], row["case"]), []).append(row)
    for (fault, case), group in groups.items():
        if "skipped" in group[0]:
            yield f"| {fault} | {case} | 0 | | | skipped: {group[0]['skipped']} |"
            continue
        lost = sum(1 for row in group if row["lost"])
        cells = [fault, case, len(group), len(group) - lost, lost, "; ".join(_more(group))]
        yield f"| {' | '.join(map(str, cells))} |"


def _more(group: Sequence[Row]) -> Iterator[str]:
    """Yield what else is worth telling of the faults of one kind in one command."""
    first = group[0]
    if "stop" in first:
        yield f"stopped after {max(row['stop'] for row in group):.1f} s at most"
    if "locks" in first:
        yield f"{sum(1 for row in group if row['locks'])} left a lock, taken over"
    if "refused" in first:
        yield f"{sum(row['refused'] for row in group)} refused"
    if "failed" in first:
        yield f"{sum(row['failed'] for row in group)} failed with one line"
    if "passed" in first:
        yield f"{sum(not row['passed'] for row in group)} failed with one line"
