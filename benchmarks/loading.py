"""Crops that training gets per second of CPU, from where they may come from, side by side.

One scene as a survey delivers it, large deflate GeoTIFFs, is cut into a tile set, virtual and
copied; the copied tiles are written again without compression; and all are decoded into the cache.
Then crops are read from each in turns, in one process, each into its place in a batch. JSON lines:
crops per second of CPU (the median of the rounds) and the ratio to the first.

    OMP_NUM_THREADS=1 python benchmarks/loading.py OUT [--scene 4000] [--size 512] [--tile 512]

Leaves scene and tile sets in OUT, about 60 bytes for each pixel of the scene.
"""

import argparse
import json
import shutil
import statistics
import time
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from unittest import mock

import rasterio
import torch
from tile_data import make

from cafe_cli.config.load import parse_config
from cafe_cli.config.schema import Config, TrainSettings
from cafe_cli.tilesets import cache
from cafe_cli.tilesets.make import tile
from cafe_cli.tilesets.tileset import load_tileset
from cafe_cli.training.data.dataset import TileDataset
from cafe_cli.training.data.loader import Loader
from cafe_cli.training.data.sampler import BatchSampler, SampleKey

Run = Callable[[int, int], int]  # round, crops wanted -> crops read

BATCH = 8
CLASSES = ("paved", "building", "grass", "tree")


def main() -> None:
    options = arguments()
    whole = Config(train=TrainSettings(crop=options.size, batch_size=BATCH))
    runs = variants(options, whole)
    speeds: dict[str, list[float]] = {name: [] for name in runs}
    counts = dict.fromkeys(runs, 2 * BATCH)
    for number in range(options.rounds + 1):
        for name, run in runs.items():
            start = time.process_time()
            count = run(number, counts[name])
            speed = count / (time.process_time() - start)
            counts[name] = BATCH * max(2, round(speed * options.seconds / BATCH))
            if number:  # the first round finds out how many crops to read
                speeds[name].append(speed)
    first = statistics.median(next(iter(speeds.values())))
    for name, values in speeds.items():
        middle = statistics.median(values)
        row = {"from": name, "size": options.size, "tile": options.tile}
        row |= {"crops_per_cpu_second": float(f"{middle:.4g}"), "ratio": round(middle / first, 1)}
        print(json.dumps(row), flush=True)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("output", type=Path)
    parser.add_argument("--scene", type=int, default=4000, help="pixels along each side of it")
    parser.add_argument("--size", type=int, default=512, help="pixels along each side of a crop")
    parser.add_argument("--tile", type=int, default=512, help="pixels along each side of a tile")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each variant in each round")
    return parser.parse_args()


def variants(options: argparse.Namespace, config: Config) -> dict[str, Run]:
    """Return what is compared; the first is what the others are ratios to."""
    folders = tilesets(options)
    infos = {name: load_tileset(folder) for name, folder in folders.items()}
    kept = cache.prepare(folders["cut"], infos["cut"])
    if kept is None:
        raise SystemExit("no cache: see the warning above")
    virtual, cut, plain = (
        TileDataset(folders[name], infos[name], "train", config) for name in folders
    )
    mapped = TileDataset(folders["cut"], infos["cut"], "train", config, kept)
    return {
        "large deflate GeoTIFFs": partial(copied, virtual),
        "tiles as cafe writes them": partial(copied, cut),
        "uncompressed tiles": partial(copied, plain),
        "cache": partial(copied, mapped),
        "cache, loader without the device's work": partial(handed_over, mapped),
        "cache, loader, device is the CPU": partial(loaded, mapped),
    }


def tilesets(options: argparse.Namespace) -> dict[str, Path]:
    """Make what is not there yet: three tile sets of one scene."""
    work = options.output / f"{options.scene}-{options.tile}"
    folders = {name: work / name for name in ("virtual", "cut", "plain")}
    if not (work / "plain").exists():
        shutil.rmtree(work, ignore_errors=True)
        (work / "scene").mkdir(parents=True)
        make(work / "scene", options.scene)
        config = settings(work / "scene", options.tile)
        tile(config, folders["virtual"], virtual=True)
        tile(config, folders["cut"])
        uncompressed(folders["cut"], folders["plain"])
    return folders


def settings(scene: Path, size: int) -> Config:
    values = {
        "root": str(scene.absolute()),
        "classes": [{"id": number, "name": name} for number, name in enumerate(CLASSES)],
        "scenes": {"optical": "ortho.tif", "elevation": "dsm.tif", "labels": "labels.tif"},
        "height": {"kind": "ndsm"},
        "tile": {"size": size, "overlap": 128},
        "split": {"validation": 0},
    }
    return parse_config(values, "benchmark")


def uncompressed(source: Path, target: Path) -> None:
    """Copy a tile set with its rasters uncompressed."""
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("cache", ".cache.lock"))
    for path in target.rglob("*.tif"):
        with rasterio.open(path) as dataset:
            values, profile = dataset.read(), dataset.profile
        with rasterio.open(path, "w", **{**profile, "compress": None, "predictor": 1}) as dataset:
            dataset.write(values)


def keys(number: int, dataset: TileDataset, count: int) -> list[list[SampleKey]]:
    """Return batches in random order: as many epochs as it takes."""
    batches = BatchSampler(len(dataset), BATCH, seed=number)
    drawn: list[list[SampleKey]] = []
    while len(drawn) * BATCH < count:
        drawn += batches
        batches.epoch += 1
    return drawn[: count // BATCH]


def copied(dataset: TileDataset, number: int, count: int) -> int:
    """Read crops, each into its place in a batch."""
    places = [
        cache.PackedTiles(*(values[place].numpy() for values in batch))
        for batch in [dataset.blank(BATCH)]
        for place in range(BATCH)
    ]
    with dataset.opened() as source:
        for batch in keys(number, dataset, count):
            for key, place in zip(batch, places, strict=True):
                dataset.read(source, key, place)
    return count


def handed_over(dataset: TileDataset, number: int, count: int) -> int:
    """Take batches as a GPU gets them: what is left to the host."""
    with mock.patch("cafe_cli.training.data.loader.to_sample", lambda planes, params: planes):
        return loaded(dataset, number, count)


def loaded(dataset: TileDataset, number: int, count: int) -> int:
    """Take batches from a loader."""
    loader = Loader(dataset, torch.device("cpu"), threads=1)
    with closing(loader.batches(keys(number, dataset, count))) as batches:
        return sum(len(batch.keys) for batch in batches)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
