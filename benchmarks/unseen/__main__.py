"""The test bed from the command line; see the package's docstring."""

import argparse
import logging
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks import unseen
from benchmarks.unseen import forest, records, report
from benchmarks.unseen.records import Key
from benchmarks.unseen.sites import Site, divide, find_sites
from benchmarks.unseen.variants import VARIANTS
from cafe_cli.config.load import load_config, parse_assignment
from cafe_cli.errors import CafeError, RunInterruptedError
from cafe_cli.system.threads import cores

if TYPE_CHECKING:
    from benchmarks.unseen.runs import Run

CONFIGS = Path(__file__).parents[2] / "configs"
FOREST = "random forest"


def main() -> int:
    """Do what the command line asks for, and return the exit code."""
    options = parse()
    logging.basicConfig(format="%(message)s", level=logging.ERROR)
    warnings.simplefilter("ignore", PendingDeprecationWarning)  # rasterio multiplies affines
    if options.command == "calibration":
        show_calibration(options)
        return 0
    failed = 0
    if options.command != "report":
        options.out.mkdir(parents=True, exist_ok=True)
        failed = run_forest(options) if options.command == "forest" else run_networks(options)
    print(report.write(options.out), end="")
    return 3 if failed else 0


def divisions(options: argparse.Namespace) -> Iterator[tuple[str, list[Site], list[Site], Path]]:
    """Yield what ``--train`` says: name, training sites, sites to score, config."""
    sites = find_sites(options.data)
    for name in options.train:
        training, scored = divide(sites, name)
        several = len(training) > 1 and (CONFIGS / "sites.toml").exists()
        yield (
            name,
            training,
            scored,
            options.config or CONFIGS / ("sites.toml" if several else "autzen.toml"),
        )


def run_forest(options: argparse.Namespace) -> int:
    """Train and score random forests that are not recorded yet; return how many failed: none."""
    done = {records.key(row) for row in records.read(options.out)}
    for name, training, scored, config in divisions(options):
        for seed in options.seed:
            key = Key(name, FOREST, seed, forest.identity())
            if key in done:
                continue
            maps = options.out / "runs" / key.name.replace(" ", "_") / "maps"
            found = forest.run(training, scored, load_config(config), maps, seed, options.threads)
            row = records.make_row(key, [site.name for site in training], **found)
            records.add(options.out, row)
    return 0


def run_networks(options: argparse.Namespace) -> int:
    """Do the runs that are not recorded yet; tell of those that fail and return how many."""
    from benchmarks.unseen import runs

    failed = 0
    for run in planned(options):
        if run.key in {records.key(row) for row in records.read(options.out)}:
            print(f"{run.key.name} is there already")
            continue
        print(run.key.name, flush=True)
        try:
            row = runs.carry_out(run, options.out, options.device, options.threads)
        except CafeError as error:
            if isinstance(error, RunInterruptedError):
                raise
            failed += 1
            print(f"{run.key.name} failed: {error}", file=sys.stderr)
        else:
            records.add(options.out, row)
    return failed


def planned(options: argparse.Namespace) -> list["Run"]:
    """Return the runs that the command line asks for."""
    import torch

    from benchmarks.unseen import runs

    torch.set_num_threads(options.threads)
    settings = dict(parse_assignment(text) for text in options.set)
    return [
        runs.plan(name, (training, scored), config, variant, seed, settings)
        for name, training, scored, config in divisions(options)
        for seed in options.seed
        for variant in options.variant
    ]


def show_calibration(options: argparse.Namespace) -> None:
    """Print how well the probabilities of finished runs hold on the sites that are scored."""
    from benchmarks.unseen import calibration

    for run in planned(options):
        rows = [*calibration.measure(run, options.out, options.device, options.threads)]
        print(f"## {run.key.name}\n", *calibration.table(rows), "", sep="\n", flush=True)


def parse() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.unseen",
        description=unseen.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    for command in ("run", "forest", "calibration"):
        sub = commands.add_parser(command)
        sub.add_argument("data", type=Path, help="folder of the sites")
        sub.add_argument("out", type=Path, help="folder of the results")
        sub.add_argument("--train", nargs="+", default=["autzen"], help="sites to train on")
        sub.add_argument("--seed", nargs="+", type=int, default=[0])
        sub.add_argument("--threads", type=int, default=cores(), help="one per core by default")
        sub.add_argument("--config", type=Path, help="configs/autzen.toml or configs/sites.toml")
        if command != "forest":
            sub.add_argument("--variant", nargs="+", default=["base"], choices=VARIANTS)
            sub.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
            sub.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N (cpu)")
    commands.add_parser("report").add_argument("out", type=Path, help="folder of the results")
    return parser.parse_args()


if __name__ == "__main__":
    try:
        sys.exit(main())
    except CafeError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        print("stopped; the same command goes on", file=sys.stderr)
        sys.exit(130)
