"""An ensemble of one or more models, and its networks on a device."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal, TypeAlias

import torch

from cafe_cli.config.schema import HeightSettings, PredictSettings
from cafe_cli.errors import ConfigError
from cafe_cli.inference.engines import onnx
from cafe_cli.inference.engines.onnx import OnnxNetwork
from cafe_cli.inference.engines.torch import prepare_network
from cafe_cli.inference.forward import BatchedForward, Network, blank_patch, tta_transforms
from cafe_cli.inference.tiling import WindowGrid, default_overlap, fit_window_grid, whole_strides
from cafe_cli.model import model_file, stored
from cafe_cli.model.cafe import CaFE
from cafe_cli.model.card import ModelCard
from cafe_cli.model.device import windows_that_fit
from cafe_cli.model.distribution import PixelDistribution
from cafe_cli.raster.stac import ModelFacts
from cafe_cli.raster.window import Window
from cafe_cli.system.malloc import keep_memory

log = logging.getLogger("cafe")

Engine: TypeAlias = Literal["torch", "onnx"]

_WORTHWHILE = 32  # windows from which on the export to ONNX pays off


@dataclass(frozen=True)
class Ensemble:
    """Models whose class probabilities are averaged.

    Raises
    ------
    ConfigError
        The models differ in classes, bands, data type, height settings or GSD.
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
            A file is no model, or it is damaged.
        """
        loaded = [model_file.load(path) for path in paths]
        return cls(tuple(paths), tuple(m for m, _ in loaded), tuple(c for _, c in loaded))

    def __post_init__(self) -> None:
        """Compare all models with the first."""
        for path, card in zip(self.paths[1:], self.cards[1:], strict=True):
            for what, own, other in _comparable(self.card, card):
                if own != other:
                    raise ConfigError(
                        f"{path} cannot be averaged with {self.paths[0]}: {what} {other} and {own}"
                    )

    @property
    def card(self) -> ModelCard:
        """The card of the first model."""
        return self.cards[0]

    @property
    def has_height(self) -> bool:
        """Whether any of the models has a height stream."""
        return any(card.has_height for card in self.cards)

    @property
    def height(self) -> HeightSettings:
        """Height settings of the models with a height stream."""
        return next((card.height for card in self.cards if card.has_height), self.card.height)

    @property
    def training_pixels(self) -> tuple[PixelDistribution, ...]:
        """What the models were trained on, of those that know it; heights where they see them."""
        found = ((card.training_pixels, card.has_height) for card in self.cards)
        return tuple(p if h else p.model_copy(update={"heights": None}) for p, h in found if p)

    @property
    def parameters(self) -> int:
        """Number of parameters of all models."""
        return sum(p.numel() for model in self.models for p in model.parameters())

    def window_grid(self, settings: PredictSettings, scene: Window) -> WindowGrid:
        """Return the grid of windows for a scene of that extent, from the settings or chosen.

        Raises
        ------
        ConfigError
            Window size or overlap is not a multiple of the network's stride.
        """
        overlap = None if settings.overlap == "auto" else settings.overlap
        trained = max(card.window for card in self.cards)
        if settings.window == "auto" and self.is_bounded:
            return fit_window_grid(scene, trained, overlap)
        size = whole_strides(trained) if settings.window == "auto" else settings.window
        if settings.window == "auto" and overlap is not None and overlap >= size:
            size = 2 * overlap  # an overlap that was asked for is kept
        return WindowGrid(size, size - (default_overlap(size) if overlap is None else overlap))

    @property
    def is_bounded(self) -> bool:
        """Whether the attention of every model pools over a neighbourhood, not the whole window."""
        return all(card.architecture.attention for card in self.cards)

    def prepare(
        self, settings: PredictSettings, windows: WindowGrid, device: torch.device, engine: Engine
    ) -> BatchedForward:
        """Build the networks for windows of that size on a device."""
        transforms = tta_transforms(settings.tta, settings.scales)
        if engine == "torch" and device.type == "cpu":
            keep_memory()  # ONNX Runtime has an allocator of its own
        sides = sorted({transform.side(windows.size) for transform in transforms})
        batch = settings.batch_size if settings.batch_size != "auto" else 1
        networks: list[Network] = []
        for model in self.models:
            try:
                networks.append(_network(model, device, engine, [(batch, s, s) for s in sides]))
            except ConfigError as error:
                if settings.engine != "auto":
                    raise
                log.info("%s", error)
                networks.append(_network(model, device, "torch", []))
        if settings.batch_size != "auto":
            return BatchedForward(networks, device, settings.batch_size, transforms)
        if device.type == "cpu":
            return BatchedForward(networks, device, 1, transforms)
        window = blank_patch(len(self.card.band_names), windows.size)
        alone = BatchedForward(networks, device, 1, transforms)
        return BatchedForward(
            networks, device, windows_that_fit(device, lambda: alone([window])), transforms
        )

    @cached_property
    def hashes(self) -> list[tuple[str, str]]:
        """Name and SHA-256 of every model file."""
        return [(path.name, stored.sha256(path)) for path in self.paths]

    def facts(self, window: int) -> ModelFacts:
        """Return what a STAC item says about the models, run on windows of that many pixels."""
        card, network = self.card, self.card.architecture
        encoders = [network.optical_encoder]
        if self.has_height:
            encoders.append(network.height_encoder or network.optical_encoder)
        return ModelFacts(
            [(path, digest) for path, (_, digest) in zip(self.paths, self.hashes, strict=True)],
            f"CaFE ({', '.join(encoders)})",
            card.torch_version,
            self.parameters,
            card.band_names,
            card.dtype,
            self.has_height,
            window,
            card.classes,
        )

    @property
    def fingerprint(self) -> dict[str, str]:
        """The SHA-256 of every model file by its name, with a number if several share it."""
        names = [name for name, _ in self.hashes]
        # Models of several runs often share a name.
        numbers = [f" {n}" if names.count(name) > 1 else "" for n, name in enumerate(names, 1)]
        each = zip(numbers, self.hashes, strict=True)
        return {f"model{number} {name}": digest for number, (name, digest) in each}


def choose_engine(asked: str, devices: Sequence[torch.device], windows: int) -> Engine:
    """Return the requested engine; if ``auto``, ONNX Runtime if it is installed and pays off.

    Raises
    ------
    ConfigError
        ONNX Runtime was requested on a GPU.
    """
    cpu = all(device.type == "cpu" for device in devices)
    if asked == "onnx" and not cpu:
        raise ConfigError("--engine onnx is for CPUs: add --device cpu, or leave it out")
    if asked == "auto":
        return "onnx" if cpu and windows >= _WORTHWHILE and onnx.available() else "torch"
    return "onnx" if asked == "onnx" else "torch"


def _network(
    model: CaFE, device: torch.device, engine: Engine, shapes: Sequence[tuple[int, int, int]]
) -> Network:
    if engine == "onnx":
        return OnnxNetwork(model, shapes)
    return prepare_network(model, device)


def _comparable(a: ModelCard, b: ModelCard) -> Iterator[tuple[str, object, object]]:
    yield "classes", ", ".join(a.classes.names), ", ".join(b.classes.names)
    yield "bands", ", ".join(a.band_names), ", ".join(b.band_names)
    yield "data type", a.dtype, b.dtype
    yield "GSD", f"{a.gsd:.3g} m", f"{b.gsd:.3g} m"
    if a.has_height and b.has_height:
        yield "heights", str(a.height), str(b.height)
