"""`cafe predict` on a scene larger than memory: peak memory, and resuming after kills.

    python benchmarks/large.py OUT [--size 30000] [--kills 20] [--height-twice]

Makes a sparse scene in OUT (RGB uint8, heights float32; islands of data on a few per cent of it,
the rest absent from the files) and a tiny network. Then it runs the command to its end, runs it
within a box, and runs it once more with kills (SIGKILL) and --resume. The moments of the kills are
drawn with --seed: during the start, while and between strips are written, in the COG pass, and just
after the first output is renamed. The files must be the same as without kills.

Prints one JSON line (seconds, peaks of resident memory in MB, SHA-256 of the outputs, kills by
stage, faults) and a sentence. The exit code is 1 if there are faults. With --height-twice it also
compares the peaks at 6000 x 6000 and at twice the height.
"""

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import torch
from affine import Affine
from numpy.typing import NDArray
from rasterio.windows import Window

from cafe_cli.classes import ClassTable, LandClass
from cafe_cli.config.schema import HeightSettings
from cafe_cli.inference.strip_store import strips_folder
from cafe_cli.inference.tiling import WindowGrid, bands
from cafe_cli.model import model_file
from cafe_cli.model.architecture import Architecture
from cafe_cli.model.cafe import CaFE
from cafe_cli.model.card import ModelCard
from cafe_cli.raster.window import Window as Extent

PIXEL = 0.5  # metres
CORNER = 500_000.0, 5_200_000.0
BLOCK = 512
VOID = -9999.0
WINDOW, OVERLAP = 512, 128
SHARE = 0.02  # of the scene covered by islands
LIMIT = 1500  # MB
STAGES = {"start": 0.2, "strips": 0.45, "cog": 0.25, "end": 0.1}  # shares of the kills
TRIES = 4  # attempts for a kill that may come too late
POLL = 0.0005  # seconds between two looks at a run
CLASSES = ClassTable(tuple(LandClass(i, f"class {i}", f"#{40 * i:02x}8080") for i in range(6)))


def main() -> None:
    options = arguments()
    options.out.mkdir(parents=True, exist_ok=True)
    model = save_model(options.out / "model.safetensors", options.seed)
    found = Findings()
    if options.size:
        large(options, model, found)
    if options.height_twice:
        height_twice(options, model, found)
    print(json.dumps(found.facts | {"faults": found.faults}))
    print(found.sentence())
    sys.exit(bool(found.faults))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("--size", type=int, default=30_000, help="side in pixels; 0 leaves it out")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--height-twice", action="store_true")
    return parser.parse_args()


@dataclass
class Findings:
    """Measurements and faults."""

    facts: dict[str, Any] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)

    def check(self, good: bool, fault: str) -> None:
        if not good:
            self.faults.append(fault)

    def sentence(self) -> str:
        parts = [str(text) for name, text in self.facts.items() if name.endswith("said")]
        wrong = f"{len(self.faults)} faults: {'; '.join(self.faults)}" if self.faults else ""
        return ". ".join([*parts, wrong or "Nothing was wrong"]) + "."


# --- the scene and the network -----------------------------------------------------------------


@dataclass(frozen=True)
class Scene:
    folder: Path
    width: int
    height: int
    islands: tuple[Extent, ...]

    def words(self) -> list[str]:
        files = (str(self.folder / name) for name in ("ortho.tif", "dsm.tif"))
        return [w for pair in zip(("--optical", "--elevation"), files, strict=True) for w in pair]

    @property
    def share(self) -> float:
        """Share of the scene covered by islands; where two overlap, both count."""
        return sum(i.width * i.height for i in self.islands) / (self.width * self.height)


def save_model(path: Path, seed: int) -> Path:
    torch.manual_seed(seed)
    kind = Architecture(
        classes=len(CLASSES), optical_bands=3, optical_encoder="tu-test_resnet", width=8
    )
    network = CaFE(kind, weights="none")
    network.set_statistics([128.0] * 3, [64.0] * 3, [2.0], [4.0])
    card = ModelCard(
        architecture=kind, classes=CLASSES, band_names=("red", "green", "blue"),
        dtype="uint8", gsd=PIXEL, height=HeightSettings(kind="ndsm", fill=0), window=WINDOW,
        epoch=1, scores=None, config={},
    )  # fmt: skip
    model_file.save(path, network.eval(), card)
    return path


def make_scene(folder: Path, width: int, height: int, seed: int) -> Scene:
    folder.mkdir(exist_ok=True)
    scene = Scene(folder, width, height, tuple(islands(width, height, seed)))
    place = Affine(PIXEL, 0, CORNER[0], 0, -PIXEL, CORNER[1])
    profile = {
        "driver": "GTiff", "width": width, "height": height, "crs": "EPSG:32632",
        "transform": place, "tiled": True, "blockxsize": BLOCK, "blockysize": BLOCK,
        "sparse_ok": True, "compress": "deflate", "zlevel": 1, "bigtiff": "if_safer",
    }  # fmt: skip
    optical = {"count": 3, "dtype": "uint8", "nodata": 0, "interleave": "pixel"}
    heights = {"count": 1, "dtype": "float32", "nodata": VOID}
    with (
        rasterio.open(folder / "ortho.tif", "w", **profile, **optical) as ortho,
        rasterio.open(folder / "dsm.tif", "w", **profile, **heights) as dsm,
    ):
        for number, island in enumerate(scene.islands):
            image, metres = town(island.width, island.height, seed + number)
            where = Window(island.col, island.row, island.width, island.height)
            ortho.write(image, window=where)
            dsm.write(metres, window=where)
    return scene


def islands(width: int, height: int, seed: int) -> Iterator[Extent]:
    """Yield windows with data: at the corners, where blocks and bands meet, and anywhere."""
    draw, side = random.Random(seed), min(width, height)
    corner, half = max(side // 40, 1), max(side // 30, 1)
    yield Extent(0, 0, corner, corner)
    yield Extent(width - corner, height - corner, corner, corner)
    borders = [border for border in (8192, band_border(width, height)) if border < width - half]
    for border in borders:
        row = draw.randrange(height - half)
        yield Extent(max(border - half, 0), row, 2 * half, half)
    drawn = (2 + 2 * len(borders)) * half * half
    while drawn < SHARE * width * height:
        broad, high = (draw.randint(max(side // 60, 1), max(side // 15, 1)) for _ in range(2))
        yield Extent(draw.randrange(width - broad), draw.randrange(height - high), broad, high)
        drawn += broad * high


def band_border(width: int, height: int) -> int:
    whole = Extent(0, 0, width, height)
    return next(bands(whole, whole, WindowGrid(WINDOW, WINDOW - OVERLAP), len(CLASSES))).last


def town(width: int, height: int, seed: int) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Return an image (3, height, width) and heights (1, height, width), both with voids."""
    draw = np.random.default_rng(seed)
    coarse = draw.integers(3, size=(-(-height // 16), -(-width // 16)))
    kinds = np.kron(coarse, np.ones((16, 16), np.int64))[:height, :width]
    palette = np.array([[180, 60, 90], [170, 40, 40], [50, 120, 60]], np.uint8)
    noise = draw.integers(0, 24, (3, height, width), dtype=np.uint8)
    image = palette[kinds].transpose(2, 0, 1) + noise
    metres = np.array([0, 8, 5], np.float32)[kinds] + draw.random(kinds.shape, np.float32)
    image[:, kinds == 2] *= (noise[0, kinds == 2] > 2).astype(np.uint8)
    metres[noise[1] == 0] = VOID
    return image, metres[None]


# --- runs --------------------------------------------------------------------------------------


@dataclass
class Run:
    """One run of the command as seen from outside; `times` are seconds by stage."""

    code: int
    seconds: float
    peak: float  # MB
    said: str
    strips: int
    times: dict[str, float]

    @property
    def stage(self) -> str:
        """The stage in which it ended: ``start``, ``strips``, ``cog`` or ``end``."""
        return next(reversed(self.times), "start")


@dataclass
class Watched:
    """State of a run under way: seconds, stages, strips listed, bytes of its COGs."""

    seconds: float = 0.0
    times: dict[str, float] = field(default_factory=dict)
    strips: int = 0
    cog_bytes: int = 0


Until = Callable[[Watched], bool]
"""Returns whether to kill the run now."""


def predict(target: Path, words: list[str], until: Until | None = None) -> Run:
    """Run the command; kill it when `until` returns True."""
    outputs = [target, target.with_name("sure.tif")]
    command = [sys.executable, "-m", "cafe_cli", "predict", *words, "-o", str(target)]
    command += ["--confidence", str(outputs[1])]
    begin, watched = time.perf_counter(), Watched()
    look = watching(target, outputs, watched)
    with (target.parent / "said.txt").open("w+") as said:
        process = subprocess.Popen(command, stdout=said, stderr=said)
        while (ended := os.wait4(process.pid, os.WNOHANG))[0] == 0:
            watched.seconds = time.perf_counter() - begin
            look()
            if until is not None and until(watched):
                process.kill()
                until = None
            time.sleep(POLL if "cog" in watched.times else 10 * POLL)
        _, status, usage = ended
        process.returncode = os.waitstatus_to_exitcode(status)
        said.seek(0)
        text = said.read().strip()
    seconds, peak = time.perf_counter() - begin, usage.ru_maxrss / 1024
    return Run(process.returncode, seconds, peak, text, watched.strips, watched.times)


def watching(target: Path, outputs: list[Path], watched: Watched) -> Callable[[], None]:
    """Return a function that updates `watched` from the files of a run that is about to start."""
    work, begin = strips_folder(target), time.time_ns()
    before = marks(work, outputs)

    def look() -> None:
        for stage, mark in marks(work, outputs).items():
            if stage not in watched.times and mark not in (None, before[stage]):
                watched.times[stage] = watched.seconds
        watched.strips = max(watched.strips, listed(work))
        if "cog" in watched.times:
            watched.cog_bytes = sum(size_since(beside, begin) for beside in partial(outputs))

    return look


def partial(outputs: list[Path]) -> Iterator[Path]:
    """Yield the temporary names of the COGs and of their overviews."""
    for path in outputs:
        beside = path.with_name(f".{path.stem}.partial{path.suffix}")
        yield from (beside, beside.with_name(f"{beside.name}.ovr.tmp"))


def size_since(path: Path, begin: int) -> int:
    """Return the bytes of a file, 0 if it was written before `begin` or does not exist."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return 0
    return found.st_size if found.st_mtime_ns >= begin else 0


def marks(work: Path, outputs: list[Path]) -> dict[str, tuple[int, int] | None]:
    """Return inode and time of the file that each stage writes first."""
    files = {"strips": work / "journal.jsonl", "cog": work / "labels.vrt", "end": outputs[1]}
    return {stage: mark(file) for stage, file in files.items()}


def mark(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    # The journal grows, so its time does not count; every run makes a new file.
    return found.st_ino, 0 if path.suffix == ".jsonl" else found.st_mtime_ns


def listed(work: Path) -> int:
    try:
        return max((work / "journal.jsonl").read_bytes().count(b"\n") - 1, 0)
    except FileNotFoundError:
        return 0


def contents(folder: Path) -> dict[str, str]:
    """Return SHA-256 by name of all files in a folder but the log, hidden ones included."""
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.name != "said.txt")
    return {str(p.relative_to(folder)): sha256(p) for p in files}


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fresh(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    return folder / "map.tif"


# --- what is measured --------------------------------------------------------------------------


def large(options: argparse.Namespace, model: Path, found: Findings) -> None:
    scene = make_scene(options.out / "large", options.size, options.size, options.seed)
    words = command_words(options, model, scene)
    whole = predict(fresh(options.out / "whole"), words)
    if whole.code:
        found.faults.append(f"the run without kills failed: {whole.said}")
        return
    found.check(whole.peak < LIMIT, f"{whole.peak:.0f} MB at the peak, more than {LIMIT}")
    made = contents(options.out / "whole")
    found.facts |= {
        "size": [scene.width, scene.height], "islands": len(scene.islands),
        "share_of_data": round(scene.share, 4), "strips": whole.strips,
        "seconds": round(whole.seconds, 1), "peak_mb": round(whole.peak), "sha256": made,
        "stages": {stage: round(s, 1) for stage, s in whole.times.items()},
        "said": f"{scene.width} x {scene.height} pixels, {scene.share:.1%} of them data, took "
        f"{whole.seconds:.0f} s and {whole.peak:.0f} MB at the peak",
    }  # fmt: skip
    box(options, words, scene, whole, found)
    killed(options, words, whole, found)


def command_words(options: argparse.Namespace, model: Path, scene: Scene) -> list[str]:
    sliding = ["--window", str(WINDOW), "--overlap", str(OVERLAP)]
    return [str(model), *scene.words(), *sliding, "--device", "cpu", "-j", str(options.jobs)]


def box(
    options: argparse.Namespace, words: list[str], scene: Scene, whole: Run, found: Findings
) -> None:
    """Predict around one island that lies where bands meet; compare with the whole map."""
    island = scene.islands[min(3, len(scene.islands) - 1)]
    margin = min(100, island.col, island.row)
    col, row = island.col - margin, island.row - margin
    right = min(island.col + island.width + 100, scene.width)
    bottom = min(island.row + island.height - 50, scene.height)
    left, top = CORNER[0] + col * PIXEL, CORNER[1] - row * PIXEL
    edges = left, CORNER[1] - bottom * PIXEL, CORNER[0] + right * PIXEL, top
    target = fresh(options.out / "box")
    run = predict(target, [*words, "--bbox", *map(str, edges)])
    found.facts["box"] = {
        "pixels": [right - col, bottom - row], "seconds": round(run.seconds, 1),
        "peak_mb": round(run.peak), "after_start": after_start(run),
    }  # fmt: skip
    if run.code:
        found.faults.append(f"the run within a box failed: {run.said}")
        return
    where = Window(col, row, right - col, bottom - row)
    for name in ("map.tif", "sure.tif"):
        cut = read(options.out / "whole" / name, where)
        same = np.array_equal(cut, read(options.out / "box" / name))
        found.check(same, f"{name} within a box is not what it is in the whole map")
        found.check(bool((cut != 255).any()), "there is nothing in the box")
    faster = after_start(run) < after_start(whole) / 2
    found.check(faster, f"a box took {after_start(run):.0f} s of {after_start(whole):.0f} s")
    found.facts["box_said"] = (
        f"A box of {where.width} x {where.height} took {run.seconds:.0f} s, its pixels are those "
        "of the whole"
    )


def after_start(run: Run) -> float:
    """Return the seconds from the first strip to the end."""
    return round(run.seconds - run.times.get("strips", 0.0), 2)


def read(path: Path, where: Window | None = None) -> NDArray[np.uint8]:
    with rasterio.open(path) as dataset:
        values: NDArray[np.uint8] = dataset.read(window=where)
        return values


def killed(options: argparse.Namespace, words: list[str], whole: Run, found: Findings) -> None:
    """Kill and resume over and over; compare the files with those of the run without kills."""
    victim = Victim(options.out / "killed", words, contents(options.out / "whole"), found)
    begin = time.perf_counter()
    sizes = [(options.out / "whole" / name).stat().st_size for name in ("map.tif", "sure.tif")]
    for wanted, until in plan(random.Random(options.seed), options.kills, whole, sum(sizes)):
        victim.kill(wanted, until)
    victim.finish()
    kills = victim.kills
    found.facts["killed"] = {
        "kills": dict(kills), "too_late": victim.late, "peak_mb": round(victim.peak),
        "seconds": round(time.perf_counter() - begin, 1), "completed": victim.completed,
    }  # fmt: skip
    found.check(kills.total() >= options.kills, f"only {kills.total()} kills came in time")
    found.facts["killed_said"] = (
        f"Killed {kills.total()} times ({', '.join(f'{n} in {s}' for s, n in kills.items())}) and "
        f"resumed: the same bytes {victim.same} of {victim.completed} times"
    )


@dataclass
class Victim:
    """A run that is killed and resumed; once complete, it starts again from saved strips."""

    folder: Path
    words: list[str]
    expected: dict[str, str]
    found: Findings
    kills: Counter[str] = field(default_factory=Counter)
    late: int = 0
    completed: int = 0
    same: int = 0
    peak: float = 0.0

    def __post_init__(self) -> None:
        self.target = fresh(self.folder)
        self.saved = self.folder.with_name("killed_strips")
        shutil.rmtree(self.saved, ignore_errors=True)

    def kill(self, wanted: str, until: Until) -> None:
        """Run until a moment and kill; try again if the run ends before."""
        if wanted in ("cog", "end") and not self.saved.exists():
            shutil.copytree(self.folder, self.saved)
        for _ in range(TRIES):
            run = self.resume(until)
            print(f"{wanted}: ended in {run.stage} after {run.seconds:.1f} s with {run.code}",
                  file=sys.stderr, flush=True)  # fmt: skip
            if run.code == -signal.SIGKILL:
                self.kills[run.stage] += 1
                return
            self.late += run.code == 0
            self.again()

    def finish(self) -> None:
        self.resume(None)

    def resume(self, until: Until | None) -> Run:
        run = predict(self.target, [*self.words, "--resume"], until)
        self.peak = max(self.peak, run.peak)
        if run.code == 0:
            self.compare()
        elif run.code != -signal.SIGKILL:
            self.found.faults.append(f"after {self.kills.total()} kills: {run.said}")
            self.again()
        return run

    def compare(self) -> None:
        left = contents(self.folder)
        names = {**self.expected, **left}
        different = [name for name in names if self.expected.get(name) != left.get(name)]
        self.found.check(not different, f"after kills other files: {', '.join(different)}")
        self.completed += 1
        self.same += not different

    def again(self) -> None:
        """Restore the strips from before the COG pass, if there are any."""
        if self.saved.exists():
            shutil.rmtree(self.folder)
            shutil.copytree(self.saved, self.folder)


def plan(draw: random.Random, kills: int, whole: Run, size: int) -> Iterator[tuple[str, Until]]:
    """Yield stage and condition of every kill; those in strips in the order of progress."""
    start, cog, ends = (round(STAGES[stage] * kills) for stage in ("start", "cog", "end"))
    between = kills - start - cog - ends
    each = (whole.times["cog"] - whole.times["strips"]) / whole.strips
    moments = sorted(draw.uniform(0, whole.strips - 1) for _ in range(between))
    early = sorted(draw.randrange(between + 1) for _ in range(start))
    for number in range(between + 1):
        for _ in range(early.count(number)):
            yield "start", in_start(draw.uniform(0, whole.times["strips"]))
        if number < between:
            yield "strips", in_strips(int(moments[number]), draw.uniform(0, each))
    for share in sorted(draw.uniform(0, 0.9) for _ in range(cog)):
        yield "cog", in_cogs(share * size)
    for _ in range(ends):
        yield "end", after("end", draw.uniform(0, 0.03))


def in_start(seconds: float) -> Until:
    return lambda run: run.seconds > seconds


def in_strips(count: int, seconds: float) -> Until:
    """Kill some seconds after `count` strips are listed, by a process that writes strips."""
    reached: list[float] = []

    def until(run: Watched) -> bool:
        if "strips" in run.times and run.strips >= count:
            reached.append(run.seconds)
        return bool(reached) and run.seconds > reached[0] + seconds

    return until


def in_cogs(size: float) -> Until:
    return lambda run: "cog" in run.times and run.cog_bytes >= size


def after(stage: str, seconds: float) -> Until:
    return lambda run: stage in run.times and run.seconds >= run.times[stage] + seconds


def height_twice(options: argparse.Namespace, model: Path, found: Findings) -> None:
    """Compare the peaks of memory of a scene and of one of twice its height."""
    peaks = {}
    for height in (6000, 12_000):
        scene = make_scene(options.out / f"high{height}", 6000, height, options.seed)
        target = fresh(options.out / f"high{height}_map")
        run = predict(target, command_words(options, model, scene))
        found.check(run.code == 0, f"the run of 6000 x {height} failed: {run.said}")
        peaks[height] = run.peak
    ratio = peaks[12_000] / peaks[6000]
    found.check(0.9 <= ratio <= 1.1, f"twice the height takes {ratio:.2f} times the memory")
    found.facts["height_twice"] = {
        "peak_mb": {f"6000x{height}": round(peak) for height, peak in peaks.items()},
        "ratio": round(ratio, 3),
    }
    found.facts["height_said"] = f"Twice the height takes {ratio:.2f} times the memory"


if __name__ == "__main__":
    main()
