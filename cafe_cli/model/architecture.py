"""The arguments that define the network, as plain values; this module is free of torch."""

from dataclasses import dataclass
from typing import Literal, get_args

from cafe_cli.classes import NODATA
from cafe_cli.config.schema import STRIDE
from cafe_cli.errors import ConfigError

Fusion = Literal["sum", "gated"]
Guidance = Literal["none", "labels", "distill"]
Enhancement = Literal["none", "1-p", "exp", "inverse"]


@dataclass(frozen=True)
class Architecture:
    """The arguments that define the network: plain values, as the model file stores them.

    Parameters
    ----------
    classes : int
        Number of classes K, 1 to 255.
    optical_bands : int
        Bands of the optical image.
    heights : bool
        Whether the network takes heights; without them it has no height encoder.
    height_planes : int
        Planes of heights: 1, or 2 with the height of the ground above the floor of its valley.
    optical_encoder, height_encoder : str
        Names in `segmentation_models_pytorch`, with the prefix ``tu-`` for encoders of `timm`. The
        height encoder is by default of the same kind as the optical encoder.
    width : int
        Channels of the decoder.
    fusion : {"sum", "gated"}
        Attention over the sum of both streams, or a gate for each stream.
    attention : int
        Extent in pixels of the mean that the plain path's attention is computed from. 0, as in the
        paper, is the whole window: labels then depend on the window. Otherwise it is a multiple of
        64, and the mean is that of the square cells of 32 pixels that begin at most half as many
        pixels away from the pixel's own cell: windows on multiples of 32 pixels then agree except
        at their rims. The network has the same weights in both cases.
    guidance : {"none", "labels", "distill"}
        Training only: the plain path, the guided path, or both, with the guided path as teacher.
    enhancement : {"none", "1-p", "exp", "inverse"}
        Training only: CEL's weight of a category, see `enhancement_weights`.
    pyramid : bool
        Training only: heads on B1..B3, too (pyramid loss supervision).
    stream_heads : bool
        Training only: a linear head on each of R1..R4 and D1..D4.

    Raises
    ------
    ConfigError
        A value is out of its range.
    """

    classes: int
    optical_bands: int
    heights: bool = True
    optical_encoder: str = "resnet18"
    height_encoder: str | None = None
    width: int = 128
    fusion: Fusion = "sum"
    attention: int = 0
    guidance: Guidance = "none"
    enhancement: Enhancement = "1-p"
    pyramid: bool = True
    stream_heads: bool = False
    height_planes: int = 1

    def __post_init__(self) -> None:
        """Validate the values, which may come from a file."""
        for field, highest in (("classes", NODATA), ("optical_bands", 65535), ("width", 65535)):
            if not 1 <= (value := getattr(self, field)) <= highest:
                raise ConfigError(f"{field} is {value}: it has to be 1 to {highest}")
        kinds = {"fusion": Fusion, "guidance": Guidance, "enhancement": Enhancement}
        for field, kind in kinds.items():
            if (value := getattr(self, field)) not in (choices := get_args(kind)):
                raise ConfigError(f"{field} is {value!r}: choose one of {', '.join(choices)}")
        if self.height_planes not in (1, 2):
            raise ConfigError(f"height_planes is {self.height_planes!r}: it has to be 1 or 2")
        reach = self.attention
        if not isinstance(reach, int) or reach not in range(0, 65536, 2 * STRIDE):
            raise ConfigError(
                f"attention is {reach!r}: it has to be 0, for the whole window, or a multiple of "
                f"{2 * STRIDE} pixels below 65536"
            )
