"""The network that a tile set and a config ask for."""

from typing import Literal

from cafe_cli.augment import crop_side
from cafe_cli.config import Config
from cafe_cli.model import Architecture, CaFE
from cafe_cli.tiles import TileSet


def build(tileset: TileSet, config: Config, weights: str | None = None) -> CaFE:
    """Build the network of a run, with the statistics of its tiles, on the CPU.

    `weights` take the place of those that the config names.

    Raises
    ------
    ConfigError, ModelFileError
        See `CaFE`.
    """
    settings = config.model
    architecture = Architecture(
        classes=len(tileset.classes),
        optical_bands=len(tileset.band_names),
        heights=tileset.has_height,
        attention=_attention(settings.attention, crop_side(config.train, tileset.size)),
        **settings.model_dump(exclude={"weights", "attention"}),
    )
    network = CaFE(architecture, weights=weights or settings.weights)
    optical, height = tileset.optical_statistics, tileset.height_statistics
    limits = (optical.low, optical.high) if optical.low and optical.high else None
    network.set_statistics(optical.mean, optical.std, height.mean[0], height.std[0], limits)
    return network


def _attention(asked: int | Literal["auto"], crop: int) -> int:
    """Return the neighbourhood of the attention in pixels; as a rule, all that training sees."""
    return -(-crop // 32) * 64 if asked == "auto" else asked
