"""What a command would take: time, memory and disk, from a small part of the work done for once."""

import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from cafe_cli.config.schema import Config
from cafe_cli.raster.statistics import BandHistogram
from cafe_cli.scenes.scene import estimate_scene_ground, open_scene
from cafe_cli.splits.planner import PlannedTile
from cafe_cli.tilesets.cutting import TileCutter, strips
from cafe_cli.tilesets.plan import TilePlan

_SAMPLES = 4  # strips that are cut to learn what all of them take
_BASE = 150_000_000  # bytes of a process that has done nothing yet


@dataclass(frozen=True)
class Cost:
    """What work takes: `memory` and `disk` in bytes."""

    seconds: float
    memory: int
    disk: int

    def as_json(self) -> dict[str, Any]:
        """Return plain values, rounded to what an estimate is worth."""
        return {**asdict(self), "seconds": float(f"{self.seconds:.2g}")}


def cutting(plan: TilePlan, config: Config, jobs: int) -> Cost:
    """Estimate what it takes to cut a plan, from a few strips cut into a temporary folder."""
    names = [source.files.id for source in plan.sources]
    groups = [g for name in names for g in strips(plan.of(name), plan.blocks[name])]
    spread = np.unique(np.linspace(0, len(groups) - 1, _SAMPLES).astype(int))
    chosen = [groups[i] for i in spread]
    seconds, done = 0.0, sum(map(len, chosen))
    with tempfile.TemporaryDirectory() as folder:
        for scene, own in groupby(chosen, key=lambda group: group[0].scene):
            seconds += _cut(plan, config, scene, list(own), Path(folder))
        disk = sum(p.stat().st_size for p in Path(folder).rglob("*.tif"))
    share = len(plan.tiles) / done
    return Cost(seconds * share / jobs, _memory(plan, groups, jobs), round(disk * share))


def _cut(
    plan: TilePlan, config: Config, name: str, groups: Sequence[Sequence[PlannedTile]], folder: Path
) -> float:
    source = next(s for s in plan.sources if s.files.id == name)
    ground = estimate_scene_ground(source)
    pixels = BandHistogram(len(plan.bands), plan.dtype)
    cutter = TileCutter(config, config.class_table, plan.polygons.get(name), pixels, folder)
    with open_scene(source, ground) as scene:
        start = time.perf_counter()
        for group in groups:
            cutter.cut(scene, group)
        return time.perf_counter() - start


def _memory(plan: TilePlan, groups: Sequence[Sequence[PlannedTile]], jobs: int) -> int:
    """Return the bytes that strips take while they are read: the values, twice, and the masks."""
    widest = max(g[-1].window.right - g[0].col for g in groups)
    size = groups[0][0].window.height
    bands = len(plan.bands) * np.dtype(plan.dtype).itemsize
    return _BASE + jobs * widest * size * (2 * bands + 2 * 4 + 8)
