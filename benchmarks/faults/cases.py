"""The commands that faults are injected into, as data, and the inputs they run on."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import tomli_w
from affine import Affine
from numpy.typing import NDArray
from rasterio.io import DatasetWriter
from rasterio.windows import Window

from benchmarks import large
from cafe_cli.config.load import parse_config
from cafe_cli.raster.grid import Grid
from cafe_cli.raster.writer import create_cog
from cafe_cli.tilesets.make import tile

_LARGE = 2000, 8000  # columns and rows of the scene of `predict`: four strips
_ISLAND, _ISLANDS = (
    128,
    6,
)  # pixels along each side of the ground that is not void, and their number
_PLACE = Affine(large.PIXEL, 0, 500_000, 0, -large.PIXEL, 5_200_000)
_CLASSES = [{"id": c.id, "name": c.name, "color": c.color} for c in large.CLASSES]
_SETTINGS = {
    "classes": _CLASSES[:3],
    "scenes": {
        "only": ["a", "b"],
        "optical": "{id}_ortho.tif", "elevation": "{id}_dsm.tif", "labels": "{id}_labels.tif",
    },
    "height": {"kind": "ndsm"},
    "tile": {"size": 64, "overlap": 0},
    "train": {"batch_size": 2, "workers": 0},
    "split": {"validation_scenes": ["b"]},
    "model": {
        "optical_encoder": "tu-test_resnet", "weights": "none", "width": 8, "guidance": "distill",
    },
}  # fmt: skip


@dataclass(frozen=True)
class Case:
    """A command.

    Attributes
    ----------
    name : str
    words : tuple of str
        The command in a copy of the inputs.
    other : tuple of str
        Writes other results under the same names: the old outputs that `words` with
        ``--overwrite`` replaces.
    again : tuple of tuples of str
        What is added to run again after a fault; the next where the former is refused.
    keeps : tuple of str
        Hidden names that an interrupted run keeps on purpose, to go on with.
    rewrites : bool
        Whether outputs are replaced more than once in a run, so that one which is neither the old
        nor the new may be whole.
    """

    name: str
    words: tuple[str, ...]
    other: tuple[str, ...]
    again: tuple[tuple[str, ...], ...] = (("--overwrite",),)
    keeps: tuple[str, ...] = ()
    rewrites: bool = False


def _case(name: str, words: str, other: str, **more: object) -> Case:
    """Return a case; `other` follows the words, whose last options count."""
    first = (name, *words.split())
    return Case(name, first, (*first, *other.split()), **more)  # type: ignore[arg-type]


# A command that writes files is added here, and its inputs in `make_inputs`.
CASES = (
    _case("tile", "-c c.toml -o set -j 2", "--overlap 16"),
    _case(
        "train",
        "tiles -c c.toml -o run --device cpu --epochs 2",
        "--seed 7",
        again=(("--resume",), ("--overwrite",)),
        rewrites=True,
    ),
    _case(
        "predict",
        "--model m.safetensors --optical large_ortho.tif --elevation large_dsm.tif -o map.tif "
        "--confidence sure.tif --window 128 --overlap 0 --device cpu -j 2",
        "--overlap 32",
        again=(("--resume", "--overwrite"),),
        keeps=(".map.tif.strips",),
    ),
    _case(
        "mosaic",
        "1.tif 2.tif --confidence 3.tif --confidence 4.tif -o map.tif --confidence-output sure.tif",
        "--method last",
    ),
    _case("evaluate", "1.tif 2.tif --areas areas.csv --json", "--ignore 2 --areas areas.csv"),
    _case("vectorize", "1.tif -o polygons.gpkg", "--simplify 0"),
    _case("heights", "--elevation a_dsm.tif -o heights.tif", "--height-unit foot"),
)


def make_inputs(folder: Path, seed: int = 0) -> Path:
    """Make the folder that every run gets a copy of, unless it is there."""
    if folder.exists():
        return folder
    draft = folder.with_name(f"{folder.name}.draft")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    _write_scenes(draft, seed)
    large.save_model(draft / "m.safetensors", seed)
    (draft / "c.toml").write_text(tomli_w.dumps(_SETTINGS), encoding="utf-8")
    config = parse_config(_SETTINGS, "c.toml")
    tile(config.model_copy(update={"root": str(draft)}), draft / "tiles")
    _write_maps(draft, seed)
    draft.rename(folder)
    return folder


def _write_scenes(folder: Path, seed: int) -> None:
    """Write `a` and `b`, which train and validate, and `large`, which is empty but for islands."""
    for number, (name, height, width) in enumerate([("a", 128, 192), ("b", 64, 320)]):
        image, metres, labels = _town(width, height, seed + number)
        kinds = {"ortho": (image, 0), "dsm": (metres, large.VOID), "labels": (labels, 255)}
        for kind, (values, nodata) in kinds.items():
            path = folder / f"{name}_{kind}.tif"
            with _create(path, width, height, 2000 * number, values, nodata) as dataset:
                dataset.write(values)
    image, metres, _ = _town(_ISLAND, _ISLAND, seed)
    for kind, values, nodata in (("ortho", image, 0), ("dsm", metres, large.VOID)):
        with _create(folder / f"large_{kind}.tif", *_LARGE, 4000, values, nodata) as dataset:
            for row in range(0, _LARGE[1] - _ISLAND, _LARGE[1] // _ISLANDS):
                dataset.write(values, window=Window(row // 5, row, _ISLAND, _ISLAND))


def _town(width: int, height: int, seed: int) -> tuple[NDArray[Any], ...]:
    """Return image, metres above ground and labels without voids, (bands, height, width) each."""
    image, metres = large.town(width, height, seed)
    labels = np.select([metres > 7.9, metres > 4.9], [1, 2], 0).astype(np.uint8)
    return np.maximum(image, 1), np.maximum(metres, 0), labels


def _create(
    path: Path, width: int, height: int, row: int, values: NDArray[Any], nodata: float
) -> DatasetWriter:
    return rasterio.open(
        path, "w", driver="GTiff", width=width, height=height, count=len(values),
        dtype=values.dtype, nodata=nodata, crs="EPSG:32632", tiled=True, blockxsize=128,
        blockysize=128, compress="deflate", sparse_ok=True,
        transform=_PLACE @ Affine.translation(0, row),
    )  # fmt: skip


def _write_maps(folder: Path, seed: int) -> None:
    """Write two label rasters and a confidence raster for each."""
    draw = np.random.default_rng(seed)
    for number in range(1, 5):
        grid = Grid(rasterio.CRS.from_epsg(32632), _PLACE, 700, 500)
        labels = number < 3
        coarse = draw.integers(3 if labels else 101, size=(grid.height // 20, grid.width // 20))
        values = np.kron(coarse, np.ones((20, 20), int))
        classes = large.CLASSES if labels else None
        with create_cog(folder / f"{number}.tif", grid, False, classes) as dataset:
            dataset.write(values.astype(np.uint8), 1)
