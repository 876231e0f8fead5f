"""``cafe evaluate`` of many scenes: their pooled scores, and those of each."""

import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from cafe_cli.classes import ClassTable
from cafe_cli.config.schema import Config, LabelSettings
from cafe_cli.errors import ConfigError, GridError, InputError, LabelError
from cafe_cli.evaluation.counting import (
    Compared,
    Comparison,
    CountSettings,
    block_side,
    compare_all,
)
from cafe_cli.evaluation.detail import DetailedScores, describe, describe_difference
from cafe_cli.evaluation.evaluate import check_comparison
from cafe_cli.evaluation.land_cover_map import LandCoverMap, class_table, inspect_map
from cafe_cli.evaluation.left_out import leave_out
from cafe_cli.evaluation.metrics import Scores
from cafe_cli.evaluation.pairing import maps_of_scenes, pair_files, report_missing_maps
from cafe_cli.evaluation.reference import Reference, inspect_reference, scene_reference
from cafe_cli.raster.mosaic_view import covered_share
from cafe_cli.scenes.discovery import find_scenes
from cafe_cli.scenes.inspection import SceneInspection
from cafe_cli.scenes.label_values import ignore_more
from cafe_cli.splits.assign import Split
from cafe_cli.system.batches import Executor, run_in_threads
from cafe_cli.system.threads import ProgressCallback, cores
from cafe_cli.text import list_some
from cafe_cli.tilesets.ground import find_ground
from cafe_cli.tilesets.tile_rasters import inspect_config_scenes

log = logging.getLogger("cafe")

_IDS = LabelSettings()
_PLAIN = CountSettings()


@dataclass(frozen=True)
class PooledMap:
    """The scores of one map, or of the maps of one model, on several scenes.

    Attributes
    ----------
    pooled : DetailedScores
        From the sum of the confusion matrices: every pixel counts alike.
    scenes : dict of DetailedScores
        By scene, the lowest mean IoU first.
    """

    pooled: DetailedScores
    scenes: dict[str, DetailedScores]

    def as_json(self, with_kappa: bool = False) -> dict[str, Any]:
        """Return plain values: those of `pooled`, and ``scenes``, a list in the same order."""
        rows = [{"scene": n, **scores.as_json(with_kappa)} for n, scores in self.scenes.items()]
        return {**self.pooled.as_json(with_kappa), "scenes": rows}


@dataclass(frozen=True)
class PooledScores:
    """The scores of maps on several scenes.

    Attributes
    ----------
    maps : dict of PooledMap
        By the name of the maps, the first first.
    differences : dict
        How much the others score higher than the first, on all scenes together.
    """

    maps: dict[str, PooledMap]
    differences: dict[str, Mapping[str, Any]]

    @property
    def first(self) -> PooledMap:
        """The scores of the first."""
        return next(iter(self.maps.values()))

    @property
    def pooled(self) -> Scores:
        """The pooled scores of the first."""
        return self.first.pooled.scores

    @property
    def scenes(self) -> dict[str, Scores]:
        """The scores of the first by scene, the lowest mean IoU first."""
        return {name: detailed.scores for name, detailed in self.first.scenes.items()}

    def as_json(self, with_kappa: bool = False) -> dict[str, Any]:
        """Return plain values: those of the first, and ``compared``, a list of the others."""
        rows = {name: one.as_json(with_kappa) for name, one in self.maps.items()}
        first, *others = rows
        compared = [
            {"map": name, **rows[name], "difference": self.differences[name]} for name in others
        ]
        return {**rows[first], **({"compared": compared} if compared else {})}


def evaluate_pairs(
    maps: str,
    reference: str,
    *,
    others: Sequence[str] = (),
    classes: ClassTable | None = None,
    labels: LabelSettings = _IDS,
    ignored: Sequence[str] = (),
    settings: CountSettings = _PLAIN,
    crs: str | None = None,
    partial: bool = False,
    progress: ProgressCallback = lambda done, total: None,
    run: Executor = run_in_threads,
) -> PooledScores:
    """Score the maps of a pattern against the references of another, pooled and one by one.

    Parameters
    ----------
    maps, reference : str
        Patterns with ``{placeholders}``, or a folder of maps; see `pair_files`.
    others : sequence of str
        Patterns of maps to compare with the first.
    classes : ClassTable, optional
        Also maps the values of the references to classes; by default the table that is stored in
        the first map.
    labels : LabelSettings
        How the references encode the classes.
    ignored : sequence of str
        Classes whose reference pixels are not scored; they have no part in means.
    settings : CountSettings
        Groups by distance and height, and the blocks of the bootstrap.
    crs : str, optional
        CRS of the rasters that have none.
    partial : bool
        Whether there may be maps without reference and references without map.
    progress : callable
        Called with the number of blocks done and of all.
    run : Executor
        Runs the work on the scenes; by default in this process. It does not change the scores.

    Raises
    ------
    ConfigError
        The patterns do not fit together, or a class that is to be ignored is not in the table.
    InputError
        A map or a reference is missing, or a file is damaged or of the wrong kind.
    GridError, LabelError
        See `cafe_cli.evaluation.evaluate.evaluate`.
    """
    jobs: list[_Job] = []
    pairs = pair_files(maps, reference, partial)
    more = {
        name: {pair.scene: pair.maps for pair in pair_files(name, reference, partial)}
        for name in others
    }
    run.check([path for pair in pairs for path in (*pair.maps, *pair.references)])
    for pair in pairs:
        found = [pair.maps, *_of_scene(pair.scene, more)]
        opened = [inspect_map(paths, crs) for paths in found]
        table = class_table(opened[0], classes or (jobs[0].classes if jobs else None))
        truth = inspect_reference(pair.references, opened[0], table, labels, crs)
        jobs.append(_Job(pair.scene, opened, truth, table))
    return _score(jobs, [maps, *others], labels, ignored, settings, progress, run)


def evaluate_scenes(
    maps: str,
    config: Config,
    *,
    split: Split | None = None,
    ignore: Sequence[int | str] = (),
    others: Sequence[str] = (),
    ignored: Sequence[str] = (),
    settings: CountSettings = _PLAIN,
    partial: bool = False,
    jobs: int | None = None,
    progress: ProgressCallback = lambda done, total: None,
    run: Executor = run_in_threads,
) -> PooledScores:
    """Score maps against the labels of the scenes of a config.

    Labels are read on the grid of the scene, as ``cafe tile`` reads them.

    Parameters
    ----------
    maps : str
        See `maps_of_scenes`.
    config : Config
        Needs ``[scenes]`` with labels and ``[[classes]]``.
    split : {"train", "validation", "test"}, optional
        Score only the ground of this split of the tile set that the config describes. All of its
        scenes need a map then, unless `partial`; otherwise scenes without a map are left out.
    ignore : sequence of int or str
        More label values without a class. They do not change the split.
    others : sequence of str
        Maps to compare with the first, named in the same ways.
    ignored, settings
        See `cafe_cli.evaluation.evaluate.evaluate_in_detail`.
    partial : bool
        Whether scenes of the split may lack their map.
    jobs : int, optional
        Threads that count labels where the split needs that, by default one per core.
    progress : callable
        Called with the number of blocks done and of all.
    run : Executor
        Runs the work on the scenes; by default in this process. It does not change the scores.

    Raises
    ------
    ConfigError
        The config has no scenes, labels or classes, or the split has no ground.
    InputError
        A map is missing, or see `cafe_cli.evaluation.evaluate.evaluate` and
        `cafe_cli.tilesets.plan.plan`.
    """
    flat, scenes = _inspect_scenes(config, run)
    found = maps_of_scenes(maps, config, [scene.files for scene in scenes])
    ground = {} if split is None else find_ground(flat, scenes, split, jobs or cores(), run)
    names = [s.files.id for s in scenes if split is None or s.files.id in ground]
    run.check([path for paths in found.values() for path in paths])
    inspected = {name: inspect_map(paths, config.crs) for name, paths in found.items()}
    inspected = {s.files.id: m for s in scenes if (m := _reaching(inspected, s)) is not None}
    strict = split is not None and not partial
    chosen = report_missing_maps(names, inspected, maps, required=strict)
    labels = ignore_more(config.labels, config.class_table, ignore)
    by_id = {scene.files.id: scene for scene in scenes}
    work = []
    more = {
        other: maps_of_scenes(other, config, [scene.files for scene in scenes]) for other in others
    }
    for name in chosen:
        opened = [inspected[name], *(inspect_map(p, config.crs) for p in _of_scene(name, more))]
        table = class_table(opened[0], config.class_table)
        truth = scene_reference(by_id[name], table, labels, ground.get(name))
        work.append(_Job(name, opened, truth, table))
    return _score(work, [maps, *others], labels, ignored, settings, progress, run)


@dataclass(frozen=True)
class _Job:
    """A scene to score."""

    scene: str
    maps: Sequence[LandCoverMap]
    reference: Reference
    classes: ClassTable


def _inspect_scenes(config: Config, run: Executor) -> tuple[Config, list[SceneInspection]]:
    """Inspect images and labels; return a config without heights, which have no part in scores."""
    if config.scenes is None or config.scenes.labels is None:
        raise ConfigError(
            "without REFERENCE, the config (-c) has to name optical and labels in [scenes]"
        )
    settings = config.scenes.model_copy(update={"elevation": None, "dtm": None})
    flat = config.model_copy(update={"scenes": settings})
    found = find_scenes(settings, config.root)
    run.check([path for files in found for path in files.paths])
    return flat, [*inspect_config_scenes(found, flat, run=run)]


def _reaching(maps: dict[str, LandCoverMap], scene: SceneInspection) -> LandCoverMap | None:
    """Return the map of a scene; None if it is the map of all scenes, but lies elsewhere."""
    map_ = maps.get(scene.files.id)
    if map_ is None:
        return None
    try:
        covered_share(map_.members, scene.files.name, scene.grid)
    except GridError:
        if sum(other.members == map_.members for other in maps.values()) == 1:
            raise
        return None
    return map_


def _of_scene(
    scene: str, maps: Mapping[str, Mapping[str, tuple[str, ...]]]
) -> list[tuple[str, ...]]:
    """Return the maps of a scene to compare with.

    Raises
    ------
    InputError
        One is missing.
    """
    for name, found in maps.items():
        if scene not in found:
            raise InputError(
                f"--compare {name}: there is no map of {scene}; add it, so that all maps are "
                "compared on the same ground"
            )
    return [found[scene] for found in maps.values()]


def _score(
    jobs: Sequence[_Job],
    names: Sequence[str],
    labels: LabelSettings,
    ignored: Sequence[str],
    settings: CountSettings,
    progress: ProgressCallback,
    run: Executor,
) -> PooledScores:
    classes, left_out = leave_out(jobs[0].classes, ignored)
    side = settings.block or round(sum(block_side(job.reference) for job in jobs) / len(jobs))
    settings = replace(settings, ignored=left_out, block=side)
    counted, empty = dict[str, list[Comparison]](), list[str]()
    compared = [Compared(job.maps, job.reference) for job in jobs]
    every = compare_all(compared, classes, labels, settings, progress, run)
    for job, found in zip(jobs, every, strict=True):
        for map_, one in zip(job.maps, found, strict=True):
            class_table(map_, classes)
            check_comparison(one, map_, job.reference, classes, labels)
        if found[0].confusion.counts.any():
            counted[job.scene] = found
        else:
            empty.append(job.scene)
    if not counted:
        raise LabelError("no scene has a labelled pixel: all are nodata or in labels.ignore")
    if empty:
        log.info(
            "%d of %d scenes have no labelled pixel there: %s",
            len(empty), len(jobs), list_some(empty),
        )  # fmt: skip
    by_map = [
        {scene: found[index] for scene, found in counted.items()} for index in range(len(names))
    ]
    return PooledScores(
        {
            name: _pool(scenes, side, classes, settings)
            for name, scenes in zip(names, by_map, strict=True)
        },
        {
            name: describe_difference([*by_map[0].values()], [*scenes.values()], classes)
            for name, scenes in list(zip(names, by_map, strict=True))[1:]
        },
    )


def _pool(
    scenes: Mapping[str, Comparison], side: int, classes: ClassTable, settings: CountSettings
) -> PooledMap:
    rows = {name: describe([one], side, classes, settings) for name, one in scenes.items()}
    pooled = describe([*scenes.values()], side, classes, settings)
    return PooledMap(pooled, dict(_worst_first(rows.items())))


def _worst_first(
    scenes: Iterable[tuple[str, DetailedScores]],
) -> list[tuple[str, DetailedScores]]:
    def rank(row: tuple[str, DetailedScores]) -> tuple[float, str]:
        miou = row[1].scores.miou  # NaN where only classes occur that are not scored
        return (math.inf if math.isnan(miou) else miou), row[0]

    return sorted(scenes, key=rank)
