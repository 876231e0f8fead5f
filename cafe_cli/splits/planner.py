"""Plan the split: assign the ground of each scene to splits, and plan its tiles."""

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
from cafe_cli.splits.assign import SPLITS, Block, Split, assign_blocks
from cafe_cli.splits.compact import TrainingTiles, Worth, keep_together
from cafe_cli.splits.polygons import polygon_split
from cafe_cli.splits.table import is_table, parse_splits, read_table
from cafe_cli.splits.tiling import scoring_windows, training_windows
from cafe_cli.vector.features import Features, read_features
from cafe_cli.vector.rasterize import rasterize

log = logging.getLogger("cafe")


@dataclass(frozen=True)
class PlannedTile:
    """A tile to be cut. Labels outside the `scored` part of its window are removed."""

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
    """Polygons in the pixel coordinates of a scene, each with its split."""

    geometries: NDArray[np.object_]
    splits: list[Split | None]

    def of(self, split: Split) -> NDArray[np.object_]:
        """Return the polygons of a split."""
        chosen: NDArray[np.object_] = self.geometries[[s == split for s in self.splits]]
        return chosen

    def cover(self, split: Split, window: Window) -> NDArray[np.bool_]:
        """Return the ground of a split in a window, (height, width).

        It is that of its polygons; where no polygon of training is drawn, all may train.
        """
        drawn = self.of(split)
        if split == "train" and not len(drawn):
            return np.ones((window.height, window.width), bool)
        return rasterize(drawn, [1] * len(drawn), window, fill=0) > 0


class SplitPlanner:
    """Assigns the ground of all scenes to splits, and plans the tiles of each scene.

    A scene that the config names has the split given there, or else that of the split file. The
    ground of all other scenes is assigned block by block, or scene by scene.

    Parameters
    ----------
    config : Config
    grids : dict
        Grid of each scene, by its id.
    blocks : sequence of Block
        The ground of all scenes, with its labels counted.
    worth : callable, optional
        Says which windows of a scene have enough pixels for training: all, by default.

    Attributes
    ----------
    polygons : dict
        Polygons of the split file by scene.
    candidates : int
        Training tiles with enough pixels, if no block were held out.
    near_held_out : int
        How many of them touch a block of validation or test, or the buffer around it.
    promised : float
        How many of them the labels outside these blocks promise: their share.

    Raises
    ------
    ConfigError
        A named scene does not exist, or a fold has no ground.
    InputError
        The split file cannot be used.
    """

    def __init__(
        self,
        config: Config,
        grids: dict[str, Grid],
        blocks: Sequence[Block],
        worth: Worth = lambda name, windows: np.ones(len(windows), bool),
    ) -> None:
        self._config, self._grids, self._worth, names = config, grids, worth, list(grids)
        self.candidates, self.near_held_out, self.promised = 0, 0, 0.0
        self.polygons: dict[str, Polygons] = {}
        scenes = config.scenes
        # The split file of a benchmark names all scenes, even if only some are used.
        self._selected = scenes is not None and bool(scenes.only or scenes.exclude)
        self._whole = self._named_scenes(names)
        if config.split.file:
            self._read_file(Path(config.root, config.split.file), names)
        free = [b for b in blocks if b.scene not in {**self._whole, **self.polygons}]
        self._held_out = self._assign_blocks(free)

    @property
    def given(self) -> set[Split]:
        """Splits that named scenes or the split file have ground for: blocks add none to them."""
        drawn = {s for p in self.polygons.values() for s in p.splits if s is not None}
        return {*self._whole.values(), *drawn}

    def tiles(self, name: str) -> Iterator[PlannedTile]:
        """Plan the tiles of a scene, split by split."""
        grid, size, buffer = self._grids[name], self._config.tile.size, self._config.split.buffer
        stride = self._config.tile.stride
        if polygons := self.polygons.get(name):
            yield from self._polygon_tiles(name, polygons)
            return
        held_out = self._held_out.get(name, {})
        if name in self._whole and self._whole[name] != "train":
            held_out = {self._whole[name]: [grid.extent]}
        kept_free = [block.expand(buffer) for ground in held_out.values() for block in ground]
        for window in training_windows(grid.extent, size, stride, kept_free):
            yield PlannedTile(name, "train", window, window)
        for split in SPLITS[1:]:
            for block in held_out.get(split, []):
                for window, scored in scoring_windows(block, size):
                    yield PlannedTile(name, split, window, scored)

    def _polygon_tiles(self, name: str, polygons: Polygons) -> Iterator[PlannedTile]:
        """Plan the tiles of a scene whose splits are drawn as polygons."""
        size = self._config.tile.size
        found = polygon_split(
            polygons.geometries,
            polygons.splits,
            self._grids[name].extent,
            size,
            self._config.tile.stride,
            self._config.split.buffer,
            only_drawn=any("train" in p.splits for p in self.polygons.values()),
        )
        for split in SPLITS:
            for window, scored in found.windows[split]:
                yield PlannedTile(name, split, window, scored)
        if any(found.lost.values()):
            log.warning(
                "%s: polygons of two splits lie so close that tiles of %d px cannot keep them "
                "apart; pixels left out: %s",
                name,
                size,
                ", ".join(f"{split} {n:,}" for split, n in found.lost.items()),
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

    def _assign_blocks(self, free: list[Block]) -> dict[str, dict[Split, list[Window]]]:
        """Return the blocks for validation and test, by scene."""
        split = self._config.split
        given = self.given
        test = 0.0 if "test" in given else split.test
        if split.folds is None:
            validation = 0.0 if "validation" in given else split.validation
            shares, validating = [1 - test - validation, validation, test], 1
        else:
            # Part 0 takes the blocks without labels, which belong to no fold; folds follow.
            shares = [0.0, *[(1 - test) / split.folds] * split.folds, test]
            validating = 1 + split.fold
        units = _whole_scenes(free, self._grids) if split.unit == "scene" else free
        parts = assign_blocks(units, shares, split.seed)
        tiles = self._training_tiles(units)
        if split.folds is None and split.unit == "block":
            parts = keep_together(units, parts, shares, tiles, split.seed)
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
        self._count_costs(units, np.isin(parts, [validating, len(shares) - 1]), tiles)
        return held

    def _training_tiles(self, units: Sequence[Block]) -> TrainingTiles:
        extents = {name: grid.extent for name, grid in self._grids.items()}
        tile = self._config.tile
        tiling = tile.size, tile.stride
        return TrainingTiles.of(units, extents, tiling, self._config.split.buffer, self._worth)

    def _count_costs(
        self, units: Sequence[Block], held: NDArray[np.bool_], tiles: TrainingTiles
    ) -> None:
        """Count the training tiles that the ground held out costs."""
        labels = np.array([unit.counts.sum() for unit in units], float)
        self.candidates = tiles.total
        self.near_held_out = tiles.total - tiles.left(held)
        self.promised = tiles.total * float(labels[~held].sum() / max(labels.sum(), 1))


def _polygons(found: Features, column: str) -> Polygons:
    source = f"column {column!r} of {found.path}"
    return Polygons(found.geometries, parse_splits(found.values, source))


def _whole_scenes(free: list[Block], grids: dict[str, Grid]) -> list[Block]:
    """Join the blocks of each scene to one."""
    scenes = dict.fromkeys(b.scene for b in free)
    return [
        Block(name, grids[name].extent, np.sum([b.counts for b in free if b.scene == name], axis=0))
        for name in scenes
    ]
