"""The config: its sections and keys, their defaults, and the rules for values.

A config is TOML. Command line options override its dotted keys (``train.epochs = 5``), and the
result is saved next to every output, so that a run can be repeated.
"""

from typing import Annotated, Self

from pydantic import model_validator

from cafe_cli.classes import ClassTable, LandClass
from cafe_cli.config.sections.augment import AugmentSettings
from cafe_cli.config.sections.inputs import (
    ClassSettings,
    HeightSettings,
    LabelSettings,
    SceneSettings,
)
from cafe_cli.config.sections.model import FROM_MODEL, ModelSettings
from cafe_cli.config.sections.predict import PredictSettings
from cafe_cli.config.sections.tiles import SplitSettings, TileSettings
from cafe_cli.config.sections.train import TrainSettings
from cafe_cli.config.types import STRIDE, Section, describe
from cafe_cli.errors import ConfigError

__all__ = [
    "FROM_MODEL", "STRIDE", "AugmentSettings", "ClassSettings", "Config", "HeightSettings",
    "LabelSettings", "ModelSettings", "PredictSettings", "SceneSettings", "SplitSettings",
    "TileSettings", "TrainSettings",
]  # fmt: skip

_RESERVED = ("", "ignore", "unlabelled", "(none)", "*")
"""Names, in lower case, that mean no class in settings, counts and tables."""


class Config(Section):
    """All settings."""

    root: Annotated[
        str,
        describe(
            "Folder that the paths of the config are relative to, itself relative to the folder of "
            "the config file.",
            examples=["../data"],
        ),
    ] = "."
    scenes: SceneSettings | None = None
    classes: tuple[ClassSettings, ...] = ()
    height: HeightSettings = HeightSettings()
    labels: LabelSettings = LabelSettings()
    split: SplitSettings = SplitSettings()
    tile: TileSettings = TileSettings()
    model: ModelSettings = ModelSettings()
    train: TrainSettings = TrainSettings()
    augment: AugmentSettings = AugmentSettings()
    predict: PredictSettings = PredictSettings()

    @model_validator(mode="after")
    def _check_colors_differ(self) -> Self:
        if self.labels.encoding == "colors":
            rows = [(c.color.lower(), f"class {c.name!r}") for c in self.classes]
            rows += [(color.lower(), "labels.ignore_colors") for color in self.labels.ignore_colors]
            owners: dict[str, str] = {}
            for color, owner in rows:
                if not color or owners.setdefault(color, owner) != owner:
                    raise ValueError(
                        "labels.encoding is 'colors': every class needs its own color, different "
                        f"from labels.ignore_colors; {owner} has "
                        f"{f'{color}, as {owners[color]} has' if color else 'none'}"
                    )
        return self

    @model_validator(mode="after")
    def _check_weights_have_a_source(self) -> Self:
        if self.train.from_model is None and FROM_MODEL in self.model.initial_weights:
            raise ValueError(
                "model.weights are those of a model to start from, but train.from_model is not "
                "set: name the model (--from), or set the weights to imagenet or none"
            )
        return self

    @model_validator(mode="after")
    def _check_names(self) -> Self:
        for name in (c.name for c in self.classes):
            if name.strip().casefold() in _RESERVED:
                raise ValueError(
                    f"a class cannot be called {name!r}, which stands for ground without a class "
                    "or for other values: choose another name; if it is for pixels that should not "
                    "train, drop the class and list its values in labels.ignore"
                )
        return self

    @property
    def bands(self) -> tuple[int, ...] | None:
        """Bands of the optical rasters, from 1; None for all but alpha."""
        return self.scenes.bands if self.scenes else None

    @property
    def crs(self) -> str | None:
        """CRS assumed for rasters without one."""
        return self.scenes.crs if self.scenes else None

    @property
    def pixel_size(self) -> float | None:
        """Metres per pixel of rasters without georeference."""
        return self.scenes.pixel_size if self.scenes else None

    @property
    def optical_nodata(self) -> float | None:
        """Value that marks voids in the optical rasters; None for what they declare."""
        return self.scenes.optical_nodata if self.scenes else None

    @property
    def class_table(self) -> ClassTable:
        """The class table; ConfigError if the config has no classes."""
        if not self.classes:
            raise ConfigError("no classes: the config needs one [[classes]] row per class")
        return ClassTable(tuple(LandClass(**c.model_dump()) for c in self.classes))
