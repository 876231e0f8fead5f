"""Faults from the command line; see the package's docstring."""

import argparse
import random
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks import faults


def main() -> int:
    """Do what the command line asks for; return 1 if something was lost, 2 if a command fails."""
    from benchmarks.faults import report
    from benchmarks.faults.trial import BenchmarkError

    options = parse()
    out: Path = options.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    begin = time.monotonic()
    try:
        for row in rows(options, out):
            report.add(out, row)
            where = f"{time.monotonic() - begin:6.0f} s  {row['fault']}, {row['case']}"
            print(f"{where}: {'; '.join(row['lost']) or 'survived'}", file=sys.stderr, flush=True)
    except BenchmarkError as error:
        print(error, file=sys.stderr)
        return 2
    found = report.read(out)
    print(report.table(found), end="")
    return int(any(row["lost"] for row in found))


def rows(options: argparse.Namespace, out: Path) -> Iterator[dict[str, object]]:
    """Yield what happened, fault by fault."""
    from benchmarks.faults.cases import CASES, make_inputs
    from benchmarks.faults.inject import FAULTS
    from benchmarks.faults.soak import soak
    from benchmarks.faults.trial import Trial

    kinds = [kind for kind in FAULTS if kind in options.faults]
    cases = [case for case in CASES if not options.only or case.name in options.only]
    inputs = make_inputs(out / "inputs", options.seed) if kinds else out
    for case in cases if kinds else []:
        trial = Trial(case, inputs, out / case.name, random.Random(options.seed))
        trial.measure()
        for kind in kinds:
            inject, share = FAULTS[kind]
            for row in inject(trial, max(round(options.kills * share), 1)):
                yield {"case": case.name, **row}
    if "soak" in options.faults:
        for row in soak(out / "soak", options.soak_size, options.rasters):
            yield {"case": "predict", **row}


def parse() -> argparse.Namespace:
    """Parse the command line."""
    from benchmarks.faults.cases import CASES
    from benchmarks.faults.inject import FAULTS

    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.faults",
        description=faults.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    names, kinds = [case.name for case in CASES], [*FAULTS, "soak"]
    parser.add_argument("out", type=Path, help="folder of results, inputs and runs")
    parser.add_argument("--kills", type=int, default=50, help="of each command; others: a fifth")
    parser.add_argument("--only", nargs="+", choices=names, help="these commands")
    parser.add_argument("--faults", nargs="+", choices=kinds, default=kinds, help="these kinds")
    parser.add_argument("--soak-size", type=int, default=20_000, help="side in pixels; 0: none")
    parser.add_argument("--rasters", type=int, default=300, help="small rasters of the soak")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
