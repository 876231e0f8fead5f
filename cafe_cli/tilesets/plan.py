"""Plan a tile set: inspect the scenes, count their labels, and split their ground into tiles."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial

import numpy as np
from numpy.typing import NDArray

from cafe_cli.classes import NODATA, ClassTable
from cafe_cli.config.schema import Config
from cafe_cli.errors import ConfigError, InputError, LabelError
from cafe_cli.findings import log_warnings
from cafe_cli.raster.categories import propose_classes
from cafe_cli.raster.grid import Grid
from cafe_cli.raster.window import Window, blocks
from cafe_cli.scenes.discovery import find_scenes
from cafe_cli.scenes.inspection import SceneInspection
from cafe_cli.scenes.label_coding import (
    MOST_UNKNOWN,
    LabelTally,
    explain_nodata,
    explain_unknown,
    list_values,
)
from cafe_cli.scenes.scene import Scene, open_scene
from cafe_cli.splits.assign import Block, divide_into_blocks
from cafe_cli.splits.planner import PlannedTile, Polygons, SplitPlanner
from cafe_cli.system.threads import ProgressCallback, in_order
from cafe_cli.tilesets.consistency import compare_scenes
from cafe_cli.tilesets.index import overlapping_pairs
from cafe_cli.tilesets.tile_rasters import inspect_config_scene, pixel_counts
from cafe_cli.vector.layers import is_vector

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
    tally : LabelTally
    first_scene : dict
        The first scene with each unknown value.
    """

    blocks: list[Block] = field(default_factory=list)
    tally: LabelTally = field(default_factory=LabelTally)
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
    if not config.classes and (proposal := propose_from_scenes(config)):
        raise ConfigError(f"no classes; the label raster names these for the config: {proposal}")
    classes = config.class_table
    scenes: list[SceneInspection] = []
    counted = _LabelCounts()
    found = find_scenes(config.scenes, config.root)
    for done, files in enumerate(found, start=1):
        scene = inspect_config_scene(files, config)
        scenes.append(scene)
        _count_scene(scene, counted, config, classes, jobs)
        progress(done, len(found))
    _report_labels(counted, config, classes)
    _check_consistency(scenes, config.scenes.ignore_mismatch)
    grids = _grids(scenes)
    planner = SplitPlanner(config, grids, counted.blocks)
    tiles = [tile for name in grids for tile in planner.tiles(name)]
    kept = _drop_shared_training(tiles, grids, config.tile.size)
    counts = np.sum([b.counts for b in counted.blocks], axis=0)
    return TilePlan(scenes, kept, counts, planner.polygons, len(tiles) - len(kept))


def propose_from_scenes(config: Config) -> str:
    """Return ``[[classes]]`` from the first label raster; empty if there is none with names."""
    if config.scenes is None or config.scenes.labels is None:
        return ""
    try:
        first = find_scenes(config.scenes, config.root)[0].labels[0]
        return "" if is_vector(first) else propose_classes(first)
    except InputError:  # told when there are classes: what lacks first is told first
        return ""


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
    for window, (counts, tally) in zip(windows, found, strict=True):
        counted.blocks.append(Block(name, window, counts))
        counted.tally.add(tally)
        for value in tally.unknown:
            counted.first_scene.setdefault(value, name)
        if config.labels.encoding == "ids" and len(counted.tally.unknown) > MOST_UNKNOWN:
            _report_unknown(counted, config, classes)


def _count_block(
    scene: Scene, window: Window, config: Config, classes: ClassTable
) -> tuple[NDArray[np.int64], LabelTally]:
    """Count the labelled pixels of a window per class, and the pixels that need a word."""
    counts, tally = np.zeros(len(classes), np.int64), LabelTally()
    for part in blocks(window.width, window.height, _READ):
        here = part.shift(window.col, window.row)
        decoded = scene.read_labels(here, classes, config.labels)
        tally.add(decoded.tally)
        ids = np.where(scene.read_valid(here), decoded.ids, np.uint8(NODATA))
        counts += pixel_counts(ids, classes)[:-1]
    return counts, tally


def _report_labels(counted: _LabelCounts, config: Config, classes: ClassTable) -> None:
    """Raise an error for labels that cannot train; warn of values that may be meant otherwise."""
    for message in explain_nodata(counted.tally, classes, config.labels):
        log.warning("%s", message)
    _report_unknown(counted, config, classes)
    counts = np.sum([b.counts for b in counted.blocks], axis=0)
    if not counts.any():
        ignored = counted.tally.ignored
        left_out = f"; labels.ignore leaves out {list_values(ignored)}" if ignored else ""
        raise LabelError(
            f"no pixel of any scene has a label{left_out}; check labels.encoding and the CRS"
        )
    check_several_classes(dict(zip(classes.names, counts.tolist(), strict=True)), "the labels")


def _report_unknown(counted: _LabelCounts, config: Config, classes: ClassTable) -> None:
    """Raise an error for values without a class; warn of colours that are not exact."""
    unknown = counted.tally.unknown
    if unknown and config.labels.encoding == "ids":
        ((most_frequent, _),) = unknown.most_common(1)
        raise LabelError(
            f"{explain_unknown(unknown, classes)}; the most frequent is in scene "
            f"{counted.first_scene[most_frequent]}"
        )
    if unknown:
        log.warning(
            "%s label pixels had no exact class colour and took the nearest one: %s",
            f"{unknown.total():,}",
            list_values(unknown),
        )


def check_several_classes(pixels: Mapping[str, int], where: str, remedy: str = "") -> None:
    """Refuse labels that show one class only: there is nothing to tell it from.

    Parameters
    ----------
    pixels : mapping
        Number of labelled pixels per class name.
    where : str
        What was counted, in the plural, for the message.
    remedy : str
        What to do if there are other classes.

    Raises
    ------
    LabelError
    """
    shown = [name for name, count in pixels.items() if count]
    if len(shown) != 1:
        return
    others = [name for name in pixels if name != shown[0]]
    other = others[0] if others else "other"
    advice = (
        remedy
        if remedy and others
        else (
            f"{'' if others else 'add a second class and '}give it the ground without labels "
            f"(labels.unlabelled = {other!r}) or its values (values = [...])"
        )
    )
    raise LabelError(
        f"{where} show one class only, {shown[0]!r}, and nothing to tell it from; {advice}"
    )


def check_training_classes(pixels: Mapping[str, int]) -> None:
    """Refuse training tiles that show one class only; `pixels` as in `check_several_classes`."""
    labelled = {name: count for name, count in pixels.items() if name != "unlabelled"}
    remedy = "lower split.block or tile.size, or change split.seed, so that they show more"
    check_several_classes(labelled, "the training tiles", remedy)


def _check_consistency(scenes: Sequence[SceneInspection], lenient: bool) -> None:
    """Refuse scenes that do not fit together, and warn of doubts."""
    findings = compare_scenes(scenes, lenient)
    if error := next((f.message for f in findings if f.level == "error"), None):
        raise InputError(error)
    log_warnings(findings)


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
