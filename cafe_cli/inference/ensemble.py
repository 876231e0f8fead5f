"""One model or several that are averaged, made ready for a device."""

import hashlib
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

import torch

from cafe_cli.config.schema import HeightSettings, PredictSettings
from cafe_cli.errors import ConfigError
from cafe_cli.inference.engines import onnx
from cafe_cli.inference.engines.onnx import OnnxModel
from cafe_cli.inference.engines.torch import folded, keep_memory
from cafe_cli.inference.forward import BatchedForward, Network, blank, tta_transforms
from cafe_cli.inference.tiling import WindowGrid, fitting, usual_overlap, whole_strides
from cafe_cli.model import model_file
from cafe_cli.model.cafe import CaFE
from cafe_cli.model.device import windows_that_fit
from cafe_cli.model.model_file import ModelCard
from cafe_cli.raster.window import Window

log = logging.getLogger("cafe")

Engine: TypeAlias = Literal["torch", "onnx"]

_WORTHWHILE = 32  # windows, from which on building the graph is made up for


@dataclass(frozen=True)
class Ensemble:
    """Models that can be averaged. The card is that of the first.

    Raises
    ------
    ConfigError
        They were trained on other classes, bands, heights or another GSD.
    """

    paths: tuple[Path, ...]
    models: tuple[CaFE, ...]
    cards: tuple[ModelCard, ...]

    @classmethod
    def load(cls, paths: Sequence[Path]) -> "Ensemble":
        """Load model files.

        Raises
        ------
        ModelFileError
            One cannot be used.
        """
        loaded = [model_file.load(path) for path in paths]
        return cls(tuple(paths), tuple(m for m, _ in loaded), tuple(c for _, c in loaded))

    def __post_init__(self) -> None:
        """Compare all with the first."""
        for path, card in zip(self.paths[1:], self.cards[1:], strict=True):
            for what, own, other in _compared(self.card, card):
                if own != other:
                    raise ConfigError(
                        f"{path} cannot be averaged with {self.paths[0]}: {what} {other} and {own}"
                    )

    @property
    def card(self) -> ModelCard:
        """What there is to know about the models."""
        return self.cards[0]

    @property
    def has_height(self) -> bool:
        """Whether any of them has a height stream."""
        return any(card.has_height for card in self.cards)

    @property
    def height(self) -> HeightSettings:
        """How heights were brought to metres, in those that have a height stream."""
        return next((card.height for card in self.cards if card.has_height), self.card.height)

    @property
    def names(self) -> str:
        """Names of the files."""
        return ", ".join(path.name for path in self.paths)

    @property
    def parameters(self) -> int:
        """How many there are in all models."""
        return sum(p.numel() for model in self.models for p in model.parameters())

    def slide(self, settings: PredictSettings, scene: Window) -> WindowGrid:
        """Return how windows slide over a scene of that extent: as set, or as it suits both.

        Raises
        ------
        ConfigError
            Numbers that do not fit the network's stride.
        """
        overlap = None if settings.overlap == "auto" else settings.overlap
        trained = max(card.window for card in self.cards)
        if settings.window == "auto" and self.is_bounded:
            return fitting(scene, trained, overlap)
        window = whole_strides(trained) if settings.window == "auto" else settings.window
        return WindowGrid(window, window - (usual_overlap(window) if overlap is None else overlap))

    @property
    def is_bounded(self) -> bool:
        """Whether what a pixel becomes depends on a neighbourhood, not on the whole window."""
        return all(card.architecture.get("attention", 0) for card in self.cards)

    def ready(
        self, settings: PredictSettings, slide: WindowGrid, device: torch.device, engine: Engine
    ) -> BatchedForward:
        """Make the networks ready to run windows of that size on a device."""
        seen = tta_transforms(settings.tta, settings.scales)
        if engine == "torch" and device.type == "cpu":
            keep_memory()  # ONNX Runtime keeps its own
        sides = sorted({view.side(slide.window) for view in seen})
        batch = settings.batch_size if settings.batch_size != "auto" else 1
        networks: list[Network] = []
        for model in self.models:
            try:
                networks.append(_on(model, device, engine, [(batch, s, s) for s in sides]))
            except ConfigError as error:
                if settings.engine != "auto":
                    raise
                log.info("%s", error)
                networks.append(_on(model, device, "torch", []))
        if settings.batch_size != "auto":
            return BatchedForward(networks, device, settings.batch_size, seen)
        if device.type == "cpu":
            return BatchedForward(networks, device, 1, seen)
        window = blank(len(self.card.band_names), slide.window)
        alone = BatchedForward(networks, device, 1, seen)
        return BatchedForward(
            networks, device, windows_that_fit(device, lambda: alone([window])), seen
        )

    def made_of(self) -> dict[str, str]:
        """Return the SHA-256 of every model file, by name, and by number if several share it."""
        names = [path.name for path in self.paths]
        # Those of several runs are often called the same.
        numbers = [f" {n}" if names.count(name) > 1 else "" for n, name in enumerate(names, 1)]
        each = zip(numbers, self.paths, strict=True)
        return {f"model{number} {path.name}": _sha256(path) for number, path in each}


def choose_engine(asked: str, devices: Sequence[torch.device], windows: int) -> Engine:
    """Return what runs the networks: as asked, or ONNX Runtime where it is there and pays.

    Raises
    ------
    ConfigError
        ONNX Runtime on a GPU.
    """
    cpu = all(device.type == "cpu" for device in devices)
    if asked == "onnx" and not cpu:
        raise ConfigError("--engine onnx is for CPUs: add --device cpu, or leave it out")
    if asked == "auto":
        return "onnx" if cpu and windows >= _WORTHWHILE and onnx.available() else "torch"
    return "onnx" if asked == "onnx" else "torch"


def _on(
    model: CaFE, device: torch.device, engine: Engine, shapes: Sequence[tuple[int, int, int]]
) -> Network:
    if engine == "onnx":
        return OnnxModel(model, shapes)
    return folded(model).to(device).to(memory_format=torch.channels_last)


def _compared(a: ModelCard, b: ModelCard) -> Iterator[tuple[str, object, object]]:
    yield "classes", ", ".join(a.class_table.names), ", ".join(b.class_table.names)
    yield "bands", ", ".join(a.band_names), ", ".join(b.band_names)
    yield "data type", a.dtype, b.dtype
    yield "GSD", f"{a.gsd:.3g} m", f"{b.gsd:.3g} m"
    if a.has_height and b.has_height:
        yield "heights", str(a.height), str(b.height)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
