"""An interpretation of CaFE, category-wise fusion and enhancement learning; not a reproduction.

Zheng, He, Wang, Li, Luo: IEEE TGRS 60, 2022, doi 10.1109/TGRS.2022.3225843. The architecture
follows the abstract, the architecture figure and the code release. The paper's equations were not
available, so the details of CFF and CEL are our interpretation. Training both paths at once
(``guidance="distill"``) is our own addition.

::

    optical --> encoder --> R1..R4 --+
                                     +--> CategoryFusion per level --> decoder --> B1..B4 --> heads
    height  --> encoder --> D1..D4 --+

Every level fuses in one of two ways, with the same weights:

plain path     channel attention (CA) computed from the mean over the whole window or (our own
               addition) over a pixel's neighbourhood; needs no labels, the only path of inference
guided path    training only: CFF, channel attention for each category of the label map, and CEL,
               which raises the weight of categories that are rare in the image

Levels are counted as in the paper: R1 is the finest (stride 4), B1 the coarsest (stride 32).
"""

import copy
import dataclasses
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import reduce
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cafe_cli.classes import NODATA
from cafe_cli.config.schema import STRIDE
from cafe_cli.errors import ConfigError
from cafe_cli.model.architecture import Architecture, Enhancement
from cafe_cli.model.encoders import STRIDES, build_encoder, feature_channels

CLAMP = 10.0
"""Standardised inputs are clipped at this many standard deviations: a spike in a surface model (a
bird, a matching error) must not dominate its surroundings."""

SHARE_BOUNDS = (0.05, 0.95)
"""CEL clips the share of a category to this range, so that no category weighs more than about 20
times as much as another. Without bounds, ``1 - p`` is as extreme as ``1 / p`` (for two categories
they are the same after scaling), and a single stray pixel would outweigh the rest of the image."""

_NO_LIMIT = torch.finfo(torch.float32).max


@dataclass(frozen=True)
class TrainingOutputs:
    """Logits of a training step, one tensor (B, K, h, w) float32 per head, the finest one last.

    The finest of a path has the size of the labels. The others exist only with
    `Architecture.pyramid`; they have strides 32, 16 and 8 on the labels padded to a multiple of 32.
    """

    student: list[Tensor] | None = None
    """Logits of the plain path, which is the path of inference."""
    teacher: list[Tensor] | None = None
    """Logits of the path guided by the labels."""
    streams: list[Tensor] = dataclasses.field(default_factory=list)
    """Logits of the heads on the streams before fusion, of strides 4 to 32; empty without them."""
    finest: Tensor | None = None
    """B4, (B, width, h, w), of the student, or of the teacher if there is no student."""


class CaFE(nn.Module):
    """Segment an optical image together with a height raster.

    Parameters
    ----------
    architecture : Architecture
        The network to build.
    weights, height_weights : str
        Initial weights of the optical and of the height encoder: "none" (random), "imagenet" (from
        a package, see `cafe_cli.model.bundled_weights`, or downloaded), another name that the
        encoder library downloads, or a file (.safetensors, .pth, .pt) with the encoder's state dict
        for 3 bands. They are adapted to the number of bands. "stored" are those of a model file,
        which is read next.

    Raises
    ------
    ConfigError
        An unknown encoder, or one with other strides or a fixed input size.
    ModelFileError
        The weights cannot be downloaded or read, or belong to another encoder.
    """

    optical_mean: Tensor
    optical_std: Tensor
    optical_low: Tensor
    optical_high: Tensor
    height_mean: Tensor
    height_std: Tensor
    logit_offsets: Tensor

    def __init__(
        self, architecture: Architecture, weights: str = "none", height_weights: str = "none"
    ) -> None:
        super().__init__()
        a = self.architecture = architecture
        self.register_buffer("optical_mean", torch.zeros(a.optical_bands))
        self.register_buffer("optical_std", torch.ones(a.optical_bands))
        self.register_buffer("optical_low", torch.full((a.optical_bands,), -_NO_LIMIT))
        self.register_buffer("optical_high", torch.full((a.optical_bands,), _NO_LIMIT))
        self.register_buffer("height_mean", torch.zeros(a.height_planes))
        self.register_buffer("height_std", torch.ones(a.height_planes))
        # Of training only: not part of a model file.
        self.register_buffer("logit_offsets", torch.zeros(a.classes), persistent=False)

        self.optical_encoder = build_encoder(a.optical_encoder, a.optical_bands, weights)
        channels = feature_channels(self.optical_encoder, a.optical_encoder, a.optical_bands)
        if a.heights:
            name = a.height_encoder or a.optical_encoder
            inputs = a.height_planes + 1  # and the validity mask
            self.height_encoder = build_encoder(name, inputs, height_weights)
            height_channels = feature_channels(self.height_encoder, name, inputs)
            self.align = nn.ModuleList(
                nn.Identity() if n == m else nn.Conv2d(n, m, 1)
                for n, m in zip(height_channels, channels, strict=True)
            )
        levels = zip(channels, STRIDES, strict=True)
        self.fusions = nn.ModuleList(CategoryFusion(n, a, stride) for n, stride in levels)
        self.decoder = Decoder(channels, a.width)
        coarse = range(3 if a.pyramid else 0)
        self.pyramid_heads = nn.ModuleList(build_head(a.width, a.classes) for _ in coarse)
        self.head = build_head(a.width, a.classes)
        streams = range((2 if a.heights else 1) if a.stream_heads else 0)
        self.stream_heads = nn.ModuleList(
            nn.Conv2d(n, a.classes, 1) for n in channels for _ in streams
        )

    def forward(
        self,
        optical: Tensor,
        optical_valid: Tensor,
        height: Tensor | None,
        height_valid: Tensor | None,
    ) -> Tensor:
        """Compute the logits of the plain path and the finest head.

        Parameters
        ----------
        optical : Tensor
            (B, bands, H, W) float32, raw pixel values.
        optical_valid : Tensor
            (B, H, W) bool.
        height : Tensor
            (B, planes, H, W) float32, metres; None in a network without heights.
        height_valid : Tensor
            (B, H, W) bool; None in a network without heights.

        Returns
        -------
        Tensor
            Logits, (B, K, H, W) float32.
        """
        levels = self.encode(optical, optical_valid, height, height_valid)
        fused = [fuse(streams) for fuse, streams in zip(self.fusions, levels, strict=True)]
        return full_size(self.head(self.decoder(fused)[-1]), optical.shape[-2:])

    def training_outputs(
        self,
        optical: Tensor,
        optical_valid: Tensor,
        height: Tensor | None,
        height_valid: Tensor | None,
        labels: Tensor,
    ) -> TrainingOutputs:
        """Run the paths that `Architecture.guidance` names on the same features.

        Parameters
        ----------
        optical, optical_valid, height, height_valid : Tensor
            As in `forward`.
        labels : Tensor
            (B, H, W) int64, 255 without a label. Only the guided path uses them.

        Returns
        -------
        TrainingOutputs
            Logits of the student, the teacher or both, and what auxiliary losses need. To all
            logits those of `set_prior` are added, which `forward` leaves out.
        """
        guidance = self.architecture.guidance
        levels = self.encode(optical, optical_valid, height, height_valid)
        before_fusion = [stream for level in levels for stream in level]
        # Without heads on the streams, `stream_heads` is empty.
        pairs = zip(self.stream_heads, before_fusion, strict=False)
        offsets = self.logit_offsets[:, None, None]
        streams = [predict(stream).float() + offsets for predict, stream in pairs]
        maps = self.decode(levels, labels, guided=guidance == "labels")
        logits = self.head_logits(maps, labels.shape[-2:])
        if guidance == "labels":
            return TrainingOutputs(None, logits, streams, maps[-1])
        if guidance == "none":
            return TrainingOutputs(logits, None, streams, maps[-1])
        # The running statistics have to come from the plain path, which inference uses.
        with frozen_statistics(self.head, self.pyramid_heads):
            teacher = self.head_logits(self.decode(levels, labels, guided=True), labels.shape[-2:])
        return TrainingOutputs(logits, teacher, streams, maps[-1])

    def decode(self, levels: list[list[Tensor]], labels: Tensor, guided: bool) -> list[Tensor]:
        """Fuse the streams on the plain or the guided path, and decode them to B1..B4."""
        fused = []
        for fuse, streams in zip(self.fusions, levels, strict=True):
            regions = None
            if guided:
                at_level = labels_at(labels, streams[0].shape[-2:])
                regions = Regions.of(at_level, self.architecture.classes)
            fused.append(fuse(streams, regions))
        maps: list[Tensor] = self.decoder(fused)
        return maps

    def head_logits(self, maps: list[Tensor], size: Sequence[int]) -> list[Tensor]:
        """Return the logits of all heads on B1..B4, for training with labels of `size` (H, W)."""
        *coarse, finest = maps
        # Without the pyramid, `pyramid_heads` is empty.
        pairs = zip(self.pyramid_heads, coarse, strict=False)
        logits = [predict(b).float() for predict, b in pairs]
        offsets = self.logit_offsets[:, None, None]
        return [x + offsets for x in (*logits, full_size(self.head(finest), size))]

    def encode(
        self,
        optical: Tensor,
        optical_valid: Tensor,
        height: Tensor | None,
        height_valid: Tensor | None,
    ) -> list[list[Tensor]]:
        """Return [R_i, D_i], or [R_i] without heights, for the levels i = 1..4."""
        limits = (self.optical_low[:, None, None], self.optical_high[:, None, None])
        clipped = optical.clamp(*limits)
        image = standardise(clipped, optical_valid, self.optical_mean, self.optical_std)
        levels = [[r] for r in self.optical_encoder(pad(image))[-4:]]
        if self.architecture.heights:
            if height is None or height_valid is None:
                raise ConfigError("the model needs heights: give a surface model with the image")
            metres = standardise(height, height_valid, self.height_mean, self.height_std)
            first, known, others = metres[:, :1], height_valid[:, None], metres[:, 1:]
            relief = torch.cat([first, known.to(metres.dtype), others], dim=1)
            features = self.height_encoder(pad(relief))[-4:]
            for streams, align, d in zip(levels, self.align, features, strict=True):
                streams.append(align(d))
        return levels

    def set_statistics(
        self,
        optical_mean: Sequence[float],
        optical_std: Sequence[float],
        height_mean: Sequence[float] = (0.0,),
        height_std: Sequence[float] = (1.0,),
        optical_limits: tuple[Sequence[float], Sequence[float]] | None = None,
    ) -> None:
        """Set the statistics that standardise the inputs; they are stored with the weights.

        Parameters
        ----------
        optical_mean, optical_std : sequence of float
            A value per band, in pixel values. A standard deviation of 0 (a constant band) is
            replaced by 1.
        height_mean, height_std : sequence of float
            A value per plane of the heights, in metres.
        optical_limits : (low, high), optional
            The range of pixel values that each band is clipped to before it is standardised.

        Raises
        ------
        ConfigError
            The numbers are not finite, or not one per band.
        """
        given = {"optical_mean": optical_mean, "optical_std": optical_std}
        given |= {"height_mean": height_mean, "height_std": height_std}
        if optical_limits is not None:
            given |= {"optical_low": optical_limits[0], "optical_high": optical_limits[1]}
        for name, values in given.items():
            buffer: Tensor = getattr(self, name)
            if len(values) != len(buffer) or not all(map(math.isfinite, values)):
                raise ConfigError(f"{name} is {list(values)}: give {len(buffer)} finite number(s)")
            buffer.copy_(torch.tensor(values))
        for std in (self.optical_std, self.height_std):
            std[std <= 0] = 1.0

    def set_prior(self, shares: Sequence[float], strength: float) -> None:
        """Tell training how frequent each class is, so that `forward` need not learn it.

        Logit adjustment (Menon et al., ICLR 2021): in training, `strength` times the logarithm of a
        class's share is added to its logits. In `forward` it is missing: at a strength of 1, the
        probabilities are those of ground on which all classes are equally frequent.

        Parameters
        ----------
        shares : sequence of float
            Share of each class in the labels. Classes without labels are left alone, and none
            counts as more than 100 times rarer than the most frequent one.
        strength : float
            0 to 1.
        """
        known = torch.tensor(shares)
        relative = (known / known.max().clamp(min=1e-12)).clamp(min=0.01).log()
        self.logit_offsets.copy_(torch.where(known > 0, strength * relative, 0.0))

    def deployed(self, temperature: float = 1.0) -> "CaFE":
        """Return a copy for inference: the same `forward`, without the modules of training.

        Its logits are divided by `temperature`, in the weights of the last convolution.
        """
        network = copy.deepcopy(self).eval()
        with torch.no_grad():
            for parameter in network.head[-1].parameters():
                parameter.div_(temperature)
        network.pyramid_heads = nn.ModuleList()
        network.stream_heads = nn.ModuleList()
        network.architecture = replace(
            self.architecture, guidance="none", pyramid=False, stream_heads=False
        )
        return network


class CategoryFusion(nn.Module):
    """Fuse the streams of one level: CA on the plain path, CFF and CEL on the guided one.

    Both paths use the same attention, with descriptors pooled over the window or a neighbourhood
    (plain path) or over the regions of the label map (guided path). So guidance adds no parameters.
    """

    def __init__(self, channels: int, architecture: Architecture, stride: int = STRIDE) -> None:
        super().__init__()
        self.cell = STRIDE // stride
        self.reach = architecture.attention // 2 // STRIDE
        self.gated = architecture.fusion == "gated"
        self.enhancement = architecture.enhancement
        gates = 2 if self.gated and architecture.heights else 1
        self.attention = ChannelAttention(gates * channels)

    def forward(self, streams: list[Tensor], regions: "Regions | None" = None) -> Tensor:
        """Fuse R_i and D_i (B, C, h, w) to F_i of the same shape."""
        x = torch.cat(streams, dim=1) if self.gated else reduce(torch.add, streams)
        if regions is None:
            cells = max(x.shape[-2:]) // self.cell
            # If the reach covers all cells, local and global attention are the same.
            local = 0 < self.reach < cells - 1
            x = self.attend_locally(x) if local else self.attend_globally(x)
        else:
            weights = regions.weights(self.enhancement)
            factors = self.attention(regions.pool(x)) * weights[:, :, None]
            x = x * regions.spread(factors).to(x.dtype)
        return reduce(torch.add, x.chunk(len(streams), dim=1)) if self.gated else x

    def attend_globally(self, x: Tensor) -> Tensor:
        """Weight the channels of x (B, C, h, w) by attention to their means over the window."""
        window = x.mean(dim=(2, 3), dtype=torch.float32)
        weights: Tensor = self.attention(window[:, None])[:, 0, :, None, None]
        return x * weights.to(x.dtype)

    def attend_locally(self, x: Tensor) -> Tensor:
        """Weight the channels of each cell of x by attention to the means of cells nearby."""
        means = box_means(F.avg_pool2d(x, self.cell).float(), self.reach)
        batch, channels, rows, columns = means.shape
        # transpose, not mT, which the ONNX exporter does not support.
        weights: Tensor = self.attention(means.flatten(2).transpose(1, 2)).to(x.dtype)
        # Broadcasting over blocks of x avoids enlarging the weights to the size of x.
        blocks = x.view(batch, channels, rows, self.cell, columns, self.cell)
        factors = weights.transpose(1, 2).reshape(batch, channels, rows, 1, columns, 1)
        return (blocks * factors).reshape(x.shape)


class ChannelAttention(nn.Module):
    """ECA (Wang et al., CVPR 2020): channel weights from the descriptors of nearby channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        kernel = eca_kernel(channels)
        self.conv = nn.Conv1d(1, 1, kernel, padding=kernel // 2, bias=False)

    def forward(self, descriptors: Tensor) -> Tensor:
        """Return weights in 0..1 for descriptors (B, regions, C), of the same shape."""
        weights: Tensor = self.conv(descriptors.flatten(0, 1)[:, None])
        return weights.sigmoid().view(descriptors.shape)


def box_means(x: Tensor, reach: int) -> Tensor:
    """Return box means of x (B, C, h, w), up to `reach` pixels away and inside x."""
    # Separable: 2 n additions per pixel instead of n * n.
    side = 2 * reach + 1
    x = F.avg_pool2d(x, (side, 1), 1, (reach, 0), count_include_pad=False)
    return F.avg_pool2d(x, (1, side), 1, (0, reach), count_include_pad=False)


def eca_kernel(channels: int) -> int:
    """Return ECA's kernel size: log2(C) / 2 + 1/2, truncated, plus 1 if that is even."""
    size = int(abs(math.log2(channels) / 2 + 0.5))
    return size if size % 2 else size + 1


@dataclass(frozen=True)
class Regions:
    """The regions of a label map: a mask per category and, last, one of the unlabelled pixels."""

    member: Tensor
    """(B, K + 1, h, w) float32, 1 where the pixel belongs to the region."""
    area: Tensor
    """(B, K + 1) float32, pixels."""

    @classmethod
    def of(cls, labels: Tensor, classes: int) -> Self:
        """Return the regions of labels (B, h, w) of K classes."""
        ids = torch.arange(classes + 1, device=labels.device)
        member = (labels.clamp(max=classes)[:, None] == ids[:, None, None]).float()
        return cls(member, member.sum(dim=(2, 3)))

    def pool(self, x: Tensor) -> Tensor:
        """Return the mean of x (B, C, h, w) in each region, (B, K + 1, C); 0 in an empty one."""
        # In float32 at any precision of the step: a region may have 100,000 pixels.
        with torch.autocast(x.device.type, enabled=False):
            total = torch.einsum("bkhw,bchw->bkc", self.member, x.float())
        return total / self.area.clamp(min=1)[:, :, None]

    def spread(self, values: Tensor) -> Tensor:
        """Broadcast values of regions (B, K + 1, C) to their pixels: (B, C, h, w)."""
        return torch.einsum("bkhw,bkc->bchw", self.member, values.float())

    def weights(self, kind: Enhancement) -> Tensor:
        """Return CEL's weight of each region, (B, K + 1); the unlabelled region has 1."""
        labelled = self.area[:, :-1]
        shares = labelled / labelled.sum(dim=1, keepdim=True).clamp(min=1)
        return F.pad(enhancement_weights(shares, kind), (0, 1), value=1.0)


def enhancement_weights(shares: Tensor, kind: Enhancement) -> Tensor:
    """Return CEL's weights of categories, the larger the rarer a category is in an image.

    Parameters
    ----------
    shares : Tensor
        (..., K) p_c, shares of the labelled pixels; they sum to 1, or are all 0 without labels.
    kind : {"none", "1-p", "exp", "inverse"}
        1, 1 - p, exp(-p) or 1 / p, with p clipped to `SHARE_BOUNDS`.

    Returns
    -------
    Tensor
        (..., K), scaled so that the mean weight of the labelled pixels, the sum of p_c w_c, is 1:
        the scale of the features does not change, and an image of one category stays as it is.
    """
    p = shares.clamp(*SHARE_BOUNDS)
    match kind:
        case "none":
            weights = torch.ones_like(p)
        case "1-p":
            weights = 1 - p
        case "exp":
            weights = torch.exp(-p)
        case "inverse":
            weights = 1 / p
    mean = (shares * weights).sum(dim=-1, keepdim=True)
    return weights / mean.clamp(min=1e-6)  # the mean is 0 only without labels


class Decoder(nn.Module):
    """A feature pyramid: project F4 to F1, and add each result, upsampled, to the next."""

    def __init__(self, channels: Sequence[int], width: int) -> None:
        super().__init__()
        self.lateral = nn.ModuleList(nn.Conv2d(n, width, 1) for n in reversed(channels))

    def forward(self, fused: list[Tensor]) -> list[Tensor]:
        """Compute B1..B4 (B, width, h, w), the coarsest first, from F1..F4, the finest first."""
        maps: list[Tensor] = []
        for project, feature in zip(self.lateral, reversed(fused), strict=True):
            b = project(feature)
            maps.append(b + upsample(maps[-1], 2) if maps else b)
        return maps


def build_head(width: int, classes: int) -> nn.Sequential:
    """Build a prediction head: (B, width, h, w) to logits (B, K, h, w)."""
    return nn.Sequential(
        nn.Conv2d(width, width, 3, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(inplace=True),
        nn.Conv2d(width, classes, 1),
    )


def upsample(x: Tensor, factor: int) -> Tensor:
    """Upsample bilinearly, with ``align_corners=False``."""
    return F.interpolate(x, scale_factor=factor, mode="bilinear", align_corners=False)


def full_size(logits: Tensor, size: Sequence[int]) -> Tensor:
    """Upsample logits of stride 4 to the input's size (H, W) and cut off the padding; float32."""
    return upsample(logits.float(), STRIDES[0])[..., : size[0], : size[1]]


def standardise(x: Tensor, valid: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Standardise x (B, n, H, W) and clip it to `CLAMP`; pixels that are not valid become 0."""
    z = (x - mean[:, None, None]) / std[:, None, None]
    # where, not a product: values that are not valid may be NaN.
    return torch.where(valid[:, None], z.clamp(-CLAMP, CLAMP), 0.0)


def pad(x: Tensor, value: float = 0) -> Tensor:
    """Pad (..., H, W) on the right and at the bottom to multiples of the coarsest stride."""
    height, width = x.shape[-2:]
    return F.pad(x, (0, -width % STRIDES[-1], 0, -height % STRIDES[-1]), value=value)


def labels_at(labels: Tensor, size: Sequence[int]) -> Tensor:
    """Sample labels at the pixel centres of a head or feature map.

    Parameters
    ----------
    labels : Tensor
        (B, H, W) int64; they are padded with 255 to the size of the padded input.
    size : sequence of int
        (h, w) of the map: (H, W) itself, or the padded size divided by a power of two.

    Returns
    -------
    Tensor
        (B, h, w) int64.
    """
    if labels.shape[-2:] == tuple(size):
        return labels
    padded = pad(labels, NODATA)
    stride = padded.shape[-1] // size[-1]
    return padded[..., stride // 2 :: stride, stride // 2 :: stride]


@contextmanager
def frozen_statistics(*modules: nn.Module) -> Iterator[None]:
    """Freeze the running statistics of BatchNorm; it still normalises by those of the batch."""
    parts = [part for module in modules for part in module.modules()]
    norms = [part for part in parts if isinstance(part, nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        norm.track_running_stats = False
    try:
        yield
    finally:
        for norm in norms:
            norm.track_running_stats = True
