"""Kill, slow down and restart parts of a cluster while it makes a map; count what is lost.

    python -m benchmarks.cluster.faults OUT [--rounds 10] [--workers 4] [--side 6000]

Makes a scene and a small network with random weights, maps it in one process, and then as often as
asked for on a cluster of processes on this machine: one worker has a fifth of a core's time, one is
killed (by the id of its process) once a quarter of the strips is there, and the scheduler is killed
and started again, without memory, once half of them is. Workers that end are started again, as
Slurm and Kubernetes do. What counts is whether all outputs are the same to the byte. OUT/faults.md
is the table.
"""

import argparse
import hashlib
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.support.dask_cluster import DaskProcesses, dask_processes

WINDOW = "512"


@dataclass(frozen=True)
class Round:
    """What was done to a run, and what came of it."""

    seconds: float
    killed: int
    strips_at_kill: int
    strips_at_restart: int
    reruns: int
    copies: int
    lost_scheduler: int
    differing: list[str]


def main() -> None:
    options = arguments()
    options.out.mkdir(parents=True, exist_ok=True)
    model = make_inputs(options.out, options.side)
    folder = options.out / "one"
    start = time.monotonic()
    run(model, options.out, folder)
    one = time.monotonic() - start
    expected, rounds = hashes(folder), list[Round]()
    for number in range(1, options.rounds + 1):
        found = trial(model, options.out, f"round{number}", options.workers, expected)
        rounds.append(found)
        print(number, found, flush=True)
    text = "\n".join(table(rounds, options, one))
    (options.out / "faults.md").write_text(f"{text}\n")
    print(text)
    sys.exit(any(found.differing for found in rounds))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--side", type=int, default=6000, help="pixels")
    return parser.parse_args()


def make_inputs(out: Path, side: int) -> Path:
    """Write a scene and a model; return the model."""
    from cafe_cli.model import model_file
    from tests.support.engines import card_of, decided, tiny_model, write_town

    write_town(out, "scene", side, side)
    network = decided(tiny_model())
    model_file.save(out / "model.safetensors", network, card_of(network))
    return out / "model.safetensors"


def command(model: Path, inputs: Path, folder: Path, *more: str) -> list[str]:
    folder.mkdir(exist_ok=True)
    return [
        sys.executable, "-m", "cafe_cli", "predict", str(model),
        "--optical", str(inputs / "scene_ortho.tif"), "--elevation", str(inputs / "scene_dsm.tif"),
        "--window", WINDOW, "--device", "cpu", "--overwrite",
        "-o", str(folder / "map.tif"), "--confidence", str(folder / "confidence.tif"), *more,
    ]  # fmt: skip


def run(model: Path, inputs: Path, folder: Path) -> None:
    subprocess.run(command(model, inputs, folder), check=True)


def trial(model: Path, inputs: Path, name: str, workers: int, expected: Mapping[str, str]) -> Round:
    """Make the map on a cluster that is disturbed."""
    folder, logs = inputs / name, inputs / f"{name}-dask"
    logs.mkdir(exist_ok=True)
    with dask_processes(workers, logs) as cluster:
        words = command(model, inputs, folder, "--scheduler", cluster.address)
        start = time.monotonic()
        with (
            cluster.slowed(0),
            (folder / "said").open("w+") as said,
            subprocess.Popen(words, stderr=said) as process,
        ):
            killed, at_kill, at_restart = disturb(process, cluster, folder, len(expected))
            process.wait()
            said.seek(0)
            text = said.read()
        seconds = time.monotonic() - start
    (folder / "said").unlink()
    if process.returncode:
        raise SystemExit(f"{name} ended with exit code {process.returncode}: {text}")
    found = hashes(folder)
    differing = sorted(n for n in {*found, *expected} if found.get(n) != expected.get(n))
    counts = re.search(r"(\d+) tasks ran again, (\d+) .* lost (\d+) times", text)
    reruns, copies, lost = map(int, counts.groups()) if counts else (0, 0, 0)
    return Round(seconds, killed, at_kill, at_restart, reruns, copies, lost, differing)


def disturb(
    process: "subprocess.Popen[bytes]", cluster: DaskProcesses, folder: Path, outputs: int
) -> tuple[int, int, int]:
    """Kill a worker at a quarter of the strips, restart the scheduler at half of them."""
    total = strips_in_all(folder)
    counts = iter_counts(process, folder)
    killed = at_kill = at_restart = 0
    for count in counts:
        if not killed and count >= total / 4:
            killed, at_kill = cluster.kill_worker(1), count
        elif killed and count >= total / 2:
            at_restart = count
            cluster.restart_scheduler()
            break
    return killed, at_kill, at_restart


def iter_counts(process: "subprocess.Popen[bytes]", folder: Path) -> Iterator[int]:
    """Yield the strips in the journal of the map until the process ends."""
    journal = folder / ".map.tif.strips" / "journal.jsonl"
    while process.poll() is None:
        yield max(journal.read_bytes().count(b"\n") - 1, 0) if journal.exists() else 0
        time.sleep(0.05)


def strips_in_all(folder: Path) -> int:
    """Return how many strips the map has: the journal of the run in one process is gone by then."""
    import rasterio

    from cafe_cli.inference.tiling import WindowGrid, divide
    from cafe_cli.raster.window import Window

    with rasterio.open(folder.parent / "scene_ortho.tif") as scene:
        extent = Window(0, 0, scene.width, scene.height)
    return len(divide(extent, extent, WindowGrid(int(WINDOW), int(WINDOW) - 128), 3))


def hashes(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of every file of a run; the settings name their folder."""
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.iterdir())
        if path.name != "said"
    }


def table(rounds: list[Round], options: argparse.Namespace, one: float) -> Iterator[str]:
    yield (
        f"{options.side} x {options.side} px, {options.workers} workers; one process alone took "
        f"{one:.0f} s."
    )
    yield ""
    yield (
        "| round | worker killed at | scheduler restarted at | tasks run again | run twice at a "
        "time | scheduler lost | seconds | outputs that differ |"
    )
    yield "|---:|---:|---:|---:|---:|---:|---:|---|"
    for number, r in enumerate(rounds, 1):
        differ = ", ".join(r.differing) or "none"
        yield (
            f"| {number} | strip {r.strips_at_kill} | strip {r.strips_at_restart} | {r.reruns} | "
            f"{r.copies} | {r.lost_scheduler} | {r.seconds:.0f} | {differ} |"
        )


if __name__ == "__main__":
    main()
