"""Measure how seconds and memory of `cafe predict` grow with pixels, window, classes and width.

    python benchmarks/scaling.py DATA MODEL OUT [--mpx 1 4 16 64] [--rounds 1] [--plot PNG]

DATA holds ortho.tif, dsm.tif and labels.tif, MODEL was trained on such data. The scenes are DATA
mirrored to squares (`scene_data.py`), with heights above ground; all models run as ONNX files. The
runs take turns, one of every setting in a round, and the least CPU seconds (user and system, of the
command and what it starts) count. A line of JSON per run goes to OUT/scaling.jsonl; runs that are
there already are not repeated. The law is fitted to the runs of MODEL by least squares of relative
errors, with terms that cannot be negative:

    CPU seconds = start-up + forward * megapixels of all windows + rest * megapixels of the scene

Beside it stand the limits: a forward pass of ONNX Runtime in a process of its own, and decoding the
rasters. `--fit-only` measures nothing.
"""

import argparse
import json
import re
import subprocess
import sys
import time
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

WINDOWS = (512, 768, 1024, 1280, 1536)
CLASSES = (2, 4, 8, 16)
WIDTHS = (32, 64, 128, 256)
SIDE = 2000  # pixels of the scene where something else is varied
WINDOW = 1024  # of classes and width
ROOT = Path(__file__).parents[1]

# A command counts the memory of the process that started it until it runs: this one is small.
LAUNCH = """
import resource, subprocess, sys, time
begun = time.perf_counter()
code = subprocess.call(sys.argv[1:])
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print("USED", time.perf_counter() - begun, used.ru_utime + used.ru_stime, used.ru_maxrss)
sys.exit(code)
"""

Row = dict[str, Any]


def main() -> None:
    options = arguments()
    options.out.mkdir(parents=True, exist_ok=True)
    log = options.out / "scaling.jsonl"
    if not options.fit_only:
        measure(options, log)
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    limits = json.loads((options.out / "limits.json").read_text())
    law = fit([row for row in rows if row["kind"] in ("pixels", "window")])
    print_tables(rows, law, limits)
    if options.plot:
        plot(rows, law, limits, options.plot)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("model", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--mpx", type=float, nargs="+", default=[1, 4, 16, 64])
    parser.add_argument("--side", type=int, default=SIDE, help="of the other series, in pixels")
    parser.add_argument("--windows", type=int, nargs="*", default=list(WINDOWS))
    parser.add_argument("--classes", type=int, nargs="*", default=list(CLASSES))
    parser.add_argument("--widths", type=int, nargs="*", default=list(WIDTHS))
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--fit-only", action="store_true", help="of what was measured before")
    parser.add_argument("--plot", type=Path, metavar="PNG")
    return parser.parse_args()


# --- Measuring ------------------------------------------------------------------------------------


def measure(options: argparse.Namespace, log: Path) -> None:
    known = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    done = [(row["round"], row["kind"], row["value"]) for row in known]
    sides = {mpx: round(1000 * mpx**0.5) for mpx in options.mpx}
    for side in {*sides.values(), options.side}:
        make_scene(options, side)
    model = make_model(options, None, None)
    limits = options.out / "limits.json"
    if not limits.exists():
        limits.write_text(json.dumps(measure_limits(options, model)))
    runs: list[tuple[str, float, Path, int, int | None]] = []
    runs += [("pixels", mpx, model, side, None) for mpx, side in sides.items()]
    runs += [("window", size, model, options.side, size) for size in options.windows]
    for kind, values in (("classes", options.classes), ("width", options.widths)):
        for value in values:
            made = make_model(options, *((value, None) if kind == "classes" else (None, value)))
            runs.append((kind, value, made, options.side, WINDOW))
    for number in range(options.rounds):
        for kind, value, path, side, window in runs:
            if (number, kind, value) in done:
                continue
            row = predict(options, path, side, window)
            with log.open("a") as file:
                print(json.dumps({"round": number, "kind": kind, "value": value} | row), file=file)


def make_scene(options: argparse.Namespace, side: int) -> None:
    folder = options.out / f"scene_{side}"
    if (folder / "labels.tif").exists():
        return
    words = [options.data, options.model, folder, "--width", side, "--height", side]
    script = ROOT / "benchmarks" / "scene_data.py"
    subprocess.run([sys.executable, script, *map(str, words)], check=True)


def make_model(options: argparse.Namespace, classes: int | None, width: int | None) -> Path:
    """Write an ONNX file of the model, or of one with random weights and another shape."""
    name = f"classes_{classes}" if classes else f"width_{width}" if width else "model"
    path: Path = options.out / f"{name}.onnx"
    if path.exists():
        return path
    from cafe_cli.classes import ClassTable, LandClass
    from cafe_cli.model import model_file
    from cafe_cli.model.cafe import CaFE
    from cafe_cli.model.onnx_export import export_onnx

    source = options.out / f"scene_{options.side}" / "model.safetensors"
    network, card = model_file.load(source)
    if name != "model":
        count = classes or len(card.classes)
        architecture = replace(
            card.architecture, classes=count, width=width or card.architecture.width
        )
        table = ClassTable(tuple(LandClass(n, f"class {n}") for n in range(count)))
        card = card.model_copy(update={"architecture": architecture, "classes": table})
        other = CaFE(architecture).eval()
        for statistics in ("optical_mean", "optical_std", "height_mean", "height_std"):
            getattr(other, statistics).copy_(getattr(network, statistics))
        network = other
    path.write_bytes(export_onnx(network, card))
    return path


def predict(options: argparse.Namespace, model: Path, side: int, window: int | None) -> Row:
    scene, target = options.out / f"scene_{side}", options.out / "map.tif"
    words = ["predict", model, "--optical", scene / "ortho.tif", "--elevation"]
    words += [scene / "height.tif", "-o", target, "--overwrite"]
    words += ["--window", window, "--overlap", 128] if window else []
    done = subprocess.run(
        [sys.executable, "-c", LAUNCH, sys.executable, "-m", "cafe_cli", *map(str, words)],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        sys.exit(done.stdout)
    said, _, last = done.stdout.rpartition("USED ")
    seconds, cpu, peak = map(float, last.split())
    made = tomllib.loads(Path(f"{target}.toml").read_text())["predict"]
    count = int(re.search(r"(\d+) of \d+ windows run", said)[1])  # type: ignore[index]
    return {
        "mpx": side**2 / 1e6, "window": made["window"], "windows": count,
        "computed_mpx": count * made["window"] ** 2 / 1e6,
        "cpu": round(cpu, 3), "seconds": round(seconds, 2), "peak_mb": round(peak / 1024),
    }  # fmt: skip


def measure_limits(options: argparse.Namespace, model: Path) -> dict[str, float]:
    """Return CPU seconds per megapixel of the forward pass, and of decoding the rasters."""
    import rasterio
    from rasterio.windows import Window

    from cafe_cli.model.onnx_file import open_session

    session = open_session(model, model, (1, WINDOW, WINDOW))
    random = np.random.default_rng(0)
    valid = np.ones((1, WINDOW, WINDOW), bool)
    image = random.uniform(0, 255, (1, 3, WINDOW, WINDOW)).astype(np.float32)
    inputs = {
        "optical": image, "optical_valid": valid, "height": image[:, :1] / 10, "height_valid": valid
    }  # fmt: skip
    passes = [timed(lambda: session.run(None, inputs)) for _ in range(6)]
    folder = options.out / f"scene_{options.side}"

    def decode() -> None:
        for name in ("ortho.tif", "height.tif"):
            with rasterio.open(folder / name) as raster:
                for row in range(0, raster.height, 512):
                    rows = min(512, raster.height - row)
                    raster.read(window=Window(0, row, raster.width, rows))

    decodes = [timed(decode) for _ in range(3)]
    return {
        "forward": min(passes) / (WINDOW**2 / 1e6),
        "decode": min(decodes) / (options.side**2 / 1e6),
    }


def timed(work: Any) -> float:
    begun = time.process_time()
    work()
    return time.process_time() - begun


# --- The law --------------------------------------------------------------------------------------


def least(rows: list[Row]) -> list[Row]:
    """Return the round with the least CPU seconds of every setting."""
    best: dict[tuple[str, float], Row] = {}
    for row in rows:
        key = row["kind"], row["value"]
        if key not in best or row["cpu"] < best[key]["cpu"]:
            best[key] = row
    return list(best.values())


def terms(row: Row) -> list[float]:
    return [1.0, row["computed_mpx"], row["mpx"]]


def fit(rows: list[Row]) -> NDArray[np.float64]:
    """Return start-up, forward and rest, in seconds and seconds per megapixel."""
    from scipy.optimize import nnls

    best = least(rows)
    cpu = np.array([row["cpu"] for row in best])
    matrix = np.array([terms(row) for row in best])
    law: NDArray[np.float64] = nnls(matrix / cpu[:, None], np.ones(len(best)))[0]
    return law


def print_tables(rows: list[Row], law: NDArray[np.float64], limits: dict[str, float]) -> None:
    print(f"CPU seconds = {law[0]:.2f} + {law[1]:.3f} x Mpx computed + {law[2]:.3f} x Mpx of scene")
    print(f"limits per Mpx: forward {limits['forward']:.3f}, decode {limits['decode']:.3f}")
    print("| | | Mpx | Mpx computed | CPU s | law | forward and decode alone | wall s | MB |")
    print("|---|---|---|---|---|---|---|---|---|")
    for row in least(rows):
        told = f"{float(law @ terms(row)):.1f}" if row["kind"] in ("pixels", "window") else ""
        bound = limits["forward"] * row["computed_mpx"] + limits["decode"] * row["mpx"]
        alone = f"{bound:.1f}" if told else ""
        print(
            f"| {row['kind']} | {row['value']:g} | {row['mpx']:.3g} | {row['computed_mpx']:.1f} "
            f"| {row['cpu']:.1f} | {told} | {alone} | {row['seconds']:.0f} | {row['peak_mb']} |"
        )


def plot(rows: list[Row], law: NDArray[np.float64], limits: dict[str, float], path: Path) -> None:
    """Draw seconds and memory against what is varied: pixels, window, classes, width."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    best = least(rows)
    labels = {
        "pixels": "scene, Mpx", "window": "window, px", "classes": "classes",
        "width": "channels of the decoder",
    }  # fmt: skip
    shown = [kind for kind in labels if sum(row["kind"] == kind for row in best) > 2]
    size = (1 + 3 * len(shown), 5.6)
    figure, axes = plt.subplots(2, len(shown), figsize=size, sharey="row", squeeze=False)
    for column, kind in enumerate(shown):
        of_kind = sorted((r for r in best if r["kind"] == kind), key=lambda r: r["value"])
        values = [row["value"] for row in of_kind]
        cost = [row["cpu"] / row["mpx"] for row in of_kind]
        top, bottom = axes[0, column], axes[1, column]
        top.plot(values, cost, "o", color="#1565c0", label="measured")
        if kind in ("pixels", "window"):
            told = [float(law @ terms(row)) / row["mpx"] for row in of_kind]
            bound = [
                limits["forward"] * row["computed_mpx"] / row["mpx"] + limits["decode"]
                for row in of_kind
            ]
            top.plot(values, told, color="#1565c0", label="law")
            top.plot(values, bound, "--", color="#777777", label="forward pass and decoding alone")
            top.legend(frameon=False, fontsize=8)
        bottom.plot(values, [row["peak_mb"] for row in of_kind], "o-", color="#c62828")
        bottom.set_xlabel(labels[kind])
        for axis in (top, bottom):
            axis.grid(color="#dddddd")
            axis.set_axisbelow(True)
            if kind == "pixels":
                axis.set_xscale("log", base=4)
            axis.set_xticks(values, [f"{value:g}" for value in values])
    for axis in axes[:, 0]:
        axis.set_ylim(bottom=0)  # of its row, once all of it is drawn
    axes[0, 0].set_ylabel("CPU seconds per Mpx of the scene")
    axes[1, 0].set_ylabel("peak memory, MB")
    figure.tight_layout()
    figure.savefig(path, dpi=90)


if __name__ == "__main__":
    main()
