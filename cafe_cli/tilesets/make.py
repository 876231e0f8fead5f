"""Make a tile set from the scenes of a config; `tile` is the entry point of ``cafe tile``."""

import logging
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np

from cafe_cli.classes import ClassTable
from cafe_cli.config.choices import OnError
from cafe_cli.config.load import dump_config
from cafe_cli.config.schema import Config
from cafe_cli.errors import InputError, LabelError
from cafe_cli.raster.grid import describe_crs
from cafe_cli.raster.input_files import InputFiles
from cafe_cli.raster.skipped import Skipped, files_of
from cafe_cli.raster.statistics import BandHistogram, RunningMoments
from cafe_cli.redaction import redact_all
from cafe_cli.scenes.discovery import SceneFiles, find_scenes
from cafe_cli.scenes.height_rasters import ground_source
from cafe_cli.scenes.inspection import SceneInspection
from cafe_cli.scenes.scene import Scene, find_scene_ground, needs_ground, open_scene
from cafe_cli.scenes.scene_ground import SceneGround
from cafe_cli.splits.assign import SPLITS
from cafe_cli.splits.planner import PlannedTile
from cafe_cli.system.atomic_write import (
    check_output,
    check_outputs,
    existing_folder,
    remove,
    replace_atomically,
    temporary_path,
    write_text,
)
from cafe_cli.system.batches import Batch, Executor, run_in_threads
from cafe_cli.system.output_group import claim_outputs
from cafe_cli.system.threads import ProgressCallback, cores
from cafe_cli.tilesets.cutting import CutTiles, TileCutter, strips
from cafe_cli.tilesets.index import shared_ground, write_index
from cafe_cli.tilesets.plan import TilePlan, plan
from cafe_cli.tilesets.tile_rasters import moved_into, write_ground
from cafe_cli.tilesets.tileset import (
    Tile,
    TileSet,
    VirtualScene,
    VirtualSource,
    check_replaceable,
    check_storable,
    save_tileset,
)
from cafe_cli.tilesets.verdict import judge_classes, judge_tiles

log = logging.getLogger("cafe")


def tile(
    config: Config,
    output: Path,
    overwrite: bool = False,
    progress: ProgressCallback = lambda done, total: None,
    *,
    virtual: bool = False,
    jobs: int | None = None,
    on_error: OnError = "fail",
    run: Executor = run_in_threads,
) -> TileSet:
    """Cut the scenes of a config into a tile set.

    Parameters
    ----------
    config : Config
        Needs ``[scenes]`` and ``[[classes]]``.
    output : Path
        Folder of the tile set; it appears when it is complete.
    overwrite : bool
        Replace a tile set that exists.
    progress : callable
        Called with the number of tiles done and in total.
    virtual : bool
        Copy no pixels: the tiles are windows into the scenes, which training reads.
    jobs : int, optional
        Threads, by default one per core. Their number does not change the tile set.
    on_error : {"fail", "skip"}
        Where a file cannot be read: raise an error, or leave out the tiles that show it; what was
        skipped is in the tile set.
    run : Executor
        Runs the work on the scenes; by default in threads. It does not change the tile set either.

    Raises
    ------
    ConfigError, InputError
        See `cafe_cli.tilesets.plan.plan`; no tile is kept, or a class occurs in no tile.
    OutputError
        The output exists, holds something else than a tile set, or cannot be written.
    """
    check_replaceable(output)
    check_output(output, overwrite)
    jobs = jobs or cores()
    with claim_outputs([output], overwrite), replace_atomically(output, overwrite) as folder:
        files = _input_files(config)
        if virtual:
            check_storable(files)
        run.check(files, existing_folder(output))
        watched = InputFiles.behind(files)
        if virtual and watched.unknown:
            log.info("cannot tell whether %s changes later", watched.unknown[0])
        skipped = Skipped() if on_error == "skip" else None
        planned = plan(config, jobs, skipped=skipped, run=run)
        inputs = input_files([scene.files for scene in planned.scenes], config)
        check_outputs([output], inputs, overwrite)
        _check_plan(planned, config, jobs)
        folder.mkdir()
        with _staging(output, run) as staging:
            place = _Place(folder, staging, virtual)
            tileset = _cut(planned, config, place, jobs, progress, run)
        tileset = tileset.model_copy(update={"skipped": files_of(skipped)})
        _report_left_out(len(planned.tiles) - len(tileset.tiles), tileset)
        watched.check_unchanged()
        save_tileset(folder, tileset)
        write_text(folder / "config.toml", dump_config(config))
        write_index(folder, tileset, planned.grids)
    return tileset


def _report_left_out(count: int, tileset: TileSet) -> None:
    """Say how many tiles show what cannot be read; refuse a tile set without training tiles."""
    if not count:
        return
    if not tileset.of("train"):
        raise InputError(
            "no training tile is left: all of them lie where files cannot be read, such as "
            f"{tileset.skipped[0]}"
        )
    log.warning(
        "%d of %d tiles are left out: they lie where files cannot be read",
        count,
        count + len(tileset.tiles),
    )


def input_files(scenes: Sequence[SceneFiles], config: Config) -> list[str]:
    """Return all files that a tile set is made of, by the names that the config gives them."""
    names = [name for files in scenes for name in files.paths]
    others = [config.labels.table, config.split.file]
    return [*names, *(os.path.join(config.root, name) for name in others if name)]


def _input_files(config: Config) -> list[str]:
    """Return `input_files` before the plan; none if `plan` will refuse."""
    if config.scenes is None or config.scenes.labels is None or not config.classes:
        return []
    return input_files(find_scenes(config.scenes, config.root), config)


@dataclass(frozen=True)
class _Place:
    """Where a tile set is written: its folder, that of incomplete files, and whether it is virtual.

    `staging` is None where nothing is written twice.
    """

    folder: Path
    staging: Path | None
    virtual: bool


@contextmanager
def _staging(output: Path, run: Executor) -> Iterator[Path | None]:
    """Make a folder beside the output for what is not complete; None if nothing is done twice.

    Workers that a killed run has left may still write: its folder is gone, so that they fail.
    """
    if not run.repeats:
        yield None
        return
    folder = temporary_path(output, "parts")
    remove(folder)
    own = folder / uuid4().hex
    own.mkdir(parents=True)
    try:
        yield own
    finally:
        shutil.rmtree(folder, ignore_errors=True)  # workers may still write to it


def _cut(
    planned: TilePlan,
    config: Config,
    place: _Place,
    jobs: int,
    progress: ProgressCallback,
    run: Executor,
) -> TileSet:
    """Cut the tiles, and return the description of the tile set."""
    classes = config.class_table
    optical, heights = BandHistogram(len(planned.bands), planned.dtype), RunningMoments()
    counts = {kind: np.zeros(len(classes) + 1, np.int64) for kind in SPLITS}
    kept: list[Tile] = []
    collectors = {scene.files.id: scene.skipped for scene in planned.scenes}
    done = 0
    batches = _batches(planned, config, place, jobs)
    for strip, cut in chain.from_iterable(run(batches)):
        if cut.skipped and (collector := collectors[strip[0].scene]):
            collector.merge(cut.skipped)
        kept += cut.tiles
        for split, pixels in cut.pixels.items():
            counts[split] += pixels
        for summary in cut.optical:
            optical.add(summary)
        for moments in cut.heights:
            heights.add(moments)
        done += len(strip)
        progress(done, len(planned.tiles))
    return TileSet(
        **_description(planned, config, classes),
        pixels={
            kind: dict(zip([*classes.names, "unlabelled"], counts[kind].tolist(), strict=True))
            for kind in SPLITS
        },
        optical_statistics=optical.statistics(),
        height_statistics=heights.statistics(config.height.planes),
        shared_ground=shared_ground(kept, planned.grids, config.tile.size),
        virtual=_virtual_source(planned, config) if place.virtual else None,
        tiles=tuple(kept),
    )


def _batches(
    planned: TilePlan, config: Config, place: _Place, jobs: int
) -> Iterator[Batch[Scene, list[PlannedTile], CutTiles]]:
    """Yield the strips of each scene to cut, in the order of the plan."""
    for scene in planned.scenes:
        name = scene.files.id
        if not (tiles := planned.of(name)):
            continue
        polygons = planned.polygons.get(name)
        cutter = TileCutter(
            config, config.class_table, polygons, planned.dtype, place.folder, place.virtual,
            place.staging,
        )  # fmt: skip
        yield Batch(
            partial(open_scene, scene),
            cutter.cut,
            list(strips(tiles, scene.block)),
            scene.bound_readers(jobs),
            partial(_prepare_ground, scene, place) if needs_ground(scene) else None,
        )


def _prepare_ground(scene: SceneInspection, place: _Place) -> SceneGround | None:
    """Compute the ground of a scene, which a virtual tile set keeps."""
    ground = find_scene_ground(scene)
    if place.virtual and ground is not None:
        with moved_into(place.folder, place.staging) as folder:
            write_ground(folder, scene.files.id, ground)
    return ground


def _virtual_source(planned: TilePlan, config: Config) -> VirtualSource:
    table = [config.labels.table] if config.labels.table else []
    scenes = {s.files.id: VirtualScene.record(s.files, *table) for s in planned.scenes}
    return VirtualSource(
        scenes=scenes, config=redact_all(config.model_dump(mode="json", exclude_none=True))
    )


def _description(planned: TilePlan, config: Config, classes: ClassTable) -> dict[str, Any]:
    """Return the fields of the description that are known before a tile is cut."""
    first = planned.scenes[0].grid
    return {
        "size": config.tile.size,
        "overlap": config.tile.overlap,
        "band_names": planned.bands,
        "dtype": planned.dtype,
        "gsd": first.gsd,
        "crs": describe_crs(first.crs),
        "has_height": any(s.files.elevation for s in planned.scenes),
        "height": config.height.model_copy(update={"ground": _ground(planned.scenes, config)}),
        "classes": classes,
    }


def _ground(scenes: Sequence[SceneInspection], config: Config) -> str:
    """Return the value of ``height.ground`` that was used, where the config says ``auto``."""
    if config.height.kind == "ndsm":
        return config.height.ground
    return ground_source(config.height, any(s.files.dtm for s in scenes))


def _check_plan(planned: TilePlan, config: Config, jobs: int) -> None:
    """Refuse a plan without training tiles, or that lacks a class; warn of what else it lacks."""
    for kind, findings in (
        (InputError, judge_tiles(planned, config, jobs)),
        (LabelError, judge_classes(planned, config)),
    ):
        for finding in findings:
            if finding.level == "error":
                raise kind(finding.message)
            log.warning("%s", finding.message)
