"""``cafe evaluate`` of many scenes: their pooled scores, and those of each."""

import logging
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from cafe_cli.classes import ClassTable
from cafe_cli.config.schema import Config, LabelSettings
from cafe_cli.errors import ConfigError, GridError, LabelError
from cafe_cli.evaluation.evaluate import check_comparison, compare
from cafe_cli.evaluation.land_cover_map import LandCoverMap, class_table, inspect_map
from cafe_cli.evaluation.metrics import Confusion, Scores, compute_scores
from cafe_cli.evaluation.pairing import maps_of_scenes, pair_files, report_missing_maps
from cafe_cli.evaluation.reference import Reference, inspect_reference, scene_reference
from cafe_cli.raster.mosaic_view import covered_share
from cafe_cli.scenes.discovery import find_scenes
from cafe_cli.scenes.inspection import SceneInspection
from cafe_cli.scenes.label_values import ignore_more
from cafe_cli.splits.assign import Split
from cafe_cli.system.threads import ProgressCallback, cores
from cafe_cli.text import list_some
from cafe_cli.tilesets.ground import find_ground
from cafe_cli.tilesets.tile_rasters import inspect_config_scene

log = logging.getLogger("cafe")

_IDS = LabelSettings()


@dataclass(frozen=True)
class PooledScores:
    """The scores of several scenes.

    Attributes
    ----------
    pooled : Scores
        From the sum of the confusion matrices: every pixel counts alike.
    scenes : dict
        Scores by scene, the lowest mean IoU first.
    """

    pooled: Scores
    scenes: dict[str, Scores]

    def as_json(self) -> dict[str, object]:
        """Return plain values: those of `pooled`, and ``scenes``, a list in the same order."""
        rows = [{"scene": name, **scores.as_json()} for name, scores in self.scenes.items()]
        return {**self.pooled.as_json(), "scenes": rows}


def evaluate_pairs(
    maps: str,
    reference: str,
    *,
    classes: ClassTable | None = None,
    labels: LabelSettings = _IDS,
    crs: str | None = None,
    partial: bool = False,
    progress: ProgressCallback = lambda done, total: None,
) -> PooledScores:
    """Score the maps of a pattern against the references of another; see `pair_files`.

    Other parameters and errors are those of `cafe_cli.evaluation.evaluate.evaluate`.
    """
    jobs: list[_Job] = []
    for pair in pair_files(maps, reference, partial):
        map_ = inspect_map(pair.maps, crs)
        table = class_table(map_, classes or (jobs[0].classes if jobs else None))
        truth = inspect_reference(pair.references, map_, table, labels, crs)
        jobs.append(_Job(pair.scene, map_, truth, table))
    return _score(jobs, labels, progress)


def evaluate_scenes(
    maps: str,
    config: Config,
    *,
    split: Split | None = None,
    ignore: Sequence[int | str] = (),
    partial: bool = False,
    jobs: int | None = None,
    progress: ProgressCallback = lambda done, total: None,
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
    partial : bool
        Whether scenes of the split may lack their map.
    jobs : int, optional
        Threads that count labels where the split needs that, by default one per core.
    progress : callable
        Called with the number of blocks done and of all.

    Raises
    ------
    ConfigError
        The config has no scenes, labels or classes, or the split has no ground.
    InputError
        A map is missing, or see `cafe_cli.evaluation.evaluate.evaluate` and
        `cafe_cli.tilesets.plan.plan`.
    """
    flat, scenes = _inspect_scenes(config)
    found = maps_of_scenes(maps, config, [scene.files for scene in scenes])
    ground = {} if split is None else find_ground(flat, scenes, split, jobs or cores())
    names = [s.files.id for s in scenes if split is None or s.files.id in ground]
    inspected = {name: inspect_map(paths, config.crs) for name, paths in found.items()}
    inspected = {s.files.id: m for s in scenes if (m := _reaching(inspected, s)) is not None}
    strict = split is not None and not partial
    chosen = report_missing_maps(names, inspected, maps, required=strict)
    labels = ignore_more(config.labels, config.class_table, ignore)
    by_id = {scene.files.id: scene for scene in scenes}
    work = []
    for name in chosen:
        table = class_table(inspected[name], config.class_table)
        truth = scene_reference(by_id[name], table, labels, ground.get(name))
        work.append(_Job(name, inspected[name], truth, table))
    return _score(work, labels, progress)


@dataclass(frozen=True)
class _Job:
    """A scene to score."""

    scene: str
    map: LandCoverMap
    reference: Reference
    classes: ClassTable


def _inspect_scenes(config: Config) -> tuple[Config, list[SceneInspection]]:
    """Inspect images and labels; return a config without heights, which have no part in scores."""
    if config.scenes is None or config.scenes.labels is None:
        raise ConfigError(
            "without REFERENCE, the config (-c) has to name optical and labels in [scenes]"
        )
    settings = config.scenes.model_copy(update={"elevation": None, "dtm": None})
    flat = config.model_copy(update={"scenes": settings})
    found = find_scenes(settings, config.root)
    return flat, [inspect_config_scene(files, flat) for files in found]


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


def _score(jobs: Sequence[_Job], labels: LabelSettings, progress: ProgressCallback) -> PooledScores:
    total = sum(len(job.reference.windows) for job in jobs)
    classes = jobs[0].classes
    pooled, found, empty = Confusion(len(classes)), dict[str, Scores](), list[str]()
    done = 0
    for job in jobs:

        def advance(blocks: int, _: int, before: int = done) -> None:
            progress(before + blocks, total)

        counted = compare(job.map, job.reference, classes, labels, advance)
        check_comparison(counted, job.map, job.reference, classes, labels)
        done += len(job.reference.windows)
        if counted.confusion.counts.any():
            pooled += counted.confusion
            found[job.scene] = compute_scores(counted.confusion, classes)
        else:
            empty.append(job.scene)
    if not found:
        raise LabelError("no scene has a labelled pixel: all are nodata or in labels.ignore")
    if empty:
        log.info(
            "%d of %d scenes have no labelled pixel there: %s",
            len(empty), len(jobs), list_some(empty),
        )  # fmt: skip
    return PooledScores(compute_scores(pooled, classes), dict(_worst_first(found.items())))


def _worst_first(scenes: Iterable[tuple[str, Scores]]) -> list[tuple[str, Scores]]:
    def rank(row: tuple[str, Scores]) -> tuple[float, str]:
        miou = row[1].miou  # NaN where only classes occur that are not scored
        return (math.inf if math.isnan(miou) else miou), row[0]

    return sorted(scenes, key=rank)
