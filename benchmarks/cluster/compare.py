"""Compare the simulated schedule with runs of a cluster on this machine.

    python -m benchmarks.cluster.compare OUT [--side 2400] [--workers 4]

Maps a scene with a small network twice: once undisturbed, once with a worker that has a fifth of a
core's time and one that is killed after a third of the tasks. Times of tasks, of the client and of
the start are measured in each run, and what the simulation makes of them is set beside the time of
the run: it is the schedule that is compared, not the speed of the workers, which differs from one
minute to the next where other work shares the cores. Windows are small (128 pixels), and a strip is
one row of them, so that a small scene has many tasks. OUT/compare.md is the table.
"""

import argparse
import math
import random
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, nullcontext, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from unittest import mock

from benchmarks.cluster.faults import make_inputs
from benchmarks.cluster.schedule import Assumptions, Simulation
from cafe_cli.cluster.cluster import Cluster
from cafe_cli.cluster.job import ClusterOptions, Outcome
from cafe_cli.config.schema import PredictSettings
from cafe_cli.inference import tiling
from cafe_cli.inference.job import ComputeOptions, PredictInput, PredictOutput
from cafe_cli.inference.on_cluster import ClusterPredictor
from cafe_cli.inference.predict import predict
from cafe_cli.inference.predictor import Predictor
from tests.support.dask_cluster import dask_processes

SLOW = 0.2  # share of the time that a slowed worker runs


@dataclass
class Record:
    """What was measured in a run; times in seconds since its start."""

    start: float = field(default_factory=time.monotonic)
    ends: list[float] = field(default_factory=list)
    outcomes: list[Outcome] = field(default_factory=list)
    strips: list[int] = field(default_factory=list)
    client: float = 0.0  # in taking results, maps left out
    planning: float = 0.0
    assembling: float = 0.0
    end: float = 0.0
    killed: float | None = None
    copies: int = 0
    reruns: int = 0

    def now(self) -> float:
        return time.monotonic() - self.start

    def pace(self, chosen: Callable[[str], bool]) -> float:
        """Return the seconds of a strip on some workers, the row above each task being a strip."""
        seconds = strips = 0.0
        for outcome in self.outcomes:
            if chosen(outcome.worker):
                seconds += outcome.seconds
                strips += len(outcome.task.args[1]) + 1  # type: ignore[arg-type]
        return seconds / strips

    @property
    def first(self) -> float:
        """When the first task began."""
        return min(e - o.seconds for e, o in zip(self.ends, self.outcomes, strict=True))

    def seconds_by_worker(self) -> dict[str, float]:
        """Return the mean time of a task on each worker."""
        found: dict[str, list[float]] = {}
        for outcome in self.outcomes:
            found.setdefault(outcome.worker, []).append(outcome.seconds)
        return {worker: statistics.mean(times) for worker, times in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--side", type=int, default=2400, help="pixels")
    parser.add_argument("--workers", type=int, default=4)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    model = make_inputs(options.out, options.side)
    calm = run(model, options, disturbed=False)
    disturbed = run(model, options, disturbed=True)
    text = "\n".join(table({"undisturbed": calm, "disturbed": disturbed}, options))
    (options.out / "compare.md").write_text(f"{text}\n")
    print(text)


def run(model: Path, options: argparse.Namespace, disturbed: bool) -> Record:
    name = "disturbed" if disturbed else "undisturbed"
    folder = options.out / name
    folder.mkdir(exist_ok=True)
    inputs = (str(options.out / f"scene_{kind}.tif") for kind in ("ortho", "dsm"))
    ortho, dsm = inputs
    with dask_processes(options.workers, folder) as processes, ExitStack() as stack:
        wait_for(processes.address, options.workers)
        record = Record()
        watch(record, stack, processes if disturbed else None)
        stack.enter_context(processes.slowed(0, SLOW) if disturbed else nullcontext())
        predict(
            [model], PredictInput((ortho,), (dsm,)),
            PredictOutput(folder / "map.tif", overwrite=True),
            settings=PredictSettings(window=128, overlap=32), compute=ComputeOptions("cpu", 1),
            cluster=ClusterOptions(scheduler=processes.address),
        )  # fmt: skip
        record.end = record.now()
    return record


def wait_for(address: str, workers: int) -> None:
    """Wait until the scheduler and all workers are there."""
    from distributed import Client

    for _ in range(20):
        with suppress(OSError, TimeoutError), Client(address, timeout=10) as client:
            client.wait_for_workers(workers, timeout=120)
            return
    raise SystemExit("the cluster did not start")


def watch(record: Record, stack: ExitStack, processes: Any) -> None:
    """Note what a run does; kill a worker of `processes` after a third of the tasks."""
    take: Any = ClusterPredictor._take
    begin: Any = ClusterPredictor._begin
    tasks: Any = ClusterPredictor._tasks
    complete: Any = Predictor.complete

    def noted_tasks(self: Any, *given: Any) -> Iterator[Any]:
        for task in tasks(self, *given):
            if task is not None:
                record.strips.append(len(task.args[1]))
            yield task

    def noted_take(self: Any, outcome: Outcome, *given: Any) -> None:
        record.ends.append(record.now())
        record.outcomes.append(outcome)
        if processes and record.killed is None and 3 * len(record.ends) > len(record.strips):
            record.killed = record.now()
            processes.kill_worker(1)
        before = record.now()
        take(self, outcome, *given)
        record.client += record.now() - before

    def noted_begin(self: Any, *given: Any) -> Any:
        before = record.now()
        found = begin(self, *given)
        record.planning += record.now() - before
        return found

    def noted_complete(self: Any, *given: Any) -> None:
        before = record.now()
        complete(self, *given)
        record.assembling += record.now() - before

    def noted_exit(self: Any, *error: Any) -> None:
        record.copies, record.reruns = self.incidents.copied, self.incidents.retried
        leave(self, *error)

    leave = Cluster.__exit__
    for owner, name, function in (
        (ClusterPredictor, "_tasks", noted_tasks), (ClusterPredictor, "_take", noted_take),
        (ClusterPredictor, "_begin", noted_begin), (Predictor, "complete", noted_complete),
        (Cluster, "__exit__", noted_exit), (tiling, "_STRIP", 1),
    ):  # fmt: skip
        stack.enter_context(mock.patch.object(owner, name, function))


def simulate(record: Record, options: argparse.Namespace) -> float:
    """Return the time that the schedule of a run takes by the simulation."""
    by_worker = record.seconds_by_worker()
    slowest = max(by_worker, key=by_worker.__getitem__) if record.killed is not None else ""
    most = max(record.strips)
    # A task takes as long as its strips and one more.
    usual = record.pace(lambda worker: worker != slowest)
    megapixels = options.side**2 / 1e6
    given = Assumptions(
        pixels=options.side**2,
        workers=options.workers,
        strip=megapixels / sum(record.strips),
        strips_per_task=most,
        rate=megapixels / sum(record.strips) / usual,
        scene=megapixels,
        startup=record.first,
        overhead=record.client / len(record.ends),
        assembling=megapixels / record.assembling,
    )
    losses = []
    if record.killed is not None:
        slow_pace = record.pace(lambda worker: worker == slowest)
        given = replace(
            given, slow_share=1 / options.workers, slow_factor=max(slow_pace / usual, 1.0),
            restart=max(absence(record) - given.startup, 0.0),
        )  # fmt: skip
        (slow,) = random.Random(given.seed).sample(range(options.workers), 1)
        losses = [(record.killed, (slow + 1) % options.workers)]
    return Simulation(given, losses).run().makespan


def absence(record: Record) -> float:
    """Return the time from a loss to the first task of the worker that replaced the lost one."""
    first: dict[str, float] = {}
    for end, outcome in zip(record.ends, record.outcomes, strict=True):
        first.setdefault(outcome.worker, end - outcome.seconds)
    killed = record.killed or 0.0
    return min((f - killed for f in first.values() if f > killed), default=math.inf)


def table(records: dict[str, Record], options: argparse.Namespace) -> Iterator[str]:
    yield f"{options.side} x {options.side} px, {options.workers} workers."
    yield ""
    yield (
        "| run | tasks | s per task, by worker | start s | client ms per task | plan s | map s | "
        "given out again | second copies | then took s | simulated s | |"
    )
    yield "|---|---:|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|"
    for name, record in records.items():
        each = ", ".join(f"{s:.1f}" for s in sorted(record.seconds_by_worker().values()))
        # The start is measured and not simulated: it is left out of both.
        expected, took = simulate(record, options) - record.first, record.end - record.first
        yield (
            f"| {name} | {len(record.strips)} | {each} | {record.first:.1f} | "
            f"{1000 * record.client / len(record.ends):.0f} | {record.planning:.1f} | "
            f"{record.assembling:.1f} | {record.reruns} | {record.copies} | {took:.1f} | "
            f"{expected:.1f} | {100 * (expected / took - 1):+.0f} % |"
        )


if __name__ == "__main__":
    main()
