"""Reports of checks and dry runs: facts, and findings of three levels; warnings said once."""

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal, TypeAlias

from cafe_cli.errors import CafeError

log = logging.getLogger("cafe")

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
    """

    level: Level
    message: str
    where: str = ""


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
        """Turn an exception of the block into an error finding, so that the check goes on."""
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
            "findings": [asdict(finding) for finding in ranked],
        }


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
