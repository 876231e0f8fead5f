"""The ground of a split, as a tile set of the same config has it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from cafe_cli.config.schema import Config
from cafe_cli.errors import ConfigError
from cafe_cli.raster.window import Window
from cafe_cli.scenes.inspection import SceneInspection
from cafe_cli.splits.assign import Split
from cafe_cli.splits.planner import PlannedTile, Polygons, SplitPlanner
from cafe_cli.system.batches import Executor, run_in_threads
from cafe_cli.tilesets.plan import plan


@dataclass(frozen=True)
class SplitGround:
    """The ground of one split in a scene.

    Attributes
    ----------
    split : {"train", "validation", "test"}
    scored : list of Window
        Windows of the scene; those of training tiles overlap.
    polygons : Polygons, optional
        Only ground inside those of the split counts.
    """

    split: Split
    scored: Sequence[Window] = field(default_factory=list)
    polygons: Polygons | None = None

    @cached_property
    def _bounds(self) -> NDArray[np.intp]:
        return np.array([window.bounds for window in self.scored], np.intp).reshape(-1, 4)

    def cover(self, window: Window) -> NDArray[np.bool_]:
        """Return which pixels of a window belong to the split, (height, width)."""
        left, top, right, bottom = self._bounds.T
        near = (left < window.right) & (right > window.col)
        near &= (top < window.bottom) & (bottom > window.row)
        found = np.zeros((window.height, window.width), bool)
        for i in np.flatnonzero(near).tolist():
            if part := self.scored[i].intersection(window):
                found[part.slices(window)] = True
        if self.polygons is not None and found.any():
            found &= self.polygons.cover(self.split, window)
        return found


def find_ground(
    config: Config,
    scenes: Sequence[SceneInspection],
    split: Split,
    jobs: int = 1,
    run: Executor = run_in_threads,
) -> dict[str, SplitGround]:
    """Return the ground of a split by scene; scenes without any are left out.

    The labels of all scenes are read where blocks are assigned by them, and not where the config
    or its split file names the ground.

    Parameters
    ----------
    config : Config
        That of the tile set.
    scenes : sequence of SceneInspection
        All scenes of the config.
    split : {"train", "validation", "test"}
        Of training, it is the ground of the tiles that are kept.
    jobs : int
        Threads.
    run : Executor
        Runs the work on the scenes; by default in threads.

    Raises
    ------
    ConfigError
        The split has no ground.
    InputError
        See `cafe_cli.tilesets.plan.plan`.
    """
    tiles, polygons = _named_tiles(config, scenes, split) or _planned_tiles(config, jobs, run)
    found: dict[str, list[Window]] = {}
    for tile in tiles:
        if tile.split == split:
            found.setdefault(tile.scene, []).append(tile.scored)
    if not found:
        raise ConfigError(
            f"no scene has ground of the split {split!r}; assign some in [split], with "
            f"split.{split}_scenes, split.{split} or split.file"
        )
    return {name: SplitGround(split, ws, polygons.get(name)) for name, ws in found.items()}


def _named_tiles(
    config: Config, scenes: Sequence[SceneInspection], split: Split
) -> tuple[list[PlannedTile], dict[str, Polygons]] | None:
    """Plan the tiles without the blocks; None if blocks may belong to the split, too."""
    settings = config.split
    if split == "train" or (split == "validation" and settings.folds is not None):
        return None
    grids = {scene.files.id: scene.grid for scene in scenes}
    named = config.model_copy(update={"split": settings.model_copy(update={"folds": None})})
    planner = SplitPlanner(named, grids, ())
    if split not in planner.given:
        return None
    return [tile for name in grids for tile in planner.tiles(name)], planner.polygons


def _planned_tiles(
    config: Config, jobs: int, run: Executor
) -> tuple[list[PlannedTile], dict[str, Polygons]]:
    planned = plan(config, jobs, run=run)
    return planned.tiles, planned.polygons
