"""Reports of checks and dry runs as text."""

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import click

from cafe_cli.cli.console import print_line, say
from cafe_cli.errors import CafeError
from cafe_cli.findings import LEVELS, Finding, Report, group_findings
from cafe_cli.redaction import redact_all
from cafe_cli.text import list_some, megabytes, percent, printable

_STYLES = {"note": "cyan", "warning": "yellow", "error": "bold red"}


def print_reports(reports: Sequence[Report], as_json: bool = False) -> None:
    """Print reports, and end the command with exit code 1 if one of them has errors.

    With `as_json`, print JSON to stdout: an object per report.
    """
    for report in reports:
        if as_json:
            click.echo(json.dumps(redact_all(report.as_json()), indent=1))
        else:
            show_report(report)
    if not all(report.ok for report in reports):
        click.get_current_context().exit(CafeError.exit_code)


def show_report(report: Report) -> None:
    """Print a line per raster, the other facts as an outline, then the findings and the verdict.

    With -v, all facts are an outline. The most severe findings come last; what several scenes have
    in common is one line, with the numbers of the worst.
    """
    log = logging.getLogger("cafe")
    if log.isEnabledFor(logging.INFO):
        for line in _fact_lines(report.facts, in_full=log.isEnabledFor(logging.DEBUG)):
            print_line("", line)
    groups = group_findings(report.findings)
    for group in sorted(groups, key=lambda g: LEVELS.index(g[0].level), reverse=True):
        level = group[0].level
        if level != "note" or log.isEnabledFor(logging.INFO):
            print_line((f"{level.capitalize()}: ", _STYLES[level]), _describe(group))
    counts = ", ".join(f"{report.count(level)} {level}s" for level in LEVELS)
    say(f"{report.title}: {'ok' if report.ok else 'not ok'} ({counts})")


def print_facts(facts: Mapping[str, Any]) -> None:
    """Print nested facts to stdout as an outline; ``details`` only with -v."""
    in_full = logging.getLogger("cafe").isEnabledFor(logging.DEBUG)
    shown = {key: value for key, value in facts.items() if in_full or key != "details"}
    for line in _outline(shown, 0):
        click.echo(printable(" ".join(line.splitlines())))


def _describe(group: Sequence[Finding]) -> str:
    """Return the line of a finding, or of those that several scenes have in common."""
    worst = group[0]
    scenes = list(dict.fromkeys(finding.scene for finding in group))
    if len(scenes) > 1:
        differ = len({finding.message for finding in group}) > 1
        named = f"{len(scenes)} scenes ({list_some(scenes, 4)}{'; worst first' if differ else ''})"
        return f"{named}: {worst.message}"
    says_where = not worst.where or worst.message.startswith(worst.where)
    return worst.message if says_where else f"{worst.where}: {worst.message}"


def _fact_lines(facts: Mapping[str, Any], in_full: bool) -> Iterator[str]:
    if in_full:
        yield from _outline(facts, 0)
        return
    for name, scene in facts.get("scenes", {}).items():
        yield from _scene_lines(name, scene)
    # `cli.workload` prints the sum of the workloads.
    rest = {key: value for key, value in facts.items() if key not in ("scenes", "workload")}
    yield from _outline(rest, 0)


def _scene_lines(name: str, scene: Mapping[str, Any]) -> Iterator[str]:
    yield f"scene {name}"
    for stream in ("optical", "elevation", "dtm", "labels", "corrections"):
        if stream in scene:
            yield f"  {stream:<10} {', '.join(_stream_facts(scene[stream]))}"


def _stream_facts(stream: Mapping[str, Any]) -> Iterator[str]:
    """Return the parts of a stream's line; of several files, the first is described."""
    first: Mapping[str, Any] = next(iter(stream["rasters"]), {})
    if stream["files"] > 1:
        yield f"{stream['files']} files, the first"
    if "width" not in first:
        yield str(first.get("path", "-"))
    else:
        size = f"{first['width']:,} x {first['height']:,} px"
        gsd = first["gsd"]
        yield size + (f" of {gsd:.3g} m" if gsd else "")
        yield first["crs"]
        yield f"{_fact('', first['dtype'])} {' '.join(first['bands'])}"
        yield f"mask: {first['mask']}"
    if first.get("lowest") is not None:
        yield f"{first['lowest']:.1f} to {first['highest']:.1f} m"
    if "overlap_percent" in stream:
        yield f"covers {stream['overlap_percent']:g} %"
    if "without_height_percent" in stream:
        yield f"{stream['without_height_percent']:g} % of the image without height"
    if above := stream.get("above_ground"):
        yield f"above ground {above['p1']:g}, {above['p50']:g}, {above['p99']:g} m (1, 50, 99 %)"
    if total := sum(stream.get("classes", {}).values()):
        yield ", ".join(f"{k} {percent(n / total, 1)}" for k, n in stream["classes"].items())


def _outline(value: Any, depth: int) -> Iterator[str]:
    """Return nested facts as indented lines; a list of plain values is one line."""
    for key, item in value.items() if isinstance(value, Mapping) else enumerate(value, start=1):
        label = f"{'  ' * depth}{str(key).replace('_', ' ')}:"
        nested = isinstance(item, Mapping) or (
            isinstance(item, list) and any(isinstance(part, Mapping) for part in item)
        )
        if nested and item:
            yield label
            yield from _outline(item, depth + 1)
        else:
            yield f"{label} {_fact(str(key), item)}"


def _fact(key: str, value: Any) -> str:
    if key == "bounds" and value:
        return ", ".join(f"{number:.10g}" for number in value)
    if isinstance(value, list | tuple):
        return ", ".join(_fact("", part) for part in value) or "-"
    if value is None or value == {}:
        return "-"
    if key in ("memory", "disk", "disk_at_most"):
        return megabytes(value)
    if isinstance(value, float):
        return f"{value:,.6g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
