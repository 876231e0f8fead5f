"""Plan a tile set: inspect the scenes, count their labels, and split their ground into tiles."""

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from itertools import compress
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cafe_cli.classes import NODATA, ClassTable
from cafe_cli.config.schema import Config
from cafe_cli.errors import ConfigError, InputError, LabelError
from cafe_cli.findings import log_warnings
from cafe_cli.raster.categories import propose_classes
from cafe_cli.raster.grid import Grid
from cafe_cli.raster.skipped import Skipped
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
from cafe_cli.splits.assign import SPLITS, Block, Split, divide_into_blocks
from cafe_cli.splits.planner import PlannedTile, Polygons, SplitPlanner
from cafe_cli.system.batches import Batch, Executor, run_in_threads
from cafe_cli.system.threads import ProgressCallback
from cafe_cli.tilesets.consistency import compare_scenes
from cafe_cli.tilesets.counts import CellCounter, Counts, TileCounts, enough_pixels
from cafe_cli.tilesets.cutting import own_labels, strips
from cafe_cli.tilesets.index import overlapping_pairs
from cafe_cli.tilesets.tile_rasters import inspect_config_scenes, pixel_counts
from cafe_cli.vector.layers import is_vector

log = logging.getLogger("cafe")

_READ = 512  # side in pixels of the windows in which labels are counted


class _CountedBlock(NamedTuple):
    """The labels of a block: pixels per cell and class, those that need a word, and the unread."""

    counts: Counts
    tally: LabelTally
    skipped: Skipped | None


@dataclass
class LabelCounts:
    """The labels of all scenes.

    Attributes
    ----------
    tiling : tuple of int
        Size and stride of the tiles and side of the blocks, in pixels, that they are counted for.
    blocks : list of Block
        Labelled pixels per class, block by block.
    tiles : dict
        Pixels per class of every tile that a scene may have, by scene.
    tally : LabelTally
    first_scene : dict
        The first scene with each unknown value.
    """

    tiling: tuple[int, int, int]
    blocks: list[Block] = field(default_factory=list)
    tiles: dict[str, TileCounts] = field(default_factory=dict)
    tally: LabelTally = field(default_factory=LabelTally)
    first_scene: dict[int | str, str] = field(default_factory=dict)

    def add(self, scene: str, window: Window, block: _CountedBlock) -> None:
        """Add a block of a scene; its cells go elsewhere."""
        self.blocks.append(Block(scene, window, block.counts.sum(axis=(0, 1))[:-1]))
        self.tally.add(block.tally)
        for value in block.tally.unknown:
            self.first_scene.setdefault(value, scene)


@dataclass(frozen=True)
class TilePlan:
    """The tiles to cut, and the scenes to cut them from.

    Attributes
    ----------
    scenes : list of SceneInspection
        All have the same number of bands, and one data type.
    tiles : list of PlannedTile
        Scene by scene, split by split, row by row.
    pixels : dict
        Pixels of the tiles of each split per class, and the unlabelled ones last: (K + 1,).
    counts : ndarray of int64, (K,)
        Labelled pixels of the scenes per class.
    polygons : dict
        Polygons of ``split.file`` by scene; a tile keeps the labels inside those of its split.
    thin : dict
        Number of tiles of each split left out because they have too few pixels.
    shared : int
        Number of training tiles left out because another scene validates or tests there.
    candidates, near_held_out, promised
        See `cafe_cli.splits.planner.SplitPlanner`.
    labels : LabelCounts
        What it was planned from.
    """

    scenes: list[SceneInspection]
    tiles: list[PlannedTile]
    pixels: dict[Split, Counts]
    counts: Counts
    polygons: dict[str, Polygons]
    thin: dict[Split, int]
    shared: int
    candidates: int
    near_held_out: int
    promised: float
    labels: LabelCounts

    @cached_property
    def grids(self) -> dict[str, Grid]:
        """Grid of each scene, by its id."""
        return _grids(self.scenes)

    @property
    def number(self) -> dict[Split, int]:
        """Number of tiles of each split."""
        found = Counter(tile.split for tile in self.tiles)
        return {split: found[split] for split in SPLITS}

    @property
    def bands(self) -> tuple[str, ...]:
        """Names of the optical bands."""
        return self.scenes[0].band_names

    @property
    def dtype(self) -> str:
        """Data type of the optical bands."""
        return self.scenes[0].dtype

    @cached_property
    def _by_scene(self) -> dict[str, list[PlannedTile]]:
        found: dict[str, list[PlannedTile]] = {}
        for tile in self.tiles:
            found.setdefault(tile.scene, []).append(tile)
        return found

    def of(self, scene: str) -> list[PlannedTile]:
        """Return the tiles of a scene."""
        return self._by_scene.get(scene, [])


def plan(
    config: Config,
    jobs: int = 1,
    progress: ProgressCallback = lambda done, total: None,
    *,
    inspected: Sequence[SceneInspection] | None = None,
    skipped: Skipped | None = None,
    run: Executor = run_in_threads,
) -> TilePlan:
    """Inspect every scene of a config, count its labels, and plan the tiles of every split.

    The tiles have enough valid and labelled pixels, see `enough_pixels`: all of them will be cut.

    Parameters
    ----------
    config : Config
        Needs ``[scenes]`` with labels and ``[[classes]]``.
    jobs : int
        Number of threads.
    progress : callable
        Called with the number of scenes done and in total.
    inspected : sequence of SceneInspection, optional
        The scenes of the config, if they have been inspected and compared with each other already.
    skipped : Skipped, optional
        Collects what cannot be read, which is an error without it.
    run : Executor
        Runs the work on the scenes; by default in threads. It does not change the plan.

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
    files = find_scenes(config.scenes, config.root)
    scenes = list(inspected or inspect_config_scenes(files, config, skipped, run))
    counted = _count_labels(scenes, config, jobs, run, progress)
    _report_labels(counted, config, classes)
    if inspected is None:
        _check_consistency(scenes, config.scenes.ignore_mismatch, run)
    planned = _plan_tiles(scenes, counted, config, jobs, run)
    if planned.shared:
        log.warning(
            "%d training tiles are left out: other scenes validate or test on their ground",
            planned.shared,
        )
    return planned


def replan(planned: TilePlan, config: Config, jobs: int = 1) -> TilePlan:
    """Plan the tiles of the same scenes with other settings of ``[split]`` and ``[tile]``.

    The labels are read again only for tiles or blocks of another size, or another overlap.
    """
    counted = planned.labels
    if _tiling(config) != counted.tiling:
        counted = _count_labels(planned.scenes, config, jobs)
    return _plan_tiles(planned.scenes, counted, config, jobs)


def _plan_tiles(
    scenes: list[SceneInspection],
    counted: LabelCounts,
    config: Config,
    jobs: int,
    run: Executor = run_in_threads,
) -> TilePlan:
    """Split the ground, and plan the tiles that have enough pixels."""
    grids = _grids(scenes)

    def worth(name: str, windows: Sequence[Window]) -> NDArray[np.bool_]:
        pixels = counted.tiles[name].of(windows)
        return enough_pixels("train", *_shares(pixels, pixels, config), config.tile)

    planner = SplitPlanner(config, grids, counted.blocks, worth)
    tiles: list[PlannedTile] = []
    pixels: list[Counts] = []
    thin = dict.fromkeys(SPLITS, 0)
    every = {name: list(planner.tiles(name)) for name in grids}
    drawn = _count_drawn(scenes, every, planner.polygons, config, jobs, run)
    for name, own in every.items():
        valid = counted.tiles[name].of([tile.window for tile in own])
        found = (
            drawn[name] if name in drawn
            else counted.tiles[name].of([tile.scored for tile in own])
        )  # fmt: skip
        shares = _shares(valid, found, config)
        for split in SPLITS:
            here = np.array([tile.split == split for tile in own], bool)
            kept = here & enough_pixels(split, *shares, config.tile)
            thin[split] += int((here & ~kept).sum())
            tiles += compress(own, kept)
            pixels += compress(found, kept)
    apart = _without_shared_training(tiles, grids, config.tile.size)
    rest = [tiles[i] for i in apart]
    return TilePlan(
        scenes=scenes,
        tiles=rest,
        pixels=_sum_by_split(rest, [pixels[i] for i in apart], config),
        counts=np.sum([b.counts for b in counted.blocks], axis=0),
        polygons=planner.polygons,
        thin=thin,
        shared=len(tiles) - len(rest),
        candidates=planner.candidates,
        near_held_out=planner.near_held_out,
        promised=planner.promised,
        labels=counted,
    )


def _count_drawn(
    scenes: Sequence[SceneInspection],
    tiles: Mapping[str, Sequence[PlannedTile]],
    polygons: Mapping[str, Polygons],
    config: Config,
    jobs: int,
    run: Executor,
) -> dict[str, Counts]:
    """Return the pixels of tiles inside the polygons of their split, (N, K + 1), by scene.

    For the scenes whose splits are drawn as polygons, the labels of the tiles are read once more.
    """
    chosen = [scene for scene in scenes if scene.files.id in polygons]
    batches = (
        Batch(
            partial(open_scene, scene),
            partial(_count_strip, polygons=polygons[scene.files.id], config=config),
            list(strips(tiles[scene.files.id], scene.block)),
            scene.bound_readers(jobs),
        )
        for scene in chosen
    )
    kinds = len(config.class_table) + 1
    return {
        scene.files.id: np.array(
            [counts for _, part in found for counts in part], np.int64
        ).reshape(-1, kinds)
        for scene, found in zip(chosen, run(batches), strict=True)
    }


def _count_strip(
    scene: Scene, strip: Sequence[PlannedTile], polygons: Polygons, config: Config
) -> list[Counts]:
    """Count the pixels of tiles inside the polygons of their split."""
    whole, classes = Window.hull([tile.window for tile in strip]), config.class_table
    ids = scene.read_labels(whole, classes, config.labels).ids
    ids = np.where(scene.read_valid(whole), ids, np.uint8(NODATA))
    parts = ((tile, ids[tile.window.slices(whole)]) for tile in strip)
    return [pixel_counts(own_labels(tile, polygons, labels), classes) for tile, labels in parts]


def _shares(
    valid: Counts, own: Counts, config: Config
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the valid and the labelled share of tiles, from their pixels per class (N, K + 1)."""
    area = config.tile.size**2
    return valid.sum(axis=1) / area, own[:, :-1].sum(axis=1) / area


def _sum_by_split(
    tiles: Sequence[PlannedTile], pixels: Sequence[Counts], config: Config
) -> dict[Split, Counts]:
    """Return the pixels of the tiles of each split per class, and the unlabelled ones last."""
    total = {split: np.zeros(len(config.class_table) + 1, np.int64) for split in SPLITS}
    for tile, counts in zip(tiles, pixels, strict=True):
        total[tile.split][:-1] += counts[:-1]
        total[tile.split][-1] += config.tile.size**2 - counts[:-1].sum()
    return total


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


def _tiling(config: Config) -> tuple[int, int, int]:
    return config.tile.size, config.tile.stride, block_side(config)


def block_side(config: Config) -> int:
    """Return the side in pixels of the blocks that are assigned to splits."""
    return max(config.split.block or 2 * config.tile.size, config.tile.size)


def _count_labels(
    scenes: Sequence[SceneInspection],
    config: Config,
    jobs: int,
    run: Executor = run_in_threads,
    progress: ProgressCallback = lambda done, total: None,
) -> LabelCounts:
    """Count the labels of all scenes, block by block."""
    counted, classes = LabelCounts(_tiling(config)), config.class_table
    counters = [
        CellCounter.of(s.grid.width, s.grid.height, counted.tiling, len(classes)) for s in scenes
    ]
    batches = (
        Batch(
            partial(open_scene, scene),
            partial(_count_block, config=config, counter=counter),
            list(divide_into_blocks(scene.grid.width, scene.grid.height, block_side(config))),
            scene.bound_readers(jobs),
        )
        for scene, counter in zip(scenes, counters, strict=True)
    )
    rows = enumerate(zip(scenes, counters, run(batches), strict=True), start=1)
    for done, (scene, counter, found) in rows:
        name, cells = scene.files.id, counter.empty()
        for window, block in found:
            if scene.skipped and block.skipped:
                scene.skipped.merge(block.skipped)
            counter.put(cells, window, block.counts)
            counted.add(name, window, block)
            if config.labels.encoding == "ids" and len(counted.tally.unknown) > MOST_UNKNOWN:
                _report_unknown(counted, config, classes)
        counted.tiles[name] = counter.table(cells)
        progress(done, len(scenes))
    return counted


def _count_block(
    scene: Scene, window: Window, config: Config, counter: CellCounter
) -> _CountedBlock:
    """Count the pixels of a block per cell and class, and the pixels that need a word."""
    classes, counter = config.class_table, counter.within(window)
    counts, tally = counter.empty(), LabelTally()
    for part in blocks(window.width, window.height, _READ):
        here = part.shift(window.col, window.row)
        decoded = scene.read_labels(here, classes, config.labels)
        tally.add(decoded.tally)
        counter.add(counts, here, decoded.ids, scene.read_valid(here))
    return _CountedBlock(counts, tally, scene.inspection.skipped)


def _report_labels(counted: LabelCounts, config: Config, classes: ClassTable) -> None:
    """Raise an error for labels that cannot train; warn of values that may be meant otherwise."""
    for message in explain_nodata(counted.tally, classes, config.labels):
        log.warning("%s", message)
    _report_unknown(counted, config, classes)
    _report_corrections(counted.tally.corrected, config)
    counts = np.sum([b.counts for b in counted.blocks], axis=0)
    if not counts.any():
        ignored = counted.tally.ignored
        left_out = f"; labels.ignore leaves out {list_values(ignored)}" if ignored else ""
        raise LabelError(
            f"no pixel of any scene has a label{left_out}; check labels.encoding and the CRS"
        )
    check_several_classes(dict(zip(classes.names, counts.tolist(), strict=True)), "the labels")


def _report_corrections(pixels: int, config: Config) -> None:
    """Say how many pixels corrections label; warn if there are corrections, but none of a pixel."""
    if pixels:
        log.info("corrections label %s pixels", f"{pixels:,}")
    elif config.scenes and config.scenes.corrections is not None:
        log.warning(
            "scenes.corrections label no pixel of any scene: check that they lie there, and that "
            "their values belong to classes"
        )


def _report_unknown(counted: LabelCounts, config: Config, classes: ClassTable) -> None:
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
            "%s label pixels had no exact class colour and got the class of the nearest one: %s",
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


def _check_consistency(scenes: Sequence[SceneInspection], lenient: bool, run: Executor) -> None:
    """Refuse scenes that do not fit together, and warn of doubts."""
    findings = compare_scenes(scenes, lenient, run)
    if error := next((f.message for f in findings if f.level == "error"), None):
        raise InputError(error)
    log_warnings(findings)


def _without_shared_training(
    tiles: list[PlannedTile], grids: dict[str, Grid], size: int
) -> list[int]:
    """Return the tiles without training tiles on ground that another scene validates or tests."""
    pairs = overlapping_pairs(tiles, grids, size)
    shared = {i for pair in pairs for i in pair if tiles[i].split == "train"}
    return [i for i in range(len(tiles)) if i not in shared]
