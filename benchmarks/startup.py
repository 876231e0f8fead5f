"""CPU seconds and memory of a whole `cafe predict`, engine beside engine.

    python benchmarks/startup.py MODEL OPTICAL ELEVATION OUT [--before CHECKOUT] [--rounds 3]

MODEL is a .safetensors file. The commands take turns; of each, the least CPU seconds (user and
system) and the largest memory of the rounds are printed, and the ratio to the first:

- ``onnx file``: the file that `cafe export` makes of MODEL, which is made once before
- ``torch``: MODEL with ``--engine torch``
- ``before``: MODEL by the package in another checkout, with what that chooses itself

Linux only.
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("optical")
    parser.add_argument("elevation")
    parser.add_argument("out", type=Path)
    parser.add_argument("--before", type=Path, help="a checkout of another commit")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    exported = options.out / "model.onnx"
    if not exported.exists():
        measure(ROOT, "export", options.model, "-o", exported)
    scene = ("--optical", options.optical, "--elevation", options.elevation, "--device", "cpu")
    commands = {
        "onnx file": (ROOT, exported),
        "torch": (ROOT, options.model, "--engine", "torch"),
    }
    if options.before:
        commands["before"] = (options.before.resolve(), options.model)
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in commands}
    for _ in range(options.rounds):
        for name, (source, *words) in commands.items():
            output = options.out / f"{name.replace(' ', '_')}.tif"
            found[name].append(
                measure(source, "predict", *words, *scene, "-o", output, "--overwrite")
            )
    first = min(seconds for seconds, _ in found["onnx file"])
    print(f"{'':12}{'CPU s':>8}{'ratio':>8}{'MB':>8}")
    for name, rounds in found.items():
        seconds, memory = min(s for s, _ in rounds), max(m for _, m in rounds)
        print(f"{name:12}{seconds:8.2f}{seconds / first:8.2f}{memory:8.0f}")


def measure(source: Path, *words: object) -> tuple[float, float]:
    """Run a command of the package in a checkout: CPU seconds, and megabytes at most."""
    command = [sys.executable, "-m", "cafe_cli", *map(str, words)]
    environment = {**os.environ, "PYTHONPATH": str(source), "CAFE_CACHE": "none"}
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    said = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"{' '.join(command)}: {said.strip()}")
    return usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024 / 1e6


if __name__ == "__main__":
    main()
