"""What a config would cut: its scenes looked at, their labels counted, their ground divided."""

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cafe_cli.classes import ClassTable
from cafe_cli.config import Config
from cafe_cli.errors import ConfigError, InputError, LabelError
from cafe_cli.footprints import meeting
from cafe_cli.grid import Grid
from cafe_cli.heights import Ground
from cafe_cli.pairing import SceneFiles, find_scenes
from cafe_cli.parallel import in_order
from cafe_cli.scene import Scene
from cafe_cli.split import SPLITS, Block, Split, assign, divide, scoring_windows, training_windows
from cafe_cli.split_file import is_table, parse_splits, read_table
from cafe_cli.split_polygons import polygon_split
from cafe_cli.tiles import open_config_scene, pixel_counts
from cafe_cli.vectors import Features, read_features
from cafe_cli.windows import Window, blocks

log = logging.getLogger("cafe")

_READ = 512  # pixels along each side of the windows in which labels are counted
_LISTED = 8  # values named in a message before it says "and more"

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Source:
    """A scene to be opened when it is needed, by as many threads as like."""

    files: SceneFiles
    config: Config

    def open(self, ground: Ground | None = None) -> AbstractContextManager[Scene]:
        """Open its rasters; `ground` as in `cafe_cli.scene.open_scene`."""
        return open_config_scene(self.files, self.config, ground)


@dataclass(frozen=True)
class Planned:
    """A tile to be cut. Only the `scored` part of its window keeps its labels."""

    scene: str
    split: Split
    window: Window
    scored: Window

    @property
    def row(self) -> int:
        """First row."""
        return self.window.row

    @property
    def col(self) -> int:
        """First column."""
        return self.window.col


@dataclass(frozen=True)
class Plan:
    """What would be cut.

    Attributes
    ----------
    sources : list of Source
    grids : dict
        Grid of each scene, by its id.
    tiles : list of Planned
        Scene by scene, split by split, row by row.
    counts : dict
        Labelled pixels per class, (K,), of each scene.
    polygons : dict
        Features of ``split.file`` by scene; a tile keeps the labels in those of its split.
    blocks : dict
        Width in pixels of the blocks that the rasters of a scene are stored in.
    bands, dtype
        Of all scenes.
    dropped : int
        Training tiles left out because another scene validates or tests on their ground.
    """

    sources: list[Source]
    grids: dict[str, Grid]
    tiles: list[Planned]
    counts: dict[str, NDArray[np.int64]]
    polygons: dict[str, "Polygons"]
    blocks: dict[str, int]
    bands: tuple[str, ...]
    dtype: str
    dropped: int

    def of(self, scene: str) -> list[Planned]:
        """Return the tiles of a scene."""
        return [t for t in self.tiles if t.scene == scene]


@dataclass(frozen=True)
class Polygons:
    """Polygons of one scene in its pixel coordinates, each with the split it says."""

    geometries: NDArray[np.object_]
    splits: list[Split | None]

    def of(self, split: Split) -> NDArray[np.object_]:
        """Return those of a split."""
        chosen: NDArray[np.object_] = self.geometries[[s == split for s in self.splits]]
        return chosen


@dataclass
class _Looked:
    """What one look at every scene tells."""

    grids: dict[str, Grid] = field(default_factory=dict)
    widths: dict[str, int] = field(default_factory=dict)
    kinds: list[tuple[tuple[str, ...], str]] = field(default_factory=list)
    blocks: list[Block] = field(default_factory=list)
    odd: "Counter[int | str]" = field(default_factory=Counter)

    def counts(self, scene: str, classes: int) -> NDArray[np.int64]:
        """Return the labelled pixels per class of a scene."""
        none = np.zeros(classes, np.int64)
        return sum((b.counts for b in self.blocks if b.scene == scene), none)


def plan(config: Config, jobs: int = 1, progress: Progress = lambda done, total: None) -> Plan:
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
        Rasters that do not fit together (see `cafe_cli.scene.open_scene`), label values without
        a class, a split file that cannot be used.
    """
    if config.scenes is None or config.scenes.labels is None:
        raise ConfigError("[scenes] has to name at least optical and labels")
    classes = config.class_table
    sources = [Source(files, config) for files in find_scenes(config.scenes, config.root)]
    looked = _look(sources, config, classes, jobs, progress)
    _report_odd(looked, config)
    _check_alike(sources, looked)
    names = [s.files.id for s in sources]
    splitter = _Splitter(config, names, looked)
    tiles = [tile for name in names for tile in splitter.tiles(name)]
    kept = _without_shared(tiles, looked.grids, config.tile.size)
    return Plan(
        sources=sources,
        grids=looked.grids,
        tiles=kept,
        counts={name: looked.counts(name, len(classes)) for name in names},
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
    sources: list[Source], config: Config, classes: ClassTable, jobs: int, progress: Progress
) -> _Looked:
    looked = _Looked()
    for done, source in enumerate(sources, start=1):
        name = source.files.id
        with source.open() as scene:
            grid = looked.grids[name] = scene.grid
            looked.widths[name] = scene.block
            looked.kinds.append((scene.band_names, scene.dtype))
        windows = list(divide(grid.width, grid.height, block_side(config)))
        count = partial(_count, config=config, classes=classes)
        counted = in_order(source.open, count, windows, min(jobs, len(windows)))
        for window, (counts, odd) in zip(windows, counted, strict=True):
            looked.blocks.append(Block(name, window, counts))
            looked.odd.update(odd)
        progress(done, len(sources))
    return looked


def _count(
    scene: Scene, window: Window, config: Config, classes: ClassTable
) -> "tuple[NDArray[np.int64], Counter[int | str]]":
    """Count the labelled pixels of a window per class, and its values without a class."""
    counts, odd = np.zeros(len(classes), np.int64), Counter[int | str]()
    for part in blocks(window.width, window.height, _READ):
        here = Window(window.col + part.col, window.row + part.row, part.width, part.height)
        decoded = scene.read_labels(here, classes, config.labels)
        odd.update(decoded.odd)
        counts += pixel_counts(decoded.ids, classes)[:-1]
    return counts, odd


def _report_odd(looked: _Looked, config: Config) -> None:
    """Refuse values without a class; say how many colours were not exact."""
    odd = looked.odd
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
    if not any(b.counts.any() for b in looked.blocks):
        raise LabelError("no pixel of any scene has a label; check labels.encoding and the CRS")


def _check_alike(sources: list[Source], looked: _Looked) -> None:
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


class _Splitter:
    """Says which ground of which scene goes where.

    What names a scene's ground comes first: the scenes of the config, then the split file. The
    ground that nobody names is dealt out in blocks or whole scenes.
    """

    def __init__(self, config: Config, names: Sequence[str], looked: _Looked) -> None:
        self._config, self._grids = config, looked.grids
        self.polygons: dict[str, Polygons] = {}
        scenes = config.scenes
        # Of a benchmark's scenes, some may be used, and its split name all.
        self._selected = scenes is not None and bool(scenes.only or scenes.exclude)
        self._whole = self._named_scenes(names)
        if config.split.file:
            self._read_file(Path(config.root, config.split.file), names)
        free = [b for b in looked.blocks if b.scene not in {**self._whole, **self.polygons}]
        self._held = self._deal(free)

    def tiles(self, name: str) -> Iterator[Planned]:
        """Plan the tiles of a scene, split by split."""
        grid, size, buffer = self._grids[name], self._config.tile.size, self._config.split.buffer
        step = self._config.tile.step
        if polygons := self.polygons.get(name):
            found = polygon_split(
                polygons.geometries,
                polygons.splits,
                grid.extent,
                size,
                step,
                buffer,
                only_drawn=any("train" in p.splits for p in self.polygons.values()),
            )
            for split in SPLITS:
                yield from (Planned(name, split, *pair) for pair in found.windows[split])
            if any(found.lost.values()):
                log.warning(
                    "%s: polygons of two splits lie so close that tiles of %d px cannot keep them "
                    "apart; pixels left out: %s",
                    name,
                    size,
                    ", ".join(f"{split} {n:,}" for split, n in found.lost.items()),
                )
            return
        held = self._held.get(name, {})
        if name in self._whole and self._whole[name] != "train":
            held = {self._whole[name]: [grid.extent]}
        free = [block.expand(buffer) for ground in held.values() for block in ground]
        for window in training_windows(grid.extent, size, step, free):
            yield Planned(name, "train", window, window)
        for split in SPLITS[1:]:
            for block in held.get(split, []):
                yield from (Planned(name, split, *pair) for pair in scoring_windows(block, size))

    def _named_scenes(self, names: Sequence[str]) -> dict[str, Split]:
        split = self._config.split
        named: dict[Split, tuple[str, ...]] = {
            "validation": split.validation_scenes,
            "test": split.test_scenes,
        }
        for kind, given in named.items():
            unknown = [name for name in given if name not in names]
            if unknown and not self._selected:
                raise ConfigError(
                    f"split.{kind}_scenes names {unknown[0]!r}; the scenes are {', '.join(names)}"
                )
        return {name: kind for kind, given in named.items() for name in given if name in names}

    def _read_file(self, path: Path, names: Sequence[str]) -> None:
        column = self._config.split.column
        if is_table(str(path)):
            found = read_table(path, column, names, others=self._selected)
            self._whole = found | self._whole
            return
        for name in names:
            if name not in self._whole:
                drawn = read_features(str(path), self._grids[name], column, required=False)
                if len(drawn.geometries):
                    self.polygons[name] = _polygons(drawn, column)
        if not self.polygons:
            raise InputError(f"split.file {path} has no polygon inside any scene; check its CRS")

    def _deal(self, free: list[Block]) -> dict[str, dict[Split, list[Window]]]:
        """Return the blocks of each scene that do not train."""
        split = self._config.split
        said = {*self._whole.values(), *(s for p in self.polygons.values() for s in p.splits)}
        test = 0.0 if "test" in said else split.test
        if split.folds is None:
            validation = 0.0 if "validation" in said else split.validation
            shares, validating = [1 - test - validation, validation, test], 1
        else:
            # Part 0 keeps the blocks without labels, which are nobody's: the folds follow.
            shares = [0.0, *[(1 - test) / split.folds] * split.folds, test]
            validating = 1 + split.fold
        units = _whole_scenes(free, self._grids) if split.unit == "scene" else free
        held: dict[str, dict[Split, list[Window]]] = {}
        for block, part in zip(units, assign(units, shares, split.seed), strict=True):
            if part == validating or part == len(shares) - 1:
                kind: Split = "validation" if part == validating else "test"
                held.setdefault(block.scene, {}).setdefault(kind, []).append(block.window)
        return held


def _polygons(found: Features, column: str) -> Polygons:
    source = f"column {column!r} of {found.path}"
    return Polygons(found.geometries, parse_splits(found.values, source))


def _whole_scenes(free: list[Block], grids: dict[str, Grid]) -> list[Block]:
    """Return the blocks of each scene as one."""
    scenes = dict.fromkeys(b.scene for b in free)
    return [
        Block(name, grids[name].extent, np.sum([b.counts for b in free if b.scene == name], axis=0))
        for name in scenes
    ]


def _without_shared(tiles: list[Planned], grids: dict[str, Grid], size: int) -> list[Planned]:
    """Leave out training tiles whose ground is held out in another scene that overlaps theirs."""
    pairs = meeting(tiles, grids, size)
    shared = {i for pair in pairs for i in pair if tiles[i].split == "train"}
    if shared:
        log.warning(
            "%d training tiles are left out: other scenes validate or test on their ground",
            len(shared),
        )
    return [tile for i, tile in enumerate(tiles) if i not in shared]
