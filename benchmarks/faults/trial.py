"""A command on copies of its inputs: what it leaves without a fault, what is lost with one."""

import os
import random
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.faults.cases import Case
from benchmarks.faults.outputs import contents, differences, is_hidden, opens
from benchmarks.faults.process import Ended, Run

_LOOK = 0.003  # seconds between two looks at the folder of the run that is measured


class BenchmarkError(Exception):
    """A command fails without a fault: nothing can be said about it with one."""


@dataclass
class Trial:
    """A command, and what is to be expected of it.

    Attributes
    ----------
    case : Case
    inputs : Path
    work : Path
        Folder of its runs.
    draw : random.Random
    before, new, old : dict of str to str
        `contents` of the inputs, after the command, and after the command whose outputs it may
        have to replace.
    printed : bytes
        What it prints to stdout.
    seconds, touched : float
        When it ends, and when it first changes its folder.
    """

    case: Case
    inputs: Path
    work: Path
    draw: random.Random
    before: dict[str, str] = field(default_factory=dict)
    new: dict[str, str] = field(default_factory=dict)
    old: dict[str, str] = field(default_factory=dict)
    printed: bytes = b""
    seconds: float = 0.0
    touched: float = 0.0

    def measure(self) -> None:
        """Run the command without a fault, twice, as the first run loads what others share."""
        shutil.rmtree(self.work, ignore_errors=True)
        self.work.mkdir(parents=True)
        self.before = contents(self.fresh(False))
        # Under the name of all runs, which outputs may hold.
        folder = self.fresh(False)
        self._check(Run(self.case.other, folder).end())
        self.old = contents(folder)
        shutil.copytree(folder, self._old)
        folder = self.fresh(False)
        names = _names(folder)
        run = Run(self.case.words, folder)
        while run.alive:
            if not self.touched and _names(folder) != names:
                self.touched = run.seconds
            time.sleep(_LOOK)
        self.seconds = run.seconds
        ended = run.end()
        self._check(ended)
        self.new, self.printed = contents(folder), ended.output
        if unlike := self.again(self.fresh(False)):
            raise BenchmarkError(f"{self.case.name}: a second run: {'; '.join(unlike)}")

    def _check(self, ended: Ended) -> None:
        if ended.code:
            raise BenchmarkError(f"{self.case.name}: {ended.lines[-1:] or ended.code}")

    @property
    def _old(self) -> Path:
        return self.work / "old"

    def fresh(self, old: bool, folder: Path | None = None) -> Path:
        """Return a new copy of the inputs, with old outputs if wanted."""
        folder = folder or self.work / "here"
        shutil.rmtree(folder, ignore_errors=True)
        return Path(shutil.copytree(self._old if old else self.inputs, folder))

    def words(self, old: bool) -> tuple[str, ...]:
        return (*self.case.words, "--overwrite") if old else self.case.words

    def moment(self) -> float:
        """Return a random time in the run, as the package's docstring has it."""
        return self.draw.uniform(self.touched if self.draw.random() < 0.5 else 0, self.seconds)

    def torn(self, folder: Path, old: bool) -> list[str]:
        """Return what of the inputs and under final names is neither old nor new."""
        found = contents(folder)
        lost = [f"input {name} changed" for name in self.before if self._spoilt(name, found)]
        expected = [self.new, *([self.old] if old else [])]
        if self.case.rewrites:
            paths = [path for path in folder.rglob("*") if path.is_file()]
            whole = [self._is_kept(path.relative_to(folder)) or opens(path) for path in paths]
            return lost + [f"{p.name} is torn" for p, w in zip(paths, whole, strict=True) if not w]
        for top in sorted({name.split("/")[0] for name in found if not is_hidden(name)}):
            if top in self.before:
                continue
            here = _below(found, top)
            if here not in [_below(files, top) for files in expected]:
                lost.append(f"{top} is neither old nor new")
        return lost

    def _spoilt(self, name: str, found: dict[str, str]) -> bool:
        return found.get(name) != self.before[name]

    def _is_kept(self, path: Path) -> bool:
        return is_hidden(str(path)) or str(path) in self.before

    def litter(self, folder: Path) -> list[str]:
        """Return hidden names that a command should not leave when it can still clean up.

        None while a group of outputs is being replaced: what is hidden then is needed to finish.
        """
        if any(folder.rglob(".*.replacing")):
            return []
        hidden = {str(p.relative_to(folder)) for p in folder.rglob("*") if p.name.startswith(".")}
        known = {*self.case.keeps, *self.before, *self.new}
        return sorted(
            f"{name} is left" for name in hidden if not {name, name.split("/")[0]} & known
        )

    def again(self, folder: Path) -> list[str]:
        """Run the command once more, and return what is not as without a fault."""
        for more in self.case.again:
            ended = Run((*self.case.words, *more), folder, logs=self.work / "again").end()
            if not any("cannot resume" in line for line in ended.errors):
                break
        lost = differences(self.new, contents(folder))
        if ended.code:
            lost.insert(0, f"run again: exit code {ended.code}: {' '.join(ended.lines[-1:])}")
        elif ended.output != self.printed:
            lost.append("run again, it prints something else")
        return lost


def one_line(ended: Ended, codes: Sequence[int], says: bool = True) -> list[str]:
    """Return what is wrong with how a command ended that could still speak."""
    lost = []
    if ended.code not in codes:
        said = " ".join(ended.lines[-1:])
        lost.append(f"exit code {ended.code} instead of {' or '.join(map(str, codes))}: {said}")
    if ended.has_traceback:
        lost.append(f"a traceback: {' '.join(ended.lines[-1:])}")
    elif says and ended.code and len(ended.errors) != 1:
        lost.append(f"{len(ended.errors)} error lines: {' | '.join(ended.lines[-3:])}")
    if ended.children:
        lost.append(f"{ended.children} processes left")
    return lost


def _names(folder: Path) -> set[str]:
    return {
        os.path.join(place, name) for place, dirs, files in os.walk(folder) for name in dirs + files
    }


def _below(files: dict[str, str], top: str) -> dict[str, str]:
    return {
        name: value
        for name, value in files.items()
        if name.split("/")[0] == top and not is_hidden(name)
    }
