"""The description of a tile set, ``tileset.json``, and the layout of its folder.

::

    tileset.json                        the description
    config.toml                         the settings it was cut with
    index.gpkg                          one polygon per tile
    train|validation|test/
        image|height|label/SCENE_ROW_COL.tif
    cache/                              written by training, see `cafe_cli.tilesets.cache`

The tiles of a virtual tile set are windows into the scenes, whose files have to stay where they
are. Its folder holds only the rasters that the scenes lack: ``ground/SCENE.tif``, the estimated
ground, ``ground/valley_floor/SCENE.tif``, and the labels of tiles that lie in two splits.
"""

import math
import re
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeInt,
    ValidationError,
    model_validator,
)

from cafe_cli.classes import ClassTableField
from cafe_cli.config.schema import HeightSettings
from cafe_cli.config.types import GroundSamplingDistance, Name, PixelType, Share, Window
from cafe_cli.errors import ConfigError, InputError, OutputError
from cafe_cli.raster.input_files import InputFiles, Stamp, restamp
from cafe_cli.raster.skipped import SkippedFile
from cafe_cli.raster.statistics import Statistics
from cafe_cli.redaction import redact
from cafe_cli.scenes.discovery import SceneFiles
from cafe_cli.splits.assign import SPLITS, Split
from cafe_cli.system.atomic_write import (
    is_remote,
    is_temporary,
    refuse_others,
    write_text,
)

CACHE = "cache"
"""Folder in which `cafe_cli.tilesets.cache` keeps the decoded tiles."""

DESCRIPTION = "tileset.json"
"""Name of the file with a tile set's description."""

_TILE = re.compile(r"_\d{6,}_\d{6,}$")  # row and column end the name of a tile

_NAMES = {DESCRIPTION, "config.toml", "index.gpkg", "ground", "train", "validation", "test", CACHE}


def _plain_file_name(name: str) -> str:
    """Refuse a name that would lead out of the folder."""
    if name in (".", "..") or set(name) & set("/\\\0"):
        raise ValueError(f"{name!r} is not a file name within the tile set")
    return name


FileName = Annotated[str, AfterValidator(_plain_file_name)]
Place = Annotated[int, Field(ge=0, le=2**31)]


class _Stored(BaseModel):
    """Base of the models in ``tileset.json``: immutable, and an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Tile(_Stored):
    """A tile: its first pixel in the scene and its shares of valid and of labelled pixels."""

    name: FileName
    split: Split
    scene: FileName
    row: Place
    col: Place
    valid: Share
    labelled: Share


class VirtualScene(_Stored):
    """The files of a scene, with the stamps of all files behind their names."""

    optical: tuple[str, ...]
    elevation: tuple[str, ...]
    dtm: tuple[str, ...]
    labels: tuple[str, ...]
    corrections: tuple[str, ...] = ()
    stamps: dict[str, Stamp]

    @classmethod
    def record(cls, files: SceneFiles, *others: str) -> "VirtualScene":
        """Record the files of a scene, and `others` that its pixels depend on."""
        names = ("optical", "elevation", "dtm", "labels", "corrections")
        streams = {k: getattr(files, k) for k in names}
        paths = [*others, *(path for paths in streams.values() for path in paths)]
        return cls(**streams, stamps=dict(InputFiles.behind(paths).stamps))

    def check_unchanged(self) -> None:
        """Check that the files have not changed since they were recorded.

        Raises
        ------
        InputError
            A file is missing or was changed.
        """
        now = restamp(self.stamps)
        for path, stamp in self.stamps.items():
            if now.get(path) != stamp and (path in now or not is_remote(path)):
                raise InputError(
                    f"{path} was changed or moved after the virtual tile set was made of it; run "
                    "cafe tile again"
                )

    def scene_files(self, name: str) -> SceneFiles:
        """Return the files of the scene, checked as by `check_unchanged`."""
        self.check_unchanged()
        return SceneFiles(
            name, self.optical, self.elevation, self.dtm, self.labels, self.corrections
        )


class VirtualSource(_Stored):
    """The source of a virtual tile set's pixels: its scenes by id, and the config to open them."""

    scenes: dict[str, VirtualScene]
    config: dict[str, Any]


class TileSet(_Stored):
    """The description of a tile set, as ``tileset.json`` holds it.

    Attributes
    ----------
    size, overlap : int
        Side of the tiles and overlap of training tiles, in pixels.
    band_names, dtype
        Those of the optical images.
    height : HeightSettings
        How heights were brought to metres above ground.
    classes : ClassTable
    optical_statistics, height_statistics : Statistics
        Statistics of the training tiles.
    gsd : float
        Metres per pixel.
    pixels : dict
        Labelled pixels of each split's tiles by class name, and ``unlabelled``.
    shared_ground : float
        Square metres of ground that tiles of two splits show.
    virtual : VirtualSource or None
        None if the pixels are in the tile set's own folder.
    skipped : tuple of SkippedFile
        What of the files could not be read when the tiles were cut; none of them shows it.
    """

    format: Literal["cafe tileset 1"] = "cafe tileset 1"
    size: Window
    overlap: NonNegativeInt
    band_names: Annotated[tuple[Name, ...], Field(min_length=1, max_length=4096)]
    dtype: PixelType
    gsd: GroundSamplingDistance
    crs: str
    has_height: bool
    height: HeightSettings
    classes: ClassTableField
    pixels: dict[Split, dict[str, NonNegativeInt]]
    optical_statistics: Statistics
    height_statistics: Statistics
    shared_ground: Annotated[float, Field(ge=0)]
    virtual: VirtualSource | None = None
    skipped: tuple[SkippedFile, ...] = ()
    tiles: tuple[Tile, ...]

    @model_validator(mode="after")
    def _check_parts_fit(self) -> Self:
        channels = {"optical": len(self.band_names), "height": self.height.planes}
        for name, count in channels.items():
            statistics: Statistics = getattr(self, f"{name}_statistics")
            lists = [v for _, v in statistics if v is not None]
            if any(len(v) != count or not all(map(math.isfinite, v)) for v in lists):
                raise ValueError(f"{name}_statistics are not {count} finite number(s) each")
        if missing := [split for split in SPLITS if split not in self.pixels]:
            raise ValueError(f"pixels of {missing[0]} are missing")
        names = {tile.name for tile in self.tiles}
        if len(names) < len(self.tiles):
            raise ValueError(f"{len(self.tiles)} tiles have {len(names)} names")
        if self.virtual and (lost := {t.scene for t in self.tiles} - self.virtual.scenes.keys()):
            raise ValueError(f"the files of scene {min(lost)!r} are missing")
        return self

    def of(self, split: Split) -> list[Tile]:
        """Return the tiles of one split."""
        return [t for t in self.tiles if t.split == split]

    def scenes_of(self, split: Split) -> set[str]:
        """Return the ids of the scenes in which the tiles of one split lie."""
        return {t.scene for t in self.of(split)}


def load_tileset(folder: Path) -> TileSet:
    """Read the description of a tile set.

    Parameters
    ----------
    folder : Path
        As `cafe_cli.tilesets.make.tile` writes it.

    Raises
    ------
    InputError
        There is no tile set, or its description is damaged.
    """
    path = folder / DESCRIPTION
    try:
        return TileSet.model_validate_json(path.read_bytes())
    except OSError as error:
        raise InputError(f"{folder} is not a tile set: cannot read {path.name} in it") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "its parts do not fit"
        reason = first["msg"].removeprefix("Value error, ")
        raise InputError(f"{path} is damaged: {where}: {reason}; run cafe tile") from error


def check_storable(names: Sequence[str]) -> None:
    """Refuse files for a virtual tile set whose names hold what must not be stored.

    Raises
    ------
    ConfigError
        A name holds a password or the query of a URL.
    """
    if hidden := [name for name in names if redact(name) != name]:
        raise ConfigError(
            f"a virtual tile set would store the password or the query of {hidden[0]}: leave out "
            "--virtual, or pass them to GDAL in the environment (GDAL_HTTP_USERPWD, "
            "GDAL_HTTP_HEADER_FILE, s3:// with AWS_...)"
        )


def is_tileset_path(folder: Path, path: Path) -> bool:
    """Whether a path is one that a tile set in `folder` uses or may use."""
    own, there = folder.resolve(), path.resolve()
    return own in there.parents and there.relative_to(own).parts[0] in _NAMES


def check_replaceable(folder: Path) -> None:
    """Refuse to replace a folder that is not a tile set, or that holds other files besides.

    Raises
    ------
    OutputError
        The message names a file that would be lost.
    """
    if not folder.exists():
        return
    if not folder.is_dir():
        raise OutputError(f"{folder} is a file; name a folder, it will not be replaced")
    if any(folder.iterdir()) and not (folder / DESCRIPTION).exists():
        raise OutputError(f"{folder} exists and is not a tile set; it will not be replaced")
    tiles: set[str] | None = None
    with suppress(InputError):  # a damaged tile set may be replaced, too
        tiles = {tile.name for tile in load_tileset(folder).tiles}
    refuse_others(folder, "a tile set", partial(_is_own, tiles))


def _is_own(tiles: set[str] | None, parts: tuple[str, ...]) -> bool:
    """Whether a tile set has a file in its folder, or a program that shows it adds such a file.

    Parameters
    ----------
    tiles : set of str or None
        Names of the tiles; None if they are not known.
    parts : tuple of str
        Path in the folder.
    """
    first, name = parts[0], parts[-1].removesuffix(".aux.xml")
    if is_temporary(first):
        return True
    if len(parts) == 1:
        return name in _NAMES or name == ".cache.lock" or name.startswith("index.gpkg-")
    if first == CACHE:
        return name.endswith((".npy", ".json"))
    stem, suffix = name.removesuffix(".tif"), name.endswith(".tif")
    if first == "ground":
        return suffix
    known = stem in tiles if tiles is not None else _TILE.search(stem) is not None
    return suffix and known and parts[1:-1] in (("image",), ("height",), ("label",))


def save_tileset(folder: Path, tileset: TileSet) -> None:
    """Write the description of a tile set."""
    absent = None if tileset.skipped else {"skipped"}
    write_text(folder / DESCRIPTION, tileset.model_dump_json(indent=1, exclude=absent))
