"""Fine-tuning against training from the start, with a tenth of the labels of another site.

    python benchmarks/finetune.py MODEL SITE OUT [--epochs 20] [--rate 1e-3 ...] [--set KEY=VALUE]

SITE is a folder with ortho.tif, dsm.tif and labels.tif on one grid. It is divided into 10 x 10
rectangles; the labels of ten of them train, one in each row and column: the first such diagonal on
which all classes of the site occur. Training takes the same steps from ImageNet weights and, once
per learning rate, from MODEL, with the same config (configs/sites.toml), order of tiles and
augmentation. All maps, and that of MODEL as it is, are scored on the other ninety rectangles. What
is in OUT already is not done again. One line of JSON per run and map, then a table in Markdown.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import rasterio

CONFIG = Path(__file__).parents[1] / "configs" / "sites.toml"
PARTS = 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("site", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--rate", type=float, action="append", default=[])
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    share = divide_labels(args.site / "labels.tif", args.out)
    tiles = cut(args)
    runs = {"the model as it is": args.model, "from the start": train(args, tiles, "start", None)}
    for rate in args.rate or [1e-3]:
        name = f"fine-tuned, learning rate {rate:g}"
        runs[name] = train(args, tiles, f"from_{rate:g}", rate)
    rows = {name: score(args, name, model) for name, model in runs.items()}
    print(f"\n{share:.1%} of the labelled pixels train.\n\n{table(rows)}")


def divide_labels(path: Path, out: Path) -> float:
    """Write the labels that train and those that score; return the share of the first."""
    with rasterio.open(path) as dataset:
        labels, profile = dataset.read(1), dataset.profile
    rows, columns = (np.arange(n) * PARTS // n for n in labels.shape)
    # 3 and 10 have no common divisor: each row and each column of rectangles has one.
    diagonals = (columns[None] == (3 * rows[:, None] + k) % PARTS for k in range(PARTS))
    train = next(d for d in diagonals if set(np.unique(labels[d])) == set(np.unique(labels)))
    for name, own in (("train", train), ("rest", ~train)):
        with rasterio.open(out / f"{name}.tif", "w", **profile) as dataset:
            dataset.write(np.where(own, labels, np.uint8(255)), 1)
    return float((train & (labels != 255)).sum() / (labels != 255).sum())


def cut(args: argparse.Namespace) -> Path:
    tiles = args.out / "tiles"
    if not tiles.exists():
        words = ["--optical", args.site / "ortho.tif", "--elevation", args.site / "dsm.tif"]
        words += ["--labels", args.out / "train.tif", "--set", "split.validation=0"]
        cafe(args, "tile", "-c", CONFIG, *words, "-o", tiles)
    return tiles


def train(args: argparse.Namespace, tiles: Path, name: str, rate: float | None) -> Path:
    """Train for the same steps; from the model if a learning rate is given."""
    run = args.out / name
    more = ["--from", args.model, "--learning-rate", rate] if rate else []
    if not (run / "report.html").exists():
        words = ["-c", CONFIG, "--epochs", args.epochs, *more, "--overwrite", "--device", "cpu"]
        for setting in args.set:
            words += ["--set", setting]
        start = time.monotonic()
        cafe(args, "train", tiles, *words, "-o", run)
        print(json.dumps({"run": name, "seconds": round(time.monotonic() - start)}), flush=True)
    return run / "final.safetensors"


def score(args: argparse.Namespace, name: str, model: Path) -> dict[str, float]:
    """Map the site and score the map on the labels that did not train."""
    target = args.out / f"{name.replace(' ', '_').replace(',', '')}.tif"
    if not target.exists():
        words = ["--optical", args.site / "ortho.tif", "--elevation", args.site / "dsm.tif"]
        cafe(args, "predict", "--model", model, *words, "--gsd", "model", "-o", target)
    said = cafe(args, "evaluate", target, args.out / "rest.tif", "-c", CONFIG, "--json")
    scores = json.loads(said)
    row = {"mean": scores["miou"], **{k: v["iou"] for k, v in scores["classes"].items()}}
    print(json.dumps({"map": name, **row}), flush=True)
    return row


def cafe(args: argparse.Namespace, *words: object) -> str:
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "cafe_cli", *map(str, words)]
    return subprocess.run(command, env=env, check=True, stdout=subprocess.PIPE, text=True).stdout


def table(rows: dict[str, dict[str, float]]) -> str:
    names = list(next(iter(rows.values())))
    lines = [f"| | {' | '.join(names)} |", f"|---|{'---|' * len(names)}"]
    for name, row in rows.items():
        cells = (f"{row[n]:.3f}" if row[n] is not None else "-" for n in names)
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
