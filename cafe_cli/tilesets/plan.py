"""Plan a tile set: inspect the scenes, count their labels, and split their ground into tiles."""

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial

import numpy as np
from numpy.typing import NDArray

from cafe_cli.classes import NODATA, ClassTable
from cafe_cli.config.schema import Config
from cafe_cli.errors import ConfigError, InputError, LabelError
from cafe_cli.raster.grid import Grid
from cafe_cli.raster.window import Window, blocks
from cafe_cli.scenes.discovery import find_scenes
from cafe_cli.scenes.inspection import SceneInspection
from cafe_cli.scenes.label_coding import list_unknown
from cafe_cli.scenes.scene import Scene, open_scene
from cafe_cli.splits.assign import Block, divide_into_blocks
from cafe_cli.splits.planner import PlannedTile, Polygons, SplitPlanner
from cafe_cli.system.threads import ProgressCallback, in_order
from cafe_cli.tilesets.index import overlapping_pairs
from cafe_cli.tilesets.tile_rasters import inspect_config_scene, pixel_counts

log = logging.getLogger("cafe")

_READ = 512  # side in pixels of the windows in which labels are counted


@dataclass(frozen=True)
class TilePlan:
    """The tiles to cut, and the scenes to cut them from.

    Attributes
    ----------
    scenes : list of SceneInspection
        All have the same number of bands, and one data type.
    tiles : list of PlannedTile
        Scene by scene, split by split, row by row.
    counts : ndarray of int64, (K,)
        Labelled pixels per class.
    polygons : dict
        Polygons of ``split.file`` by scene; a tile keeps the labels inside those of its split.
    dropped : int
        Number of training tiles left out because another scene validates or tests there.
    """

    scenes: list[SceneInspection]
    tiles: list[PlannedTile]
    counts: NDArray[np.int64]
    polygons: dict[str, Polygons]
    dropped: int

    @cached_property
    def grids(self) -> dict[str, Grid]:
        """Grid of each scene, by its id."""
        return _grids(self.scenes)

    @property
    def bands(self) -> tuple[str, ...]:
        """Names of the optical bands."""
        return self.scenes[0].band_names

    @property
    def dtype(self) -> str:
        """Data type of the optical bands."""
        return self.scenes[0].dtype

    def of(self, scene: str) -> list[PlannedTile]:
        """Return the tiles of a scene."""
        return [t for t in self.tiles if t.scene == scene]


@dataclass
class _LabelCounts:
    """The labels of all scenes.

    Attributes
    ----------
    blocks : list of Block
        Labelled pixels per class, block by block.
    unknown : Counter
        Number of pixels by value, or colour, without a class.
    first_scene : dict
        The first scene with each of these values.
    """

    blocks: list[Block] = field(default_factory=list)
    unknown: "Counter[int | str]" = field(default_factory=Counter)
    first_scene: dict[int | str, str] = field(default_factory=dict)


def plan(
    config: Config, jobs: int = 1, progress: ProgressCallback = lambda done, total: None
) -> TilePlan:
    """Inspect every scene of a config, count its labels, and plan the tiles of every split.

    Parameters
    ----------
    config : Config
        Needs ``[scenes]`` with labels and ``[[classes]]``.
    jobs : int
        Number of threads.
    progress : callable
        Called with the number of scenes done and in total.

    Raises
    ------
    ConfigError
        The config has no scenes or classes, or the split names scenes that do not exist.
    InputError
        Rasters do not fit together (see `inspect_scene`), label values have no class, or the
        split file cannot be used.
    """
    if config.scenes is None or config.scenes.labels is None:
        raise ConfigError("[scenes] has to name at least optical and labels")
    classes = config.class_table
    scenes: list[SceneInspection] = []
    counted = _LabelCounts()
    found = find_scenes(config.scenes, config.root)
    for done, files in enumerate(found, start=1):
        scene = inspect_config_scene(files, config)
        scenes.append(scene)
        _count_scene(scene, counted, config, classes, jobs)
        progress(done, len(found))
    _report_unknown(counted, config)
    _check_consistency(scenes)
    grids = _grids(scenes)
    planner = SplitPlanner(config, grids, counted.blocks)
    tiles = [tile for name in grids for tile in planner.tiles(name)]
    kept = _drop_shared_training(tiles, grids, config.tile.size)
    counts = np.sum([b.counts for b in counted.blocks], axis=0)
    return TilePlan(scenes, kept, counts, planner.polygons, len(tiles) - len(kept))


def _grids(scenes: Sequence[SceneInspection]) -> dict[str, Grid]:
    return {scene.files.id: scene.grid for scene in scenes}


def block_side(config: Config) -> int:
    """Return the side in pixels of the blocks that are assigned to splits."""
    return max(config.split.block or 2 * config.tile.size, config.tile.size)


def _count_scene(
    scene: SceneInspection, counted: _LabelCounts, config: Config, classes: ClassTable, jobs: int
) -> None:
    """Add the labels of a scene to the counts."""
    name, grid = scene.files.id, scene.grid
    windows = list(divide_into_blocks(grid.width, grid.height, block_side(config)))
    count = partial(_count_block, config=config, classes=classes)
    found = in_order(partial(open_scene, scene), count, windows, min(jobs, len(windows)))
    for window, (counts, unknown) in zip(windows, found, strict=True):
        counted.blocks.append(Block(name, window, counts))
        counted.unknown.update(unknown)
        for value in unknown:
            counted.first_scene.setdefault(value, name)


def _count_block(
    scene: Scene, window: Window, config: Config, classes: ClassTable
) -> "tuple[NDArray[np.int64], Counter[int | str]]":
    """Count the labelled pixels of a window per class, and the pixels of values without a class."""
    counts, unknown = np.zeros(len(classes), np.int64), Counter[int | str]()
    for part in blocks(window.width, window.height, _READ):
        here = part.shift(window.col, window.row)
        decoded = scene.read_labels(here, classes, config.labels)
        unknown.update(decoded.unknown_values)
        ids = np.where(scene.read_valid(here), decoded.ids, np.uint8(NODATA))
        counts += pixel_counts(ids, classes)[:-1]
    return counts, unknown


def _report_unknown(counted: _LabelCounts, config: Config) -> None:
    """Raise an error for values without a class; warn of colours that are not exact."""
    unknown = counted.unknown
    if unknown and config.labels.encoding == "ids":
        ((most_frequent, _),) = unknown.most_common(1)
        raise LabelError(
            f"label values without a class: {list_unknown(unknown)}, the first of them in scene "
            f"{counted.first_scene[most_frequent]}; add them to a class with values = [...] "
            "or to labels.ignore"
        )
    if unknown:
        log.warning(
            "%s label pixels had no exact class colour and took the nearest one: %s",
            f"{unknown.total():,}",
            list_unknown(unknown),
        )
    if not any(b.counts.any() for b in counted.blocks):
        raise LabelError("no pixel of any scene has a label; check labels.encoding and the CRS")


def _check_consistency(scenes: Sequence[SceneInspection]) -> None:
    """Refuse scenes with other bands or data types than the first; warn of another GSD."""
    first = scenes[0]
    for scene in scenes:
        own, other = len(scene.band_names), len(first.band_names)
        if (own, scene.dtype) != (other, first.dtype):
            raise InputError(
                f"{scene.files.name} has {own} bands of {scene.dtype}, {first.files.name} has "
                f"{other} of {first.dtype}; choose the same with scenes.bands"
            )
        if abs(scene.grid.gsd / first.grid.gsd - 1) > 0.1:
            log.warning(
                "%s has a GSD of %.3g m, %s of %.3g m; tile.gsd resamples all scenes to one",
                scene.files.name,
                scene.grid.gsd,
                first.files.name,
                first.grid.gsd,
            )


def _drop_shared_training(
    tiles: list[PlannedTile], grids: dict[str, Grid], size: int
) -> list[PlannedTile]:
    """Leave out training tiles on ground that another scene validates or tests on."""
    pairs = overlapping_pairs(tiles, grids, size)
    shared = {i for pair in pairs for i in pair if tiles[i].split == "train"}
    if shared:
        log.warning(
            "%d training tiles are left out: other scenes validate or test on their ground",
            len(shared),
        )
    return [tile for i, tile in enumerate(tiles) if i not in shared]
