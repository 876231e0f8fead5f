"""Reports of checks and dry runs: facts, and findings of three levels; warnings said once."""

import logging
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeAlias

from cafe_cli.errors import CafeError

log = logging.getLogger("cafe")

_NUMBER = re.compile(r"(?<![\w.])-?\d+(?:,\d{3})*(?:\.\d+)?(?:e[-+]?\d+)?")
_FILE = re.compile(r"\S*/\S*|\b[\w-]+\.[A-Za-z]\w{1,4}\b")
_DIRECTION = re.compile(r"\b(?:left|right|up|down)\b")

_warnings: dict[tuple[str, str], object] = {}

Level: TypeAlias = Literal["error", "warning", "note"]
LEVELS: tuple[Level, ...] = ("error", "warning", "note")
"""Most severe first: an error stops the commands, a warning costs accuracy, a note explains."""


@dataclass(frozen=True)
class Finding:
    """One thing that a check found.

    Attributes
    ----------
    level : {"error", "warning", "note"}
    message : str
        One line: what was found, with the numbers, and what to do about it.
    where : str
        Id of the scene, or the file; may be empty.
    scene : str
        Id of the scene, if it is about one. Findings of one file in two scenes are the same.
    badness : float or None
        How bad it is among findings of its kind; None if that is its first number.
    """

    level: Level
    message: str
    where: str = ""
    scene: str = field(default="", compare=False)
    badness: float | None = field(default=None, compare=False)

    def as_json(self) -> dict[str, str]:
        """Return the fields that say something, as values that JSON knows."""
        fields = {"level": self.level, "message": self.message, "where": self.where}
        return fields | ({"scene": self.scene} if self.scene else {})


@dataclass
class Report:
    """The result of a check or a dry run; its verdict is `ok`.

    Attributes
    ----------
    title : str
    facts : dict
        Nested; values that JSON knows.
    findings : list of Finding
        In the order they were found.
    """

    title: str
    facts: dict[str, Any] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether there is no error."""
        return not self.count("error")

    def count(self, level: Level) -> int:
        """Return how many findings are of a level."""
        return sum(finding.level == level for finding in self.findings)

    def add(self, *findings: Finding) -> None:
        """Add findings, each of them once: several checks may find the same fault."""
        self.findings += [f for f in dict.fromkeys(findings) if f not in self.findings]

    def add_all(self, findings: Iterable[Finding], where: str) -> None:
        """Add findings of one place, a file or a scene."""
        self.add(*(replace(finding, where=where) for finding in findings))

    @contextmanager
    def capture_errors(self, where: str = "") -> Iterator[None]:
        """Turn an exception of the block into an error finding, so that the check continues."""
        try:
            yield
        except CafeError as error:
            self.add(Finding("error", str(error), where))

    def as_json(self) -> dict[str, Any]:
        """Return the report as values that JSON knows; the most severe findings first."""
        ranked = sorted(self.findings, key=lambda f: LEVELS.index(f.level))
        return {
            "title": self.title,
            "ok": self.ok,
            "facts": self.facts,
            "findings": [finding.as_json() for finding in ranked],
        }


def group_findings(findings: Iterable[Finding]) -> list[list[Finding]]:
    """Put notes and warnings that several scenes have in common together, the worst first.

    Messages are in common if they differ in numbers, directions and names of files only, or in what
    follows a colon, such as a list of names. Errors stay alone: each of them has to be mended.
    Groups are in the order of their first finding.
    """
    groups: dict[tuple[str, ...], list[Finding]] = {}
    for number, finding in enumerate(findings):
        alone = finding.level == "error" or not finding.scene
        kind = (str(number),) if alone else (finding.level, _kind(finding))
        groups.setdefault(kind, []).append(finding)
    return [sorted(group, key=_rank(group), reverse=True) for group in groups.values()]


def _kind(finding: Finding) -> str:
    """Return a message without what differs from scene to scene."""
    text = finding.message.replace(finding.where, "") if finding.where else finding.message
    text = _FILE.sub("", text.replace(finding.scene, "")).partition(": ")[0]
    return _DIRECTION.sub("", _NUMBER.sub("", text))


def _rank(group: list[Finding]) -> Callable[[Finding], tuple[float, int]]:
    """Return how bad a finding of a group is: by the first number that differs, or its length."""
    numbers = [_numbers(finding.message) for finding in group]
    count = min(map(len, numbers))
    first = next((i for i in range(count) if len({n[i] for n in numbers}) > 1), None)

    def rank(finding: Finding) -> tuple[float, int]:
        badness = finding.badness
        if badness is None:
            badness = 0.0 if first is None else abs(_numbers(finding.message)[first])
        return badness, len(finding.message)

    return rank


def _numbers(text: str) -> list[float]:
    return [float(n.replace(",", "")) for n in _NUMBER.findall(_FILE.sub("", text))]


def warn_once(scene: str, message: str) -> None:
    """Log a warning about a scene once, however many threads open the scene."""
    mine = object()
    if _warnings.setdefault((scene, message), mine) is mine:  # atomic
        log.warning("%s", message)


def log_warnings(findings: Iterable[Finding]) -> None:
    """Log the warnings among findings, each once; nothing is logged of notes."""
    for finding in findings:
        if finding.level == "warning":
            warn_once(finding.where, finding.message)


def count_as_said(findings: Iterable[Finding]) -> None:
    """Let `log_warnings` pass over findings that a report shows already."""
    for finding in findings:
        _warnings.setdefault((finding.where, finding.message), object())
