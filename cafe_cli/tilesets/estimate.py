"""Estimate time, memory and disk space of ``cafe tile`` by cutting a small sample of the tiles."""

import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from cafe_cli.config.schema import Config
from cafe_cli.scenes.scene import find_scene_ground, open_scene
from cafe_cli.splits.planner import PlannedTile
from cafe_cli.tilesets.cutting import TileCutter, strips
from cafe_cli.tilesets.plan import TilePlan

_SAMPLES = 4  # strips that are cut
_PROCESS = 150_000_000  # bytes of a process that has read nothing yet


@dataclass(frozen=True)
class Cost:
    """The estimated cost of a command; `memory` and `disk` in bytes."""

    seconds: float
    memory: int
    disk: int

    def as_json(self) -> dict[str, Any]:
        """Return plain values; the time has two significant digits."""
        return {**asdict(self), "seconds": float(f"{self.seconds:.2g}")}


def estimate_cutting(plan: TilePlan, config: Config, jobs: int) -> Cost:
    """Estimate the cost of cutting a plan, from a few strips cut into a temporary folder."""
    groups = [g for scene in plan.scenes for g in strips(plan.of(scene.files.id), scene.block)]
    spread = np.unique(np.linspace(0, len(groups) - 1, _SAMPLES).astype(int))
    chosen = [groups[i] for i in spread]
    seconds, done = 0.0, sum(map(len, chosen))
    with tempfile.TemporaryDirectory() as folder:
        for name, own in groupby(chosen, key=lambda group: group[0].scene):
            seconds += _time_cutting(plan, config, name, list(own), Path(folder))
        disk = sum(p.stat().st_size for p in Path(folder).rglob("*") if p.is_file())
    share = len(plan.tiles) / done
    return Cost(seconds * share / jobs, _memory(plan, groups, jobs), round(disk * share))


def _time_cutting(
    plan: TilePlan, config: Config, name: str, groups: Sequence[Sequence[PlannedTile]], folder: Path
) -> float:
    """Return the seconds it takes to cut strips of a scene, without estimating the ground."""
    inspection = next(s for s in plan.scenes if s.files.id == name)
    ground = find_scene_ground(inspection)
    cutter = TileCutter(config, config.class_table, plan.polygons.get(name), plan.dtype, folder)
    with open_scene(inspection, ground) as scene:
        start = time.perf_counter()
        for group in groups:
            cutter.cut(scene, group)
        return time.perf_counter() - start


def _memory(plan: TilePlan, groups: Sequence[Sequence[PlannedTile]], jobs: int) -> int:
    """Return the bytes of strips in memory: two copies of the values, and the masks."""
    widest = max(g[-1].window.right - g[0].col for g in groups)
    size = groups[0][0].window.height
    bands = len(plan.bands) * np.dtype(plan.dtype).itemsize
    return _PROCESS + jobs * widest * size * (2 * bands + 2 * 4 + 8)
