"""The study from the command line; see the package's docstring."""

import argparse
import logging
import sys
import warnings
from pathlib import Path

from benchmarks import ablation
from benchmarks.ablation import folds, records, report, schedule
from benchmarks.ablation.variants import TABLES, VARIANTS, variants_of
from cafe_cli.config.load import parse_assignment
from cafe_cli.errors import CafeError, OutputError
from cafe_cli.system.threads import cores

CONFIG = Path(__file__).parents[2] / "configs" / "autzen.toml"


def main() -> int:
    options = parse()
    logging.basicConfig(format="%(message)s")
    logging.getLogger("ablation").setLevel(logging.INFO)
    warnings.simplefilter("ignore", PendingDeprecationWarning)  # rasterio multiplies affines
    settings = dict(parse_assignment(text) for text in options.set)
    study = folds.begin(
        options.data, options.out, options.config, options.folds, options.coarsen, settings
    )
    with records.alone(study):
        names = options.variants or variants_of(options.table)
        jobs = schedule.plan(study, names, options.seeds, options.steps)
        todo = schedule.missing(study, jobs)
        if options.dry_run:
            print("\n".join(f"{job.name}, {job.steps} steps" for job in todo))
            return 0
        if len(todo) < len(jobs) and not options.resume:
            raise OutputError(
                f"{len(jobs) - len(todo)} of {len(jobs)} runs are in {study.runs_path} already: "
                "pass --resume to do the others"
            )
        folds.cut(study)
        print(f"{len(todo)} runs to do", flush=True)
        failed = schedule.carry_out(study, todo, options.device, side_by_side(options))
    report.write(study)
    if failed:
        print(f"{failed} runs failed, see {study.failures_path}; --resume tries them again")
    return 3 if failed else 0


def side_by_side(options: argparse.Namespace) -> int:
    """Return how many runs to do at once: one for each core, or one on a GPU."""
    asked: int | None = options.jobs
    return asked or (cores() if options.device == "cpu" else 1)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.ablation",
        description=ablation.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("data", type=Path, help="folder of the rasters that the config names")
    parser.add_argument("out", type=Path, help="folder of the study")
    parser.add_argument("--table", nargs="+", default=["guidance"], choices=[*TABLES, "all"])
    parser.add_argument(
        "--variants", nargs="+", choices=VARIANTS, metavar="NAME", help=", ".join(VARIANTS)
    )
    parser.add_argument("--folds", type=int, default=3, help="strips of the scene (3)")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each variant and fold (3)")
    parser.add_argument("--steps", type=int, default=350, help="of each run (350)")
    parser.add_argument("--jobs", type=int, help="runs at once (one per core; on a GPU, one)")
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N (cpu)")
    parser.add_argument("--resume", action="store_true", help="do what is missing in OUT")
    parser.add_argument("--config", type=Path, default=CONFIG, help="classes, rasters and network")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="of the config, for all"
    )
    parser.add_argument(
        "--coarsen", type=int, default=1, metavar="N", help="N x N pixels of the image become one"
    )
    parser.add_argument("--dry-run", action="store_true", help="list the runs that are missing")
    options = parser.parse_args()
    if "all" in options.table:
        options.table = list(TABLES)
    return options


if __name__ == "__main__":
    try:
        sys.exit(main())
    except CafeError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        print("stopped; go on with --resume", file=sys.stderr)
        sys.exit(130)
