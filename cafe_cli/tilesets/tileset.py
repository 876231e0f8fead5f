"""A tile set on disk: a folder of GeoTIFF tiles, an index, and ``tileset.json`` that explains it.

::

    tileset.json                        what this module reads
    config.toml                         the settings it was cut with
    index.gpkg                          one polygon per tile
    train|validation|test/
        image|height|label/SCENE_ROW_COL.tif
    cache/                              made by training, see `cafe_cli.tilesets.cache`

A virtual tile set has no tiles but windows into the scenes, which have to stay where they are. It
keeps what cannot be read there: ``ground/SCENE.tif``, the estimated ground, and the labels of tiles
that the split cuts through.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cafe_cli.classes import NODATA, ClassTable, ClassTableField
from cafe_cli.config.load import parse_config
from cafe_cli.config.schema import Config, HeightSettings
from cafe_cli.errors import InputError, OutputError
from cafe_cli.raster.grid import Grid
from cafe_cli.raster.reader import open_raster, read_valid, read_window
from cafe_cli.raster.statistics import Statistics
from cafe_cli.raster.window import Window
from cafe_cli.raster.writer import write_geotiff
from cafe_cli.scenes.discovery import SceneFiles
from cafe_cli.scenes.heights import GroundSurface
from cafe_cli.scenes.inspection import SceneInspection, inspect_scene
from cafe_cli.scenes.scene import Patch, Scene, open_scene
from cafe_cli.splits.assign import Split
from cafe_cli.system.atomic_write import stamps, write_text
from cafe_cli.system.open_files import Pool

VOID = -9999.0
"""Nodata value of height tiles."""

CACHE = "cache"
"""Where `cafe_cli.tilesets.cache` keeps the tiles decoded."""

_INFO = "tileset.json"
_OWN = {_INFO, "config.toml", "index.gpkg", "ground", "train", "validation", "test", CACHE}


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Tile(_Record):
    """One tile: its place in the scene, in pixels, and its share of valid and labelled pixels."""

    name: str
    split: Split
    scene: str
    row: int
    col: int
    valid: float
    labelled: float


class VirtualScene(_Record):
    """The files of a scene, each with its size in bytes and the time it was changed, in ns."""

    optical: tuple[str, ...]
    elevation: tuple[str, ...]
    dtm: tuple[str, ...]
    labels: tuple[str, ...]
    stamps: dict[str, tuple[int, int]]

    @classmethod
    def of(cls, files: SceneFiles, *others: str) -> "VirtualScene":
        """Take down the files as they are now, and others that say what they mean."""
        streams = {k: getattr(files, k) for k in ("optical", "elevation", "dtm", "labels")}
        paths = [*others, *(path for paths in streams.values() for path in paths)]
        return cls(**streams, stamps=stamps(paths))

    def files(self, name: str) -> SceneFiles:
        """Return the files.

        Raises
        ------
        InputError
            One of them is missing or was changed.
        """
        for path, stamp in self.stamps.items():
            if stamps([path]).get(path) != stamp:
                raise InputError(
                    f"{path} was changed or moved after the virtual tile set was made of it; run "
                    "cafe tile again"
                )
        return SceneFiles(name, self.optical, self.elevation, self.dtm, self.labels)


class Virtual(_Record):
    """Where the pixels of a virtual tile set are: the scenes by id, and the config as it was."""

    scenes: dict[str, VirtualScene]
    config: dict[str, Any]


class TileSet(_Record):
    """What is known of a tile set.

    Attributes
    ----------
    gsd : float
        Metres per pixel.
    pixels : dict
        Labelled pixels of each split's tiles by class name, and ``unlabelled``.
    shared_ground : float
        Square metres of ground that tiles of two splits show.
    virtual : Virtual or None
        Where the pixels are, unless they are in the tile set's folder.
    """

    format: Literal["cafe tileset 1"] = "cafe tileset 1"
    size: int = Field(ge=1)
    overlap: int
    band_names: tuple[str, ...]
    dtype: str
    gsd: float
    crs: str
    has_height: bool
    height: HeightSettings
    classes: ClassTableField
    pixels: dict[Split, dict[str, int]]
    optical_statistics: Statistics
    height_statistics: Statistics
    shared_ground: float
    virtual: Virtual | None = None
    tiles: tuple[Tile, ...]

    def of(self, split: Split) -> list[Tile]:
        """Return the tiles of one split."""
        return [t for t in self.tiles if t.split == split]


def load_tileset(folder: Path) -> TileSet:
    """Read the description of a tile set.

    Raises
    ------
    InputError
        There is none, or it is damaged.
    """
    path = folder / _INFO
    try:
        return TileSet.model_validate_json(path.read_bytes())
    except OSError as error:
        raise InputError(f"{folder} is not a tile set: cannot read {path.name} in it") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        reason = first["msg"].removeprefix("Value error, ")
        raise InputError(f"{path} is damaged: {where}: {reason}; run cafe tile") from error


def is_tileset(folder: Path) -> bool:
    """Whether a folder holds a tile set, damaged or not."""
    return (folder / _INFO).exists()


def is_own(folder: Path, path: Path) -> bool:
    """Whether a path belongs to what a tile set keeps in its folder, or would."""
    own, there = folder.resolve(), path.resolve()
    return own in there.parents and there.relative_to(own).parts[0] in _OWN


def check_replaceable(folder: Path) -> None:
    """Refuse an output that is there and is no tile set, or holds more than one.

    Raises
    ------
    OutputError
        The message names what would be lost.
    """
    if not folder.exists():
        return
    if not folder.is_dir():
        raise OutputError(f"{folder} is a file; name a folder, it will not be replaced")
    names = {path.name for path in folder.iterdir()}
    if names and _INFO not in names:
        raise OutputError(f"{folder} exists and is no tile set; it will not be replaced")
    if more := sorted(name for name in names - _OWN if not name.startswith((".", "index.gpkg-"))):
        raise OutputError(
            f"{folder} holds {more[0]} besides a tile set; move it away or name another folder"
        )


def save_tileset(folder: Path, tileset: TileSet) -> None:
    """Write the description of a tile set."""
    write_text(folder / _INFO, tileset.model_dump_json(indent=1))


def tile_path(folder: Path, tile: Tile, kind: Literal["image", "height", "label"]) -> Path:
    """Return where a raster of a tile lies."""
    return folder / tile.split / kind / f"{tile.name}.tif"


def write_tile(
    folder: Path,
    tile: Tile,
    grid: Grid,
    patch: Patch,
    labels: NDArray[np.uint8],
    classes: ClassTable,
) -> None:
    """Write the rasters of a tile: image, height unless no pixel has any, label."""
    paths = {kind: tile_path(folder, tile, kind) for kind in ("image", "height")}
    for path in paths.values():
        path.parent.mkdir(parents=True, exist_ok=True)
    mask = None if patch.optical_valid.all() else patch.optical_valid
    write_geotiff(paths["image"], patch.optical, grid, mask=mask)
    write_label(folder, tile, grid, labels, classes)
    if patch.height_valid.any():
        height = np.where(patch.height_valid, patch.height, np.float32(VOID))
        write_geotiff(paths["height"], height[None], grid, nodata=VOID)


def write_label(
    folder: Path, tile: Tile, grid: Grid, labels: NDArray[np.uint8], classes: ClassTable
) -> None:
    """Write the label raster of a tile."""
    path = tile_path(folder, tile, "label")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_geotiff(path, labels[None], grid, nodata=NODATA, colormap=classes.colormap, predictor=1)


def write_ground(folder: Path, scene: str, ground: GroundSurface) -> None:
    """Keep the ground estimated below a scene."""
    path = _ground_path(folder, scene)
    path.parent.mkdir(exist_ok=True)
    write_geotiff(path, ground.surface[None], ground.grid, nodata=np.nan)


def read_tile(folder: Path, tile: Tile, size: int) -> tuple[Patch, NDArray[np.uint8]]:
    """Read a tile back: what the scene gave, and its labels (height, width)."""
    window = Window(0, 0, size, size)
    with open_raster(str(tile_path(folder, tile, "image"))) as image:
        bands = range(1, image.count + 1)
        optical = read_window(image, window, bands)
        optical_valid = read_valid(image, window, bands)
    height = np.full((size, size), VOID, np.float32)
    path = tile_path(folder, tile, "height")
    if path.exists():
        with open_raster(str(path)) as heights:
            height = read_window(heights, window, [1])[0]
    known = height != VOID
    patch = Patch(optical, optical_valid, np.where(known, height, np.float32(0)), known)
    return patch, _read_label(folder, tile, size)


class TileReader:
    """Reads the tiles of a tile set, wherever their pixels are.

    The scenes of a virtual one are opened when they are needed and stay open, so each thread or
    process needs a reader of its own.
    """

    def __init__(self, folder: Path, tileset: TileSet) -> None:
        self._folder, self._tileset = folder, tileset
        self._scenes = Pool[Scene]()
        self._config: Config | None = None
        if tileset.virtual is not None:
            self._config = parse_config(tileset.virtual.config, str(folder / _INFO))

    def read(self, tile: Tile) -> tuple[Patch, NDArray[np.uint8]]:
        """Read what a tile shows, and its labels (height, width).

        Raises
        ------
        InputError
            A file is missing, damaged, or changed since the virtual tile set was made.
        """
        size, virtual, config = self._tileset.size, self._tileset.virtual, self._config
        if virtual is None or config is None:
            return read_tile(self._folder, tile, size)
        scene = self._scenes.get(tile.scene, lambda: self._open(tile.scene, virtual, config))
        window = Window(tile.col, tile.row, size, size)
        patch = scene.read(window)
        if tile_path(self._folder, tile, "label").exists():
            return patch, _read_label(self._folder, tile, size)
        labels = scene.read_labels(window, config.class_table, config.labels).ids
        return patch, np.where(patch.optical_valid, labels, np.uint8(NODATA))

    @contextmanager
    def _open(self, name: str, virtual: Virtual, config: Config) -> Iterator[Scene]:
        path, ground = _ground_path(self._folder, name), None
        if path.exists():
            with open_raster(str(path)) as surface:
                grid = Grid.of(surface)
                ground = GroundSurface(read_window(surface, grid.extent, [1])[0], grid)
        inspection = inspect_config_scene(virtual.scenes[name].files(name), config)
        with open_scene(inspection, ground) as scene:
            yield scene


def inspect_config_scene(files: SceneFiles, config: Config) -> SceneInspection:
    """Look at a scene as a config says (see `cafe_cli.scenes.inspection.inspect_scene`)."""
    return inspect_scene(files, config.height, config.bands, labels=config.labels, crs=config.crs)


def _read_label(folder: Path, tile: Tile, size: int) -> NDArray[np.uint8]:
    with open_raster(str(tile_path(folder, tile, "label"))) as label:
        labels: NDArray[np.uint8] = read_window(label, Window(0, 0, size, size), [1])[0]
    return labels


def _ground_path(folder: Path, scene: str) -> Path:
    return folder / "ground" / f"{scene}.tif"


def pixel_counts(labels: NDArray[np.uint8], classes: ClassTable) -> NDArray[np.int64]:
    """Count the pixels per class and, last, the unlabelled ones: (K + 1,)."""
    counts = np.bincount(labels.ravel(), minlength=NODATA + 1)
    return np.append(counts[: len(classes)], counts[NODATA]).astype(np.int64)
