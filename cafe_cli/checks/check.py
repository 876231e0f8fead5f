"""``cafe check``: what is wrong with scenes, and what would be made of them, without making it."""

import logging
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cafe_cli.checks.scene import diagnose
from cafe_cli.config.schema import Config
from cafe_cli.errors import ConfigError
from cafe_cli.findings import Finding, Report
from cafe_cli.scenes.discovery import SceneFiles, find_scenes
from cafe_cli.splits.assign import SPLITS
from cafe_cli.system.atomic_write import check_output
from cafe_cli.system.threads import cores
from cafe_cli.tilesets.estimate import cutting
from cafe_cli.tilesets.index import shared_ground
from cafe_cli.tilesets.plan import TilePlan, plan
from cafe_cli.tilesets.tileset import check_replaceable

log = logging.getLogger("cafe")


def check(
    config: Config,
    output: Path | None = None,
    overwrite: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
    *,
    jobs: int | None = None,
) -> Report:
    """Look at the scenes of a config, and at what ``cafe tile`` would cut from them.

    Parameters
    ----------
    config : Config
        ``[scenes]`` has to be there; without labels and classes no tiles are planned.
    output : Path, optional
        Where a tile set would be written.
    overwrite : bool
        Whether an output that exists may be replaced.
    progress : callable
        Called with the scenes done and in total.
    jobs : int, optional
        Threads that would cut; as many as there are cores if None.

    Returns
    -------
    Report
        Its verdict is `Report.ok`: no error.

    Raises
    ------
    ConfigError
        The config has no ``[scenes]``.
    """
    if config.scenes is None:
        raise ConfigError("[scenes] has to name at least optical (--optical)")
    report = Report("check")
    scenes: list[SceneFiles] = []
    with report.noting():
        scenes = find_scenes(config.scenes, config.root)
    report.facts["scenes"] = {}
    for done, files in enumerate(scenes, start=1):
        with _quiet():  # what is said there is found here
            own = diagnose(files, config)
        report.facts["scenes"][files.id] = own.facts
        report.add(*own.findings)
        progress(done, len(scenes))
    if output is not None:
        report.facts["output"] = str(output)
        with report.noting(str(output)):
            check_output(output, overwrite)
            check_replaceable(output)
    if report.ok and config.scenes.labels is not None and config.classes:
        with report.noting():
            _plan(report, config, jobs or cores())
            if output is not None:
                _check_space(report, output)
    return report


def _check_space(report: Report, output: Path) -> None:
    free = shutil.disk_usage(output.absolute().parent).free
    if (needed := report.facts.get("estimate", {}).get("disk", 0)) > free:
        message = f"about {needed / 1e6:,.0f} MB would be written, {free / 1e6:,.0f} MB are free"
        report.add(Finding("error", message, str(output)))


def _plan(report: Report, config: Config, jobs: int) -> None:
    """Say what would be cut."""
    planned = plan(config, jobs)
    shared = shared_ground(planned.tiles, planned.grids, config.tile.size)
    names = config.class_table.names
    report.facts["labels"] = dict(zip(names, planned.counts.tolist(), strict=True))
    report.facts["tiles"] = {
        **_tiles(planned),
        "size": config.tile.size,
        "shared_ground_m2": round(shared, 1),
        "left_out_for_overlap": planned.dropped,
    }
    absent = [n for n in names if not report.facts["labels"][n] and n not in config.labels.absent]
    if absent:
        message = f"no scene shows {', '.join(absent)}: check the label values, or labels.absent"
        report.add(Finding("error", message))
    for split in SPLITS[:2]:
        if not report.facts["tiles"][split]:
            message = f"no tile for {split}: lower split.block or tile.size, or name its scenes"
            report.add(Finding("error" if split == "train" else "warning", message))
    if planned.tiles:
        report.facts["estimate"] = {**cutting(planned, config, jobs).as_json(), "jobs": jobs}


def _tiles(planned: TilePlan) -> dict[str, Any]:
    """Count the tiles of each split; what has too few valid or labelled pixels goes later."""
    found = Counter(t.split for t in planned.tiles)
    return {split: found[split] for split in SPLITS}


@contextmanager
def _quiet() -> Iterator[None]:
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(level)
