"""Write and read the rasters of tiles, also of virtual tile sets."""

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Literal, Self
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray

from cafe_cli.classes import NODATA, ClassTable
from cafe_cli.config.load import parse_config
from cafe_cli.config.schema import Config
from cafe_cli.errors import InputError
from cafe_cli.findings import log_warnings
from cafe_cli.raster.grid import Grid
from cafe_cli.raster.output_files import metadata_path
from cafe_cli.raster.reader import open_raster, read_valid, read_window
from cafe_cli.raster.side_files import attribute_table
from cafe_cli.raster.skipped import Skipped
from cafe_cli.raster.value_counts import count_values
from cafe_cli.raster.window import Window
from cafe_cli.raster.writer import write_geotiff
from cafe_cli.scenes.discovery import SceneFiles
from cafe_cli.scenes.inspection import SceneInspection, inspect_scene
from cafe_cli.scenes.scene import Patch, Scene, open_scene
from cafe_cli.scenes.scene_ground import GroundSurface, SceneGround
from cafe_cli.system.atomic_write import translate_os_errors
from cafe_cli.system.batches import Batch, Executor, run_batch, run_in_threads
from cafe_cli.system.open_files import Pool
from cafe_cli.tilesets.tileset import DESCRIPTION, Tile, TileSet, VirtualSource

VOID = -9999.0
"""Nodata value of height tiles."""


def tile_path(folder: Path, tile: Tile, kind: Literal["image", "height", "label"]) -> Path:
    """Return the path of a raster of a tile."""
    return folder / tile.split / kind / f"{tile.name}.tif"


def write_tile(
    folder: Path,
    tile: Tile,
    grid: Grid,
    patch: Patch,
    labels: NDArray[np.uint8],
    classes: ClassTable,
) -> None:
    """Write the rasters of a tile: image, label, and height if any pixel has one."""
    paths = {kind: tile_path(folder, tile, kind) for kind in ("image", "height")}
    for path in paths.values():
        path.parent.mkdir(parents=True, exist_ok=True)
    mask = None if patch.optical_valid.all() else patch.optical_valid
    write_geotiff(paths["image"], patch.optical, grid, mask=mask)
    write_label(folder, tile, grid, labels, classes)
    if patch.height_valid.any():
        heights = np.where(patch.height_valid, patch.heights, np.float32(VOID))
        write_geotiff(paths["height"], heights, grid, nodata=VOID)


def write_label(
    folder: Path, tile: Tile, grid: Grid, labels: NDArray[np.uint8], classes: ClassTable
) -> None:
    """Write the label raster of a tile, and the names, counts and colours of its classes."""
    path = tile_path(folder, tile, "label")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_geotiff(path, labels[None], grid, nodata=NODATA, classes=classes, predictor=1)
    names = metadata_path(path)
    with translate_os_errors(names):
        names.write_text(attribute_table(classes, count_values(labels[None])), encoding="utf-8")


@contextmanager
def moved_into(folder: Path, staging: Path | None) -> Iterator[Path]:
    """Yield a folder to write to, whose files then replace those of `folder`, each at once.

    Two processes may so write the same files at a time, and one of them may be killed. It is a new
    folder in `staging`; if that is None, it is `folder` itself.
    """
    if staging is None:
        yield folder
        return
    own = staging / uuid4().hex
    with translate_os_errors(own):
        own.mkdir()
    yield own
    with translate_os_errors(folder):
        for path in [found for found in own.rglob("*") if found.is_file()]:
            place = folder / path.relative_to(own)
            place.parent.mkdir(parents=True, exist_ok=True)
            path.replace(place)
        shutil.rmtree(own)


def write_ground(folder: Path, scene: str, ground: SceneGround) -> None:
    """Write the ground rasters of a scene: the estimated ground and the floors of its valleys."""
    parts = ground.estimate, ground.floor
    for path, part in zip(_ground_paths(folder, scene), parts, strict=True):
        if part is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_geotiff(path, part.surface[None], part.grid, nodata=np.nan)


def _read_ground(folder: Path, scene: str) -> SceneGround | None:
    """Read what `write_ground` has written; None if there is nothing."""
    found: list[GroundSurface | None] = []
    for path in _ground_paths(folder, scene):
        if not path.exists():
            found.append(None)
            continue
        with open_raster(str(path)) as surface:
            grid = Grid.of(surface)
            found.append(GroundSurface(read_window(surface, grid.extent, [1])[0], grid))
    return SceneGround(*found) if any(found) else None


def read_tile(
    folder: Path, tile: Tile, size: int, planes: int = 1
) -> tuple[Patch, NDArray[np.uint8]]:
    """Read the rasters of a tile: its patch, and its labels (height, width).

    `planes` are those of its heights, see `HeightSettings.planes`.
    """
    window = Window(0, 0, size, size)
    with open_raster(str(tile_path(folder, tile, "image"))) as image:
        bands = range(1, image.count + 1)
        optical = read_window(image, window, bands)
        optical_valid = read_valid(image, window, bands)
    heights = np.full((planes, size, size), VOID, np.float32)
    path = tile_path(folder, tile, "height")
    if path.exists():
        with open_raster(str(path)) as raster:
            heights = read_window(raster, window, range(1, raster.count + 1))
    known = heights[0] != VOID
    patch = Patch(optical, optical_valid, np.where(known, heights, np.float32(0)), known)
    return patch, _read_label(folder, tile, size)


class TileReader:
    """Reads the tiles of a tile set, from its folder or, if it is virtual, from the scenes.

    Scenes are opened on demand and stay open until the reader is closed. A reader belongs to one
    thread; `for_thread` returns another one.
    """

    def __init__(
        self, folder: Path, tileset: TileSet, inspections: "_Inspections | None" = None
    ) -> None:
        self._folder, self._tileset = folder, tileset
        self._inspections = inspections or _Inspections()
        self._scenes = Pool[Scene]()
        self._config: Config | None = None
        if tileset.virtual is not None:
            self._config = parse_config(tileset.virtual.config, str(folder / DESCRIPTION))

    def for_thread(self) -> "TileReader":
        """Return a reader for another thread that shares the inspections of scenes."""
        return TileReader(self._folder, self._tileset, self._inspections)

    def __enter__(self) -> Self:
        """Return the reader."""
        return self

    def __exit__(self, *error: object) -> None:
        """Close the scenes."""
        self.close()

    def close(self) -> None:
        """Close the scenes; call it in the thread that has read them."""
        self._scenes.close()

    def read(self, tile: Tile) -> tuple[Patch, NDArray[np.uint8]]:
        """Read the patch and the labels (height, width) of a tile.

        Raises
        ------
        InputError
            A file is missing, damaged, or changed since the virtual tile set was made.
        """
        size, virtual, config = self._tileset.size, self._tileset.virtual, self._config
        if virtual is None or config is None:
            patch, labels = read_tile(self._folder, tile, size, self._tileset.height.planes)
            _check_tile(self._folder, tile, self._tileset, patch, labels)
            return patch, labels
        scene = self._scenes.get(tile.scene, lambda: self._open(tile.scene, virtual, config))
        window = Window(tile.col, tile.row, size, size)
        patch = scene.read(window)
        if tile_path(self._folder, tile, "label").exists():
            return patch, _read_label(self._folder, tile, size)
        labels = scene.read_labels(window, config.class_table, config.labels).ids
        return patch, np.where(patch.optical_valid, labels, np.uint8(NODATA))

    @contextmanager
    def _open(self, name: str, virtual: VirtualSource, config: Config) -> Iterator[Scene]:
        ground = _read_ground(self._folder, name)
        files = virtual.scenes[name].scene_files(name)
        with open_scene(self._inspections.get(files, config), ground) as scene:
            yield scene


class _Inspections:
    """Inspections of scenes by id, each made once for all threads."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._found: dict[str, SceneInspection] = {}

    def get(self, files: SceneFiles, config: Config) -> SceneInspection:
        """Return the inspection of a scene."""
        with self._lock:
            if files.id not in self._found:
                self._found[files.id] = inspect_config_scene(files, config)
            return self._found[files.id]


def inspect_config_scene(
    files: SceneFiles, config: Config, skipped: Skipped | None = None
) -> SceneInspection:
    """Call `inspect_scene` with the settings of a config, and log its warnings."""
    inspection = _inspect(files, config, skipped)
    log_warnings(inspection.findings)
    return inspection


def inspect_config_scenes(
    files: Sequence[SceneFiles],
    config: Config,
    skipped: Skipped | None = None,
    run: Executor = run_in_threads,
) -> Iterator[SceneInspection]:
    """Yield what `inspect_config_scene` returns of scenes; each has a collector of its own."""
    batch = Batch(nullcontext, partial(_inspect_one, config=config, skipped=skipped), files)
    for _, inspection in run_batch(run, batch):
        if skipped and inspection.skipped:
            skipped.adopt(inspection.skipped)
        log_warnings(inspection.findings)
        yield inspection


def _inspect_one(
    _: None, files: SceneFiles, config: Config, skipped: Skipped | None
) -> SceneInspection:
    return _inspect(files, config, skipped and skipped.on_grid())


def _inspect(files: SceneFiles, config: Config, skipped: Skipped | None) -> SceneInspection:
    return inspect_scene(
        files,
        config.height,
        config.bands,
        labels=config.labels,
        gsd=config.tile.gsd,
        crs=config.crs,
        pixel_size=config.pixel_size,
        optical_nodata=config.optical_nodata,
        skipped=skipped,
    )


def _read_label(folder: Path, tile: Tile, size: int) -> NDArray[np.uint8]:
    with open_raster(str(tile_path(folder, tile, "label"))) as label:
        labels: NDArray[np.uint8] = read_window(label, Window(0, 0, size, size), [1])[0]
    return labels


def _check_tile(
    folder: Path, tile: Tile, tileset: TileSet, patch: Patch, labels: NDArray[np.uint8]
) -> None:
    """Refuse the rasters of a tile that do not fit the description of the tile set."""
    again = "the tile set was changed; cut it again with cafe tile"
    if (bands := len(patch.optical)) != len(tileset.band_names):
        raise InputError(
            f"{tile_path(folder, tile, 'image')} has {bands} bands, {DESCRIPTION} says "
            f"{len(tileset.band_names)}: {again}"
        )
    if (planes := len(patch.heights)) != tileset.height.planes:
        raise InputError(
            f"{tile_path(folder, tile, 'height')} has {planes} bands, {DESCRIPTION} says "
            f"{tileset.height.planes}: {again}"
        )
    wrong = (labels != NODATA) & ((labels < 0) | (labels >= len(tileset.classes)))
    if wrong.any():
        raise InputError(
            f"{tile_path(folder, tile, 'label')} holds the value {labels[wrong][0]}, which is none "
            f"of the {len(tileset.classes)} classes: {again}"
        )


def _ground_paths(folder: Path, scene: str) -> tuple[Path, Path]:
    """Return the paths of the estimated ground of a scene, and of the floors of its valleys."""
    own = folder / "ground"
    return own / f"{scene}.tif", own / "valley_floor" / f"{scene}.tif"


def pixel_counts(labels: NDArray[np.uint8], classes: ClassTable) -> NDArray[np.int64]:
    """Count the pixels per class, and the unlabelled ones last: (K + 1,)."""
    counts = np.bincount(labels.ravel(), minlength=NODATA + 1)
    return np.append(counts[: len(classes)], counts[NODATA]).astype(np.int64)
