"""What a command would take: time, memory and disk, from a small part of the work done for once."""

import resource
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cafe_cli.config import Config
from cafe_cli.cut import Cutter, strips
from cafe_cli.moments import Pixels
from cafe_cli.plan import Plan
from cafe_cli.scene import estimate_scene_ground
from cafe_cli.splitter import Planned

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


def peak_memory() -> int:
    """Return the bytes this process has had at most."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def cutting(plan: Plan, config: Config, jobs: int) -> Cost:
    """Estimate what it takes to cut a plan, from a few strips cut into a temporary folder."""
    names = [source.files.id for source in plan.sources]
    groups = [g for name in names for g in strips(plan.of(name), plan.blocks[name])]
    spread = np.unique(np.linspace(0, len(groups) - 1, _SAMPLES).astype(int))
    chosen = [groups[i] for i in spread]
    seconds, disk, done = 0.0, 0, 0
    with tempfile.TemporaryDirectory() as folder:
        for group in chosen:
            seconds += _cut(plan, config, group, Path(folder))
            done += len(group)
        disk = sum(p.stat().st_size for p in Path(folder).rglob("*.tif"))
    share = len(plan.tiles) / done
    return Cost(seconds * share / jobs, _memory(plan, groups, jobs), round(disk * share))


def _cut(plan: Plan, config: Config, group: Sequence[Planned], folder: Path) -> float:
    name = group[0].scene
    source = next(s for s in plan.sources if s.files.id == name)
    crs = config.scenes.crs if config.scenes else None
    ground = estimate_scene_ground(source.files, config.height, crs)
    pixels = Pixels(len(plan.bands), plan.dtype)
    cutter = Cutter(config, config.class_table, plan.polygons.get(name), pixels, folder)
    with source.open(ground) as scene:
        start = time.perf_counter()
        cutter.cut(scene, group)
        return time.perf_counter() - start


def _memory(plan: Plan, groups: Sequence[Sequence[Planned]], jobs: int) -> int:
    """Return the bytes that strips take while they are read: the values, twice, and the masks."""
    widest = max(g[-1].col + g[-1].window.width - g[0].col for g in groups)
    size = groups[0][0].window.height
    bands = len(plan.bands) * np.dtype(plan.dtype).itemsize
    return _BASE + jobs * widest * size * (2 * bands + 2 * 4 + 8)
