"""GeoDeep's own map of an exported model beside the maps of cafe: equal labels, CPU seconds, PNG.

    python benchmarks/geodeep.py MODEL ORTHO DSM FOLDER [PNG]

ORTHO is in metres: GeoDeep takes the unit of the CRS for metres. GeoDeep sees no heights: its map
is compared with that of `cafe predict` without heights, on the same windows and cut like GeoDeep's
(``--blend crop``); the map with heights shows what they are worth. GeoDeep smooths its map by a
median of 5 x 5 pixels, which is done to the others, too, before they are compared.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import rasterio
from PIL import Image
from scipy.ndimage import median_filter

from cafe_cli.plotting import draw_scene
from cafe_cli.raster.writer import read_classes

WINDOW, OVERLAP = 512, 128
MOST = 700  # pixels along the longer side of the picture


def run(*words: object) -> float:
    """Run a program of this Python; return its CPU seconds."""
    before = os.times()
    subprocess.run([sys.executable, "-m", *map(str, words)], check=True)
    after = os.times()
    return (
        after.children_user
        + after.children_system
        - (before.children_user + before.children_system)
    )


def main(model: str, ortho: str, dsm: str, folder: Path, picture: str | None = None) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    onnx, heights = folder / "geodeep.onnx", folder / "bands.tif"
    theirs, alone, informed = (folder / f"{n}.tif" for n in ("geodeep", "no_heights", "heights"))
    cafe, scene = ("cafe_cli",), ("--optical", ortho, "--elevation", dsm)
    windows = ("--window", WINDOW, "--overlap", OVERLAP)
    run(*cafe, "export", model, "-o", onnx, "--for", "geodeep", *windows, *scene, "--overwrite")
    run(*cafe, "heights", *scene, "--with-image", "-o", heights, "--overwrite")
    seconds = {
        "GeoDeep": run("geodeep.scripts.main", ortho, onnx, "-t", "mask", "-o", theirs, "-q"),
        "cafe, no heights": run(
            *cafe, "predict", model, "--optical", ortho, *windows, "--blend", "crop",
            "-o", alone, "--overwrite",
        ),
        "cafe, heights": run(*cafe, "predict", model, *scene, "-o", informed, "--overwrite"),
    }  # fmt: skip
    with rasterio.open(informed) as dataset:
        classes = read_classes(dataset)
    maps = {name: rasterio.open(path).read(1) for name, path in zip(
        seconds, (theirs, alone, informed), strict=True)}  # fmt: skip
    names = [*maps]
    equal = {
        name: float((maps["GeoDeep"] == median_filter(maps[name], 5)).mean()) for name in names[1:]
    }
    print(json.dumps({"equal to GeoDeep": equal, "CPU seconds": seconds}, indent=1))
    if picture and classes:
        step = -(-max(maps["GeoDeep"].shape) // MOST)
        bands = rasterio.open(heights).read()[:, ::step, ::step]
        metres = np.where(bands[3] == 255, np.nan, bands[3] * 0.25).astype(np.float32)
        small = {name: labels[::step, ::step] for name, labels in maps.items()}
        draw_scene(bands[:3], metres, small, classes, Path(picture))
        drawn = Image.open(picture).convert("RGB")
        drawn.thumbnail((1600, 1600))
        drawn.quantize(128).save(picture, optimize=True)


if __name__ == "__main__":
    main(*sys.argv[1:4], Path(sys.argv[4]), *sys.argv[5:])
