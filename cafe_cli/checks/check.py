"""``cafe check``: check scenes, and plan and estimate the tile set that ``cafe tile`` would cut."""

import logging
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from cafe_cli.checks.scene import diagnose
from cafe_cli.config.schema import Config
from cafe_cli.errors import ConfigError
from cafe_cli.findings import Finding, Report, count_as_said
from cafe_cli.scenes.discovery import SceneFiles, find_scenes
from cafe_cli.scenes.inspection import SceneInspection
from cafe_cli.system.atomic_write import check_outputs, existing_folder
from cafe_cli.system.threads import ProgressCallback, cores
from cafe_cli.text import megabytes
from cafe_cli.tilesets.consistency import compare_scenes
from cafe_cli.tilesets.estimate import Cost, estimate_cutting
from cafe_cli.tilesets.index import shared_ground
from cafe_cli.tilesets.make import input_files
from cafe_cli.tilesets.plan import plan, propose_from_scenes
from cafe_cli.tilesets.tile_rasters import inspect_config_scene
from cafe_cli.tilesets.tileset import check_replaceable
from cafe_cli.tilesets.verdict import judge_classes, judge_tiles

log = logging.getLogger("cafe")


@dataclass(frozen=True)
class PlanFacts:
    """Facts of the tile set that ``cafe tile`` would cut.

    Attributes
    ----------
    labels : dict
        Labelled pixels per class name.
    tiles : dict
        Number of tiles per split, all of which ``cafe tile`` keeps.
    size : int
        Side of a tile in pixels.
    shared_ground : float
        Square metres of ground in tiles of more than one split.
    near_held_out : int
        Number of training tiles left out because they touch ground for validation or test, or its
        buffer.
    thin : int
        Number of tiles left out because they have too few valid or labelled pixels.
    left_out : int
        Number of training tiles on ground that another scene validates or tests on.
    """

    labels: dict[str, int]
    tiles: dict[str, int]
    size: int
    shared_ground: float
    near_held_out: int
    thin: int
    left_out: int

    def as_json(self) -> dict[str, Any]:
        """Return the facts as values that JSON knows."""
        tiles = {
            **self.tiles,
            "size": self.size,
            "shared_ground_m2": round(self.shared_ground, 1),
            "left_out_for_held_out_ground": self.near_held_out,
            "left_out_for_too_few_pixels": self.thin,
            "left_out_for_overlap": self.left_out,
        }
        return {"labels": self.labels, "tiles": tiles}


@dataclass
class CheckFacts:
    """All facts of a check; filled while it runs.

    Attributes
    ----------
    jobs : int
        Number of threads for cutting.
    scenes : dict
        Facts of each scene, as `cafe_cli.checks.facts.SceneFacts.as_json` returns them.
    output : Path or None
    plan : PlanFacts or None
    cost : Cost or None
        None without tiles.
    """

    jobs: int
    scenes: dict[str, dict[str, Any]] = field(default_factory=dict)
    output: Path | None = None
    plan: PlanFacts | None = None
    cost: Cost | None = None

    def as_json(self) -> dict[str, Any]:
        """Return the facts as values that JSON knows."""
        facts: dict[str, Any] = {"scenes": self.scenes}
        if self.output is not None:
            facts["output"] = str(self.output)
        if self.plan is not None:
            facts |= self.plan.as_json()
        if self.cost is not None:
            facts["estimate"] = {**self.cost.as_json(), "jobs": self.jobs}
        return facts


def check(
    config: Config,
    output: Path | None = None,
    overwrite: bool = False,
    progress: ProgressCallback = lambda done, total: None,
    *,
    jobs: int | None = None,
) -> Report:
    """Check the scenes of a config, and the tile set that ``cafe tile`` would cut from them.

    Parameters
    ----------
    config : Config
        Needs ``[scenes]``; without labels and classes no tiles are planned.
    output : Path, optional
        Folder of the tile set.
    overwrite : bool
        Whether an output that exists may be replaced.
    progress : callable
        Called with the number of scenes done and in total.
    jobs : int, optional
        Number of threads for cutting; one per core if None.

    Returns
    -------
    Report
        `Report.ok` is its verdict: True without errors.

    Raises
    ------
    ConfigError
        The config has no ``[scenes]``.
    """
    if config.scenes is None:
        raise ConfigError("[scenes] has to name at least optical (--optical)")
    report, facts = Report("check"), CheckFacts(jobs or cores(), output=output)
    scenes: list[SceneFiles] = []
    with report.capture_errors():
        scenes = find_scenes(config.scenes, config.root)
    for done, files in enumerate(scenes, start=1):
        with _without_warnings():  # the report has findings instead
            scene = diagnose(files, config)
        facts.scenes[files.id] = scene.facts
        report.add(*(replace(finding, scene=files.id) for finding in scene.findings))
        progress(done, len(scenes))
    if output is not None:
        with report.capture_errors(str(output)):
            check_outputs([output], input_files(scenes, config), overwrite)
            check_replaceable(output)
    inspected: list[SceneInspection] = []
    if report.ok:
        with report.capture_errors():
            inspected = [inspect_config_scene(files, config) for files in scenes]
            _check_consistency(report, inspected, config)
    if report.ok and config.scenes.labels is not None and config.classes:
        with report.capture_errors():
            _check_plan(report, facts, config, inspected)
            if output is not None and facts.cost is not None:
                _check_space(report, output, facts.cost)
    if report.ok and not config.classes and (proposal := propose_from_scenes(config)):
        report.add(
            Finding("note", f"the label raster suggests these classes for the config: {proposal}")
        )
    report.facts = facts.as_json()
    return report


def _check_consistency(report: Report, scenes: Sequence[SceneInspection], config: Config) -> None:
    """Compare the scenes with each other."""
    found = compare_scenes(scenes, config.scenes is not None and config.scenes.ignore_mismatch)
    report.add(*found)
    count_as_said(found)


def _check_space(report: Report, output: Path, cost: Cost) -> None:
    free = shutil.disk_usage(existing_folder(output)).free
    if cost.disk > free:
        message = f"about {megabytes(cost.disk)} would be written, {megabytes(free)} are free"
        report.add(Finding("error", message, str(output)))


def _check_plan(
    report: Report, facts: CheckFacts, config: Config, inspected: Sequence[SceneInspection]
) -> None:
    """Plan the tiles, check that every class and split has some, and estimate their cost."""
    planned = plan(config, facts.jobs, inspected=inspected)
    facts.plan = PlanFacts(
        labels=dict(zip(config.class_table.names, planned.counts.tolist(), strict=True)),
        tiles={str(split): number for split, number in planned.number.items()},
        size=config.tile.size,
        shared_ground=shared_ground(planned.tiles, planned.grids, config.tile.size),
        near_held_out=planned.near_held_out,
        thin=sum(planned.thin.values()),
        left_out=planned.shared,
    )
    report.add(*judge_classes(planned, config), *judge_tiles(planned, config, facts.jobs))
    if planned.tiles:
        facts.cost = estimate_cutting(planned, config, facts.jobs)


@contextmanager
def _without_warnings() -> Iterator[None]:
    """Log errors only."""
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(level)
