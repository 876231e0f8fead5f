"""The parts `same` and `devices`: whether a GPU, or several, make what the CPU makes.

`same` trains on the sample data on both at once, with the same seed, and maps a scene that no
training has seen with the network of the CPU. `devices` maps the large scene with ``--device all``
and with one GPU named twice, which takes the same way through the code as two.
"""

import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import numpy as np
import rasterio
import torch

from benchmarks.gpu.mapping import settings_of
from benchmarks.gpu.part import ROOT, Part
from cafe_cli.config.schema import PredictSettings
from cafe_cli.inference.arrays import torch as arrays
from cafe_cli.inference.job import ComputeOptions, PredictInput, PredictOutput
from cafe_cli.inference.predict import predict
from cafe_cli.model.device import choose_device, has_native_bf16
from cafe_cli.training.history import EpochRecord, read_history


@dataclass(frozen=True)
class Trained:
    """A training on the sample data, perhaps still running."""

    device: str
    precision: str
    folder: Path
    process: subprocess.Popen[bytes]

    def history(self) -> list[EpochRecord]:
        """Wait for the end, and return the epochs.

        Raises
        ------
        RuntimeError
            The training failed.
        """
        if code := self.process.wait():
            raise RuntimeError(f"cafe train on {self.device} failed with exit code {code}")
        return read_history(self.folder / "history.csv")


def same(part: Part) -> None:
    tiles = part.work / "sample_tiles"
    config = str(ROOT / "configs" / "sample.toml")
    words = [sys.executable, "-m", "cafe_cli", "tile", "-c", config, "-o", str(tiles)]
    subprocess.run([*words, "--overwrite", *assignments(part.sizes.sample)], check=True)
    wanted = [("cpu", "32-true"), (part.device, "32-true"), (part.device, "auto")]
    # At once, since nothing is timed here; on a CPU two of them are the same.
    runs = [start_training(part, tiles, *one) for one in dict.fromkeys(wanted)]
    try:
        record_trainings(part, runs)
    finally:
        for run in runs:
            run.process.kill()
            run.process.wait()
    record_maps(part, runs[0].folder / "best.safetensors", runs[1].folder / "best.safetensors")


def start_training(part: Part, tiles: Path, device: str, precision: str) -> Trained:
    folder = part.work / f"sample_{device}_{precision}"
    words = [sys.executable, "-m", "cafe_cli", "train", str(tiles), "-o", str(folder)]
    words += ["-c", str(ROOT / "configs" / "sample.toml"), "--overwrite", "--device", device]
    settings = [f"train.precision={precision}", f"model.optical_encoder={part.sizes.encoder}"]
    settings += ["model.weights=none", *part.sizes.sample]
    settings += ["train.cache=none"]  # runs would wait for the one that decodes the tiles
    words += assignments(settings)
    return Trained(device, precision, folder, subprocess.Popen(words))


def assignments(settings: Sequence[str]) -> list[str]:
    return [word for setting in settings for word in ("--set", setting)]


def record_trainings(part: Part, runs: list[Trained]) -> None:
    first: list[float] = []
    for run in runs:
        epochs = run.history()
        losses = [epoch.losses["loss"] for epoch in epochs]
        first = first or losses
        apart = [abs(a - b) / b for a, b in zip(losses, first, strict=True)]
        part.record(
            "training on sample_data", device=run.device, precision=run.precision,
            losses=[round(loss, 5) for loss in losses], miou=epochs[-1].miou,
            losses_apart=[round(value, 5) for value in apart],
        )  # fmt: skip


def record_maps(part: Part, model: Path, other: Path) -> None:
    """Map the town of the sample data on CPU and GPU, and compare labels and confidence."""
    wanted, sure = sample_map(part, model, "cpu", "wanted")
    bf16 = has_native_bf16(choose_device(part.device))
    for precision in ("bf16", "float32") if bf16 else ("float32",):
        plain = mock.patch.object(arrays, "has_native_bf16", return_value=False)
        with nullcontext() if precision == "bf16" else plain:
            labels, confidence = sample_map(part, model, part.device, precision)
        apart = np.abs(confidence.astype(int) - sure)
        part.record(
            "map of sample_data", device=part.device, precision=precision,
            equal=round(float((labels == wanted).mean()), 6), pixels=int(labels.size),
            confidence_apart=int(apart.max()),
        )  # fmt: skip
    labels, _ = sample_map(part, other, part.device, "other")
    part.record(
        "map by the network trained on the GPU", equal=round(float((labels == wanted).mean()), 6)
    )


def sample_map(part: Part, model: Path, device: str, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Return labels and confidence in per cent of the town of the sample data."""
    data = ROOT / "sample_data"
    pieces = tuple(map(str, sorted(data.glob("town_*_ortho.tif"))))
    labels, confidence = part.work / f"town_{name}.tif", part.work / f"town_{name}_confidence.tif"
    predict(
        [model], PredictInput(pieces, (str(data / "town_dsm.tif"),)),
        PredictOutput(labels, confidence, overwrite=True),
        settings=PredictSettings(engine="torch"), compute=ComputeOptions(device),
    )  # fmt: skip
    return read(labels), read(confidence)


def read(path: Path) -> np.ndarray:
    with rasterio.open(path) as dataset:
        return dataset.read(1)


def devices(part: Part) -> None:
    name = f"{part.device}:0" if part.on_gpu else part.device
    wanted = record_devices(part, part.device, None)
    record_devices(part, f"{name},{name}", wanted)
    if part.on_gpu:
        record_devices(part, "all", wanted)


def record_devices(part: Part, names: str, wanted: np.ndarray | None) -> np.ndarray:
    """Map the large scene on devices; compare the labels with `wanted`, bit by bit."""
    scene, output = part.work / "scene", part.work / "map.tif"
    start = time.perf_counter()
    predict(
        [part.work / "model.safetensors"],
        PredictInput(
            (str(scene / "ortho.tif"),), (str(scene / "heights.tif"),), ignore_mismatch=True
        ),
        PredictOutput(output, overwrite=True), settings=settings_of(part),
        compute=ComputeOptions(names),
    )  # fmt: skip
    seconds, labels = time.perf_counter() - start, read(output)
    equal = None if wanted is None else round(float((labels == wanted).mean()), 6)
    gpus = torch.cuda.device_count() if part.on_gpu else 0
    part.record("--device", names=names, gpus=gpus, seconds=round(seconds, 2), equal=equal)
    return labels
