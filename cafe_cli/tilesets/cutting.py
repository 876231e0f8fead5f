"""Cut scenes into tiles, strip by strip, so that adjacent tiles read common pixels once."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cafe_cli.classes import NODATA, ClassTable
from cafe_cli.config.schema import Config
from cafe_cli.raster.skipped import Skipped
from cafe_cli.raster.statistics import RunningMoments, condense, summarize
from cafe_cli.raster.window import Window
from cafe_cli.scenes.scene import Patch, Scene
from cafe_cli.splits.assign import Split
from cafe_cli.splits.planner import PlannedTile, Polygons
from cafe_cli.tilesets.tile_rasters import moved_into, pixel_counts, write_label, write_tile
from cafe_cli.tilesets.tileset import Tile

Labels = NDArray[np.uint8]

_TILED, _STRIPED = 2048, 16_384  # widest strip in pixels, for tiled and for striped rasters


@dataclass(frozen=True)
class CutTile:
    """A planned tile after cutting.

    Attributes
    ----------
    tile : Tile
    counts : ndarray of int64, (K + 1,)
        Pixels per class, and unlabelled ones last.
    optical : ndarray or None
        Summary of the bands of a training tile, see `cafe_cli.raster.statistics.summarize`.
    heights : RunningMoments or None
        Those of a training tile.
    """

    tile: Tile
    counts: NDArray[np.int64]
    optical: NDArray[Any] | None = None
    heights: RunningMoments | None = None


@dataclass(frozen=True)
class CutTiles:
    """Tiles after cutting, and what they add to the statistics of their tile set.

    Attributes
    ----------
    tiles : list of Tile
        In the order of the plan.
    pixels : dict
        Pixels per class of each split, and unlabelled ones last: (K + 1,).
    optical : list of ndarray
        Summaries of the bands of the training tiles, see `cafe_cli.raster.statistics.condense`.
    heights : list of RunningMoments
        Those of each training tile: the last bits of their sum depend on the order of adding.
    skipped : Skipped or None
        The collector of the scene, if it has one.
    """

    tiles: list[Tile]
    pixels: dict[Split, NDArray[np.int64]]
    optical: list[NDArray[Any]]
    heights: list[RunningMoments]
    skipped: Skipped | None = None

    @classmethod
    def of(cls, cut: Sequence[CutTile], dtype: str, skipped: Skipped | None) -> "CutTiles":
        """Put tiles together; `dtype` is that of their bands."""
        pixels = dict[Split, NDArray[np.int64]]()
        for one in cut:
            pixels[one.tile.split] = pixels.get(one.tile.split, 0) + one.counts
        optical = [one.optical for one in cut if one.optical is not None]
        heights = [one.heights for one in cut if one.heights is not None]
        return cls([one.tile for one in cut], pixels, condense(optical, dtype), heights, skipped)


def strips(planned: Sequence[PlannedTile], block: int) -> Iterator[list[PlannedTile]]:
    """Group neighbouring tiles of one split and row, in the order of the plan.

    `block` is the width of the blocks of the rasters. Wide strips take more memory, but with narrow
    strips a raster that is stored row by row is read many times.
    """
    widest = _TILED if block <= _TILED else _STRIPED
    for _, row in groupby(planned, key=lambda t: (t.split, t.row)):
        strip: list[PlannedTile] = []
        for tile in row:
            if strip and not _extends(strip, tile, widest):
                yield strip
                strip = []
            strip.append(tile)
        yield strip


def _extends(strip: list[PlannedTile], tile: PlannedTile, widest: int) -> bool:
    """Whether a tile adjoins the end of a strip and does not make it too wide."""
    last = strip[-1].window
    adjacent = last.col <= tile.col <= last.right
    return adjacent and tile.window.right - strip[0].col <= widest


@dataclass(frozen=True)
class TileCutter:
    """Cuts the strips of one scene into tiles.

    Parameters
    ----------
    config : Config
    classes : ClassTable
    polygons : Polygons, optional
        Split polygons of the scene, if ``split.file`` has some.
    dtype : str
        That of the optical bands in the statistics.
    folder : Path
        Tile set to write to.
    virtual : bool
        Write only the labels of tiles from which the split removed some.
    staging : Path, optional
        Folder for files that are not complete; needed where a strip may be cut twice at a time.
    """

    config: Config
    classes: ClassTable
    polygons: Polygons | None
    dtype: str
    folder: Path
    virtual: bool = False
    staging: Path | None = None

    def cut(self, scene: Scene, strip: Sequence[PlannedTile]) -> CutTiles:
        """Read a strip once and cut its tiles, but for those that show what cannot be read."""
        whole = Window.hull([planned.window for planned in strip])
        patch = scene.read(whole)
        labels = scene.read_labels(whole, self.classes, self.config.labels).ids
        if not patch.optical_valid.all():
            labels = np.where(patch.optical_valid, labels, np.uint8(NODATA))
        skipped = scene.inspection.skipped
        with moved_into(self.folder, self.staging) as folder:
            cut = [
                self._cut_tile(scene, planned, patch.at(place), labels[place], folder)
                for planned in strip
                if skipped is None or not skipped.lacks(planned.window)
                for place in [planned.window.slices(whole)]
            ]
        return CutTiles.of(cut, self.dtype, skipped)

    def _cut_tile(
        self,
        scene: Scene,
        planned: PlannedTile,
        patch: Patch,
        scene_labels: Labels,
        folder: Path,
    ) -> CutTile:
        labels = own_labels(planned, self.polygons, scene_labels)
        tile = _describe(planned, float(patch.optical_valid.mean()), labels)
        counts = pixel_counts(labels, self.classes)
        grid = scene.grid.at(planned.window)
        if not self.virtual:
            write_tile(folder, tile, grid, patch, labels, self.classes)
        elif not np.array_equal(labels, scene_labels):
            write_label(folder, tile, grid, labels, self.classes)
        if tile.split != "train":
            return CutTile(tile, counts)
        optical = summarize(patch.optical, patch.optical_valid, self.dtype)
        heights = RunningMoments.of(patch.heights, patch.height_valid)
        return CutTile(tile, counts, optical, heights)


def own_labels(planned: PlannedTile, polygons: Polygons | None, labels: Labels) -> Labels:
    """Remove labels outside the scored window, or outside the polygons of the split."""
    if planned.scored == planned.window and polygons is None:
        return labels
    own = np.zeros(labels.shape, bool)
    own[planned.scored.slices(planned.window)] = True
    if polygons is not None:
        own &= polygons.cover(planned.split, planned.window)
    return np.where(own, labels, np.uint8(NODATA))


def _describe(planned: PlannedTile, valid: float, labels: Labels) -> Tile:
    return Tile(
        name=f"{planned.scene}_{planned.row:06d}_{planned.col:06d}",
        split=planned.split,
        scene=planned.scene,
        row=planned.row,
        col=planned.col,
        valid=valid,
        labelled=float((labels != NODATA).mean()),
    )
