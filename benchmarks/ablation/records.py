"""What is known of finished runs: OUT/runs.jsonl, a JSON line for each; which run is which."""

import fcntl
import hashlib
import json
import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from benchmarks.ablation.variants import VARIANTS, Variant
from cafe_cli.config.load import load_config
from cafe_cli.config.schema import Config
from cafe_cli.errors import InputError, OutputError

log = logging.getLogger("ablation")

Row: TypeAlias = dict[str, Any]
"""One finished run, as `run.row` makes it."""


class Job(NamedTuple):
    """A run to do: `same` are the variants that come to its settings, the first gives the name."""

    same: tuple[str, ...]
    fold: int
    seed: int
    steps: int
    identity: str

    @property
    def name(self) -> str:
        """A name for files and people."""
        return f"{self.same[0]} fold {self.fold} seed {self.seed}"


@dataclass(frozen=True)
class Study:
    """A folder with a study: what all its runs have in common."""

    folder: Path
    folds: int
    coarsen: int

    @property
    def config_path(self) -> Path:
        """The config that the variants change."""
        return self.folder / "config.toml"

    @property
    def runs_path(self) -> Path:
        """One line for each finished run."""
        return self.folder / "runs.jsonl"

    @property
    def failures_path(self) -> Path:
        """One line for each run that crashed."""
        return self.folder / "failed.jsonl"

    def tiles(self, fold: int, labels: str = "") -> Path:
        """Return the tile set of a fold."""
        return self.folder / "tiles" / f"fold{fold}{labels}"

    def log_path(self, job: Job) -> Path:
        """What a run said."""
        return self.folder / "logs" / f"{job.name} {job.identity}.log".replace(" ", "_")

    def config(self, variant: Variant, seed: int = 0) -> Config:
        """Return the config of a variant's runs."""
        overrides = {**variant.config, "train.seed": seed}
        return load_config(self.config_path, overrides)

    def identity(self, variant: Variant) -> str:
        """Return a checksum of all that makes a variant's runs what they are, but fold and seed.

        Settings that the study's config does not name do not count: those that a later version
        adds leave the runs of this one valid.
        """
        config = self.config(variant).model_dump(mode="json", exclude_unset=True)
        values = [config["model"], config["train"], dict(variant.recipe), variant.network]
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:8]

    def identities(self) -> dict[str, str]:
        """Return the identity of every variant."""
        return {name: self.identity(variant) for name, variant in VARIANTS.items()}


def load(folder: Path) -> Study:
    """Open a study that exists.

    Raises
    ------
    InputError
        There is none.
    """
    path = folder / "study.json"
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        return Study(folder, **values)
    except (OSError, TypeError, ValueError) as error:
        raise InputError(f"{folder} holds no study: cannot read {path.name} in it") from error


def read(path: Path) -> list[Row]:
    """Read JSON lines; none where there is no file. A torn line is left out with a warning."""
    rows = []
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    for number, line in enumerate(text.splitlines(), 1):
        try:
            rows.append(json.loads(line))
        except ValueError:
            log.warning("%s: line %d is damaged and left out", path, number)
    return rows


def append(path: Path, row: Mapping[str, Any]) -> None:
    """Append a JSON line in a single write, on a line of its own whatever was there before."""
    with path.open("ab+") as file:
        file.seek(max(file.tell() - 1, 0))
        torn = file.read(1) not in (b"", b"\n")
        file.write(b"\n" * torn + json.dumps(row).encode() + b"\n")


def latest(rows: list[Row]) -> dict[tuple[str, int, int, int], Row]:
    """Return finished runs by identity, fold, seed and steps; of doubles, the last."""
    return {(r["identity"], r["fold"], r["seed"], r["steps"]): r for r in rows}


@contextmanager
def alone(study: Study) -> Iterator[None]:
    """Hold a study for oneself.

    Raises
    ------
    OutputError
        Somebody else does.
    """
    with (study.folder / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise OutputError(f"a study is running in {study.folder} already") from error
        yield


def code_digest() -> str:
    """Return a checksum of the package and of the study, for copies without a git history."""
    root = Path(__file__).parents[2]
    digest = hashlib.sha256()
    for folder in (root / "cafe_cli", root / "benchmarks" / "ablation"):
        for path in sorted(folder.glob("*.py")):
            digest.update(path.read_bytes())
    return digest.hexdigest()[:8]


def child_environment() -> dict[str, str]:
    """Return the environment of a run: one thread, and the same code as here."""
    root = str(Path(__file__).parents[2])
    before = os.environ.get("PYTHONPATH")
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    path = os.pathsep.join([root, *([before] if before else [])])
    return {**os.environ, **threads, "PYTHONPATH": path}
