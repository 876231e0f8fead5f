"""A tile set on disk: a folder of GeoTIFF tiles, an index, and ``tileset.json`` that explains it.

::

    tileset.json                        what this module reads
    config.toml                         the settings it was cut with
    index.gpkg                          one polygon per tile
    train|validation|test/
        image|height|label/SCENE_ROW_COL.tif
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cafe_cli import raster
from cafe_cli.classes import NODATA, ClassTable
from cafe_cli.config import HeightSettings
from cafe_cli.errors import InputError
from cafe_cli.files import write_text
from cafe_cli.grid import Grid
from cafe_cli.scene import Patch
from cafe_cli.windows import Window

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")
VOID = -9999.0
"""Nodata value of height tiles."""

_INFO = "tileset.json"


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Statistics(_Record):
    """Mean and standard deviation of the valid training pixels, per channel."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


@dataclass
class Moments:
    """Running mean and variance per channel, in float64."""

    count: int = 0
    total: NDArray[np.float64] = field(default_factory=lambda: np.zeros(1))
    squares: NDArray[np.float64] = field(default_factory=lambda: np.zeros(1))

    def add(self, values: NDArray[np.generic], valid: NDArray[np.bool_]) -> None:
        """Add the valid pixels of values (channels, height, width)."""
        pixels = values[:, valid].astype(np.float64)
        self.count += pixels.shape[1]
        self.total = self.total + pixels.sum(axis=1)
        self.squares = self.squares + (pixels**2).sum(axis=1)

    def statistics(self, channels: int) -> Statistics:
        """Return mean and standard deviation; 0 and 1 where nothing was added."""
        if not self.count:
            return Statistics(mean=(0.0,) * channels, std=(1.0,) * channels)
        mean = self.total / self.count
        # A constant channel carries nothing: a standard deviation of 1 keeps it finite.
        std = np.sqrt(np.maximum(self.squares / self.count - mean**2, 0))
        std = np.where(std > 1e-6, std, 1.0)
        return Statistics(mean=tuple(mean.tolist()), std=tuple(std.tolist()))


class Tile(_Record):
    """One tile: its place in the scene, in pixels, and its share of valid and labelled pixels."""

    name: str
    split: Split
    scene: str
    row: int
    col: int
    valid: float
    labelled: float


class TileSet(_Record):
    """What is known of a tile set.

    Attributes
    ----------
    gsd : float
        Metres per pixel.
    pixels : dict
        Labelled pixels of each split's tiles by class name, and ``unlabelled``.
    shared_ground : float
        Square metres of ground that both a training tile and a tile of another split show.
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
    classes: list[dict[str, object]]
    pixels: dict[Split, dict[str, int]]
    optical_statistics: Statistics
    height_statistics: Statistics
    shared_ground: float
    tiles: tuple[Tile, ...]

    @property
    def class_table(self) -> ClassTable:
        """The classes."""
        return ClassTable.from_json(self.classes)

    def of(self, split: Split) -> list[Tile]:
        """Return the tiles of one split."""
        return [t for t in self.tiles if t.split == split]


def load(folder: Path) -> TileSet:
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
        raise InputError(f"{path} is damaged: {where}: {first['msg']}; run cafe tile") from error


def is_tileset(folder: Path) -> bool:
    """Whether a folder holds a tile set, damaged or not."""
    return (folder / _INFO).exists()


def save(folder: Path, tileset: TileSet) -> None:
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
    paths = {kind: tile_path(folder, tile, kind) for kind in ("image", "height", "label")}
    for path in paths.values():
        path.parent.mkdir(parents=True, exist_ok=True)
    mask = None if patch.optical_valid.all() else patch.optical_valid
    raster.write_tile(paths["image"], patch.optical, grid, mask=mask)
    raster.write_tile(
        paths["label"], labels[None], grid, nodata=NODATA, colormap=classes.colormap, predictor=1
    )
    if patch.height_valid.any():
        height = np.where(patch.height_valid, patch.height, np.float32(VOID))
        raster.write_tile(paths["height"], height[None], grid, nodata=VOID)


def read_tile(folder: Path, tile: Tile, size: int) -> tuple[Patch, NDArray[np.uint8]]:
    """Read a tile back: what the scene gave, and its labels (height, width)."""
    window = Window(0, 0, size, size)
    with raster.open_raster(str(tile_path(folder, tile, "image"))) as image:
        bands = range(1, image.count + 1)
        optical = raster.read(image, window, bands)
        optical_valid = raster.read_valid(image, window, bands)
    with raster.open_raster(str(tile_path(folder, tile, "label"))) as label:
        labels: NDArray[np.uint8] = raster.read(label, window, [1])[0]
    height = np.full((size, size), VOID, np.float32)
    path = tile_path(folder, tile, "height")
    if path.exists():
        with raster.open_raster(str(path)) as heights:
            height = raster.read(heights, window, [1])[0]
    known = height != VOID
    return Patch(optical, optical_valid, np.where(known, height, np.float32(0)), known), labels


def pixel_counts(labels: NDArray[np.uint8], classes: ClassTable) -> NDArray[np.int64]:
    """Count the pixels per class and, last, the unlabelled ones: (K + 1,)."""
    counts = np.bincount(labels.ravel(), minlength=NODATA + 1)
    return np.append(counts[: len(classes)], counts[NODATA]).astype(np.int64)
