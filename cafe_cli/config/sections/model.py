"""The network."""

from typing import Annotated, Literal

from pydantic import Field

from cafe_cli.config.choices import Guidance
from cafe_cli.config.types import STRIDE, Count, Name, Pattern, Section, describe

FROM_MODEL = "from_model"
"""Initial weights of an encoder that come with the model of `TrainSettings.from_model`."""


class ModelSettings(Section):
    """The network; the README says what it is, and `cafe_cli/model/cafe.py` how it works.

    In a run that starts from a model (`train.from_model`), `optical_encoder`, `height_encoder`,
    `width`, `fusion` and `attention` are that model's where they are not set, and cafe sets the
    weights of the encoders that the model gives to `"from_model"`, whatever the config says.
    """

    optical_encoder: Annotated[
        Name,
        describe(
            "Encoder of the image: a name in segmentation-models-pytorch, with `tu-` before the "
            "names of timm.",
            unset="`tu-tf_efficientnet_lite0`, or that of `train.from_model`",
            examples=["resnet34"],
        ),
    ] = "tu-tf_efficientnet_lite0"
    height_encoder: Annotated[
        Name,
        describe(
            'Encoder of the heights; `"same"` is the encoder of the image.',
            unset="the encoder of the image, or that of `train.from_model`",
            examples=["tu-regnetx_002"],
        ),
    ] = "same"
    weights: Annotated[
        Pattern,
        describe(
            'Initial weights of the image\'s encoder: `"imagenet"`, `"none"` (random), a local '
            "weights file, or a name that segmentation-models-pytorch knows. The ImageNet weights "
            "of tu-tf_efficientnet_lite0 are installed with cafe, and those of lite1 and lite2 "
            "with a package of their own; others are downloaded.",
            examples=["none"],
        ),
    ] = "imagenet"
    height_weights: Annotated[
        Pattern,
        describe(
            'Initial weights of the heights\' encoder, as in `weights`; `"same"` takes those of '
            "the image's encoder.",
            examples=["none"],
        ),
    ] = "same"
    width: Annotated[
        Count,
        Field(le=4096),
        describe(
            "Channels of the decoder. Fewer need less time and memory.",
            unit="channels",
            unset="128, or that of `train.from_model`",
            examples=[64],
        ),
    ] = 128
    fusion: Annotated[
        Literal["sum", "gated"],
        describe(
            'How the features of image and heights are fused: attention over their sum (`"sum"`), '
            'or a gate for each of the two (`"gated"`).',
            unset="`sum`, or that of `train.from_model`",
        ),
    ] = "sum"
    attention: Annotated[
        Literal["auto"] | Annotated[int, Field(ge=0, lt=65536, multiple_of=2 * STRIDE)],
        describe(
            "Side of the neighbourhood that a pixel attends to. 0 is the whole window, as in the "
            'paper; labels then depend on the window. `"auto"` is twice the crop: all of the crop '
            "in training, and maps that do not depend on the size of the windows.",
            unit="pixels",
            unset="`auto`, or that of `train.from_model`",
            examples=[512],
        ),
    ] = "auto"
    guidance: Annotated[
        Guidance,
        describe(
            'Paths that train: the plain path (`"none"`), the path guided by the labels '
            '(`"labels"`, as in the paper), or both, where the guided path teaches the plain one '
            '(`"distill"`).'
        ),
    ] = "none"
    enhancement: Annotated[
        Literal["none", "1-p", "exp", "inverse"],
        describe(
            "Weight of a class on the guided path, where p is its share of the image's labels: 1 "
            '(`"none"`), 1-p, exp(-p), or 1/p (`"inverse"`). Rare classes weigh more.'
        ),
    ] = "1-p"
    pyramid: Annotated[
        bool,
        describe("Whether the coarser levels of the decoder have a loss of their own, too."),
    ] = True

    @property
    def pretrained(self) -> tuple[str, ...]:
        """Encoders that do not start from random weights, as the network names them."""
        encoders = ("optical_encoder", "height_encoder")
        initial = zip(encoders, self.initial_weights, strict=True)
        return tuple(name for name, weights in initial if weights != "none")

    @property
    def initial_weights(self) -> tuple[str, str]:
        """Initial weights of the image's and of the heights' encoder."""
        heights = self.weights if self.height_weights == "same" else self.height_weights
        return self.weights, heights
