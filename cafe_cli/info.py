"""What a file or folder is: a raster, map, vector file, model, tile set or run, as plain facts.

Nothing is decoded but headers and descriptions, so that it takes no longer for a country.
"""

from collections import Counter
from pathlib import Path
from typing import Any, TypeAlias

import pyogrio
from rasterio.io import DatasetReader

from cafe_cli.checks.raster import describe_raster
from cafe_cli.classes import ClassTable
from cafe_cli.config.provenance import read_beside
from cafe_cli.errors import InputError
from cafe_cli.model import stored
from cafe_cli.raster.grid import Grid, describe_crs
from cafe_cli.raster.header import read_tags
from cafe_cli.raster.reader import open_raster
from cafe_cli.raster.writer import read_classes
from cafe_cli.splits.assign import SPLITS
from cafe_cli.tilesets.tileset import DESCRIPTION, load_tileset
from cafe_cli.training.history import HISTORY_FILE, read_history
from cafe_cli.vector.layers import find_layer, is_vector, layer_bounds, list_layers

Facts: TypeAlias = dict[str, Any]
"""Nested, of values that JSON knows: ``kind`` comes first, ``details`` last."""


def describe(name: str) -> Facts:
    """Return what a file or folder is, and its facts.

    Parameters
    ----------
    name : str
        A file, a folder, a URL or any name that GDAL opens.

    Raises
    ------
    InputError, ModelFileError
        It is missing, damaged or of no kind that cafe knows.
    """
    path = Path(name)
    if path.is_dir() and (made := _describe_folder(path)):
        return made
    if path.suffix.lower() in stored.SUFFIXES:
        return _describe_model(path)
    if is_vector(name):
        return _describe_vectors(name)
    if path.is_dir():
        raise InputError(
            f"{name} holds no {DESCRIPTION} and no {HISTORY_FILE}: it is neither a tile set nor a "
            "run; name a file in it"
        )
    with open_raster(name) as dataset:
        return _describe_raster(name, dataset)


def _describe_folder(path: Path) -> Facts | None:
    if (path / DESCRIPTION).exists():
        return _describe_tileset(path)
    return _describe_run(path) if (path / HISTORY_FILE).exists() else None


def _describe_raster(name: str, dataset: DatasetReader) -> Facts:
    classes, made = read_classes(dataset), read_beside(Path(name))
    facts = describe_raster(dataset).as_json()
    tags = {key: text for key, text in read_tags(dataset).items() if key.startswith("CAFE_")}
    return {
        "kind": "land-cover map" if classes else "raster",
        "driver": dataset.driver,
        **facts,
        "bounds": list(Grid.of(dataset).bounds),
        "classes": _describe_classes(classes) if classes else {},
        "tags": tags,
        "settings": made,
    }


def _describe_vectors(name: str) -> Facts:
    layers = {}
    for layer, kind in list_layers(name):
        if kind is None:
            continue
        source = find_layer(name, layer)
        bounds = layer_bounds(source)
        layers[layer] = {
            "geometry": kind,
            "features": int(pyogrio.read_info(source.source, layer=source.name)["features"]),
            "crs": describe_crs(source.crs),
            "attributes": list(source.columns),
            "bounds": [*map(float, bounds)] if bounds is not None else None,
        }
    return {"kind": "vectors", "path": name, "layers": layers}


def _describe_model(path: Path) -> Facts:
    model = stored.read_model(path)
    card = model.card
    details = {"training_pixels", "calibration", "config"}
    plain = card.model_dump(mode="json", exclude={"classes", "scores", "format", *details})
    return {
        "kind": "model",
        "path": str(path),
        "bytes": path.stat().st_size,
        "sha256": stored.sha256(path),
        "parameters": model.parameters,
        "classes": _describe_classes(card.classes),
        "validation_miou": (card.scores or {}).get("miou"),
        "temperature": card.calibration.temperature if card.calibration else None,
        **plain,
        "details": card.model_dump(mode="json", include=details),
    }


def _describe_tileset(folder: Path) -> Facts:
    tileset = load_tileset(folder)
    counts = Counter(tile.split for tile in tileset.tiles)
    return {
        "kind": "tile set",
        "path": str(folder),
        "tiles": {split: counts[split] for split in SPLITS},
        "scenes": len({tile.scene for tile in tileset.tiles}),
        "pixels_are": "in the scenes (--virtual)" if tileset.virtual else "in the folder",
        **tileset.model_dump(
            mode="json",
            include={"size", "overlap", "gsd", "crs", "band_names", "dtype", "has_height"},
        ),
        "classes": _describe_classes(tileset.classes),
        "labelled_pixels": {split: tileset.pixels[split] for split in SPLITS},
        "shared_ground": tileset.shared_ground,
        "details": tileset.model_dump(
            mode="json", include={"height", "optical_statistics", "height_statistics"}
        ),
    }


def _describe_run(folder: Path) -> Facts:
    records = read_history(folder / HISTORY_FILE)
    scored = [record for record in records if record.miou is not None]
    best = max(scored, key=lambda record: record.miou or 0, default=None)
    return {
        "kind": "training run",
        "path": str(folder),
        "epochs": records[-1].epoch if records else 0,
        "steps": records[-1].step if records else 0,
        "best_epoch": best.epoch if best else None,
        "validation_miou": best.miou if best else None,
        "validation_iou": dict(best.iou) if best else {},
        "seconds": sum(record.seconds or 0 for record in records),
        "has_ended": (folder / "scores.json").exists(),
        "models": sorted(path.name for path in folder.glob("*.safetensors")),
        "details": read_beside(folder / "config"),
    }


def _describe_classes(classes: ClassTable) -> dict[int, str]:
    return {land.id: f"{land.name} {land.color}" for land in classes}
