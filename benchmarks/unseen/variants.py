"""Ways to train, as data: a variant is a name, a sentence and settings of the config.

What a variant does not say is as in the config. The first one is what the others are compared with.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field


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


VARIANTS: dict[str, Variant] = {
    "base": Variant("The config as it is."),
    "long": Variant("Twice the epochs.", {"train.epochs": 40}),
    "labels": Variant("The labels guide the fusion in training.", {"model.guidance": "labels"}),
    "distill": Variant("The guided path teaches the plain one.", {"model.guidance": "distill"}),
    "dice_0": Variant("Cross-entropy without Dice.", {"train.dice": 0.0}),
    "dropout_0": Variant("Heights are never dropped.", {"train.height_dropout": 0.0}),
    "color_0.3": Variant("Three times the colour jitter.", {"train.color_jitter": 0.3}),
    "jitter_1": Variant("An offset of 1 m on the heights.", {"train.height_jitter": 1.0}),
    "absolute": Variant("Heights above sea, no ground is estimated.", {"height.ground": "none"}),
}
