"""The optimisation."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from cafe_cli.config.choices import Precision
from cafe_cli.config.types import (
    STRIDE,
    BelowOne,
    Count,
    Duration,
    NotNegative,
    Pattern,
    Positive,
    Section,
    Share,
    describe,
)


class TrainSettings(Section):
    """The training of a model.

    The network that validates and is saved for inference is the exponential moving average of the
    network that trains (`average`). Inputs, losses and weights are always float32.
    """

    from_model: Annotated[
        Pattern | None,
        describe(
            "cafe model to start from. Every tensor that fits by name and shape is taken, bands "
            "and classes by their names. A relative path is relative to `root`.",
            unset="the run starts from `model.weights`",
            examples=["../run/best.safetensors"],
        ),
    ] = None
    from_sha256: Annotated[
        Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None,
        describe(
            "SHA-256 checksum of `from_model`; another file is refused. cafe records it in the "
            "config of the run.",
            unset="any file is taken",
            examples=["0123456789abcdef" * 4],
        ),
    ] = None
    epochs: Annotated[
        Count,
        describe("Passes over the training tiles.", unit="epochs", examples=[20]),
    ] = 60
    batch_size: Annotated[
        Literal["auto"] | Annotated[Count, Field(le=65536)],
        describe(
            'Tiles per step, on all devices together. `"auto"` is what fits on a GPU, and 8 on a '
            "CPU.",
            unit="tiles",
            examples=["auto", 16],
        ),
    ] = 8
    accumulate: Annotated[
        Count,
        Field(le=65536),
        describe(
            "Gradient accumulation: parts into which a batch is split, to save memory. Batch "
            "normalisation sees one part at a time.",
            unit="parts",
            examples=[4],
        ),
    ] = 1
    crop: Annotated[
        Annotated[int, Field(ge=STRIDE)] | None,
        describe(
            "Side of the window that is cut from each tile at random.",
            unit="pixels",
            unset="the whole tile",
            examples=[256],
        ),
    ] = None
    optimizer: Annotated[
        Literal["adamw", "sgd"],
        describe("Optimiser: AdamW, or SGD with momentum."),
    ] = "adamw"
    learning_rate: Annotated[
        Positive,
        describe(
            "Highest learning rate. The rate rises linearly to it (`warmup`), and then falls along "
            "a cosine to zero.",
            unit="learning rate",
            examples=[3e-4],
        ),
    ] = 1e-3
    encoder_learning_rate: Annotated[
        Positive,
        describe(
            "Learning rate of the encoders that do not start from random weights, relative to "
            "`learning_rate`.",
            unit="factor",
            examples=[0.1],
        ),
    ] = 1.0
    average: Annotated[
        float,
        Field(ge=0, lt=1),
        describe(
            "Part of itself that the moving average of the weights keeps in a step. 0 is no "
            "average.",
            unit="share",
            examples=[0.999],
        ),
    ] = 0.99
    weight_decay: Annotated[
        NotNegative,
        describe(
            "Weight decay of the optimiser; biases and normalisation layers have none.",
            unit="factor",
            examples=[0.05],
        ),
    ] = 1e-2
    momentum: Annotated[
        Share,
        describe("Momentum of SGD; AdamW does not use it.", unit="share", examples=[0.95]),
    ] = 0.9
    warmup: Annotated[
        Share,
        describe(
            "Part of the steps in which the learning rate rises.",
            unit="share of all steps",
            examples=[0.1],
        ),
    ] = 0.05
    distill_weight: Annotated[
        NotNegative,
        describe(
            'Weight of the distillation loss, where `model.guidance` is `"distill"`.',
            unit="weight",
            examples=[0.5],
        ),
    ] = 1.0
    dice: Annotated[
        NotNegative,
        describe(
            "Weight of the Dice loss, which helps small and rare classes, beside cross-entropy.",
            unit="weight",
            examples=[0.5],
        ),
    ] = 0.0
    logit_adjustment: Annotated[
        Share,
        describe(
            "How frequent the classes are expected to be where maps are made: 0, as in the "
            "training labels; 1, all alike. With the default, rare classes are missed less on "
            "other ground.",
            unit="share",
            examples=[0],
        ),
    ] = 0.5
    label_smoothing: Annotated[
        BelowOne,
        describe(
            "Part of a label that is spread over all classes.",
            unit="share of the label",
            examples=[0.05],
        ),
    ] = 0.0
    ignore_border: Annotated[
        int,
        Field(ge=0, le=64),
        describe(
            "Distance from another class within which pixels count as unlabelled, since drawn "
            "borders are off by a pixel or two.",
            unit="pixels",
            examples=[1],
        ),
    ] = 0
    category_contrast: Annotated[
        NotNegative,
        describe(
            "Weight of a loss that draws the features of a class together. The model for inference "
            "does not change.",
            unit="weight",
            examples=[0.1],
        ),
    ] = 0.0
    stream_heads: Annotated[
        NotNegative,
        describe(
            "Weight of the losses of heads on the features of image and heights before their "
            "fusion. The heads are no part of the model for inference.",
            unit="weight",
            examples=[0.4],
        ),
    ] = 0.0
    class_balance: Annotated[
        Share,
        describe(
            "Part of the tiles of an epoch that is drawn class by class: each class equally often, "
            "and tiles with more of it more often.",
            unit="share of the tiles",
            examples=[0.5],
        ),
    ] = 0.0
    clip: Annotated[
        NotNegative,
        describe("Largest norm of the gradient. 0 is no limit.", unit="norm", examples=[1]),
    ] = 0.0
    freeze_epochs: Annotated[
        int,
        Field(ge=0),
        describe(
            "Epochs at the start in which the encoders are frozen.",
            unit="epochs",
            examples=[5],
        ),
    ] = 0
    patience: Annotated[
        int,
        Field(ge=0),
        describe(
            "Epochs without a better validation mean IoU after which training stops. 0 never stops "
            "it.",
            unit="epochs",
            examples=[10],
        ),
    ] = 0
    time_limit: Annotated[
        Duration | None,
        describe(
            'Time after which training stops, to be resumed: `"90m"`, `"1h30m"`.',
            unit="seconds",
            unset="no limit",
            examples=["90m"],
        ),
    ] = None
    precision: Annotated[
        Precision,
        describe(
            'Precision of the network: float32 (`"32-true"`) or bf16 autocast (`"bf16-mixed"`). '
            '`"auto"` is bf16 on GPUs that support it (since Ampere), float32 elsewhere.'
        ),
    ] = "auto"
    checkpointing: Annotated[
        bool,
        describe(
            "Activation checkpointing: whether the blocks of the encoders are computed again in "
            "the backward pass. It saves memory and costs time; the gradients are the same."
        ),
    ] = False
    compile: Annotated[
        bool,
        describe("Whether `torch.compile` compiles the encoders; not with `checkpointing`."),
    ] = False
    devices: Annotated[
        Annotated[Count, Field(le=1024)] | None,
        describe(
            "GPUs, or CPU processes, on each node; they share every step.",
            unit="processes",
            unset="as many as torchrun or srun started, or 1",
            examples=[2],
        ),
    ] = None
    num_nodes: Annotated[
        Annotated[Count, Field(le=65536)] | None,
        describe(
            "Nodes, which share every step.",
            unit="nodes",
            unset="as many as torchrun or srun started, or 1",
            examples=[2],
        ),
    ] = None
    workers: Annotated[
        Annotated[int, Field(ge=0, le=1024)] | None,
        describe(
            "Threads that read tiles.",
            unit="threads",
            unset="1 on a CPU, a thread for each core on a GPU",
            examples=[4],
        ),
    ] = None
    cache: Annotated[
        Literal["auto", "none"] | Positive,
        describe(
            "Largest size of the cache of decoded tiles in the folder of the tile set. "
            '`"auto"` is 50 GB or half of the free disk, if that is less; `"none"` decodes the '
            "tiles again in every epoch.",
            unit="GB",
            examples=[20],
        ),
    ] = "auto"
    seed: Annotated[
        int,
        Field(ge=0, lt=2**32),
        describe(
            "Seed of everything random in training: initial weights, order of the tiles, "
            "augmentation.",
            unit="seed",
            examples=[1],
        ),
    ] = 0

    @model_validator(mode="after")
    def _check_memory_options(self) -> Self:
        if self.compile and self.checkpointing:
            raise ValueError("compile and checkpointing exclude each other: choose one")
        return self
