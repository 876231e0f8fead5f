"""The scene of a study, cut into strips: one tile set for each strip, which is scored there."""

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyogrio.raw
import rasterio
import shapely
from rasterio.enums import Resampling

from benchmarks.ablation.package import decode
from benchmarks.ablation.records import Study
from cafe_cli.config.load import dump_config, load_config
from cafe_cli.config.schema import Config
from cafe_cli.errors import ConfigError, InputError, OutputError
from cafe_cli.raster.grid import Grid
from cafe_cli.raster.window import Window
from cafe_cli.scenes.discovery import SceneFiles, find_scenes
from cafe_cli.scenes.inspection import inspect_scene
from cafe_cli.scenes.scene import open_scene
from cafe_cli.system.atomic_write import replace_atomically, write_text
from cafe_cli.tilesets.make import tile
from cafe_cli.tilesets.tileset import load_tileset

log = logging.getLogger("ablation")

SPARSE = "labels_sparse.tif"


def begin(
    data: Path, folder: Path, config: Path, folds: int, coarsen: int, settings: Mapping[str, Any]
) -> Study:
    """Set a study up in a folder, or take up the same one.

    Parameters
    ----------
    data : Path
        Where the rasters of the config lie.
    config : Path
        A config of ``cafe tile``.
    folds : int
        Strips of the scene.
    coarsen : int
        So many pixels of the orthophoto become one, along each side; tiles shrink as well.
    settings : dict
        Dotted keys laid over the config, for all variants.

    Raises
    ------
    ConfigError, InputError
        Not exactly one scene, or no config.
    OutputError
        The folder holds another study.
    """
    study = Study(folder, folds, coarsen)
    common = {**settings, "root": str(data.absolute())}
    made = load_config(config, common)
    _scene(made)  # before anything is written
    folder.mkdir(parents=True, exist_ok=True)
    if coarsen > 1:
        made = load_config(config, {**common, **_coarser(made, study)})
    _write_once(folder / "study.json", json.dumps({"folds": folds, "coarsen": coarsen}))
    _write_once(study.config_path, dump_config(made))
    return study


def _write_once(path: Path, text: str) -> None:
    if path.exists() and path.read_text(encoding="utf-8") != text:
        raise OutputError(
            f"{path} is of a study with another config, --set, --folds or --coarsen: name another "
            "folder"
        )
    write_text(path, text)


def _coarser(config: Config, study: Study) -> dict[str, Any]:
    """Average pixels of the orthophoto, and return the settings that go with it."""
    (source,) = _scene(config).optical
    target, n = study.folder / "optical.tif", study.coarsen
    if not target.exists():
        with replace_atomically(target, overwrite=False) as path, rasterio.open(source) as image:
            shape = (image.height // n, image.width // n)
            scale = rasterio.Affine.scale(image.width / shape[1], image.height / shape[0])
            profile = {"driver": "GTiff", "dtype": image.dtypes[0], "count": image.count}
            profile |= {"height": shape[0], "width": shape[1], "nodata": image.nodata}
            profile |= {"crs": image.crs, "transform": image.transform @ scale}
            pixels = image.read(out_shape=(image.count, *shape), resampling=Resampling.average)
            with rasterio.open(path, "w", tiled=True, compress="deflate", **profile) as out:
                out.write(pixels)
                out.colorinterp = image.colorinterp
    return {
        **{f"tile.{key}": getattr(config.tile, key) // n for key in ("size", "overlap")},
        "scenes.optical": str(target.absolute()),
        "split.buffer": config.split.buffer // n,
    }


def _scene(config: Config) -> SceneFiles:
    if config.scenes is None:
        raise ConfigError("the study needs a config with [scenes], such as configs/autzen.toml")
    found = find_scenes(config.scenes, config.root)
    if len(found) != 1 or len(found[0].optical) != 1:
        raise InputError(
            f"{config.root}: the study cuts one scene with one orthophoto into strips, but the "
            f"config finds {len(found)} scene(s); name one in scenes.only, and join the files of a "
            "mosaic with gdalbuildvrt"
        )
    return found[0]


def cut(study: Study) -> None:
    """Cut the tile sets that are not there yet."""
    config = load_config(study.config_path)
    files = _scene(config)
    with open_scene(inspect_scene(files, config.height, config.bands, crs=config.crs)) as scene:
        grid = scene.grid
    sparse = Path(config.root) / SPARSE
    for fold in range(study.folds):
        ground = study.folder / "tiles" / f"fold{fold}.gpkg"
        ground.parent.mkdir(exist_ok=True)
        if not ground.exists():
            _write_strip(ground, grid, fold, study.folds)
        _cut(study, study.tiles(fold), {"split.file": str(ground.absolute())})
        decode(study.tiles(fold), load_tileset(study.tiles(fold)))
        if sparse.exists():
            # For its validation tiles only; many training tiles have no label in it.
            own = {"scenes.labels": str(sparse.absolute()), "tile.min_labelled": 0.0}
            own |= {"labels.absent": config.class_table.names}
            own |= {"split.file": str(ground.absolute())}
            _cut(study, study.tiles(fold, "_sparse"), own)


def _cut(study: Study, target: Path, overrides: Mapping[str, Any]) -> None:
    if target.exists():
        return
    config = load_config(study.config_path, overrides)
    made = tile(config, target)
    if not made.of("validation"):
        raise InputError(f"no labels to score in {target.name}: take fewer --folds")
    counts = len(made.of("train")), len(made.of("validation"))
    log.info("%s: %d tiles train, %d score", target, *counts)


def _write_strip(path: Path, grid: Grid, fold: int, folds: int) -> None:
    """Draw the strip that a fold is scored on, `folds` from the first column to the last."""
    first, end = (grid.width * k // folds for k in (fold, fold + 1))
    strip = grid.at(Window(first, 0, end - first, grid.height)).footprint_in(grid.crs)
    with replace_atomically(path, overwrite=True) as target:
        pyogrio.raw.write(
            str(target),
            shapely.to_wkb(np.array([strip], object)),
            [np.array(["validation"], object)],
            ["split"],
            driver="GPKG",
            layer="strip",
            geometry_type="Polygon",
            crs=grid.crs.to_wkt() if grid.crs else None,
        )
