"""What is done with a case in this process: returns, or raises what a user would see as a crash."""

import json
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeAlias

from benchmarks.fuzz.findings import FailedError
from benchmarks.fuzz.seeds import GRID
from cafe_cli.errors import CafeError

Target: TypeAlias = Callable[[bytes], None]

_SUFFIXES = (
    (b"SQLite", "gpkg"), (b"fgb", "fgb"), (b"<OGRVRT", "vrt"), (b"<kml", "kml"),
    (b"<ogr:", "gml"), (b"WKT", "csv"),
)  # fmt: skip


def make(kind: str, folder: Path) -> Target:
    """Return the function that runs a case in `folder`, where the seeds were made."""
    run = {"config": config, "tileset": tileset, "model": model, "vector": vector}[kind](folder)

    def one(data: bytes) -> None:
        try:
            run(data)
        except CafeError as error:
            if "\n" in str(error):
                raise FailedError(f"a message of several lines: {type(error).__name__}") from error

    return one


def config(folder: Path) -> Target:
    from cafe_cli.config.load import dump_config, load_config, parse_assignment

    path = folder / "c.toml"

    def run(data: bytes) -> None:
        path.write_bytes(data)
        with suppress(UnicodeDecodeError, CafeError):
            key, value = parse_assignment(data[:200].decode())
            load_config(None, {key: value})
        read = load_config(path)
        path.write_text(dump_config(read), encoding="utf-8")
        again = load_config(path)
        if dump_config(again) != dump_config(read):
            raise FailedError("a config differs after it was written and read")

    return run


def tileset(folder: Path) -> Target:
    from cafe_cli.tilesets.tile_rasters import TileReader
    from cafe_cli.tilesets.tileset import load_tileset
    from cafe_cli.training import preflight
    from tests.support.engines import settings

    train = settings().train

    def run(data: bytes) -> None:
        virtual = b'"virtual":null' not in data.replace(b" ", b"")
        where = folder / ("virtual" if virtual else "tiles")
        (where / "tileset.json").write_bytes(data)
        read = load_tileset(where)
        preflight.check_tiles(where, read)
        preflight.warnings(where, read, train)
        with TileReader(where, read) as reader:
            for tile in read.tiles[:2]:
                reader.read(tile)

    return run


def model(folder: Path) -> Target:
    from cafe_cli.model import model_file

    tensors = (folder / "tensors").read_bytes()
    path = folder / "m.safetensors"

    def run(data: bytes) -> None:
        path.write_bytes(as_model(data, tensors))
        model_file.load(path)

    return run


def as_model(header: bytes, tensors: bytes) -> bytes:
    """Return a safetensors file; objects in the metadata of the header become texts, as stored."""
    try:
        tree = json.loads(header)
        tree["__metadata__"] = {
            k: v if isinstance(v, str) else json.dumps(v) for k, v in tree["__metadata__"].items()
        }
        header = json.dumps(tree).encode()
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        pass
    return len(header).to_bytes(8, "little") + header + tensors


def vector(folder: Path) -> Target:
    from cafe_cli.config.schema import LabelSettings
    from cafe_cli.scenes.vector_labels import VectorLabels
    from cafe_cli.vector.area_of_interest import Area
    from cafe_cli.vector.layers import find_layer
    from tests.support.rasters import TABLE

    def run(data: bytes) -> None:
        suffix = next((s for mark, s in _SUFFIXES if mark in data[:2000]), "geojson")
        path = folder / f"case.{suffix}"
        for other in folder.glob("case.*"):
            os.remove(other)
        path.write_bytes(data)
        with suppress(CafeError):
            Area.from_file(str(path), GRID)
        layer = find_layer(str(path), None)
        named = LabelSettings(attribute="class" if "class" in layer.columns else None)
        labels = VectorLabels.of([str(path)], GRID, named)
        labels.unknown_values(TABLE, named)
        labels.read(GRID.extent, TABLE, named)

    return run
