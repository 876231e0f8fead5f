"""Heights above the estimated ground against the labels of one real scene: DATA [PICTURE.png]

DATA holds ortho.tif, dsm.tif and labels.tif of configs/autzen.toml. Prints, for the labelled
ground, how far from zero 95 % of it stays, and for buildings the height that 95 % of them exceed:
on the pixels of the surface model, where nothing is interpolated, and on those of the orthophoto,
as the network sees them.
"""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

from cafe_cli.config.load import load_config
from cafe_cli.plotting import draw_scene
from cafe_cli.scenes.discovery import find_scenes
from cafe_cli.scenes.inspection import inspect_scene
from cafe_cli.scenes.scene import open_scene


def main(data: str, picture: str | None = None) -> None:
    config = load_config(
        Path(__file__).parents[1] / "configs/autzen.toml",
        {"root": str(Path(data).absolute()), "height.ground": "estimate"},
    )
    (files,) = find_scenes(config.scenes, config.root)
    classes = config.class_table
    for name, seen in {"surface model": files.elevation, "orthophoto": files.optical}.items():
        with open_scene(inspect_scene(replace(files, optical=seen), config.height)) as scene:
            patch = scene.read(scene.grid.extent)
            labels = scene.read_labels(scene.grid.extent, classes, config.labels).ids
        ground, building = (
            patch.height[patch.height_valid & (labels == classes.names.index(kind))]
            for kind in ("ground", "building")
        )
        print(f"on the pixels of the {name}:")
        print(f"  95 % of the ground within {np.percentile(np.abs(ground), 95):.2f} m of zero")
        low, high = 100 * (building < 2.5).mean(), np.percentile(building, 5)
        print(f"  95 % of the buildings above {high:.2f} m, {low:.1f} % under 2.5 m")
    if picture:
        shown = np.where(patch.height_valid, patch.height, np.float32(np.nan))
        draw_scene(patch.optical, shown, {"labels": labels}, classes, Path(picture))


if __name__ == "__main__":
    main(*sys.argv[1:])
