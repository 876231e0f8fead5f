"""What a part is given, and where its measurements go; without torch, slow to import."""

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
    encoder="tu-test_resnet", heavy="resnet18", width=8, batches=(2, "auto"),
    epochs=2, sample=(
        "scenes.only=['a']", "tile.overlap=0", "train.epochs=1", "train.crop=32", "model.width=8",
    ),
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
