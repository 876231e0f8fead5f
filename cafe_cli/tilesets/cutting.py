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
from cafe_cli.raster.statistics import BandHistogram, RunningMoments
from cafe_cli.raster.window import Window
from cafe_cli.scenes.scene import Patch, Scene
from cafe_cli.splits.planner import PlannedTile, Polygons
from cafe_cli.tilesets.tile_rasters import pixel_counts, write_label, write_tile
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
    optical, heights
        Statistics of a training tile.
    """

    tile: Tile
    counts: NDArray[np.int64]
    optical: NDArray[Any] | None = None
    heights: RunningMoments | None = None


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
    histogram : BandHistogram
        Summarises the optical bands.
    folder : Path, optional
        Tile set to write to; nothing is written if None.
    virtual : bool
        Write only the labels of tiles from which the split removed some.
    """

    config: Config
    classes: ClassTable
    polygons: Polygons | None
    histogram: BandHistogram
    folder: Path | None
    virtual: bool = False

    def cut(self, scene: Scene, strip: Sequence[PlannedTile]) -> list[CutTile]:
        """Read a strip once and cut its tiles, but for those that show what cannot be read."""
        whole = Window.hull([planned.window for planned in strip])
        patch = scene.read(whole)
        labels = scene.read_labels(whole, self.classes, self.config.labels).ids
        if not patch.optical_valid.all():
            labels = np.where(patch.optical_valid, labels, np.uint8(NODATA))
        skipped = scene.inspection.skipped
        return [
            self._cut_tile(scene, planned, patch.at(place), labels[place])
            for planned in strip
            if skipped is None or not skipped.lacks(planned.window)
            for place in [planned.window.slices(whole)]
        ]

    def _cut_tile(
        self, scene: Scene, planned: PlannedTile, patch: Patch, scene_labels: Labels
    ) -> CutTile:
        labels = own_labels(planned, self.polygons, scene_labels)
        tile = _describe(planned, float(patch.optical_valid.mean()), labels)
        counts = pixel_counts(labels, self.classes)
        if self.folder is not None:
            grid = scene.grid.at(planned.window)
            if not self.virtual:
                write_tile(self.folder, tile, grid, patch, labels, self.classes)
            elif not np.array_equal(labels, scene_labels):
                write_label(self.folder, tile, grid, labels, self.classes)
        if tile.split != "train":
            return CutTile(tile, counts)
        optical = self.histogram.summary(patch.optical, patch.optical_valid)
        heights = RunningMoments.of(patch.height[None], patch.height_valid)
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
