"""Tiny scenes, tile sets and models for the tests of the engines and of the command line."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import torch
from affine import Affine
from numpy.typing import ArrayLike, NDArray
from rasterio.crs import CRS
from rasterio.enums import ColorInterp
from torch import Tensor

from cafe_cli.classes import ClassTable, LandClass
from cafe_cli.config.load import parse_config
from cafe_cli.config.schema import Config, HeightSettings, PredictSettings
from cafe_cli.inference import predict as predict_engine
from cafe_cli.inference.arrays.torch import TorchArrays
from cafe_cli.inference.engines.torch import TorchNetwork
from cafe_cli.inference.ensemble import Ensemble
from cafe_cli.inference.forward import BatchedForward, TTATransform
from cafe_cli.inference.job import ComputeOptions, PredictInput, PredictOutput
from cafe_cli.inference.throughput import Meter
from cafe_cli.model.architecture import Architecture
from cafe_cli.model.cafe import CaFE
from cafe_cli.model.card import ModelCard
from cafe_cli.model.inputs import Sample, example_inputs
from cafe_cli.model.stored import StoredModel
from cafe_cli.tilesets.make import tile

UTM = CRS.from_epsg(32632)
PIXEL = 0.5
ENCODER = "tu-test_resnet"
"""The smallest encoder there is: a training step on two tiles of 64 pixels takes 0.1 s."""
TABLE = ClassTable(
    (
        LandClass(0, "ground", "#b8b0a6"),
        LandClass(1, "building", "#d7301f"),
        LandClass(2, "tree", "#1a7a3a"),
    )
)
SETTINGS = {
    "classes": [{"id": c.id, "name": c.name, "color": c.color} for c in TABLE],
    "scenes": {
        "optical": "{id}_ortho.tif", "elevation": "{id}_dsm.tif", "labels": "{id}_labels.tif",
    },
    "height": {"kind": "ndsm"},
    "tile": {"size": 64, "overlap": 0},
    "split": {"validation_scenes": ["b"]},
    # Both paths, so that what holds for a run holds for the most that it can do.
    "model": {
        "optical_encoder": ENCODER, "height_encoder": "same", "weights": "none", "width": 8,
        "guidance": "distill",
    },
    "train": {"epochs": 2, "batch_size": 2, "learning_rate": 1e-3, "workers": 0},
}  # fmt: skip


def settings(**changes: Any) -> Config:
    """Return the settings of the tests; changes are named ``section__key``."""
    values = json.loads(json.dumps(SETTINGS))
    for name, value in changes.items():
        section, key = name.split("__")
        values.setdefault(section, {})[key] = value
    return parse_config(values, "test")


def write(
    path: Path,
    values: ArrayLike,
    origin: tuple[int, int] = (0, 0),
    crs: CRS | None = UTM,
    pixel: float = PIXEL,
    **profile: Any,
) -> str:
    """Write (bands, height, width) as a GeoTIFF, its corner `origin` = (column, row) pixels off."""
    stack = np.asarray(values)
    count, height, width = stack.shape
    corner = 500_000 + origin[0] * pixel, 5_200_000 - origin[1] * pixel
    place = Affine(pixel, 0, corner[0], 0, -pixel, corner[1])
    mask, alpha = profile.pop("mask", None), profile.pop("alpha", False)
    with rasterio.open(
        path, "w", driver="GTiff", width=width, height=height, count=count, dtype=stack.dtype,
        crs=crs, transform=place, **profile,
    ) as dataset:  # fmt: skip
        dataset.write(stack)
        if mask is not None:
            dataset.write_mask(mask)
        if alpha:
            rgb = [ColorInterp.red, ColorInterp.green, ColorInterp.blue]
            dataset.colorinterp = [*rgb[: count - 1], ColorInterp.alpha]
    return str(path)


def town(
    height: int, width: int, seed: int = 0, bands: int = 3, dtype: str = "uint8"
) -> tuple[NDArray[Any], NDArray[np.float32], NDArray[np.uint8]]:
    """Return image, metres above ground and labels that can be told from both."""
    random = np.random.default_rng(seed)
    coarse = random.integers(len(TABLE), size=(-(-height // 16), -(-width // 16)), dtype=np.uint8)
    labels = np.kron(coarse, np.ones((16, 16), np.uint8))[:height, :width]
    palette = np.array([[180, 60, 90, 30], [170, 40, 40, 60], [50, 120, 60, 200]], np.float64)
    bright = palette[:, :bands][labels].transpose(2, 0, 1) + random.normal(0, 8, (1, 1, 1))
    scale = {"uint8": 1, "uint16": 200}[dtype]
    image = (bright + random.normal(0, 6, bright.shape)).clip(1, 254) * scale
    metres = np.array([0, 8, 5], np.float32)[labels] + random.random(labels.shape, np.float32)
    return image.astype(dtype), metres[None], labels[None]


def write_town(
    folder: Path,
    name: str,
    height: int,
    width: int,
    seed: int = 0,
    origin: tuple[int, int] = (0, 0),
    **kind: Any,
) -> None:
    """Write the three rasters of a scene."""
    image, metres, labels = town(height, width, seed, **kind)
    write(folder / f"{name}_ortho.tif", image, origin)
    write(folder / f"{name}_dsm.tif", metres, origin)
    write(folder / f"{name}_labels.tif", labels, origin, nodata=255)


def tiny_model(seed: int = 0, **changes: Any) -> CaFE:
    """Return a network with random weights, in inference mode."""
    torch.manual_seed(seed)
    kind: dict[str, Any] = {
        "classes": 3,
        "optical_bands": 3,
        "optical_encoder": ENCODER,
        "width": 8,
        **changes,
    }
    network = CaFE(Architecture(**kind), weights="none")
    bands = network.architecture.optical_bands
    planes = network.architecture.height_planes
    network.set_statistics([128.0] * bands, [64.0] * bands, [2.0] * planes, [4.0] * planes)
    return network.eval()


def decided(network: CaFE) -> CaFE:
    """Make a network with random weights tell its classes apart, on windows of random values."""
    with torch.no_grad():
        logits = network(*example_inputs(network, 1, 64, 64))
        last = network.head[-1]
        assert isinstance(last, torch.nn.Conv2d)
        assert last.bias is not None
        last.bias -= logits.mean(dim=(0, 2, 3))
        last.weight /= logits.std()
        last.bias /= logits.std()
    return network


def torch_forward(
    networks: Sequence[Callable[..., Tensor]],
    batch_size: int = 1,
    transforms: Sequence[TTATransform] = (TTATransform(),),
) -> BatchedForward:
    """Return what runs networks, called like `CaFE.forward`, on the CPU."""
    arrays = TorchArrays(torch.device("cpu"))
    return BatchedForward([*map(TorchNetwork, networks)], arrays, batch_size, transforms)


def ensemble_of(*cards: Any, path: str = "m") -> Ensemble:
    """Return an ensemble of models with these cards, which have no files."""
    return Ensemble(tuple(StoredModel(Path(path), card, 1, {}) for card in cards))


def card_of(network: CaFE, **changes: Any) -> ModelCard:
    """Return a card that fits a network."""
    a = network.architecture
    values: dict[str, Any] = {
        "architecture": a,
        "classes": TABLE,
        "band_names": tuple(["red", "green", "blue", "nir"][: a.optical_bands]),
        "dtype": "uint8",
        "gsd": PIXEL,
        "height": HeightSettings(
            kind="ndsm", fill=0, valley_radius=20 if a.height_planes > 1 else 0
        ),
        "window": 64,
        "epoch": 1,
        "scores": None,
        "config": {},
    }
    return ModelCard(**{**values, **changes})


def cafe(
    *words: object, cwd: Path | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run the command line in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "cafe_cli", *map(str, words)],
        cwd=cwd, capture_output=True, text=True, timeout=300, check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
    )  # fmt: skip


def predict(
    model: Path | list[Path],
    source: PredictInput,
    labels: Path,
    *,
    device: str = "cpu",
    jobs: int = 2,
    progress: Callable[[Meter], None] | None = None,
    settings: PredictSettings | None = None,
    **outputs: Any,
) -> Meter:
    """Predict a scene with one model or several; `outputs` are attributes of `PredictOutput`."""
    models = model if isinstance(model, list) else [model]
    return predict_engine.predict(
        models, source, PredictOutput(labels, **outputs), settings=settings,
        compute=ComputeOptions(device, jobs), progress=progress or (lambda meter: None),
    )  # fmt: skip


def cut(scenes: Path, folder: Path, **changes: Any) -> Path:
    """Make a tile set."""
    config = settings(**changes)
    tile(config.model_copy(update={"root": str(scenes)}), folder)
    return folder


def equal(one: Sample, other: Sample) -> bool:
    """Whether two samples are the same to the bit."""
    pairs = zip([*one.inputs, one.labels], [*other.inputs, other.labels], strict=True)
    return all(torch.equal(a, b) for a, b in pairs)
