"""How long maps take on a cluster: the schedule simulated, and what each cause costs.

    python -m benchmarks.cluster.simulate --pixels 1e12 --workers 1000 --rate 20 [--storage 5e9 ...]

Nothing is measured here: every figure comes from the options, which are printed as a table. The
model is in `benchmarks/cluster/schedule.py`; `docs/planning.md` compares it with a run.
"""

import argparse
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import fields

from benchmarks.cluster.schedule import Assumptions, Outcome, Simulation, costs
from cafe_cli.text import duration, percent

UNITS = {
    "pixels": "px", "rate": "Mpx/s", "strip": "Mpx", "repeated": "strips", "scene": "Mpx",
    "startup": "s", "slow_share": "of 1", "slow_factor": "times", "losses": "per hour",
    "restart": "s", "storage": "bytes/s", "overhead": "s", "planning": "s per scene",
    "assembling": "Mpx/s",
}  # fmt: skip
AT_LEAST = {"strips_per_task": 1, "assemblers": 1, "workers": 1, "ahead": 1, "slow_factor": 1}
MAY_BE_0 = {
    "repeated", "startup", "slow_share", "losses", "restart", "bytes_per_pixel", "overhead",
    "planning", "seed",
}  # fmt: skip


def main(words: Sequence[str] | None = None) -> None:
    given = arguments(words)
    parts = (table(given), result(given, Simulation(given).run()), cost_table(given))
    print("\n\n".join("\n".join(lines) for lines in parts))


def arguments(words: Sequence[str] | None) -> Assumptions:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.cluster.simulate", description=__doc__.splitlines()[0]
    )
    helps = meanings()
    for field in fields(Assumptions):
        if field.name == "copies":
            continue
        whole = field.type is int
        needed = field.name in ("pixels", "workers", "rate")
        parser.add_argument(
            f"--{field.name.replace('_', '-')}", type=int if whole else float, required=needed,
            metavar=UNITS.get(field.name, "N").split()[0].upper(), help=helps[field.name],
            default=None if needed else field.default,
        )  # fmt: skip
    parser.add_argument("--no-copies", dest="copies", action="store_false", help="no second copies")
    values = vars(parser.parse_args(words))
    for name, value in values.items():
        least = AT_LEAST.get(name, 0)
        if math.isnan(value) or value < least or (value == 0 and name not in MAY_BE_0 | {"copies"}):
            parser.error(f"--{name.replace('_', '-')} {value:g} is too small")
    if values["slow_share"] > 1:
        parser.error(f"--slow-share {values['slow_share']:g} is above 1, all workers")
    if math.inf in (values["pixels"], values["rate"]):
        parser.error("--pixels and --rate have to be finite")
    return Assumptions(**values)


def meanings() -> dict[str, str]:
    """Return what the fields mean, from the docstring of `Assumptions`."""
    text = (Assumptions.__doc__ or "").partition("----------\n")[2]
    found: dict[str, str] = {}
    for names, said in re.findall(
        r"^    (\S[^:\n]*) : [^\n]*\n((?:        [^\n]*\n)*)", text, re.M
    ):
        for name in names.split(", "):
            found[name] = " ".join(said.split())
    return {field.name: found[field.name] or field.name for field in fields(Assumptions)}


def table(given: Assumptions) -> Iterator[str]:
    """Yield the assumptions as a table."""
    yield "| assumption | value | |"
    yield "|---|---|---|"
    said = meanings()
    for field in fields(given):
        value, unit = getattr(given, field.name), UNITS.get(field.name, "")
        shown = str(value) if isinstance(value, bool) else f"{value:,.15g} {unit}"
        if value == math.inf:
            shown = "no limit"
        yield f"| {field.name.replace('_', ' ')} | {shown.strip()} | {said[field.name]} |"


def result(given: Assumptions, found: Outcome) -> Iterator[str]:
    yield "| result | |"
    yield "|---|---|"
    yield f"| tasks | {given.tasks:,}, {duration(given.task_seconds)} each |"
    yield f"| evenly shared | {duration(given.ideal)} |"
    yield f"| until the last map | {duration(found.makespan)} |"
    yield f"| efficiency | {percent(found.efficiency)} |"
    yield f"| workers busy | {percent(found.busy)} of the time |"
    yield f"| workers lost, tasks run again | {found.lost:,}, {found.reruns:,} |"
    yield f"| second copies | {found.copies:,} |"


def cost_table(given: Assumptions) -> Iterator[str]:
    yield "| without this cause, the end comes earlier by | | of the time evenly shared |"
    yield "|---|---|---|"
    for cause, seconds in costs(given).items():
        # A run without a cause may end later: its last tasks fall otherwise.
        sign, size = "-" if seconds < -0.05 else "", abs(seconds) if abs(seconds) > 0.05 else 0.0
        yield f"| {cause} | {sign}{duration(size)} | {sign}{100 * size / given.ideal:,.3g} % |"


if __name__ == "__main__":
    main()
