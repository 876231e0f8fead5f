"""The fuzzers from the command line; see the package's docstring."""

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.fuzz.findings import Findings
from benchmarks.fuzz.worker import MUTATORS, SECONDS, work

OUT_OF_MEMORY = 71
"""Exit code of libFuzzer."""


def main() -> int:
    """Run workers, one after another, until time is up; exit code 1 if there are findings."""
    options = parse()
    options.out.mkdir(parents=True, exist_ok=True)
    if options.worker:
        work(options.kind, options.out, options.worker, options.minutes, options.seed)
        return 0
    end = time.monotonic() + options.minutes * 60
    seed = options.seed
    while (left := (end - time.monotonic()) / 60) > 0.1:
        with tempfile.TemporaryDirectory(prefix="cafe_fuzz_") as folder:
            code = _run_worker(options, Path(folder), left, seed)
        findings = Findings(options.out, options.kind)
        if code < 0 and findings.current.exists():
            name = signal.Signals(-code).name
            why = f"longer than {SECONDS} s" if name == "SIGALRM" else f"ended by {name}"
            findings.add_text(f"{options.kind}: {why}", findings.current.read_bytes(), [why])
        elif code == OUT_OF_MEMORY:
            data = findings.current.read_bytes()
            findings.add_text(f"{options.kind}: out of memory", data, ["more than 4 GB"])
        elif code:
            return code
        seed += 1
    findings = Findings(options.out, options.kind)
    print(options.kind, dict(findings.counts))
    return int(findings.counts["findings"] > 0)


def _run_worker(options: argparse.Namespace, folder: Path, minutes: float, seed: int) -> int:
    words = [options.kind, str(options.out), "--minutes", str(minutes), "--seed", str(seed)]
    command = [sys.executable, "-m", "benchmarks.fuzz", *words, "--worker", str(folder)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}  # the networks are tiny
    with open(options.out / f"{options.kind}.log", "a") as log:
        return subprocess.run(command, env=environment, stderr=log, check=False).returncode


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fuzz", description=__doc__)
    parser.add_argument("kind", choices=sorted(MUTATORS))
    parser.add_argument("out", type=Path)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
