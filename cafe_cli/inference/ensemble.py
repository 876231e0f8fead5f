"""An ensemble of one or more models, and its networks on a device."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, TypeAlias

from cafe_cli.config.schema import HeightSettings, PredictSettings
from cafe_cli.errors import ConfigError
from cafe_cli.inference.arrays.numpy import NumpyArrays
from cafe_cli.inference.engines.onnx import OnnxNetwork, find_graph, make_graph
from cafe_cli.inference.forward import BatchedForward, tta_transforms
from cafe_cli.inference.tiling import WindowGrid, default_overlap, fit_window_grid, whole_strides
from cafe_cli.model import onnx_file, stored
from cafe_cli.model.card import ModelCard
from cafe_cli.model.distribution import PixelDistribution
from cafe_cli.model.stored import StoredModel
from cafe_cli.raster.stac import ModelFacts
from cafe_cli.raster.window import Window

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

    files: tuple[StoredModel, ...]

    @classmethod
    def load(cls, paths: Sequence[Path]) -> "Ensemble":
        """Read what model files say about themselves; their weights are read later.

        Raises
        ------
        ModelFileError
            A file is no model, or it is damaged.
        """
        return cls(tuple(map(stored.read_model, paths)))

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
        return self.files[0].card

    @property
    def paths(self) -> list[Path]:
        """The model files."""
        return [file.path for file in self.files]

    @property
    def cards(self) -> list[ModelCard]:
        """The cards of all models."""
        return [file.card for file in self.files]

    @property
    def is_onnx(self) -> bool:
        """Whether a model is an ONNX file, which runs in ONNX Runtime only."""
        return any(file.is_onnx for file in self.files)

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
        return sum(file.parameters for file in self.files)

    def complete(self, settings: PredictSettings) -> PredictSettings:
        """Return settings with the scales of the first model in place of ``auto``."""
        if settings.scales != "auto":
            return settings
        own = self.card.config.get("predict", {}).get("scales", "auto")
        return settings.model_copy(update={"scales": (1.0,) if own == "auto" else tuple(own)})

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
        self, settings: PredictSettings, windows: WindowGrid, device: str, engine: Engine
    ) -> BatchedForward:
        """Build the networks for windows of that size on a device.

        Raises
        ------
        ConfigError
            A model cannot be exported to ONNX, and no other engine is left.
        ModelFileError
            A model file is damaged.
        """
        scales = settings.scales if settings.scales != "auto" else (1.0,)
        transforms = tta_transforms(settings.tta, scales)
        batch = None if settings.batch_size == "auto" else settings.batch_size
        if engine == "onnx":
            sides = sorted({transform.side(windows.size) for transform in transforms})
            shapes = [(batch or 1, side, side) for side in sides]
            try:
                networks = self._onnx_networks(shapes)
            except ConfigError as error:
                if settings.engine != "auto" or self.is_onnx:
                    raise
                log.info("%s", error)
            else:
                return BatchedForward(networks, NumpyArrays(), batch or 1, transforms)
        from cafe_cli.inference.engines.torch import build_forward

        return build_forward(
            self._torch_models, device, batch, transforms, windows.size, settings.cuda_graphs
        )

    def _onnx_networks(self, shapes: Sequence[tuple[int, int, int]]) -> list[OnnxNetwork]:
        networks = []
        for number, (file, found) in enumerate(zip(self.files, self._graphs, strict=True)):
            graph: Path | bytes | None = found
            if graph is None:
                digest = self.hashes[number][1]
                graph = make_graph(file, digest, self._torch_models[number])
            networks.append(OnnxNetwork(graph, file.path, shapes))
        return networks

    def export(self) -> None:
        """Export the models to ONNX once for all processes of this machine, where that works."""
        with suppress(ConfigError):
            for number, (file, found) in enumerate(zip(self.files, self._graphs, strict=True)):
                if found is None and find_graph(file, self.hashes[number][1]) is None:
                    make_graph(file, self.hashes[number][1], self._torch_models[number])

    def check(self, engine: Engine) -> None:
        """Load what an engine needs of the models, before an output is touched.

        Raises
        ------
        ModelFileError
            A model file is damaged.
        """
        if engine == "torch" or not self.has_graphs:
            _ = self._torch_models

    @cached_property
    def _torch_models(self) -> list[Any]:
        from cafe_cli.inference.engines.torch import load_models

        return load_models(self.paths)

    @property
    def has_graphs(self) -> bool:
        """Whether there was an ONNX file of every model before, so that torch is not needed."""
        return None not in self._graphs

    @cached_property
    def _graphs(self) -> list[Path | None]:
        """The ONNX files that were there at first; each was read once to see that it is whole."""
        pairs = zip(self.files, self.hashes, strict=True)
        return [find_graph(file, digest) for file, (_, digest) in pairs]

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


def choose_engine(asked: str, devices: Sequence[str], windows: int, ensemble: Ensemble) -> Engine:
    """Return the requested engine; if ``auto``, ONNX Runtime if it is installed and pays off.

    Raises
    ------
    ConfigError
        ONNX Runtime was requested on a GPU, or torch for an ONNX file.
    """
    cpu = set(devices) == {"cpu"}
    needed = "onnx" if ensemble.is_onnx else asked
    if needed != asked and asked != "auto":
        raise ConfigError(
            "an ONNX file runs in ONNX Runtime only: leave out --engine torch, or name the "
            ".safetensors file"
        )
    if needed == "onnx" and not cpu:
        raise ConfigError("--engine onnx is for CPUs: add --device cpu, or leave it out")
    if needed == "auto":
        # To export takes `onnx`, too.
        pays = ensemble.has_graphs or (windows >= _WORTHWHILE and onnx_file.can_export())
        return "onnx" if cpu and onnx_file.available() and pays else "torch"
    return "onnx" if needed == "onnx" else "torch"


def _comparable(a: ModelCard, b: ModelCard) -> Iterator[tuple[str, object, object]]:
    yield "classes", ", ".join(a.classes.names), ", ".join(b.classes.names)
    yield "bands", ", ".join(a.band_names), ", ".join(b.band_names)
    yield "data type", a.dtype, b.dtype
    yield "GSD", f"{a.gsd:.3g} m", f"{b.gsd:.3g} m"
    if a.has_height and b.has_height:
        yield "heights", str(a.height), str(b.height)
