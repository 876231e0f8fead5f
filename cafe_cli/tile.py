"""``cafe tile``: scenes to a tile set, split by ground."""

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cafe_cli import config as settings_file
from cafe_cli import tiles
from cafe_cli.classes import NODATA, ClassTable
from cafe_cli.config import Config
from cafe_cli.errors import ConfigError, InputError, LabelError, OutputError
from cafe_cli.files import replacing, write_text
from cafe_cli.footprints import shared_ground, write_index
from cafe_cli.grid import Grid, describe_crs
from cafe_cli.heights import Ground
from cafe_cli.pairing import SceneFiles, find_scenes
from cafe_cli.scene import Scene, estimate_scene_ground, open_scene
from cafe_cli.split import Block, choose, divide, scoring_windows, training_windows
from cafe_cli.tiles import SPLITS, Moments, Split, Tile, TileSet
from cafe_cli.windows import Window, blocks

log = logging.getLogger("cafe")

_READ = 1024  # pixels along each side of the windows in which labels are counted
_LISTED = 8  # values named in a message before it says "and more"


def tile(
    config: Config,
    output: Path,
    overwrite: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> TileSet:
    """Cut the scenes of a config into a tile set.

    Parameters
    ----------
    config : Config
        ``[scenes]`` and ``[[classes]]`` have to be there.
    output : Path
        Folder of the tile set; it appears when it is complete.
    overwrite : bool
        Replace a tile set that exists.
    progress : callable
        Called with the tiles done and in total.

    Raises
    ------
    ConfigError
        No scenes or classes in the config, scenes in the split that do not exist.
    InputError
        Rasters that do not fit together (see `cafe_cli.scene.open_scene`), label values without
        a class, no tile left.
    OutputError
        The output exists, holds something else than a tile set, or cannot be written.
    """
    if config.scenes is None or config.scenes.labels is None:
        raise ConfigError("[scenes] has to name at least optical and labels")
    classes = config.class_table
    if output.is_dir() and any(output.iterdir()) and not tiles.is_tileset(output):
        raise OutputError(f"{output} exists and is no tile set; it will not be replaced")
    with replacing(output, overwrite) as folder:
        sources = [
            _Source(files, config, estimate_scene_ground(files, config.height))
            for files in find_scenes(config.scenes, config.root)
        ]
        plan = _plan(sources, config, classes)
        folder.mkdir()
        tileset = _cut(plan, config, classes, folder, progress)
        tiles.save(folder, tileset)
        write_text(folder / "config.toml", settings_file.dump(config))
        write_index(folder, tileset, plan.grid_of)
    return tileset


@dataclass(frozen=True)
class _Source:
    """A scene to be opened when it is needed, its ground estimated once."""

    files: SceneFiles
    config: Config
    ground: Ground | None

    def open(self) -> AbstractContextManager[Scene]:
        bands = self.config.scenes.bands if self.config.scenes else None
        return open_scene(self.files, self.config.height, bands, ground=self.ground)


@dataclass
class _Plan:
    """What will be cut: per scene the windows of each split, with the part that is scored."""

    sources: list[_Source]
    grids: list[Grid]
    windows: list[dict[Split, list[tuple[Window, Window]]]]
    bands: tuple[str, ...]
    dtype: str

    @property
    def grid_of(self) -> dict[str, Grid]:
        return {s.files.id: g for s, g in zip(self.sources, self.grids, strict=True)}


def _plan(sources: list[_Source], config: Config, classes: ClassTable) -> _Plan:
    """Look at every scene once, count its labels, and divide the ground."""
    grids: list[Grid] = []
    kinds: list[tuple[tuple[str, ...], str]] = []
    candidates: list[Block] = []
    odd: Counter[int | str] = Counter()
    side = max(config.split.block or 2 * config.tile.size, config.tile.size)
    for source in sources:
        with source.open() as scene:
            grids.append(scene.grid)
            kinds.append((scene.band_names, scene.dtype))
            for window in divide(scene.grid.width, scene.grid.height, side):
                counts = _count(scene, window, config, classes, odd)
                candidates.append(Block(source.files.id, window, counts))
    _report_odd(odd, config, sum(int(b.counts.sum()) for b in candidates))
    _check_alike(sources, grids, kinds)
    held_out = _hold_out(candidates, sources, grids, config)
    windows = [
        _scene_windows(grid, held_out[source.files.id], config)
        for source, grid in zip(sources, grids, strict=True)
    ]
    return _Plan(sources, grids, windows, *kinds[0])


def _count(
    scene: Scene, window: Window, config: Config, classes: ClassTable, odd: "Counter[int | str]"
) -> NDArray[np.int64]:
    counts = np.zeros(len(classes), np.int64)
    for part in blocks(window.width, window.height, _READ):
        here = Window(window.col + part.col, window.row + part.row, part.width, part.height)
        decoded = scene.read_labels(here, classes, config.labels)
        odd.update(decoded.odd)
        counts += tiles.pixel_counts(decoded.ids, classes)[:-1]
    return counts


def _report_odd(odd: "Counter[int | str]", config: Config, labelled: int) -> None:
    """Refuse values without a class; say how many colours were not exact."""
    listed = ", ".join(f"{v} ({n:,} px)" for v, n in odd.most_common(_LISTED))
    more = f" and {len(odd) - _LISTED} more" if len(odd) > _LISTED else ""
    if odd and config.labels.encoding == "ids":
        raise LabelError(
            f"label values without a class: {listed}{more}; add them to a class with "
            "values = [...], or to labels.ignore"
        )
    if odd:
        log.warning(
            "%s label pixels had no exact class colour and took the nearest one: %s%s",
            f"{odd.total():,}",
            listed,
            more,
        )
    if not labelled:
        raise LabelError("no pixel of any scene has a label; check labels.encoding and the CRS")


def _check_alike(
    sources: list[_Source], grids: list[Grid], kinds: list[tuple[tuple[str, ...], str]]
) -> None:
    """Refuse scenes with other bands or data types than the first; warn of another GSD."""
    first = sources[0].files.optical
    for source, grid, (names, dtype) in zip(sources, grids, kinds, strict=True):
        if (len(names), dtype) != (len(kinds[0][0]), kinds[0][1]):
            raise InputError(
                f"{source.files.optical} has {len(names)} bands of {dtype}, {first} has "
                f"{len(kinds[0][0])} of {kinds[0][1]}; choose the same with scenes.bands"
            )
        if abs(grid.gsd / grids[0].gsd - 1) > 0.1:
            log.warning(
                "%s has a GSD of %.3g m, %s of %.3g m",
                source.files.optical,
                grid.gsd,
                first,
                grids[0].gsd,
            )


def _hold_out(
    candidates: list[Block], sources: list[_Source], grids: list[Grid], config: Config
) -> dict[str, dict[Split, list[Window]]]:
    """Return the ground of each scene that does not train."""
    split = config.split
    named: dict[Split, tuple[str, ...]] = {
        "validation": split.validation_scenes,
        "test": split.test_scenes,
    }
    held: dict[str, dict[Split, list[Window]]] = {s.files.id: {} for s in sources}
    extents = {s.files.id: g.extent for s, g in zip(sources, grids, strict=True)}
    for kind, names in named.items():
        for name in names:
            if name not in held:
                raise ConfigError(
                    f"split.{kind}_scenes names {name!r}; the scenes are {', '.join(held)}"
                )
            held[name] = {kind: [extents[name]]}
    free = [b for b in candidates if not held[b.scene]]
    chosen = set() if split.validation_scenes else choose(free, split.validation, split.seed)
    for index in sorted(chosen):
        block = free[index]
        held[block.scene].setdefault("validation", []).append(block.window)
    return held


def _scene_windows(
    grid: Grid, held: dict[Split, list[Window]], config: Config
) -> dict[Split, list[tuple[Window, Window]]]:
    size, buffer = config.tile.size, config.split.buffer
    windows: dict[Split, list[tuple[Window, Window]]] = {
        kind: [pair for block in ground for pair in scoring_windows(block, size)]
        for kind, ground in held.items()
    }
    free = [block.expand(buffer) for ground in held.values() for block in ground]
    training = training_windows(grid.extent, size, config.tile.step, free)
    windows["train"] = [(window, window) for window in training]
    return windows


def _cut(
    plan: _Plan,
    config: Config,
    classes: ClassTable,
    folder: Path,
    progress: Callable[[int, int], None],
) -> TileSet:
    optical, heights = Moments(), Moments()
    counts = {kind: np.zeros(len(classes) + 1, np.int64) for kind in SPLITS}
    kept: list[Tile] = []
    total = sum(len(w) for windows in plan.windows for w in windows.values())
    for done, (scene, window, scored, kind) in enumerate(_visit(plan), start=1):
        patch = scene.read(window)
        labels = scene.read_labels(window, classes, config.labels).ids
        labels = np.where(patch.optical_valid & _inside(scored, window), labels, NODATA)
        tile = _describe(scene, window, kind, float(patch.optical_valid.mean()), labels)
        progress(done, total)
        if not _worth_keeping(tile, config):
            continue
        tiles.write_tile(folder, tile, scene.grid.at(window), patch, labels, classes)
        kept.append(tile)
        counts[kind] += tiles.pixel_counts(labels, classes)
        if kind == "train":
            optical.add(patch.optical, patch.optical_valid)
            heights.add(patch.height[None], patch.height_valid)
    _check_kept(kept, total, config)
    return TileSet(
        **_about(plan, config, classes),
        pixels={
            kind: dict(zip([*classes.names, "unlabelled"], counts[kind].tolist(), strict=True))
            for kind in SPLITS
        },
        optical_statistics=optical.statistics(len(plan.bands)),
        height_statistics=heights.statistics(1),
        shared_ground=shared_ground(kept, plan.grid_of, config.tile.size),
        tiles=tuple(kept),
    )


def _about(plan: _Plan, config: Config, classes: ClassTable) -> dict[str, Any]:
    """Return what is known of the tile set before a tile is cut."""
    return {
        "size": config.tile.size,
        "overlap": config.tile.overlap,
        "band_names": plan.bands,
        "dtype": plan.dtype,
        "gsd": plan.grids[0].gsd,
        "crs": describe_crs(plan.grids[0].crs),
        "has_height": any(s.files.elevation for s in plan.sources),
        "height": config.height,
        "classes": classes.as_json(),
    }


def _visit(plan: _Plan) -> Iterator[tuple[Scene, Window, Window, Split]]:
    for source, windows in zip(plan.sources, plan.windows, strict=True):
        with source.open() as scene:
            for kind in SPLITS:
                for window, scored in windows.get(kind, []):
                    yield scene, window, scored, kind


def _inside(scored: Window, window: Window) -> NDArray[np.bool_]:
    mask = np.zeros((window.height, window.width), bool)
    mask[scored.slices(window)] = True
    return mask


def _describe(
    scene: Scene, window: Window, kind: Split, valid: float, labels: NDArray[np.uint8]
) -> Tile:
    name = f"{scene.files.id}_{window.row:06d}_{window.col:06d}"
    return Tile(
        name=name,
        split=kind,
        scene=scene.files.id,
        row=window.row,
        col=window.col,
        valid=valid,
        labelled=float((labels != NODATA).mean()),
    )


def _worth_keeping(tile: Tile, config: Config) -> bool:
    """Training tiles need their shares; every other labelled tile counts for the scores."""
    if tile.split != "train":
        return tile.labelled > 0
    return tile.valid >= config.tile.min_valid and tile.labelled >= config.tile.min_labelled


def _check_kept(kept: Sequence[Tile], total: int, config: Config) -> None:
    if not any(t.split == "train" for t in kept):
        raise InputError(
            f"none of {total} tiles of {config.tile.size} px is left for training; lower "
            "tile.size, tile.min_labelled, tile.min_valid or split.validation"
        )
    if not any(t.split == "validation" for t in kept):
        log.warning(
            "no tile for validation: the scenes are too small for blocks of %d px; lower "
            "split.block or tile.size, or name split.validation_scenes",
            config.split.block or 2 * config.tile.size,
        )
