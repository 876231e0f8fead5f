"""Overhead of `cafe predict`: the whole command compared with the bare forward passes.

    python benchmarks/overhead.py MODEL ORTHO DSM OUT [--rounds 3] [-- OPTIONS OF cafe predict]

Every round runs the command as a user does and then, in a process of its own, forty forward passes
(a minute at most) of the same network over a batch of windows in memory. One JSON line of medians:
seconds of the command, seconds of its windows in the bare pass, their ratio, pixels of all windows
over pixels of the scene, and the memory of the command above that of the process with the passes.
"""

import argparse
import json
import re
import statistics
import subprocess
import sys
import time
import tomllib
from pathlib import Path

LIMIT = 60  # seconds of bare forward passes


def main() -> None:
    words = sys.argv[1:]
    options = words[words.index("--") + 1 :] if "--" in words else []
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("ortho")
    parser.add_argument("dsm")
    parser.add_argument("out", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--bare", type=json.loads, help=argparse.SUPPRESS)
    args = parser.parse_args(words[: words.index("--")] if "--" in words else words)
    if args.bare:
        print(json.dumps(bare(args, **args.bare)))
        return
    args.out.mkdir(parents=True, exist_ok=True)
    rounds = [one_round(args, options) for _ in range(args.rounds)]
    print(json.dumps({k: statistics.median(r[k] for r in rounds) for k in rounds[0]}))


def one_round(args: argparse.Namespace, options: list[str]) -> dict[str, float]:
    target = args.out / "map.tif"
    command = ["predict", args.model, "--optical", args.ortho, "--elevation", args.dsm]
    command += ["-o", target, "--overwrite", "--device", args.device, *options]
    start = time.perf_counter()
    said, peak = run([sys.executable, "-m", "cafe_cli", *map(str, command)])
    seconds = time.perf_counter() - start
    made = tomllib.loads(Path(f"{target}.toml").read_text())
    windows = int(re.search(r"(\d+) of \d+ windows run", said)[1])
    what = {k: made["predict"][k] for k in ("window", "overlap", "engine")}
    words = [sys.executable, __file__, args.model, args.ortho, args.dsm, args.out]
    words += ["--device", args.device]
    answer, bare_peak = run([*map(str, words), "--bare", json.dumps(what)])
    passes = json.loads(answer.splitlines()[-1])
    pixels = passes["pixels"]
    return {
        "seconds": round(seconds, 2),
        "windows": windows,
        "forward_seconds": round(windows * passes["seconds"], 2),
        "ratio": round(seconds / (windows * passes["seconds"]), 3),
        "recomputation": round(windows * what["window"] ** 2 / pixels, 3),
        "megapixels_per_second": round(pixels / 1e6 / seconds, 3),
        "peak_mb": peak // 1000,
        "forward_peak_mb": bare_peak // 1000,
        "above_mb": (peak - bare_peak) // 1000,
    }


def run(command: list[str]) -> tuple[str, int]:
    """Return the output of a process and its peak memory in kB."""
    code = "import resource,subprocess,sys\nrc=subprocess.call(sys.argv[1:])\n"
    code += "print('PEAK',resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)\nsys.exit(rc)"
    done = subprocess.run(
        [sys.executable, "-c", code, *command], text=True, check=False,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    if done.returncode:
        sys.exit(done.stdout)
    said, _, peak = done.stdout.rpartition("PEAK ")
    return " ".join(said.split("\n")) if "{" not in said else said, int(peak)


def bare(args: argparse.Namespace, window: int, overlap: int, engine: str) -> dict[str, float]:
    """Time the network on windows of the scene in memory."""
    from cafe_cli.config.schema import HeightSettings, PredictSettings
    from cafe_cli.inference.ensemble import Ensemble
    from cafe_cli.inference.forward import transform_inputs
    from cafe_cli.inference.tiling import WindowGrid
    from cafe_cli.raster.window import Window
    from cafe_cli.scenes.discovery import SceneFiles
    from cafe_cli.scenes.inspection import inspect_scene
    from cafe_cli.scenes.scene import open_scene

    ensemble = Ensemble.load([args.model])
    windows = WindowGrid(window, window - overlap)
    forward = ensemble.prepare(PredictSettings(), windows, args.device, engine)
    batch = forward.batch_size
    files = SceneFiles("scene", (args.ortho,), (args.dsm,))
    with open_scene(inspect_scene(files, HeightSettings(kind="ndsm"))) as scene:
        patch = scene.read(Window(scene.grid.width // 3, scene.grid.height // 3, window, window))
        pixels = scene.grid.width * scene.grid.height
    arrays = forward.arrays
    inputs = transform_inputs(arrays.batch([patch] * batch, batch), forward.transforms[0], arrays)
    durations: list[float] = []
    with arrays.computing():
        while sum(durations) < LIMIT and len(durations) < 43:
            start = time.perf_counter()
            float(forward.networks[0](*inputs)[0, 0, 0, 0])  # waits for a GPU
            durations.append(time.perf_counter() - start)
    return {"seconds": statistics.median(durations[3:]) / batch, "pixels": pixels}


if __name__ == "__main__":
    main()
