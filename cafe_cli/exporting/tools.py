"""What other programs want of an ONNX file: the input, the size of a window, the metadata.

As of GeoDeep 0.9.13 and Deepness 0.6.3 (uav4geo/GeoDeep, PUTvision/qgis-plugin-deepness): both feed
one input (batch, bands, side, side) of 8-bit values divided by 255, take the class of the highest
score, and set scores below ``seg_thresh`` to 0 before. GeoDeep reads red, green and blue by the
colours of the bands, and no other band.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass

from cafe_cli.config.choices import ExportTarget
from cafe_cli.config.schema import STRIDE
from cafe_cli.errors import ConfigError
from cafe_cli.model.card import ModelCard
from cafe_cli.scenes.band_names import color_of, reordering

IMAGE = "image"
"""Name of the input, (batch, bands, side, side) float32: 8-bit values divided by 255."""

_RGB = ("red", "green", "blue")
_WINDOW = 512  # pixels, where a model was trained on smaller windows
_MOST = 4096  # pixels along a side of a window: a window of this size takes 10 GB

TITLES: Mapping[ExportTarget, str] = {
    "cafe": "cafe predict", "deepness": "Deepness (QGIS)", "geodeep": "GeoDeep",
}  # fmt: skip


@dataclass(frozen=True)
class ToolInput:
    """The input of a file for another program.

    Attributes
    ----------
    bands : tuple of str
        What the bands of the input show, in their order.
    order : tuple of int
        Where each optical band of the network is among them, from 0.
    heights : bool
        Whether the last band holds heights.
    window, overlap : int
        Side of a window, and what neighbours share, in pixels.
    batch : int or None
        Windows at a time; None if the program may choose.
    """

    bands: tuple[str, ...]
    order: tuple[int, ...]
    heights: bool
    window: int
    overlap: int
    batch: int | None

    @property
    def overlap_percent(self) -> int:
        """The overlap in per cent of the window; both programs read whole numbers."""
        return round(100 * self.overlap / self.window)


def plan_input(
    card: ModelCard, target: ExportTarget, window: int | None, overlap: int | None, heights: bool
) -> ToolInput:
    """Return the input of a file for Deepness or GeoDeep.

    Parameters
    ----------
    card : ModelCard
    target : {"deepness", "geodeep"}
    window, overlap : int, optional
        In pixels. By default 512, or the windows of the training if they are larger or if attention
        pools over all of a window; and a quarter.
    heights : bool
        Whether heights are wanted, if the model knows them and the program has a band for them.

    Raises
    ------
    ConfigError
        The program cannot feed the model, or window or overlap are not possible.
    """
    names, title = card.band_names, TITLES[target]
    if card.dtype != "uint8":
        raise ConfigError(
            f"the model was trained on {card.dtype}, and {title} feeds 8 bits: export it for cafe "
            "(--for cafe), or train one on 8-bit images"
        )
    order = (*range(len(names)),)
    if target == "geodeep":
        if len(names) != len(_RGB):
            raise ConfigError(
                f"GeoDeep feeds exactly 3 bands, the model takes {len(names)} "
                f"({', '.join(names)}): use --for deepness, or train one on 3 bands"
            )
        order = reordering(_RGB, [*map(color_of, names)]) or order
    in_band = heights and card.has_height and target == "deepness"
    if in_band and card.height.kind == "dsm" and card.height.ground == "none":
        raise ConfigError(
            "the model was trained on absolute heights, which 8 bits do not hold: pass "
            "--no-heights, or train one on heights above ground (height.ground)"
        )
    size = _check_window(card, window)
    shared = _check_overlap(size, overlap)
    colours = tuple(names[order.index(i)] for i in range(len(names)))
    return ToolInput(
        (*colours, "height") if in_band else colours, order, in_band, size, shared,
        batch=1 if target == "geodeep" else None,
    )  # fmt: skip


def _check_window(card: ModelCard, asked: int | None) -> int:
    trained = -(-card.window // STRIDE) * STRIDE
    # Labels depend on the window where attention pools over all of it.
    usual = max(trained, _WINDOW) if card.architecture.attention else trained
    size = usual if asked is None else asked
    if size % STRIDE or not STRIDE <= size <= _MOST:
        near = min(max(round(size / STRIDE), 1) * STRIDE, _MOST)
        raise ConfigError(
            f"--window {size} has to be a multiple of {STRIDE} (the network's stride) up to "
            f"{_MOST}, e.g. --window {near}"
        )
    return size


def _check_overlap(window: int, asked: int | None) -> int:
    overlap = window // 4 if asked is None else asked
    if not 0 <= overlap <= window // 2:
        raise ConfigError(
            f"--overlap {overlap} has to be 0 to {window // 2} pixels, half of a window of {window}"
        )
    return overlap


def tool_metadata(card: ModelCard, planned: ToolInput) -> dict[str, str]:
    """Return the metadata that Deepness and GeoDeep read; each value is JSON."""
    channels = len(planned.bands)
    values = {
        "model_type": "Segmentor",
        "class_names": {str(i): name for i, name in enumerate(card.classes.names)},
        "resolution": round(card.gsd * 100, 4),
        # Deepness documents the first, and reads the second.
        "tiles_size": planned.window,
        "tile_size": planned.window,
        "tiles_overlap": planned.overlap_percent,
        # No score is too small, and no patch: the labels are those of the model.
        "seg_thresh": 0.0,
        "seg_small_segment": 0,
        # The network standardises by itself.
        "standardization_mean": [0.0] * channels,
        "standardization_std": [1.0] * channels,
        "bands": list(planned.bands),
    }
    return {key: json.dumps(value) for key, value in values.items()}
