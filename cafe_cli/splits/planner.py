"""Which ground of which scene trains, validates and tests, and the tiles that makes."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cafe_cli.config.schema import Config
from cafe_cli.errors import ConfigError, InputError
from cafe_cli.raster.grid import Grid
from cafe_cli.raster.window import Window
from cafe_cli.splits.assign import SPLITS, Block, Split, assign
from cafe_cli.splits.polygons import polygon_split
from cafe_cli.splits.table import is_table, parse_splits, read_table
from cafe_cli.splits.tiling import scoring_windows, training_windows
from cafe_cli.vector.features import Features, read_features

log = logging.getLogger("cafe")


@dataclass(frozen=True)
class PlannedTile:
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
class Polygons:
    """Polygons of one scene in its pixel coordinates, each with the split it says."""

    geometries: NDArray[np.object_]
    splits: list[Split | None]

    def of(self, split: Split) -> NDArray[np.object_]:
        """Return those of a split."""
        chosen: NDArray[np.object_] = self.geometries[[s == split for s in self.splits]]
        return chosen


class SplitPlanner:
    """Says which ground of which scene goes where.

    What names a scene's ground comes first: the scenes of the config, then the split file. The
    ground that nobody names is dealt out in blocks or whole scenes.

    Parameters
    ----------
    config : Config
    grids : dict
        Grid of each scene, by its id.
    blocks : sequence of Block
        All that ground in blocks, with its labels counted.

    Raises
    ------
    ConfigError
        Scenes that do not exist, a fold without ground.
    InputError
        A split file that cannot be used.
    """

    def __init__(self, config: Config, grids: dict[str, Grid], blocks: Sequence[Block]) -> None:
        self._config, self._grids, names = config, grids, list(grids)
        self.polygons: dict[str, Polygons] = {}
        scenes = config.scenes
        # Of a benchmark's scenes, some may be used, and its split name all.
        self._selected = scenes is not None and bool(scenes.only or scenes.exclude)
        self._whole = self._named_scenes(names)
        if config.split.file:
            self._read_file(Path(config.root, config.split.file), names)
        free = [b for b in blocks if b.scene not in {**self._whole, **self.polygons}]
        self._held = self._deal(free)

    def tiles(self, name: str) -> Iterator[PlannedTile]:
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
                yield from (PlannedTile(name, split, *pair) for pair in found.windows[split])
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
            yield PlannedTile(name, "train", window, window)
        for split in SPLITS[1:]:
            for block in held.get(split, []):
                yield from (
                    PlannedTile(name, split, *pair) for pair in scoring_windows(block, size)
                )

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
        parts = assign(units, shares, split.seed)
        if split.folds is not None and validating not in parts:
            labelled = sum(bool(unit.counts.any()) for unit in units)
            raise ConfigError(
                f"fold {split.fold} of {split.folds} has no ground: there are {labelled} "
                f"{split.unit}s with labels; lower split.folds or split.block"
            )
        held: dict[str, dict[Split, list[Window]]] = {}
        for block, part in zip(units, parts, strict=True):
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
