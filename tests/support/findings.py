"""Messages of findings, for tests of checks."""

from collections.abc import Iterable

from cafe_cli.findings import Finding, Level


def said(findings: Iterable[Finding], level: Level | None = None) -> str:
    """Return the messages, those of a level if given, one per line."""
    return "\n".join(f.message for f in findings if level in (None, f.level))
