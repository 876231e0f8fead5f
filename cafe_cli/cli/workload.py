"""Reports of the dry runs of maps, and what all of the maps take together."""

import json
from collections.abc import Iterable, Iterator
from typing import Any

import click

from cafe_cli.cli.console import say
from cafe_cli.cli.report import show_report
from cafe_cli.errors import CafeError
from cafe_cli.findings import Report
from cafe_cli.inference.workload import Workload
from cafe_cli.redaction import redact_all
from cafe_cli.text import duration, file_size, megapixels

_NO_RATE = (
    "unknown: give the rate of a worker (--rate), export the model (cafe export), or run it here "
    "once in ONNX Runtime (--engine onnx)"
)


def print_plans(
    reports: Iterable[Report], as_json: bool, rate: float | None, workers: int = 1
) -> None:
    """Print a report for every map, then the sum; end with exit code 1 if one has errors.

    With `as_json`, print one JSON object to stdout. No report is kept, however many there are.
    """
    total, failed = Workload(), 0
    if as_json:
        click.echo('{\n"scenes": [', nl=False)
    for number, report in enumerate(reports):
        failed += not report.ok
        total += Workload.of_facts(report.facts)
        if as_json:
            click.echo(f"{',' * (number > 0)}\n{_json(report.as_json())}", nl=False)
        else:
            show_report(report)
    if as_json:
        facts = {"failed": failed, **_total_facts(total, rate, workers)}
        click.echo(f'\n],\n"ok": {_json(not failed)},\n"total": {_json(facts)}\n}}')
    elif total.scenes:
        for line in _lines(total, failed, rate, workers):
            say(line)
    if failed:
        click.get_current_context().exit(CafeError.exit_code)


def _json(value: object) -> str:
    return json.dumps(redact_all(value), indent=1)


def _total_facts(total: Workload, rate: float | None, workers: int) -> dict[str, Any]:
    return {
        **total.as_json(),
        "megapixels_per_second": total.megapixels_per_second,
        "rate": "given" if rate else "unknown" if total.worker_hours is None else "measured",
        "workers": workers,
        "hours": total.hours(workers),
    }


def _lines(total: Workload, failed: int, rate: float | None, workers: int) -> Iterator[str]:
    """Yield the lines of the sum."""
    yield f"plan of {_count(total.scenes, 'map')}:"
    if failed:
        yield f"  not counted  {_count(failed, 'scene')} with errors"
    yield (
        f"  pixels       {megapixels(total.pixels)}, of which {_count(total.windows, 'window')} "
        f"make {megapixels(total.computed_pixels)} to compute"
    )
    yield f"  tasks        {_describe_tasks(total)}"
    yield f"  time         {_describe_time(total, rate, workers)}"
    yield f"  read         {_describe_reading(total)}"
    yield (
        f"  storage      at most {file_size(total.strip_bytes)} of strips, until their map is "
        f"complete, and {file_size(total.output_bytes)} of maps (uncompressed)"
    )


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'s' * (number != 1)}"


def _describe_tasks(total: Workload) -> str:
    strips = _count(total.strips, "strip")
    return strips if total.tasks == total.strips else f"{total.tasks:,}, of {strips} in all"


def _describe_time(total: Workload, rate: float | None, workers: int) -> str:
    hours, pace = total.worker_hours, total.megapixels_per_second
    if hours is None or pace is None:
        return _NO_RATE
    whence = f"{rate:,.3g} Mpx/s" if rate else f"{pace:,.3g} Mpx/s, measured in the network alone"
    text = f"{duration(hours * 3600)} of one worker, at {whence}"
    if workers > 1 and (shared := total.hours(workers)) is not None:
        text += f"; {duration(shared * 3600)} with {workers:,} that never wait"
    return text


def _describe_reading(total: Workload) -> str:
    text = f"about {file_size(total.read_bytes)}"
    if total.egress_bytes:
        text += f", {file_size(total.egress_bytes)} of it from servers (egress)"
    if total.unsized_files:
        text += f"; files of unknown size ({total.unsized_files:,}) count uncompressed"
    return text
