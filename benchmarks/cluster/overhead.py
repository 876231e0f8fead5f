"""What a cluster costs: time per task, start-up, the share of time that is no forward pass.

    python -m benchmarks.cluster.overhead MODEL OPTICAL ELEVATION OUT [--workers 1 2] [--rounds 3]

Maps a scene with one process, and with worker processes of this machine: strong scaling is the same
scene with more workers, weak scaling a part of it that grows with them. Settings take turns, one of
each in a round, and the least seconds count. Each worker has as many cores as where there are most
of them, and the process that is compared has those of one worker. OUT/overhead.md is the table.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import rasterio

EMPTY = 1000  # tasks that do nothing


def main() -> None:
    options = arguments()
    options.out.mkdir(parents=True, exist_ok=True)
    if options.child:
        print(json.dumps(child(options)))
        return
    cores = max(len(os.sched_getaffinity(0)) // max(options.workers), 1)
    runs: dict[tuple[int, float], list[dict[str, Any]]] = defaultdict(list)
    largest = max(options.workers)
    for _ in range(options.rounds):
        for workers in (0, *options.workers):
            for share in sorted({1.0, max(workers, 1) / largest}):
                runs[workers, share].append(measure(workers, share, cores))
    text = "\n".join(table(runs, options, largest))
    (options.out / "overhead.md").write_text(f"{text}\n")
    print(text)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("model", "optical", "elevation", "out"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--window", type=int, default=512)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    return parser.parse_args()


def measure(workers: int, share: float, cores: int) -> dict[str, Any]:
    """Run a setting in a process of its own, with that many cores for each worker."""
    words = [sys.executable, "-m", "benchmarks.cluster.overhead", *sys.argv[1:]]
    done = subprocess.run(
        [*words, "--child", json.dumps([workers, share, cores * max(workers, 1)])],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        env={**os.environ, "OMP_NUM_THREADS": str(cores)},
    )
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    print(workers, share, found, file=sys.stderr, flush=True)
    return found


def child(options: argparse.Namespace) -> dict[str, Any]:
    """Map the upper part of the scene; return seconds and counts."""
    from cafe_cli.cluster.job import ClusterOptions
    from cafe_cli.config.schema import PredictSettings
    from cafe_cli.inference import predict as engine
    from cafe_cli.inference.job import ComputeOptions, PredictInput, PredictOutput

    workers, share, cores = json.loads(options.child)
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])
    source = PredictInput(
        (str(options.optical),), (str(options.elevation),), ignore_mismatch=True,
        bbox=upper_part(options.optical, share),
    )  # fmt: skip
    begun = time.perf_counter()
    first: list[float] = []
    meter = engine.predict(
        [options.model], source, PredictOutput(options.out / "map.tif", overwrite=True),
        settings=PredictSettings(window=options.window), compute=ComputeOptions("cpu"),
        cluster=ClusterOptions(workers=workers) if workers else None,
        progress=lambda meter: first.append(time.perf_counter()),
    )  # fmt: skip
    seconds = time.perf_counter() - begun
    found = {"seconds": seconds, "pixels": meter.pixels, "windows": meter.run, **meter.seconds}
    return {**found, "empty": seconds_per_empty_task(workers) if workers and share == 1 else None}


def seconds_per_empty_task(workers: int) -> float:
    """Run tasks that do nothing."""
    from cafe_cli.cluster.cluster import Cluster
    from cafe_cli.cluster.job import ClusterOptions, Task

    with Cluster(ClusterOptions(workers=workers)) as cluster:
        list(cluster.run(Task(f"first-{n}", int) for n in range(4 * workers)))
        begun = time.perf_counter()
        list(cluster.run(Task(f"empty-{n}", int) for n in range(EMPTY)))
        return (time.perf_counter() - begun) / EMPTY


def upper_part(path: Path, share: float) -> tuple[float, float, float, float]:
    with rasterio.open(path) as scene:
        left, bottom, right, top = scene.bounds
    return left, top - share * (top - bottom), right, top


def table(
    runs: dict[tuple[int, float], list[dict[str, Any]]], options: argparse.Namespace, largest: int
) -> Iterator[str]:
    """Yield rows: the least seconds of each setting."""
    yield (
        "| | Mpx | seconds | Mpx/s | windows run | forward pass, share of the workers' time | "
        "ms per empty task |"
    )
    yield "|---|---:|---:|---:|---:|---:|---:|"
    for (workers, share), found in sorted(runs.items()):
        best = min(found, key=lambda run: run["seconds"])
        what = f"{workers} worker{'s' * (workers > 1)}" if workers else "one process"
        empty = [run["empty"] for run in found if run["empty"] is not None]
        forward = best["forward"] / (best["seconds"] * max(workers, 1))
        yield (
            f"| {what}{'' if share == 1 else f', {share:.0%} of the scene'} | "
            f"{best['pixels'] / 1e6:.1f} | {best['seconds']:.1f} | "
            f"{best['pixels'] / 1e6 / best['seconds']:.2f} | {best['windows']} | {forward:.0%} | "
            f"{f'{1000 * min(empty):.1f}' if empty else ''} |"
        )


if __name__ == "__main__":
    main()
