"""Ways to train, as data: a variant is a name, a sentence and settings of the config.

What a variant does not say is as in the config. The first one is what the others are compared with.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from cafe_cli.config.schema import AugmentSettings


@dataclass(frozen=True)
class Variant:
    """One way to train.

    Attributes
    ----------
    sentence : str
        What is different, for the report.
    config : dict
        Dotted keys of the config and their values.
    """

    sentence: str
    config: Mapping[str, object] = field(default_factory=dict)


_PLAIN = {
    **{f"augment.{key}": value for key, value in AugmentSettings.off().items()},
    "augment.flips": True, "augment.turns": True,
    "augment.color_jitter": 0.1, "augment.height_jitter": 0.1, "augment.height_dropout": 0.1,
}  # fmt: skip

_OF_HEIGHTS = {key for key in _PLAIN if "height" in key or "valley" in key}

VARIANTS: dict[str, Variant] = {
    "base": Variant("The config as it is."),
    "scratch": Variant("Random weights at the start.", {"model.weights": "none"}),
    "heights_scratch": Variant(
        "Heights start from random weights, in a lighter encoder.",
        {"model.height_encoder": "tu-regnetx_002", "model.height_weights": "none"},
    ),
    "plain": Variant("Symmetries, and little else, change the tiles.", _PLAIN),
    "same_light": Variant(
        "Light and colours stay as they are.",
        {key: value for key, value in _PLAIN.items() if key not in _OF_HEIGHTS},
    ),
    "same_heights": Variant(
        "Heights stay as they are.",
        {key: value for key, value in _PLAIN.items() if key in _OF_HEIGHTS},
    ),
    "class_light": Variant(
        "Single classes of a tile get other colours.", {"augment.class_light": 0.5}
    ),
    "water_light": Variant(
        "Water gets other colours in half of the tiles.",
        {"augment.class_light": 0.5, "augment.class_light_of": ("water",)},
    ),
    "same_scale": Variant("Pixels of one size.", {"augment.scale": 1.0}),
    "streams_kept": Variant(
        "No stream is dropped.",
        {"augment.height_dropout": 0.0, "augment.optical_dropout": 0.0},
    ),
    "no_average": Variant("Weights are not averaged over steps.", {"train.average": 0.0}),
    "encoder_rate_0.3": Variant("Encoders learn less.", {"train.encoder_learning_rate": 0.3}),
    "encoder_rate_0.1": Variant("Encoders learn slowly.", {"train.encoder_learning_rate": 0.1}),
    "dice_0": Variant("Cross-entropy without Dice.", {"train.dice": 0.0}),
    "prior_0": Variant("Classes as frequent as in training.", {"train.logit_adjustment": 0.0}),
    "prior_0.75": Variant("Classes nearer to equally frequent.", {"train.logit_adjustment": 0.75}),
    "prior_1": Variant("All classes equally frequent.", {"train.logit_adjustment": 1.0}),
    "smoothing": Variant("Smoothed labels.", {"train.label_smoothing": 0.05}),
    "border_2": Variant("2 pixels along borders do not train.", {"train.ignore_border": 2}),
    "balance": Variant("Tiles with rare classes come more often.", {"train.class_balance": 0.5}),
    "labels": Variant("The labels guide the fusion in training.", {"model.guidance": "labels"}),
    "distill": Variant("The guided path teaches the plain one.", {"model.guidance": "distill"}),
    "contrast_0.2": Variant("Category contrast.", {"train.category_contrast": 0.2}),
    "contrast_0.5": Variant("More category contrast.", {"train.category_contrast": 0.5}),
    "heads": Variant("Heads on each stream.", {"train.stream_heads": 0.4}),
    "window": Variant("Attention to the whole window.", {"model.attention": 0}),
    "tta": Variant("The map is averaged over 8 symmetries.", {"predict.tta": "d4"}),
    "as_trained": Variant("Maps at the size of the training.", {"predict.scales": (1.0,)}),
    "larger": Variant("Maps of pictures 1.5 times as large.", {"predict.scales": (1.5,)}),
    "no_valleys": Variant(
        "The network does not see how high the ground lies above the floor of its valley.",
        {"height.valley_radius": 0.0},
    ),
    "absolute": Variant("Heights above sea, no ground is estimated.", {"height.ground": "none"}),
}
