"""Memory and open files of long runs of `cafe predict`."""

import os
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from benchmarks import large
from benchmarks.faults.inject import Row
from benchmarks.faults.process import Run, session

_EACH = 0.25  # seconds between two samples
_PAGE = os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 4096
_GROWTH = 0.1  # of the peak: more from the warm-up to the end is a fault
_FILES = 200  # GDAL keeps up to 100 sources of a virtual raster open
_SMALL = 96  # pixels along each side of the small rasters


@dataclass
class Samples:
    """Seconds since the start, resident memory in MB and open files, of all processes of a run."""

    seconds: list[float] = field(default_factory=list)
    memory: list[float] = field(default_factory=list)
    files: list[int] = field(default_factory=list)

    def add(self, run: Run) -> None:
        """Look at a run; nothing is added when it has just ended."""
        memory = files = 0
        for process in session(run.pid):
            with suppress(OSError, IndexError):
                memory += int(Path(f"/proc/{process}/statm").read_text().split()[1]) * _PAGE
                files += len(os.listdir(f"/proc/{process}/fd"))
        if memory:
            self.seconds.append(run.seconds)
            self.memory.append(memory / 1e6)
            self.files.append(files)

    def figures(self) -> Row:
        """Return what a line through the samples after the first third of the run says."""
        seconds, memory = np.array(self.seconds), np.array(self.memory)
        files = np.array(self.files)
        warm = seconds > seconds[-1] / 3
        slope = float(np.polyfit(seconds[warm], memory[warm], 1)[0])
        return {
            "seconds": round(seconds[-1], 1),
            "peak_mb": round(float(memory.max())),
            "slope_mb_per_minute": round(slope * 60, 2),
            "growth_mb": round(slope * float(seconds[-1] - seconds[warm][0]), 1),
            "files": [int(files[warm].min()), int(files[warm].max())],
        }


def soak(out: Path, size: int, rasters: int) -> Iterator[Row]:
    """Predict one large raster, then many small ones in one call; yield figures of each."""
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    model = str(large.save_model(out / "m.safetensors", 0))
    if size:
        scene = large.make_scene(out / "scene", size, size, 0)
        words = [*scene.words(), "--window", str(large.WINDOW), "--overlap", str(large.OVERLAP)]
        output = ["-o", "map.tif", "--confidence", "sure.tif"]
        row = _watched(out, ["predict", model, *words, *output])
        yield {"fault": f"soak, {size} x {size} pixels", **row}
    if rasters:
        (out / "many").mkdir()
        for number in range(rasters):
            large.make_scene(out / "many" / f"{number:04}", _SMALL, _SMALL, number)
        words = ["--optical", "many/{id}/ortho.tif", "--elevation", "many/{id}/dsm.tif"]
        row = _watched(out, ["predict", model, *words, "--per-file", "-o", "maps"])
        if (made := sum(1 for _ in (out / "maps").glob("*.tif"))) != rasters:
            row["lost"].append(f"{made} maps of {rasters}")
        yield {"fault": f"soak, {rasters} rasters", **row}


def _watched(folder: Path, words: Sequence[str]) -> Row:
    run, samples = Run([*words, "--device", "cpu", "-j", "1"], folder, anew=True), Samples()
    while run.alive:
        samples.add(run)
        time.sleep(_EACH)
    ended = run.end()
    found = samples.figures()
    lost = [] if ended.code == 0 else [f"exit code {ended.code}: {ended.lines[-1:]}"]
    if found["growth_mb"] > _GROWTH * found["peak_mb"]:
        lost.append(f"memory grew by {found['growth_mb']} MB")
    if found["files"][1] > _FILES:
        lost.append(f"{found['files'][1]} open files")
    return {"lost": lost, **found}
