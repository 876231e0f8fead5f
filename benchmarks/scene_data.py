"""Make a scene of any size to predict on: a real one, mirrored at its edges over and over.

DATA holds ortho.tif, dsm.tif and labels.tif. Leaves in OUT, on the orthophoto's grid, in tiles of
512 pixels and deflate: ortho.tif as it is, height.tif (float32, metres above the ground as the
model's own settings find it, -9999 in voids), labels.tif (class ids of the model, 255 elsewhere);
and model.safetensors, the same weights with heights declared to be above ground already: so every
tool can be given the same numbers. Written block by block: memory is that of DATA.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.windows import Window

from cafe_cli.classes import NODATA
from cafe_cli.config.schema import HeightSettings, LabelSettings
from cafe_cli.model import model_file
from cafe_cli.model.card import ModelCard
from cafe_cli.raster.grid import Grid
from cafe_cli.scenes.discovery import SceneFiles
from cafe_cli.scenes.inspection import inspect_scene
from cafe_cli.scenes.scene import open_scene

BLOCK = 1024  # pixels along each side of what is written at a time
VOID = -9999


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("data", type=Path)
    parser.add_argument("model", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--width", type=int, default=6000, help="pixels")
    parser.add_argument("--height", type=int, default=6000, help="pixels")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    model, card = model_file.load(options.model)
    source = read(options.data, card)
    write(source, options.output, options.width, options.height)
    as_it_is = HeightSettings(kind="ndsm", unit="metre", fill=0)
    card = card.model_copy(update={"height": as_it_is})
    model_file.save(options.output / "model.safetensors", model, card)


@dataclass(frozen=True)
class Source:
    """The real scene: optical (bands, H, W), height (H, W) in metres, labels (H, W)."""

    grid: Grid
    optical: NDArray[np.generic]
    height: NDArray[np.float32]
    labels: NDArray[np.uint8]


def read(data: Path, card: ModelCard) -> Source:
    """Read the whole scene as `cafe predict` and `cafe evaluate` would, heights above ground."""
    ortho, dsm, labels = (str(data / name) for name in ("ortho.tif", "dsm.tif", "labels.tif"))
    settings = LabelSettings.model_validate(card.config.get("labels", {}))
    files = SceneFiles("scene", (ortho,), (dsm,), (), (labels,))
    with open_scene(inspect_scene(files, card.height, labels=settings)) as scene:
        patch = scene.read(scene.grid.extent)
        ids = scene.read_labels(scene.grid.extent, card.classes, settings).ids
        height = np.where(patch.height_valid, patch.height, np.float32(VOID))
        return Source(scene.grid, patch.optical, height, ids)


def write(source: Source, folder: Path, width: int, height: int) -> None:
    rasters: list[tuple[str, NDArray[Any], dict[str, Any]]] = [
        ("ortho.tif", source.optical, {"predictor": 2}),
        ("height.tif", source.height[None], {"predictor": 3, "nodata": VOID}),
        ("labels.tif", source.labels[None], {"nodata": NODATA}),
    ]
    for name, values, profile in rasters:
        profile |= {"count": len(values), "dtype": values.dtype, "width": width, "height": height}
        profile |= {"crs": source.grid.crs, "transform": source.grid.transform}
        profile |= {"tiled": True, "blockxsize": 512, "blockysize": 512}
        profile |= {"driver": "GTiff", "compress": "deflate", "bigtiff": "if_safer"}
        with rasterio.open(folder / name, "w", **profile) as dataset:
            for row in range(0, height, BLOCK):
                rows = mirrored(row, min(BLOCK, height - row), values.shape[1])
                for col in range(0, width, BLOCK):
                    cols = mirrored(col, min(BLOCK, width - col), values.shape[2])
                    block = values[:, rows[:, None], cols]
                    dataset.write(block, window=Window(col, row, len(cols), len(rows)))


def mirrored(start: int, count: int, length: int) -> NDArray[np.int64]:
    """Return where pixels lie in a raster of `length` pixels that is laid out to and fro."""
    place = np.arange(start, start + count) % (2 * length)
    return np.minimum(place, 2 * length - 1 - place)


if __name__ == "__main__":
    main()
