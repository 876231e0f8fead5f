"""Run the parts one after the other, each with a limit of time, and renew the summary after each.

A part is a process: one that fails, hangs or is cut off does not stop the next.
"""

import argparse
import math
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

from benchmarks.gpu import summary
from benchmarks.gpu.part import FULL, ROOT, TINY, Part

GRACE = 5.0  # seconds between SIGTERM and SIGKILL, and what is kept of the budget for the summary


class Work(NamedTuple):
    """A part: the module whose function of that name does it, and the most seconds it may take."""

    module: str
    seconds: float


PARTS = {
    "scenes": Work("scenes", 60),
    "predict": Work("mapping", 110),
    "train": Work("training", 100),
    "same": Work("agreement", 80),
    "memory": Work("memory", 45),
    "devices": Work("agreement", 40),
    "compile": Work("training", 90),
    "heavy": Work("mapping", 90),
}
"""By what matters most; `scenes` makes what the others need."""


def main(words: Sequence[str] | None = None) -> int:
    options = parse(words)
    if options.part:
        run_part(options)
        return 0
    options.out.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    work = options.work or Path(tempfile.mkdtemp(prefix="cafe_gpu_"))
    work.mkdir(parents=True, exist_ok=True)
    try:
        ended = run_all(options, work.absolute())
    finally:
        if options.work is None:
            shutil.rmtree(work, ignore_errors=True)
    print(summary.renew(options.out, ended))
    return int(any(how != "done" for how in ended.values()))


def parse(words: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks/gpu.sh", description=__doc__)
    parser.add_argument("out", type=Path, help="folder of the results")
    parser.add_argument("--device", default="cuda", help="cuda or cpu  [default: cuda]")
    parser.add_argument("--budget", type=float, default=480, help="seconds for all  [default: 480]")
    parser.add_argument("--parts", nargs="+", choices=[*PARTS], default=[*PARTS], metavar="PART")
    parser.add_argument("--work", type=Path, help="folder for scenes and tiles, which is kept")
    parser.add_argument("--tiny", action="store_true", help="tiny numbers, to try it out")
    parser.add_argument("--part", choices=[*PARTS], help=argparse.SUPPRESS)
    parser.add_argument("--seconds", type=float, help=argparse.SUPPRESS)
    return parser.parse_args(words)


def run_all(options: argparse.Namespace, work: Path) -> dict[str, str]:
    """Run the parts; return how each of them ended."""
    end = time.monotonic() + options.budget - GRACE
    # What was made before in a folder that is kept need not be made again.
    made = (work / "made").exists()
    wanted = [n for n in PARTS if n in options.parts or (n == "scenes" and not made)]
    ended: dict[str, str] = {}
    for name in wanted:
        most = math.inf if options.tiny else PARTS[name].seconds
        seconds = min(most, end - time.monotonic() - GRACE)
        ended[name] = start(options, name, work, seconds) if seconds > GRACE else "no time was left"
        summary.renew(options.out, ended)
        print(f"== {name}: {ended[name]}", file=sys.stderr, flush=True)
    return ended


def start(options: argparse.Namespace, name: str, work: Path, seconds: float) -> str:
    """Run a part in a process of its own; return how it ended."""
    words = [sys.executable, "-m", "benchmarks.gpu", str(options.out.absolute()), "--part", name]
    words += ["--work", str(work), "--device", options.device, "--seconds", f"{seconds:.1f}"]
    words += ["--tiny"] * options.tiny
    (options.out / f"{name}.jsonl").unlink(missing_ok=True)
    with open(options.out / f"{name}.log", "w", encoding="utf-8") as log:
        process = subprocess.Popen(
            words,
            cwd=work,
            env=environment(options, work),
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        try:
            code = process.wait(seconds)
        except subprocess.TimeoutExpired:
            return f"cut off after {seconds:.0f} s"
        finally:
            end_group(process)
    return "done" if code == 0 else f"failed: {last_line(options.out / f'{name}.log')}"


def environment(options: argparse.Namespace, work: Path) -> dict[str, str]:
    """Return the environment of a part: what is cached on disk lies in `work`."""
    return {
        **({"OMP_NUM_THREADS": "1"} if options.tiny else {}),  # two threads wait for each other
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONUNBUFFERED": "1",
        "HF_HUB_OFFLINE": "1",
        "TORCHINDUCTOR_CACHE_DIR": str(work / "inductor"),
        "TRITON_CACHE_DIR": str(work / "triton"),
    }


def end_group(process: subprocess.Popen[bytes]) -> None:
    """End a part and all that it has started."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            break
        try:
            process.wait(GRACE)
        except subprocess.TimeoutExpired:
            continue
    process.wait()


def last_line(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return lines[-1][:200] if lines else "it said nothing"


def run_part(options: argparse.Namespace) -> None:
    """Do a part in this process."""
    part = Part(
        name=options.part,
        device=options.device,
        out=options.out,
        work=options.work,
        sizes=TINY if options.tiny else FULL,
        end=time.monotonic() + options.seconds,
    )
    getattr(import_module(f"benchmarks.gpu.{PARTS[part.name].module}"), part.name)(part)


if __name__ == "__main__":
    sys.exit(main())
