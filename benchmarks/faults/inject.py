"""The faults: each function injects one kind `count` times and yields what happened."""

import os
import re
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeAlias

from benchmarks.faults.process import Run
from benchmarks.faults.trial import Trial, one_line

Row: TypeAlias = dict[str, Any]
"""``fault``, ``lost`` (a list of sentences), and figures."""

_TRIES = 6  # draws of a moment for one fault
_PATIENCE = 5.0  # seconds in which a command has to stop
_ENDS = {"SIGINT": 130, "SIGTERM": 143, "SIGHUP": 129}
_PIPE = 141
_CALLS = ("write", "pwrite64", "fsync")


def kill(trial: Trial, count: int) -> Iterator[Row]:
    """Kill the command and its children; every second time it replaces old outputs."""
    for number in range(count):
        old = number % 2 == 1
        for _ in range(_TRIES):
            folder, at = trial.fresh(old), trial.moment()
            run = Run(trial.words(old), folder)
            in_time = run.wait(at)
            run.send(signal.SIGKILL, group=True)
            run.end()
            if in_time:
                locks = sum(1 for _ in folder.rglob(".*.lock"))
                lost = trial.torn(folder, old) + trial.again(folder)
                yield {"fault": "SIGKILL", "old": old, "at": at, "locks": locks, "lost": lost}
                break


def signals(trial: Trial, count: int) -> Iterator[Row]:
    """Ask the command to end; half of the times a Python that has just been started."""
    for fault in _ENDS:
        for number in range(count):
            for _ in range(_TRIES):
                if (row := _signal(trial, fault, number % 2 == 1)) is not None:
                    yield row
                    break
    for _ in range(count):
        yield _closed_pipe(trial)


def _signal(trial: Trial, fault: str, anew: bool) -> Row | None:
    """Send a signal; None where the command had ended."""
    folder = trial.fresh(False)
    # What is imported already by a forked process takes a new one several times as long.
    at = trial.draw.uniform(0, _ANEW + trial.seconds) if anew else trial.moment()
    run = Run(trial.case.words, folder, anew=anew)
    if not run.wait(at):
        run.end()
        return None
    sent = run.seconds
    # The terminal sends Ctrl-C and the end of the session to all processes, `kill` to one.
    run.send(signal.Signals[fault], group=fault != "SIGTERM")
    ended = run.end(60)
    seconds = run.seconds - sent
    if ended.code == 0:  # it was done, or could no longer stop
        return None
    handled = any("Error: " in line for line in ended.lines)
    lost = one_line(ended, [_ENDS[fault]], says=handled)
    if seconds > _PATIENCE:
        lost.append(f"stopped after {seconds:.1f} s")
    lost += trial.torn(folder, False) + trial.litter(folder) + trial.again(folder)
    return {"fault": fault, "anew": anew, "at": at, "stop": seconds, "lost": lost}


_ANEW = 3.0  # seconds that a command takes to start, about


def _closed_pipe(trial: Trial) -> Row:
    """Close the pipe at stdout at a random moment, as ``| head`` does."""
    folder, at = trial.fresh(False), trial.moment()
    pipe = trial.work / "pipe"
    pipe.unlink(missing_ok=True)
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    run = Run(trial.case.words, folder, printed=pipe)
    run.wait(at)
    os.close(reader)
    ended = run.end()
    pipe.unlink()
    lost = one_line(ended, [0, _PIPE] if trial.printed else [0], says=False)
    lost += trial.torn(folder, False) + trial.litter(folder) + trial.again(folder)
    return {"fault": "closed stdout", "at": at, "lost": lost}


def pair(trial: Trial, count: int) -> Iterator[Row]:
    """Start the command twice on one output."""
    for _ in range(count):
        folder, at = trial.fresh(False), trial.draw.uniform(0, trial.seconds)
        first = Run(trial.case.words, folder)
        overlap = first.wait(at)
        second = Run(trial.words(True), folder, logs=trial.work / "second")
        both = first.end(), second.end()
        refused = [ended for ended in both if ended.code]
        lost = [text for ended in refused for text in one_line(ended, [1])]
        if len(refused) == 2:
            lost.append(f"both refused: {' | '.join(e.lines[-1] for e in both if e.lines)}")
        lost += trial.torn(folder, False) + trial.litter(folder)
        if not lost:
            lost = trial.again(folder)
        yield {
            "fault": "two at once", "at": at, "overlap": overlap, "refused": len(refused),
            "lost": lost,
        }  # fmt: skip


# --- disks -------------------------------------------------------------------------------------


def disk(trial: Trial, count: int) -> Iterator[Row]:
    """Run the command on a disk that is full at a random size."""
    with _small_disk(trial.work / "disk") as mounted:
        if mounted is None:
            yield _skipped("full disk", "no tmpfs can be mounted")
            return
        folder, resize = mounted
        trial.fresh(False, folder)
        base = _used(folder)
        run, peak = Run(trial.case.words, folder, logs=trial.work / "here"), base
        while run.alive:
            peak = max(peak, _used(folder))
        run.end()
        for _ in range(count):
            trial.fresh(False, folder)
            room = trial.draw.randrange(peak - base)
            resize(base + room)
            ended = Run(trial.case.words, folder, logs=trial.work / "here").end()
            full = ended.code != 0
            lost = one_line(ended, [0, 1]) + trial.torn(folder, False) + trial.litter(folder)
            resize(None)
            lost += trial.again(folder)
            yield {"fault": "full disk", "room": room, "failed": full, "lost": lost}


@contextmanager
def _small_disk(place: Path) -> Iterator[tuple[Path, Callable[[int | None], None]] | None]:
    """Mount a tmpfs; yield a folder in it and a function that sets its size in bytes."""
    place.mkdir(parents=True, exist_ok=True)

    def resize(size: int | None) -> None:
        option = f"remount,size={size or 2**30}"
        subprocess.run(["mount", "-o", option, str(place)], check=True, capture_output=True)

    command = ["mount", "-t", "tmpfs", "-o", f"size={2**30}", "none", str(place)]
    with suppress(OSError, subprocess.CalledProcessError):
        subprocess.run(command, check=True, capture_output=True)
        try:
            yield place / "here", resize
        finally:
            subprocess.run(["umount", "--lazy", str(place)], check=True)
        return
    yield None


def _used(folder: Path) -> int:
    """Return the bytes used on the disk of a folder."""
    found = os.statvfs(folder)
    return (found.f_blocks - found.f_bfree) * found.f_frsize


def io(trial: Trial, count: int) -> Iterator[Row]:
    """Let a random write or flush of a file in the folder fail."""
    if shutil.which("strace") is None:
        yield _skipped("EIO", "no strace")
        return
    calls = _calls(trial)
    for number in range(count):
        error = ("EIO", "ENOSPC")[number % 2]
        for _ in range(_TRIES):
            name, nth = trial.draw.choice(calls)
            inject = f"inject={name}:error={error}:when={nth}"
            folder = trial.fresh(False)
            ended = _traced(trial, folder, "-e", inject).end()
            if not _hit(trial.work / "trace", folder):
                continue
            lost = one_line(ended, [0, 1]) + trial.torn(folder, False) + trial.litter(folder)
            done = ended.code == 0
            lost += trial.again(folder)
            yield {
                "fault": error,
                "call": name,
                "nth": nth,
                "said": ended.lines[-2:],
                "passed": done,
                "lost": lost,
            }
            break


def _traced(trial: Trial, folder: Path, *more: str) -> Run:
    prefix = ["strace", "-f", "-y", "-qq", "-o", str(trial.work / "trace")]
    return Run(
        trial.case.words,
        folder,
        [*prefix, "-e", f"trace={','.join(_CALLS)}", *more, "--seccomp-bpf"],
    )


def _calls(trial: Trial) -> list[tuple[str, int]]:
    """Return call and its number within the thread, of all calls on files of the folder."""
    folder = trial.fresh(False)
    _traced(trial, folder).end()
    counts: dict[tuple[str, str], int] = {}
    found = []
    for line in (trial.work / "trace").read_text(errors="replace").splitlines():
        if match := re.match(r"(\d+) +(\w+)\(\d+<([^>]*)>", line):
            thread, name, path = match.groups()
            counts[thread, name] = nth = counts.get((thread, name), 0) + 1
            if Path(path).is_relative_to(folder):
                found.append((name, nth))
    return found


def _hit(trace: Path, folder: Path) -> bool:
    """Whether what failed was a call on a file of the folder."""
    begun: dict[str, str] = {}
    for line in trace.read_text(errors="replace").splitlines():
        thread = line.split(" ", 1)[0]
        if match := re.search(r"\w+\(\d+<([^>]*)>", line):
            begun[thread] = match[1]
        if "(INJECTED)" in line and Path(begun.get(thread, "/")).is_relative_to(folder):
            return True
    return False


def _skipped(fault: str, why: str) -> Row:
    return {"fault": fault, "skipped": why, "lost": []}


FAULTS: dict[str, tuple[Callable[[Trial, int], Iterator[Row]], float]] = {
    "kill": (kill, 1),
    "signals": (signals, 0.2),
    "pair": (pair, 0.2),
    "disk": (disk, 0.2),
    "io": (io, 0.2),
}
"""The function of each kind, and how often it is injected for each kill."""
