"""What a part is given, where its measurements go, and how a GPU is timed, filled and limited."""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch

ROOT = Path(__file__).parents[2]  # of the checkout


@dataclass(frozen=True)
class Sizes:
    """How large everything is.

    Attributes
    ----------
    scene : int
        Side of the scene to map, in pixels; it repeats the scene that trains.
    town : int
        Side of the scene that trains, in pixels.
    crop : int
        Side of a training tile, in pixels.
    stride : int
        Pixels from one training tile to the next.
    window : int or None
        Side of the windows of a map, in pixels; None for the default.
    encoder, heavy : str
        Encoder of the network, and that of the part `heavy`.
    width : int
        Channels of the decoder.
    batches : tuple of (int or "auto")
        Batch sizes to train with.
    epochs : int
        Of the timed trainings.
    sample : tuple of str
        Settings of the tiles of the sample data and of the trainings on them.
    jobs : tuple of int
        Numbers of reader threads to try.
    seconds : float
        How long a step or a pass is repeated.
    """

    scene: int
    town: int
    crop: int
    stride: int
    window: int | None
    encoder: str
    heavy: str
    width: int
    batches: tuple[int | str, ...]
    epochs: int
    sample: tuple[str, ...]
    jobs: tuple[int, ...]
    seconds: float


FULL = Sizes(
    scene=10_000, town=5120, crop=512, stride=128, window=None,
    encoder="tu-tf_efficientnet_lite0", heavy="resnet50", width=128, batches=(8, 32, "auto"),
    epochs=3, sample=("train.epochs=6",), jobs=(8, 4, 2, 1), seconds=2.0,
)  # fmt: skip
TINY = Sizes(
    scene=160, town=256, crop=64, stride=64, window=64,
    encoder="mobilenet_v2", heavy="resnet18", width=8, batches=(2, "auto"),
    epochs=2, sample=("scenes.only=['a']", "train.epochs=1", "train.crop=32", "model.width=8"),
    jobs=(1,), seconds=0.0,
)  # fmt: skip


@dataclass(frozen=True)
class Part:
    """A part of the benchmark.

    Attributes
    ----------
    name : str
    device : str
        ``cuda`` or ``cpu``.
    out, work : Path
        Folders of the measurements, and of scenes, tiles, models and maps.
    sizes : Sizes
    end : float
        When the part is cut off, by `time.monotonic`.
    """

    name: str
    device: str
    out: Path
    work: Path
    sizes: Sizes
    end: float

    @property
    def on_gpu(self) -> bool:
        return self.device != "cpu"

    def record(self, what: str, **values: Any) -> None:
        """Write a measurement at once."""
        row = json.dumps({"what": what, **values})
        print(row, flush=True)
        with open(self.out / f"{self.name}.jsonl", "a", encoding="utf-8") as file:
            file.write(row + "\n")

    def has_time(self, what: str, seconds: float) -> bool:
        """Whether so many seconds are left; if not, record that `what` was left out."""
        left = self.end - time.monotonic()
        if left >= seconds:
            return True
        self.record(what, left_out=f"{left:.0f} s were left of {seconds:.0f}")
        return False


def is_gpu(device: torch.device | str) -> bool:
    return torch.device(device).type == "cuda"


def synchronize(device: torch.device | str) -> None:
    if is_gpu(device):
        torch.cuda.synchronize()


def reset_peak(device: torch.device | str) -> None:
    if is_gpu(device):
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def peaks(device: torch.device | str) -> dict[str, int]:
    """Return the most MB that tensors had, and that torch had taken from the GPU."""
    if not is_gpu(device):
        return {}
    used, reserved = torch.cuda.max_memory_allocated(), torch.cuda.max_memory_reserved()
    return {"used_mb": round(used / 1e6), "reserved_mb": round(reserved / 1e6)}


def seconds_each(
    run: Callable[[], object], device: torch.device | str, seconds: float, warm: int = 3
) -> float:
    """Return the seconds of a run among many that follow each other without a wait between.

    The median of three rounds; the host waits for the GPU at the end of a round only, so that this
    is what the GPU could do if it never waited for the host's other work.
    """
    for _ in range(warm):
        run()
    synchronize(device)
    start = time.perf_counter()
    run()
    synchronize(device)
    repeats = max(int(seconds / 3 / max(time.perf_counter() - start, 1e-6)), 1)
    rounds = []
    for _ in range(3):
        start = time.perf_counter()
        for _ in range(repeats):
            run()
        synchronize(device)
        rounds.append((time.perf_counter() - start) / repeats)
    return median(rounds)


@contextmanager
def nearly_full(device: torch.device | str, free: int) -> Iterator[None]:
    """Take memory of a GPU until so many bytes of it are free."""
    torch.cuda.empty_cache()
    there, _ = torch.cuda.mem_get_info()
    ballast = torch.empty(max(there - free, 0), dtype=torch.uint8, device=device)
    try:
        yield
    finally:
        del ballast
        torch.cuda.empty_cache()


@contextmanager
def limited(more: int) -> Iterator[None]:
    """Let this process take so many bytes of a GPU more than it has."""
    torch.cuda.empty_cache()
    _, total = torch.cuda.mem_get_info()
    share = (torch.cuda.memory_reserved() + more) / total
    torch.cuda.set_per_process_memory_fraction(min(share, 1.0))
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
        torch.cuda.empty_cache()
