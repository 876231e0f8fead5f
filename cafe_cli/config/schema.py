"""The config: its sections and keys, their defaults, and the rules for values.

A config is TOML. Command line options override its dotted keys (``train.epochs = 5``), and the
result is saved next to every output, so that a run can be repeated.
"""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from cafe_cli.classes import ClassTable, LandClass
from cafe_cli.config.choices import (
    TTA,
    Blend,
    Engine,
    Ground,
    Guidance,
    HeightKind,
    Precision,
    Unit,
)
from cafe_cli.config.types import (
    BelowOne,
    Color,
    Count,
    Duration,
    Files,
    GroundSamplingDistance,
    Name,
    NotNegative,
    Pattern,
    Positive,
    Section,
    Share,
    Strength,
    Window,
)
from cafe_cli.errors import ConfigError

_RESERVED = ("", "ignore", "unlabelled", "(none)", "*")
"""Names, in lower case, that mean no class in settings, counts and tables."""

_MOST_CELLS = 1000

FROM_MODEL = "from_model"
"""Initial weights of an encoder that come with the model of `TrainSettings.from_model`."""

STRIDE = 32
"""Stride in pixels of the network's coarsest features. Windows begin at its multiples; elsewhere,
labels would differ by several per cent."""


class SceneSettings(Section):
    """``[scenes]``: the files of each scene.

    ``{name}`` in `optical` matches any part of a file name, and each match is a scene; the other
    patterns repeat it, with ``{name:02}`` zero-padded to two digits. All matches joined by ``_``
    are the scene's id. Several files that ``*`` and ``?`` match, or that a list names, are joined
    into one raster. `crs` is assumed for rasters without a CRS, `pixel_size`, in metres on the
    ground, for those without any georeference. `optical_nodata` marks voids of the optical rasters,
    in place of what they declare: pixels that have it in all bands. Scenes whose values or bands
    cannot mean the same are an error, with `ignore_mismatch` a warning.

    `corrections` are newer labels, rasters or vector files of one layer, that are laid over
    `labels`: where they have a class it counts, each file over those before it; elsewhere the older
    labels stay. Not every scene needs a file, and a file need not lie in every scene.
    """

    optical: Files
    elevation: Files | None = None
    dtm: Files | None = None
    labels: Files | None = None
    corrections: Files | None = None
    bands: Annotated[tuple[Count, ...], Field(min_length=1)] | None = None
    crs: Name | None = None
    pixel_size: GroundSamplingDistance | None = None
    optical_nodata: float | None = None
    only: tuple[Pattern, ...] | None = None
    exclude: tuple[Pattern, ...] = ()
    ignore_mismatch: bool = False


class HeightSettings(Section):
    """``[height]``: the meaning of the height raster's values, and the ground below them.

    `kind` is ``dsm`` (absolute heights) or ``ndsm`` (heights above ground). From a DSM the `ground`
    is subtracted: the terrain model (``dtm``), an ``estimate``, or nothing (``none``); ``auto`` is
    the terrain model if there is one, else the estimate. `unit` ``auto`` is the raster's unit or
    that of its vertical CRS, metres if it has neither. `nodata` replaces the raster's nodata. Voids
    are filled up to `fill` metres from the nearest height, 100 at most: as much is read around
    every window, and heights from farther away say nothing about a place. `cell`, `max_window` and
    `slope` are parameters of the ground filter: metres, metres, rise over run. `max_window` is 1000
    cells at most, since the filter takes a step for every second one, and 5000 m, which no
    building exceeds.
    """

    kind: HeightKind = "dsm"
    ground: Ground = "auto"
    unit: Unit = "auto"
    nodata: float | None = None
    fill: Annotated[float, Field(ge=0, le=100)] = 2.0
    cell: Annotated[float, Field(ge=0.01, le=1000)] = 2.0
    max_window: Annotated[float, Field(gt=0, le=5000)] = 160.0
    slope: Annotated[float, Field(gt=0, le=100)] = 0.25

    @model_validator(mode="after")
    def _bound_the_steps_of_the_filter(self) -> Self:
        if self.max_window > _MOST_CELLS * self.cell:
            raise ValueError(
                f"max_window {self.max_window:g} m is {self.max_window / self.cell:,.0f} cells of "
                f"{self.cell:g} m, more than {_MOST_CELLS:,}: raise cell or lower max_window"
            )
        return self


class LabelSettings(Section):
    """``[labels]``: which label values, colours or features stand for which class.

    Rasters: `encoding` ``ids`` is one band of class values; ``colors`` is RGB, every pixel gets
    the class with the nearest colour, or none if that is one of `ignore_colors`.

    Vectors: `attribute` of `layer` holds the class value. Where features overlap, the class that
    comes first in `priority` wins, then the later feature. With `all_touched` every pixel that a
    feature touches is labelled, not only those whose centre it covers.

    Ground without a feature, or where a label raster has no data, is `unlabelled`: ``ignore`` or
    the name of a class. `ignore` lists values and ranges without a class; unset, it is 255, unless
    a class has that value. `table` is a CSV file with the columns ``value`` and ``class`` (name or
    id; empty: ignore), used instead of the ``values`` of the classes. It is no error if the classes
    named in `absent` do not occur.
    """

    encoding: Literal["ids", "colors"] = "ids"
    ignore: tuple[int | str, ...] | None = None
    ignore_colors: tuple[Color, ...] = ()
    table: Pattern | None = None
    attribute: Name | None = None
    layer: Name | None = None
    priority: tuple[Name, ...] = ()
    all_touched: bool = False
    unlabelled: Name = "ignore"
    absent: tuple[Name, ...] = ()


class SplitSettings(Section):
    """``[split]``: which part of the scenes trains, validates and tests.

    All of a scene named in `validation_scenes` or `test_scenes` belongs to that split. `file`
    assigns the others: a CSV table of scenes (column ``scene``) or a vector file of polygons, whose
    `column` holds ``train``, ``validation`` or ``test``. If neither assigns anything to validation
    or to testing, the share `validation` or `test` of the other scenes' labels is: as square blocks
    of `block` pixels (two tiles if unset), or as whole scenes with `unit` ``scene``, chosen so that
    every class occurs in every split if possible. Blocks lie scattered, or together where scattered
    ones would leave less than two thirds of the training tiles that the shares promise. With
    `folds`, the ground that does not test is divided into so many parts instead, of which number
    `fold` (from 0) validates. Training tiles stay `buffer` pixels away from the ground of the other
    splits.
    """

    validation: Share = 0.2
    test: Share = 0.0
    validation_scenes: tuple[Pattern, ...] = ()
    test_scenes: tuple[Pattern, ...] = ()
    file: Pattern | None = None
    column: Name = "split"
    unit: Literal["block", "scene"] = "block"
    folds: Annotated[int, Field(ge=2)] | None = None
    fold: Annotated[int, Field(ge=0)] = 0
    block: Count | None = None
    buffer: Annotated[int, Field(ge=0)] = 32
    seed: Annotated[int, Field(ge=0)] = 0

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if both := sorted(set(self.validation_scenes) & set(self.test_scenes)):
            raise ValueError(f"validation_scenes and test_scenes both name {', '.join(both)}")
        if self.validation + self.test >= 1:
            raise ValueError(
                f"validation {self.validation} and test {self.test} leave nothing for training"
            )
        if self.folds is not None and self.fold >= self.folds:
            raise ValueError(f"fold {self.fold} of {self.folds}: they are counted from 0")
        if self.folds is not None and self.validation_scenes:
            raise ValueError("folds and validation_scenes both say what validates: choose one")
        return self


class TileSettings(Section):
    """``[tile]``: the tiles. Sizes in pixels; shares of the tile's area.

    `gsd` resamples every scene to so many metres per pixel, which scenes of different sources need;
    unset, the pixels are those of the optical raster. `overlap` is that of training tiles; unset,
    it is a quarter of `size`.
    """

    gsd: GroundSamplingDistance | None = None
    size: Annotated[Window, Field(ge=STRIDE)] = 512
    overlap: Annotated[int, Field(ge=0)] = 128
    min_valid: Share = 0.5
    min_labelled: Share = 0.05

    @model_validator(mode="before")
    @classmethod
    def _overlap_a_quarter(cls, values: object) -> object:
        if isinstance(values, dict) and isinstance(size := values.get("size"), int):
            return {"overlap": size // 4, **values}
        return values

    @model_validator(mode="after")
    def _overlap_below_size(self) -> Self:
        if self.overlap >= self.size:
            raise ValueError(f"overlap {self.overlap} is not below the tile size {self.size}")
        return self

    @property
    def stride(self) -> int:
        """Distance from one tile to the next."""
        return self.size - self.overlap


class ModelSettings(Section):
    """``[model]``: the network; see `cafe_cli.model.cafe` for what the choices mean.

    `height_encoder` is the encoder of the heights; ``same`` is that of the image. `weights` are the
    initial weights of the image's encoder and `height_weights` those of the heights' encoder, which
    are ``same`` by default: ``imagenet``, ``none`` (random), or the path of a local weights file.
    The ImageNet weights of tu-tf_efficientnet_lite0 are installed with cafe, and those of lite1 and
    lite2 with a package of their own; those of other encoders, and further weights that
    segmentation-models-pytorch knows by name, are downloaded. In a run that starts from a model
    (`train.from_model`), cafe sets the weights of the encoders that the model gives to
    ``from_model``, whatever the config says, and the keys `optical_encoder`, `height_encoder`,
    `width`, `fusion` and `attention` are the model's by default. `attention` is the side of the
    neighbourhood that a pixel attends to, in pixels; 0 is the whole window, as in the paper.
    ``auto`` is twice the crop: all of it in training, while the map does not depend on the size of
    the windows.
    """

    optical_encoder: Name = "tu-tf_efficientnet_lite0"
    height_encoder: Name = "same"
    weights: Pattern = "imagenet"
    height_weights: Pattern = "same"
    width: Annotated[Count, Field(le=4096)] = 128
    fusion: Literal["sum", "gated"] = "sum"
    attention: Literal["auto"] | Annotated[int, Field(ge=0, lt=65536, multiple_of=2 * STRIDE)] = (
        "auto"
    )
    guidance: Guidance = "none"
    enhancement: Literal["none", "1-p", "exp", "inverse"] = "1-p"
    pyramid: bool = True

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


class TrainSettings(Section):
    """``[train]``: the optimisation.

    `from_model` is a cafe model (``best.safetensors``) to start from: every tensor that fits by
    name and shape is taken, bands and classes by their names. A relative path is relative to the
    folder of the config. `from_sha256` is the checksum of that file; cafe records it in the
    config of the run, and refuses another file where it is set.

    `crop` is the side of the random window cut from each tile, the whole tile if unset.
    `learning_rate` rises linearly over the first `warmup` share of all steps and then falls along a
    cosine to zero; for encoders that do not start from random weights it is multiplied by
    `encoder_learning_rate`. The network that validates and is saved for inference is the
    exponential moving average of the network that trains: `average` is the share of itself that it
    keeps in a step (0: no average).

    `batch_size` is the number of tiles per step on all devices together; ``auto`` is what fits on a
    GPU, and 8 on a CPU. `accumulate` is gradient accumulation: a step is computed in so many parts,
    at a fraction of the memory; batch normalisation sees one part at a time. `checkpointing` is
    activation checkpointing of the encoders: their blocks are computed again in the backward pass,
    with the same gradients and less memory. `compile` applies torch.compile to the encoders.
    `precision` ``auto`` is bf16 autocast on GPUs that support it (since Ampere), float32 elsewhere;
    inputs, losses and weights are always float32. `clip` is the largest norm of the gradient (0: no
    limit).

    `distill_weight` and `dice` are weights of the distillation and of the Dice loss.
    `logit_adjustment` says how frequent the classes are where maps will be made: 0, as in the
    training labels; 1, all alike; with the default, rare classes are missed less on other ground.
    `label_smoothing` is the share of a label that is spread over all classes. Pixels within
    `ignore_border` pixels of another class count as unlabelled, since drawn borders are off by a
    pixel or two. `category_contrast` is the weight of a loss that draws the features of a class
    together, `stream_heads` that of heads on the image's and on the heights' features before their
    fusion; neither is part of the model for inference. `class_balance` is the share of the tiles of
    an epoch that are drawn class by class: each class equally often, tiles with more of it more
    often.

    The encoders are frozen for the first `freeze_epochs`. Training ends after `patience` epochs
    without a better score (0: never), or, to be resumed, after `time_limit` (such as ``90m``,
    ``1h30m``). A step is shared by `devices` on each of `num_nodes`, with one process each; unset,
    they are as many as a launcher started, or 1.

    `workers` is the number of threads that read tiles. `cache` limits the size of the cache of
    decoded tiles in the folder of the tile set: ``auto`` is 50 GB or half of the free disk, if that
    is less; a number is in GB; ``none`` decodes the tiles again in every epoch.
    """

    from_model: Pattern | None = None
    from_sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None = None
    epochs: Count = 60
    batch_size: Literal["auto"] | Annotated[Count, Field(le=65536)] = 8
    accumulate: Annotated[Count, Field(le=65536)] = 1
    crop: Annotated[int, Field(ge=STRIDE)] | None = None
    optimizer: Literal["adamw", "sgd"] = "adamw"
    learning_rate: Positive = 1e-3
    encoder_learning_rate: Positive = 1.0
    average: Annotated[float, Field(ge=0, lt=1)] = 0.99
    weight_decay: NotNegative = 1e-2
    momentum: Share = 0.9
    warmup: Share = 0.05
    distill_weight: NotNegative = 1.0
    dice: NotNegative = 0.0
    logit_adjustment: Share = 0.5
    label_smoothing: BelowOne = 0.0
    ignore_border: Annotated[int, Field(ge=0, le=64)] = 0
    category_contrast: NotNegative = 0.0
    stream_heads: NotNegative = 0.0
    class_balance: Share = 0.0
    clip: NotNegative = 0.0
    freeze_epochs: Annotated[int, Field(ge=0)] = 0
    patience: Annotated[int, Field(ge=0)] = 0
    time_limit: Duration | None = None
    precision: Precision = "auto"
    checkpointing: bool = False
    compile: bool = False
    devices: Annotated[Count, Field(le=1024)] | None = None
    num_nodes: Annotated[Count, Field(le=65536)] | None = None
    workers: Annotated[int, Field(ge=0, le=1024)] | None = None
    cache: Literal["auto", "none"] | Positive = "auto"
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0

    @model_validator(mode="after")
    def _check_memory_options(self) -> Self:
        if self.compile and self.checkpointing:
            raise ValueError("compile and checkpointing exclude each other: choose one")
        return self


class AugmentSettings(Section):
    """``[augment]``: how training tiles are changed, each at random and each anew in every epoch.

    A tile stands for ground under other light, seen by another camera and another survey. A
    strength of 0, or a `scale` of 1, switches an augmentation off.

    The grid: `flips` and `turns` mirror the tile and turn it by quarters. `scale` is the largest
    factor by which pixels are made larger or smaller; heights stay what they are. A tile that is
    too small for larger pixels goes on mirrored.

    The optical image, in shares of the range of its values: `brightness` is the strength of a gain
    common to all bands, `color_jitter` that of a gain of each band, and both that of an offset a
    fifth as large;
    `contrast` is a factor up to 1 +- its strength, `gamma` an exponent up to exp(+- its strength);
    `haze` is the largest share of light from the air; `saturation` is a factor of the colours, up
    to 1 +- its strength, `hue` turns the colours of the first three bands by up to so many degrees,
    and `grey` is the probability that there are no colours; `blur` is the largest standard
    deviation in pixels, `noise` that of the sensor; `jpeg` is the largest quantisation, 1 is that
    of quality 50; `shadow` is the largest share of light that patches of the tile lose.

    The heights, in metres: `height_stretch` multiplies all by up to exp(+- its strength);
    `height_tilt` adds a plane of up to so many degrees, as where an estimate of the ground drifts;
    `height_jitter` is the standard deviation of one offset per tile, `height_noise` the largest of
    one per pixel, `height_blur` the largest standard deviation in pixels of a blur: surfaces from
    image matching are smoother than those from LiDAR; `height_voids` is the probability that a
    rectangle or blobs of heights are missing. `ground_error` is the probability that all heights of
    a tile are off by some metres, as where the estimate of the ground cuts a hill.

    Whole streams: `height_dropout` and `optical_dropout` are the probabilities that a tile has no
    heights, or no image, so that the network learns to decide by either.
    """

    flips: bool = True
    turns: bool = True
    scale: Annotated[float, Field(ge=1, le=4)] = 1.3
    brightness: BelowOne = 0.2
    color_jitter: BelowOne = 0.06
    contrast: BelowOne = 0.2
    gamma: Strength = 0.2
    haze: BelowOne = 0.2
    saturation: Share = 0.3
    hue: Annotated[float, Field(ge=0, le=180)] = 4.0
    grey: Share = 0.1
    blur: Annotated[float, Field(ge=0, le=2)] = 0.7
    noise: BelowOne = 0.02
    jpeg: Strength = 0.5
    shadow: Share = 0.6
    height_stretch: Strength = 0.5
    height_tilt: Annotated[float, Field(ge=0, le=30)] = 3.0
    height_jitter: NotNegative = 0.3
    height_noise: NotNegative = 0.1
    height_blur: Annotated[float, Field(ge=0, le=2)] = 1.0
    height_voids: Share = 0.2
    ground_error: Share = 0.0
    height_dropout: Share = 0.1
    optical_dropout: Share = 0.1

    @model_validator(mode="after")
    def _keep_one_stream(self) -> Self:
        if self.height_dropout + self.optical_dropout > 1:
            raise ValueError(
                f"height_dropout {self.height_dropout} and optical_dropout {self.optical_dropout} "
                "are more than 1 together: a tile loses one stream at most"
            )
        return self


class PredictSettings(Section):
    """``[predict]``: the windows of a scene, and the averaging of predictions.

    `window` and `overlap` are in pixels, multiples of 32; ``auto`` is the size near 1000, with an
    overlap of 128, that covers the scene with the fewest pixels. `blend` weights the pixels of a
    window: ``hann`` and ``gaussian`` decrease from the centre to the edges, ``crop`` cuts off half
    of the overlap. `tta` (test-time augmentation) averages the four ``flips`` or the eight
    symmetries of a square (``d4``), at each of the `scales`. `batch_size` ``auto`` is 1 on a CPU
    and what fits on a GPU. `engine` ``auto`` is ONNX Runtime on a CPU, if it is installed and saves
    more time than it takes to start, and torch elsewhere.
    """

    window: Literal["auto"] | Annotated[Window, Field(ge=STRIDE)] = "auto"
    overlap: Literal["auto"] | Annotated[int, Field(ge=0)] = "auto"
    blend: Blend = "hann"
    tta: TTA = "none"
    scales: Annotated[tuple[Annotated[float, Field(ge=0.1, le=10)], ...], Field(min_length=1)] = (
        1.0,
    )
    batch_size: Literal["auto"] | Annotated[Count, Field(le=65536)] = "auto"
    engine: Engine = "auto"


class ClassSettings(Section):
    """One ``[[classes]]`` row: see `cafe_cli.classes.LandClass`."""

    id: int
    name: Name
    color: str = ""
    values: tuple[int | str, ...] = ()
    scored: bool = True


class Config(Section):
    """All settings.

    Attributes
    ----------
    root : str
        Folder of the config file, to which the patterns of ``[scenes]`` are relative.
    """

    root: str = "."
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
