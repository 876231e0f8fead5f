"""What a config would cut: its scenes looked at, their labels counted, their ground divided."""

import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from numpy.typing import NDArray

from cafe_cli.classes import NODATA, ClassTable
from cafe_cli.config.schema import Config
from cafe_cli.errors import ConfigError, InputError, LabelError
from cafe_cli.raster.grid import Grid
from cafe_cli.raster.window import Window, blocks
from cafe_cli.scenes.discovery import SceneFiles, find_scenes
from cafe_cli.scenes.inspection import SceneInspection
from cafe_cli.scenes.label_coding import list_unknown
from cafe_cli.scenes.scene import Scene, open_scene
from cafe_cli.splits.assign import Block, divide_into_blocks
from cafe_cli.splits.planner import PlannedTile, Polygons, SplitPlanner
from cafe_cli.system.threads import in_order
from cafe_cli.tilesets.index import meeting
from cafe_cli.tilesets.tile_rasters import inspect_config_scene, pixel_counts

log = logging.getLogger("cafe")

_READ = 512  # pixels along each side of the windows in which labels are counted

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class TilePlan:
    """What would be cut.

    Attributes
    ----------
    sources : list of SceneInspection
    grids : dict
        Grid of each scene, by its id.
    tiles : list of Planned
        Scene by scene, split by split, row by row.
    counts : ndarray of int64, (K,)
        Labelled pixels per class.
    polygons : dict
        Features of ``split.file`` by scene; a tile keeps the labels in those of its split.
    blocks : dict
        Width in pixels of the blocks that the rasters of a scene are stored in.
    bands, dtype
        Of all scenes.
    dropped : int
        Training tiles left out because another scene validates or tests on their ground.
    """

    sources: list[SceneInspection]
    grids: dict[str, Grid]
    tiles: list[PlannedTile]
    counts: NDArray[np.int64]
    polygons: dict[str, Polygons]
    blocks: dict[str, int]
    bands: tuple[str, ...]
    dtype: str
    dropped: int

    def of(self, scene: str) -> list[PlannedTile]:
        """Return the tiles of a scene."""
        return [t for t in self.tiles if t.scene == scene]


@dataclass
class _Looked:
    """What one look at every scene tells."""

    sources: list[SceneInspection] = field(default_factory=list)
    grids: dict[str, Grid] = field(default_factory=dict)
    widths: dict[str, int] = field(default_factory=dict)
    kinds: list[tuple[tuple[str, ...], str]] = field(default_factory=list)
    blocks: list[Block] = field(default_factory=list)
    unknown: "Counter[int | str]" = field(default_factory=Counter)
    first: dict[int | str, str] = field(default_factory=dict)


def plan(config: Config, jobs: int = 1, progress: Progress = lambda done, total: None) -> TilePlan:
    """Look at every scene of a config once, count its labels, and divide the ground.

    Parameters
    ----------
    config : Config
        ``[scenes]`` with labels and ``[[classes]]`` have to be there.
    jobs : int
        Threads.
    progress : callable
        Called with the scenes done and in total.

    Raises
    ------
    ConfigError
        No scenes or classes in the config, scenes in the split that do not exist.
    InputError
        Rasters that do not fit together (see `inspect_scene`), label values without
        a class, a split file that cannot be used.
    """
    if config.scenes is None or config.scenes.labels is None:
        raise ConfigError("[scenes] has to name at least optical and labels")
    classes = config.class_table
    looked = _look(find_scenes(config.scenes, config.root), config, classes, jobs, progress)
    sources = looked.sources
    _report_unknown(looked, config)
    _check_alike(sources, looked)
    names = [s.files.id for s in sources]
    splitter = SplitPlanner(config, looked.grids, looked.blocks)
    tiles = [tile for name in names for tile in splitter.tiles(name)]
    kept = _without_shared(tiles, looked.grids, config.tile.size)
    return TilePlan(
        sources=sources,
        grids=looked.grids,
        tiles=kept,
        counts=np.sum([b.counts for b in looked.blocks], axis=0),
        polygons=splitter.polygons,
        blocks=looked.widths,
        bands=looked.kinds[0][0],
        dtype=looked.kinds[0][1],
        dropped=len(tiles) - len(kept),
    )


def block_side(config: Config) -> int:
    """Return the side in pixels of the blocks that ground is divided into."""
    return max(config.split.block or 2 * config.tile.size, config.tile.size)


def _look(
    scenes: list[SceneFiles], config: Config, classes: ClassTable, jobs: int, progress: Progress
) -> _Looked:
    looked = _Looked()
    for done, files in enumerate(scenes, start=1):
        name, source = files.id, inspect_config_scene(files, config)
        looked.sources.append(source)
        grid = looked.grids[name] = source.grid
        looked.widths[name] = source.block
        looked.kinds.append((source.band_names, source.dtype))
        windows = list(divide_into_blocks(grid.width, grid.height, block_side(config)))
        count = partial(_count, config=config, classes=classes)
        counted = in_order(partial(open_scene, source), count, windows, min(jobs, len(windows)))
        for window, (counts, unknown) in zip(windows, counted, strict=True):
            looked.blocks.append(Block(name, window, counts))
            looked.unknown.update(unknown)
            looked.first |= {value: name for value in unknown if value not in looked.first}
        progress(done, len(scenes))
    return looked


def _count(
    scene: Scene, window: Window, config: Config, classes: ClassTable
) -> "tuple[NDArray[np.int64], Counter[int | str]]":
    """Count the labelled pixels of a window per class, and its values without a class."""
    counts, unknown = np.zeros(len(classes), np.int64), Counter[int | str]()
    for part in blocks(window.width, window.height, _READ):
        here = part.shift(window.col, window.row)
        decoded = scene.read_labels(here, classes, config.labels)
        unknown.update(decoded.unknown_values)
        ids = np.where(scene.read_valid(here), decoded.ids, np.uint8(NODATA))
        counts += pixel_counts(ids, classes)[:-1]
    return counts, unknown


def _report_unknown(looked: _Looked, config: Config) -> None:
    """Refuse values without a class; say how many colours were not exact."""
    unknown = looked.unknown
    if unknown and config.labels.encoding == "ids":
        ((most_frequent, _),) = unknown.most_common(1)
        raise LabelError(
            f"label values without a class: {list_unknown(unknown)}, the first of them in scene "
            f"{looked.first[most_frequent]}; add them to a class with values = [...] "
            "or to labels.ignore"
        )
    if unknown:
        log.warning(
            "%s label pixels had no exact class colour and took the nearest one: %s",
            f"{unknown.total():,}",
            list_unknown(unknown),
        )
    if not any(b.counts.any() for b in looked.blocks):
        raise LabelError("no pixel of any scene has a label; check labels.encoding and the CRS")


def _check_alike(sources: list[SceneInspection], looked: _Looked) -> None:
    """Refuse scenes with other bands or data types than the first; warn of another GSD."""
    first, (names, dtype) = sources[0].files, looked.kinds[0]
    gsd = looked.grids[first.id].gsd
    for source, (own_names, own_dtype) in zip(sources, looked.kinds, strict=True):
        files = source.files
        if (len(own_names), own_dtype) != (len(names), dtype):
            raise InputError(
                f"{files.name} has {len(own_names)} bands of {own_dtype}, {first.name} has "
                f"{len(names)} of {dtype}; choose the same with scenes.bands"
            )
        if abs(looked.grids[files.id].gsd / gsd - 1) > 0.1:
            log.warning(
                "%s has a GSD of %.3g m, %s of %.3g m",
                files.name,
                looked.grids[files.id].gsd,
                first.name,
                gsd,
            )


def _without_shared(
    tiles: list[PlannedTile], grids: dict[str, Grid], size: int
) -> list[PlannedTile]:
    """Leave out training tiles whose ground is held out in another scene that overlaps theirs."""
    pairs = meeting(tiles, grids, size)
    shared = {i for pair in pairs for i in pair if tiles[i].split == "train"}
    if shared:
        log.warning(
            "%d training tiles are left out: other scenes validate or test on their ground",
            len(shared),
        )
    return [tile for i, tile in enumerate(tiles) if i not in shared]
