"""Runs as processes, a few side by side: what is finished is kept, what crashes is told."""

import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product
from types import FrameType

from benchmarks.ablation import records
from benchmarks.ablation.records import Job, Study

_LOOK = 0.5  # seconds
_PATIENCE = 10.0  # seconds, for a process that was asked to end


def plan(study: Study, names: Iterable[str], seeds: int, steps: int) -> list[Job]:
    """Return all runs of some variants: fold by fold, so that what is unfinished is balanced."""
    groups: dict[str, list[str]] = {}
    identities = study.identities()
    for name in names:
        groups.setdefault(identities[name], []).append(name)
    return [
        Job(tuple(same), fold, seed, steps, identity)
        for seed, fold in product(range(seeds), range(study.folds))
        for identity, same in groups.items()
    ]


def missing(study: Study, jobs: Sequence[Job]) -> list[Job]:
    """Return the runs that no line of runs.jsonl is of."""
    done = records.latest(records.read(study.runs_path))
    return [job for job in jobs if (job.identity, job.fold, job.seed, job.steps) not in done]


@dataclass
class _Running:
    process: subprocess.Popen[bytes]
    job: Job
    started: float


def carry_out(study: Study, jobs: Sequence[Job], device: str, side_by_side: int) -> int:
    """Do runs, and return how many crashed. Ctrl-C, or a SIGTERM, ends them all.

    Raises
    ------
    KeyboardInterrupt
        After all processes have ended.
    """
    waiting, running = list(jobs), list[_Running]()
    done, failed = 0, 0
    start = time.monotonic()
    (study.folder / "logs").mkdir(exist_ok=True)
    with _terminated_is_interrupted():
        try:
            while waiting or running:
                while waiting and len(running) < side_by_side:
                    running.append(_start(study, waiting.pop(0), device))
                time.sleep(_LOOK)
                for one in [r for r in running if r.process.poll() is not None]:
                    running.remove(one)
                    done += 1
                    failed += not _finished(study, one)
                    left = (time.monotonic() - start) / done * (len(jobs) - done)
                    print(f"{done} of {len(jobs)} runs, about {left / 3600:.1f} h left", flush=True)
        finally:
            _end(running)
    return failed


def _start(study: Study, job: Job, device: str) -> _Running:
    words = [str(study.folder), job.same[0], job.fold, job.seed, job.steps, device]
    command = [sys.executable, "-m", "benchmarks.ablation.run", *map(str, words)]
    with study.log_path(job).open("wb") as log:
        process = subprocess.Popen(
            command, stdout=log, stderr=subprocess.STDOUT, env=records.child_environment()
        )
    return _Running(process, job, time.monotonic())


def _finished(study: Study, one: _Running) -> bool:
    job, code = one.job, one.process.returncode
    said = study.log_path(job).read_text(encoding="utf-8", errors="replace").splitlines()
    last, seconds = said[-1] if said else "nothing", time.monotonic() - one.started
    print(f"{job.name}: {'FAILED, ' if code else ''}{seconds:.0f} s, {last}", flush=True)
    if code:
        values = {**job._asdict(), "exit_code": code, "said": last}
        records.append(study.failures_path, {**values, "log": str(study.log_path(job))})
    return code == 0


def _end(running: Iterable[_Running]) -> None:
    for one in running:
        one.process.terminate()
    for one in running:
        try:
            one.process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            one.process.kill()
            one.process.wait()


@contextmanager
def _terminated_is_interrupted() -> Iterator[None]:
    def stop(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
