"""The part `scenes`: a town to train on, a scene to map, and networks with random weights.

Scenes are RGB and heights above ground as deflate GeoTIFF of tiles of 512 pixels, drawn as for
`cafe tile` (see ``tile_data.py``) on all cores. That to map repeats the town: it takes as long to
decode as one that does not.
"""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.windows import Window

from benchmarks.gpu.part import Part
from benchmarks.gpu.town import Planes, draw_town
from benchmarks.tile_data import GSD, create
from cafe_cli.config.load import parse_config
from cafe_cli.config.schema import Config
from cafe_cli.system.threads import cores
from cafe_cli.tilesets.make import tile

CLASSES = ("paved", "building", "grass", "tree")
ROWS = 2048  # pixel rows that are written at a time: enough blocks for all cores


def scenes(part: Part) -> None:
    start = time.perf_counter()
    town = draw_town(part.sizes.town, cores())
    part.record("town drawn", side=part.sizes.town, seconds=since(start), cores=cores())
    start = time.perf_counter()
    for name, size in (("town", part.sizes.town), ("scene", part.sizes.scene)):
        write_scene(part.work / name, town, size)
    megabytes = sum(path.stat().st_size for path in (part.work / "scene").iterdir()) / 1e6
    seconds = since(start)
    part.record("scenes written", side=part.sizes.scene, seconds=seconds, mb=round(megabytes))
    start = time.perf_counter()
    tile(settings(part), part.work / "tiles", overwrite=True, virtual=True)
    part.record("cafe tile --virtual", seconds=since(start))
    save_model(part, part.sizes.encoder, part.work / "model.safetensors")
    save_model(part, part.sizes.heavy, part.work / "heavy.safetensors")
    (part.work / "made").touch()


def since(start: float) -> float:
    return round(time.perf_counter() - start, 2)


def write_scene(folder: Path, town: Planes, size: int) -> None:
    """Write the town, repeated to that side; GDAL compresses on all cores."""
    folder.mkdir(parents=True, exist_ok=True)
    names = ("ortho", "heights", "labels")
    kinds = ((3, "uint8", 2), (1, "float32", 3), (1, "uint8", 1))
    with rasterio.Env(GDAL_NUM_THREADS="ALL_CPUS"):
        for name, kind, values in zip(names, kinds, town, strict=True):
            with create(folder / f"{name}.tif", size, *kind) as dataset:
                for window, piece in repeated(values.reshape(kind[0], *values.shape[-2:]), size):
                    dataset.write(piece, window=window)


def repeated(values: NDArray[Any], size: int) -> Iterator[tuple[Window, NDArray[Any]]]:
    """Yield windows of whole rows of a raster that repeats `values`, and their pixels."""
    columns = np.arange(size) % values.shape[-1]
    for top in range(0, size, ROWS):
        rows = np.arange(top, min(top + ROWS, size)) % values.shape[-2]
        yield Window(0, top, size, len(rows)), values[:, rows[:, None], columns]


def settings(part: Part) -> Config:
    """Return the config of the tile set and of the timed trainings."""
    sizes = part.sizes
    values = {
        "root": str(part.work / "town"),
        "classes": [{"id": number, "name": name} for number, name in enumerate(CLASSES)],
        "scenes": {"optical": "ortho.tif", "elevation": "heights.tif", "labels": "labels.tif"},
        "height": {"kind": "ndsm"},
        "tile": {"size": sizes.crop, "overlap": sizes.crop - sizes.stride},
        "split": {"validation": 0},
        "model": {"optical_encoder": sizes.encoder, "width": sizes.width, "weights": "none"},
        "train": {"epochs": sizes.epochs},
    }
    return parse_config(values, "benchmarks.gpu")


def save_model(part: Part, encoder: str, path: Path) -> None:
    """Save a network with random weights, as wide and with the attention of the default."""
    from cafe_cli.classes import ClassTable, LandClass
    from cafe_cli.config.schema import HeightSettings
    from cafe_cli.model.cafe import Architecture, CaFE
    from cafe_cli.model.card import ModelCard
    from cafe_cli.model.model_file import save

    classes = ClassTable(tuple(LandClass(i, name) for i, name in enumerate(CLASSES)))
    network = CaFE(
        Architecture(
            len(CLASSES), 3, optical_encoder=encoder, width=part.sizes.width,
            attention=2 * part.sizes.crop,
        )
    )  # fmt: skip
    network.set_statistics([110.0] * 3, [40.0] * 3, [3.0], [5.0])
    card = ModelCard(
        architecture=network.architecture, classes=classes, band_names=("red", "green", "blue"),
        dtype="uint8", gsd=GSD, height=HeightSettings(kind="ndsm", fill=0), window=part.sizes.crop,
        epoch=0, scores=None, config={},
    )  # fmt: skip
    save(path, network.eval(), card)
