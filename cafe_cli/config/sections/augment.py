"""How training tiles are changed."""

from typing import Annotated, Self

from pydantic import Field, model_validator

from cafe_cli.config.types import (
    BelowOne,
    Name,
    NotNegative,
    Section,
    Share,
    Strength,
    describe,
)


class AugmentSettings(Section):
    """How training tiles are changed, each at random and each anew in every epoch.

    A tile stands for ground under other light, seen by another camera and another survey. A
    strength of 0, or a `scale` of 1, switches an augmentation off. `haze`, `blur`, `noise`, `jpeg`,
    `shadow`, `height_tilt`, `height_noise` and `height_blur` change three tiles in ten, the others
    all tiles or as many as their probability says.
    """

    flips: Annotated[bool, describe("Whether tiles are mirrored.")] = True
    turns: Annotated[bool, describe("Whether tiles are turned by quarters.")] = True
    scale: Annotated[
        float,
        Field(ge=1, le=4),
        describe(
            "Largest factor by which pixels become larger or smaller; heights stay what they are. "
            "A tile that is too small for larger pixels goes on mirrored.",
            unit="factor",
            examples=[1.5],
        ),
    ] = 1.3
    brightness: Annotated[
        BelowOne,
        describe(
            "Exposure: a gain of all bands, up to 1 plus or minus this strength, and an offset of "
            "up to a fifth of it, as a share of the range of pixel values.",
            unit="strength",
            examples=[0.1],
        ),
    ] = 0.2
    color_jitter: Annotated[
        BelowOne,
        describe(
            "White balance: a gain of each band, up to 1 plus or minus this strength, and an "
            "offset of up to a fifth of it, as a share of the range of pixel values.",
            unit="strength",
            examples=[0.1],
        ),
    ] = 0.06
    contrast: Annotated[
        BelowOne,
        describe(
            "Contrast: a factor up to 1 plus or minus this strength.",
            unit="strength",
            examples=[0.1],
        ),
    ] = 0.2
    gamma: Annotated[
        Strength,
        describe(
            "Gamma: an exponent up to exp of plus or minus this strength.",
            unit="strength",
            examples=[0.1],
        ),
    ] = 0.2
    haze: Annotated[
        BelowOne,
        describe(
            "Largest part of the light that comes from the air between camera and ground.",
            unit="share of the light",
            examples=[0.1],
        ),
    ] = 0.2
    saturation: Annotated[
        Share,
        describe(
            "Saturation of the colours: a factor up to 1 plus or minus this strength.",
            unit="strength",
            examples=[0.1],
        ),
    ] = 0.3
    hue: Annotated[
        float,
        Field(ge=0, le=180),
        describe(
            "Largest angle by which the colours of the first three bands turn.",
            unit="degrees",
            examples=[10],
        ),
    ] = 4.0
    grey: Annotated[
        Share,
        describe("Tiles that lose their colours.", unit="probability", examples=[0.05]),
    ] = 0.1
    blur: Annotated[
        float,
        Field(ge=0, le=2),
        describe("Largest standard deviation of a blur of the image.", unit="pixels", examples=[1]),
    ] = 0.7
    noise: Annotated[
        BelowOne,
        describe(
            "Largest standard deviation of the sensor's noise.",
            unit="share of the range of pixel values",
            examples=[0.01],
        ),
    ] = 0.02
    jpeg: Annotated[
        Strength,
        describe(
            "Largest quantisation of a JPEG compression; 1 is that of quality 50.",
            unit="strength",
            examples=[1],
        ),
    ] = 0.5
    shadow: Annotated[
        Share,
        describe(
            "Largest part of the light that patches of a tile lose.",
            unit="share of the light",
            examples=[0.3],
        ),
    ] = 0.6
    class_light: Annotated[
        Strength,
        describe(
            "Other colours of one class alone, for half of the classes of a tile: a gain up to exp "
            "of plus or minus this strength, half as much for each band by itself, and an offset "
            "of up to a quarter of it, as a share of the range of pixel values.",
            unit="strength",
            examples=[0.5],
        ),
    ] = 0.0
    class_light_of: Annotated[
        tuple[Name, ...],
        describe(
            "Names of the classes that `class_light` changes, each in half of the tiles; without "
            "a name, all classes.",
            examples=[["water"]],
        ),
    ] = ()
    height_stretch: Annotated[
        Strength,
        describe(
            "Houses and trees of other heights: a factor up to exp of plus or minus this strength.",
            unit="strength",
            examples=[0.2],
        ),
    ] = 0.5
    height_tilt: Annotated[
        float,
        Field(ge=0, le=30),
        describe(
            "Largest slope of a plane that is added to the heights, as where an estimate of the "
            "ground drifts.",
            unit="degrees",
            examples=[1],
        ),
    ] = 3.0
    height_jitter: Annotated[
        NotNegative,
        describe(
            "Standard deviation of one offset of all heights of a tile.",
            unit="metres",
            examples=[0.2],
        ),
    ] = 0.3
    height_noise: Annotated[
        NotNegative,
        describe(
            "Largest standard deviation of an offset of each height.", unit="metres", examples=[0.2]
        ),
    ] = 0.1
    height_blur: Annotated[
        float,
        Field(ge=0, le=2),
        describe(
            "Largest standard deviation of a blur of the heights: surfaces from image matching are "
            "smoother than those from LiDAR.",
            unit="pixels",
            examples=[0.5],
        ),
    ] = 1.0
    height_voids: Annotated[
        Share,
        describe(
            "Tiles in which the heights of a rectangle or of blobs are missing.",
            unit="probability",
            examples=[0.4],
        ),
    ] = 0.2
    ground_error: Annotated[
        Share,
        describe(
            "Tiles in which all heights are off by some metres, as where the estimate of the "
            "ground cuts a hill. 0.05 to 0.1 helps in mountains without a terrain model.",
            unit="probability",
            examples=[0.05],
        ),
    ] = 0.0
    height_dropout: Annotated[
        Share,
        describe(
            "Tiles that have no heights, so that the network learns to decide by the image. Take "
            "0.3 or more where surface models will be missing.",
            unit="probability",
            examples=[0.3],
        ),
    ] = 0.1
    valley_dropout: Annotated[
        Share,
        describe(
            "Tiles whose ground has no known height above the floor of its valley, so that the "
            "model can map scenes whose heights do not tell it (`ndsm`). Without effect unless "
            "`height.valley_radius` is set.",
            unit="probability",
            examples=[0.2],
        ),
    ] = 0.1
    optical_dropout: Annotated[
        Share,
        describe(
            "Tiles that have no image, so that the network learns to decide by the heights.",
            unit="probability",
            examples=[0.2],
        ),
    ] = 0.1

    @classmethod
    def off(cls) -> dict[str, object]:
        """Return settings under which nothing changes."""
        nothing = {name: type(field.default)() for name, field in cls.model_fields.items()}
        return {**nothing, "scale": 1.0}

    @model_validator(mode="after")
    def _keep_one_stream(self) -> Self:
        if self.height_dropout + self.optical_dropout > 1:
            raise ValueError(
                f"height_dropout {self.height_dropout} and optical_dropout {self.optical_dropout} "
                "are more than 1 together: a tile loses one stream at most"
            )
        return self
