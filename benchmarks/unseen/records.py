"""Finished runs: OUT/results.jsonl, a JSON line for each."""

import hashlib
import json
import subprocess
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from cafe_cli.errors import InputError
from cafe_cli.system.atomic_write import write_text
from cafe_cli.system.locks import wait_for_lock

Row: TypeAlias = dict[str, Any]
"""One finished run: the fields of `Key`, ``training`` (names of sites), ``sites`` (scores as
`scoring.summarise` by name), ``seconds`` of training, ``commit`` and ``finished``."""

RESULTS = "results.jsonl"


class Key(NamedTuple):
    """What makes a run; `identity` is a checksum of all its settings but the seed."""

    train: str
    variant: str
    seed: int
    identity: str

    @property
    def name(self) -> str:
        """A name for people and folders."""
        return f"{self.train}-{self.variant}-{self.identity}-seed{self.seed}"


def identity(settings: object) -> str:
    """Return a checksum of plain values."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:8]


def key(row: Row) -> Key:
    """Return the key of a row."""
    return Key(*(row[field] for field in Key._fields))


def make_row(key: Key, training: Iterable[str], sites: Row, seconds: float) -> Row:
    """Return the row of a run that has just finished."""
    return {
        **key._asdict(),
        "training": list(training),
        "sites": sites,
        "seconds": round(seconds, 1),
        "commit": _commit(),
        "finished": time.strftime("%Y-%m-%d %H:%M:%S"),
    }


def read(folder: Path) -> list[Row]:
    """Read the finished runs of a folder; none without a file.

    Raises
    ------
    InputError
        A line is damaged.
    """
    path = folder / RESULTS
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    rows = []
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
            key(row)
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"{path}: line {number} is damaged: delete it") from error
        rows.append(row)
    return rows


def add(folder: Path, row: Row) -> None:
    """Add a run; the file is replaced as a whole, and processes take turns."""
    with wait_for_lock(folder / f".{RESULTS}.lock", "another run is being recorded"):
        rows = [*read(folder), row]
        write_text(folder / RESULTS, "".join(json.dumps(r) + "\n" for r in rows))


def _commit() -> str | None:
    """Return the commit that is checked out; None for a copy without a history."""
    root = Path(__file__).parents[2]
    command = ["git", "-C", str(root), "describe", "--always", "--dirty"]
    if not (root / ".git").exists():
        return None
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() or None
