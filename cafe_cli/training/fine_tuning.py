"""Fine-tuning: a training run that starts from a cafe model (`train.from_model`).

Statistics of the inputs are the model's where the pixel values mean the same: its weights expect
them, and it then starts with the very predictions it was chosen for. Class shares, the temperature
and the distribution of the training pixels are those of the new tiles.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cafe_cli.config.schema import FROM_MODEL, Config, HeightSettings
from cafe_cli.errors import ConfigError, ModelFileError
from cafe_cli.model import model_file, stored
from cafe_cli.model.architecture import Architecture
from cafe_cli.model.cafe import CaFE
from cafe_cli.model.card import ModelCard
from cafe_cli.model.transfer import Matching, TakenPart, encoder_names, plain_name, take_weights
from cafe_cli.scenes.band_names import color_of
from cafe_cli.text import short_repr
from cafe_cli.tilesets.tileset import TileSet
from cafe_cli.training.build import build_network

log = logging.getLogger("cafe")

_OF_THE_MODEL = ("optical_encoder", "height_encoder", "width", "fusion", "attention")
"""Keys of ``[model]`` that come from the model unless the config sets them; the other ones concern
training only, and a model for inference does not have them."""

_INITIAL_WEIGHTS = {"weights": "optical_encoder", "height_weights": "height_encoder"}
"""The encoder of each key of ``[model]`` that says what an encoder starts from."""

_APART, _WIDER = 6.0, 3.0
"""Standard deviations between means, and factor between standard deviations, above which values are
of another scaling. Between six real sites of one scaling they reach 4.7 and 2.4."""

_FINER = 2.0  # factor between pixel sizes from which features of the ground look different


@dataclass(frozen=True)
class Start:
    """The model that a run starts from.

    Attributes
    ----------
    taken : list of TakenPart
        The table of what was taken.
    network : CaFE
        The network of the run, with the model's weights.
    """

    taken: list[TakenPart]
    network: CaFE


def settle_model(config: Config) -> Config:
    """Read the description of the model to start from, and settle the config by it.

    Returns
    -------
    Config
        With the model's architecture where the config does not set another, with weights
        "from_model" for the encoders that the model gives, and with the checksum of the file. The
        same config if the run starts from no model.

    Raises
    ------
    ConfigError
        The file has another checksum than `train.from_sha256`.
    ModelFileError
        The file is no cafe model, or is damaged.
    """
    if config.train.from_model is None:
        return config
    path = Path(config.train.from_model)
    card = _read_card(path)
    digest = stored.sha256(path)
    if config.train.from_sha256 not in (None, digest):
        raise ConfigError(
            f"{path} is another file than before: its SHA-256 is {digest}, train.from_sha256 is "
            f"{config.train.from_sha256}; give the file that was meant, or leave out the checksum"
        )
    config = _with_architecture(config, card.architecture)
    train = config.train.model_copy(update={"from_sha256": digest})
    return config.model_copy(update={"train": train})


def _read_card(path: Path) -> ModelCard:
    if path.suffix.lower() != ".safetensors" and path.is_file():
        raise ModelFileError(
            f"{path} is not a model that cafe train wrote, such as best.safetensors: training "
            "cannot start from other formats; pass weights of an encoder (.pth, .pt) with "
            "--weights"
        )
    return stored.read_card(path)


def _with_architecture(config: Config, architecture: Architecture) -> Config:
    """Take the model's architecture where the config does not set another."""
    own = {key: getattr(architecture, key) for key in _OF_THE_MODEL}
    own["height_encoder"] = own["height_encoder"] or "same"
    changes = {k: v for k, v in own.items() if k not in config.model.model_fields_set}
    model = config.model.model_copy(update=changes)
    heights = model.height_encoder if model.height_encoder != "same" else model.optical_encoder
    asked = {"optical_encoder": model.optical_encoder, "height_encoder": heights}
    theirs = encoder_names(architecture)
    # A config of another run may say that its encoders came with a model, too.
    others = ("imagenet" if weights == FROM_MODEL else weights for weights in model.initial_weights)
    initial = {
        key: FROM_MODEL if theirs.get(name) == asked[name] else weights
        for (key, name), weights in zip(_INITIAL_WEIGHTS.items(), others, strict=True)
    }
    return config.model_copy(update={"model": model.model_copy(update=initial)})


def restore_model_settings(config: Config, before: Mapping[str, Any]) -> Config:
    """Settle the config of a run to resume as `settle_model` did, without reading the model.

    Parameters
    ----------
    config : Config
    before : mapping
        The settings in the checkpoint, see `cafe_cli.training.state.fixed_settings`.
    """
    if config.train.from_model is None or before.get("train.from_model") is None:
        return config
    unset = [key for key in _OF_THE_MODEL if key not in config.model.model_fields_set]
    pretrained = before["what starts from model.weights"]
    initial = {
        key: FROM_MODEL if name in pretrained else "none" for key, name in _INITIAL_WEIGHTS.items()
    }
    stored = {key: before[f"model.{key}"] for key in unset}
    model = config.model.model_copy(update={**stored, **initial})
    digest = config.train.from_sha256 or before["train.from_sha256"]
    train = config.train.model_copy(update={"from_sha256": digest})
    return config.model_copy(update={"model": model, "train": train})


def build(tileset: TileSet, config: Config, *, resume: bool = False) -> Start:
    """Build the network of a run, with the weights of the model to start from if there is one.

    On a `resume` all weights are random, and the model is not read: it may be gone.

    Raises
    ------
    ConfigError, ModelFileError
        See `build_network`; or the model cannot be read, has weights that are not finite, or has
        been replaced since the run was planned.
    """
    network = build_network(tileset, config, pretrained=not resume)
    if resume or config.train.from_model is None:
        return Start([], network)
    path = Path(config.train.from_model)
    source, card = model_file.load(path)
    if config.train.from_sha256 not in (None, stored.sha256(path)):
        raise ModelFileError(f"{path} was replaced since this run was planned; start it again")
    bands = match_bands(tileset.band_names, card.band_names)
    classes = Matching.of(tileset.classes.names, card.classes.names)
    temperature = card.calibration.temperature if card.calibration else 1.0
    taken = take_weights(network, source, bands, classes, temperature)
    return Start([*taken, _take_statistics(network, source, card, tileset, bands)], network)


def describe(config: Config, begun: Start) -> dict[str, object]:
    """Return the model that a run starts from, and what is taken of it, for a report."""
    return {
        "path": config.train.from_model,
        "sha256": config.train.from_sha256,
        "taken": {
            part.name: f"{part.taken} of {part.tensors}{part.note and f'; {part.note}'}"
            for part in begun.taken
        },
    }


def match_bands(new: tuple[str, ...], old: tuple[str, ...]) -> Matching:
    """Match bands by their names, by position where no name of a new band says what it shows."""
    found = Matching.of(new, old, lambda name: color_of(name) or plain_name(name))
    if not found.taken and len(new) == len(old) and not any(map(color_of, new)):
        log.warning(
            "the bands of the tile set (%s) have no names: they are assumed to be those of the "
            "model, %s, in this order", ", ".join(new), ", ".join(old),
        )  # fmt: skip
        return Matching((*range(len(old)),), new, (), ())
    return found


def _take_statistics(
    network: CaFE, source: CaFE, card: ModelCard, tileset: TileSet, bands: Matching
) -> TakenPart:
    """Take the statistics of the inputs where pixel values and heights mean the same."""
    pairs = [(n, p) for n, p in enumerate(bands.places) if p is not None]
    new, old = [n for n, _ in pairs], [p for _, p in pairs]
    image = bool(pairs) and tileset.dtype == card.dtype and _is_one_scaling(network, source, pairs)
    if image:
        for name in ("optical_mean", "optical_std"):
            getattr(network, name)[new] = getattr(source, name)[old]
        # What either clipped stays inside: the model saw no pixel beyond its own limits.
        low, high = network.optical_low, network.optical_high
        low[new] = low[new].minimum(source.optical_low[old])
        high[new] = high[new].maximum(source.optical_high[old])
    both = network.architecture.heights and source.architecture.heights
    heights = both and _is_above_ground(tileset.height) and _is_above_ground(card.height)
    if heights:
        for name in ("height_mean", "height_std"):
            ours, theirs = getattr(network, name), getattr(source, name)
            planes = min(len(ours), len(theirs))
            ours[:planes] = theirs[:planes]
    said = [] if image else ["image: of these tiles, whose values are of another kind or scaling"]
    if network.architecture.heights and not heights:
        said.append("heights: of these tiles, since not both are heights above ground")
    total = 2 if network.architecture.heights else 1
    return TakenPart("statistics of inputs", int(image) + int(heights), total, "; ".join(said))


def _is_one_scaling(network: CaFE, source: CaFE, pairs: list[tuple[int, int]]) -> bool:
    """Whether mean and deviation of most bands are such as two sites of one sensor may have."""
    new, old = (np.array(places) for places in zip(*pairs, strict=True))
    ours, theirs = network.optical_std.numpy()[new], source.optical_std.numpy()[old]
    means = network.optical_mean.numpy()[new] - source.optical_mean.numpy()[old]
    ratio = np.median(ours / theirs)
    return bool(np.median(np.abs(means) / theirs) <= _APART and 1 / _WIDER <= ratio <= _WIDER)


def _is_above_ground(settings: HeightSettings) -> bool:
    return settings.kind == "ndsm" or settings.ground != "none"


def warnings(tileset: TileSet, config: Config) -> list[str]:
    """Return warnings about a model to start from that has seen another kind of ground."""
    if config.train.from_model is None or FROM_MODEL not in config.model.initial_weights:
        return []
    card = stored.read_card(Path(config.train.from_model))
    found = []
    ratio = card.gsd / tileset.gsd
    if not 1 / _FINER <= ratio <= _FINER:
        found.append(
            f"the tiles have pixels of {tileset.gsd:.3g} m, {config.train.from_model} was trained "
            f"at {card.gsd:.3g} m: cut them with tile.gsd = {card.gsd:.3g} to make the most of "
            "its weights"
        )
    classes = Matching.of(tileset.classes.names, card.classes.names)
    if not classes.taken:
        found.append(
            f"no class of {config.train.from_model} ({short_repr(', '.join(card.classes.names))}) "
            "is one of the tile set's: the head starts from random weights; rename [[classes]] "
            "if some are"
        )
    return found
