"""The description that travels with the weights of a model; this module is free of torch."""

import dataclasses
import re
import reprlib
from collections.abc import Mapping
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PlainSerializer, PlainValidator, ValidationError

from cafe_cli import __version__
from cafe_cli.classes import ClassTableField
from cafe_cli.config.schema import HeightSettings
from cafe_cli.config.types import GroundSamplingDistance, Name, PixelType, Window
from cafe_cli.errors import ConfigError, ModelFileError
from cafe_cli.model.architecture import Architecture
from cafe_cli.model.calibration import Calibration
from cafe_cli.model.distribution import PixelDistribution

# Encoder names are passed to other libraries: hub addresses and paths are not allowed.
_ENCODER = re.compile(r"[A-Za-z0-9_.+-]{1,64}")
_MAX_WIDTH = 4096


def _parse_architecture(value: Any) -> Architecture:
    """Validate an untrusted architecture: no hub addresses or paths, no unbounded memory."""
    if isinstance(value, Architecture):
        return value
    if not isinstance(value, dict):
        raise ValueError("input should be an object")
    known = {field.name for field in dataclasses.fields(Architecture)}
    if unknown := sorted(set(value) - known):
        raise ValueError(f"unknown architecture setting {reprlib.repr(unknown[0])}")
    for key in ("optical_encoder", "height_encoder"):
        name = value.get(key)
        if name is None and key == "height_encoder":
            continue
        if not isinstance(name, str) or not _ENCODER.fullmatch(name):
            raise ValueError(f"{key} {reprlib.repr(name)} is not the name of an encoder")
    for key in ("classes", "optical_bands", "width"):
        number = value.get(key)
        if not isinstance(number, int) or not 0 < number <= _MAX_WIDTH:
            raise ValueError(f"{key} is {reprlib.repr(number)}: it has to be 1 to {_MAX_WIDTH}")
    try:
        return Architecture(**value)
    except (ConfigError, TypeError) as error:
        raise ValueError(str(error)) from error


class ModelCard(BaseModel):
    """The description that travels with the weights.

    In the file it is JSON: the architecture as an object of its arguments, the class table as
    `ClassTable.as_json` returns it. Parsing checks both.

    Attributes
    ----------
    architecture : Architecture
        Architecture of the network.
    classes : ClassTable
        The classes that the network tells apart.
    band_names : tuple of str
        Optical bands in the order the network expects.
    dtype : str
        Data type of the optical rasters it was trained on.
    gsd : float
        Metres per pixel.
    height : HeightSettings
        How heights were brought to metres (above ground).
    window : int
        Side of the windows it was trained on, in pixels.
    epoch : int
        Epochs of training behind the weights.
    scores : dict or None
        Scores on the validation tiles as `cafe_cli.evaluation.metrics.Scores.as_json` returns them:
        plain values, since this package lies below `evaluation`.
    config : dict
        The settings of the training run.
    training_pixels : PixelDistribution or None
        Colours and heights of the training tiles; None in files of the format "cafe model 2".
    calibration : Calibration or None
        The temperature in the weights; None without validation tiles, and in older files.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal["cafe model 2", "cafe model 3"] = "cafe model 3"
    cafe_version: str = __version__
    torch_version: str = Field(default_factory=partial(version, "torch"))
    architecture: Annotated[
        Architecture, PlainValidator(_parse_architecture), PlainSerializer(dataclasses.asdict)
    ]
    classes: ClassTableField
    band_names: tuple[Name, ...]
    dtype: PixelType
    gsd: GroundSamplingDistance
    height: HeightSettings
    window: Window
    epoch: Annotated[int, Field(ge=0)]
    scores: dict[str, Any] | None
    config: dict[str, Any]
    training_pixels: PixelDistribution | None = None
    calibration: Calibration | None = None

    @property
    def has_height(self) -> bool:
        """Whether the network has a height stream."""
        return self.architecture.heights


def parse_card(path: Path, metadata: Mapping[str, str]) -> ModelCard:
    """Return the card that the metadata of a model file hold as JSON, under ``cafe``.

    Raises
    ------
    ModelFileError
        There is none, or it is damaged, or of another version.
    """
    if "cafe" not in metadata:
        raise ModelFileError(
            f"{path} holds weights, but not those of a cafe model; pass weights of an encoder to "
            "cafe train --weights"
        )
    try:
        card = ModelCard.model_validate_json(metadata["cafe"])
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "metadata"
        raise ModelFileError(
            f"{path}: its description cannot be used: {where}: "
            f"{first['msg'].removeprefix('Value error, ')}; it is damaged, or of another version "
            f"of cafe (this is {__version__})"
        ) from error
    if card.has_height and card.architecture.height_planes != (planes := card.height.planes):
        raise ModelFileError(
            f"{path}: a network of {card.architecture.height_planes} planes of heights is "
            f"described with {planes}"
        )
    network, classes = card.architecture, len(card.classes)
    if (network.classes, network.optical_bands) != (classes, len(card.band_names)):
        raise ModelFileError(
            f"{path}: a network of {network.classes} classes and {network.optical_bands} bands is "
            f"described with {classes} classes and {len(card.band_names)} bands"
        )
    return card
