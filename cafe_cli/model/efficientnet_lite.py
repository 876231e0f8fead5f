"""EfficientNet-Lite, the default encoder, built without `timm`, which takes long to import.

Tan and Le, ICML 2019 (arXiv 1905.11946), in the Lite variants of github.com/tensorflow/tpu,
``efficientnet/lite``: no squeeze-and-excitation, ReLU6, a stem of fixed width. Tensors have the
names, the shapes and the initial values that they have in the encoders ``tu-tf_efficientnet_lite``
of segmentation-models-pytorch, which is `timm` behind a shell: model files fit both. Importing
`timm` imports torchvision, and that torch._dynamo: more than half of what torch itself takes.
"""

import math
import re
from collections import OrderedDict
from collections.abc import Iterator

import torch.nn.functional as F
from torch import Tensor, nn

_NAME = re.compile(r"tu-tf_efficientnet_lite([0-4])")

# Factors of the number of channels and of blocks, by variant.
_SCALES = ((1.0, 1.0), (1.0, 1.1), (1.1, 1.2), (1.2, 1.4), (1.4, 1.8))

# Stage by stage: blocks, kernel size, stride, channels; of Lite0.
_STAGES = (
    (1, 3, 1, 16), (2, 3, 2, 24), (2, 5, 2, 40), (3, 3, 2, 80),
    (3, 5, 1, 112), (4, 5, 2, 192), (1, 3, 1, 320),
)  # fmt: skip

_STEM = 32  # channels, in all variants
_EXPANSION = 6
_ENDS = (1, 2, 4, 6)  # the last stages of strides 4, 8, 16 and 32
_EPSILON = 1e-3  # of BatchNorm, as in TensorFlow


def variant(name: str) -> int | None:
    """Return the number of the variant that an encoder's name stands for, None if it is another."""
    match = _NAME.fullmatch(name)
    return int(match[1]) if match else None


class EfficientNetLite(nn.Module):
    """The convolutional part of an EfficientNet-Lite, with random weights.

    Parameters
    ----------
    number : int
        Variant, 0 to 4.
    bands : int
        Bands of the input.

    Attributes
    ----------
    channels : list of int
        Channels of the four features.
    """

    def __init__(self, number: int, bands: int) -> None:
        super().__init__()
        width, depth = _SCALES[number]
        self.channels = [_round_channels(_STAGES[stage][-1] * width) for stage in _ENDS]
        self.model = nn.Sequential(
            OrderedDict(
                conv_stem=SameConv2d(bands, _STEM, 3, stride=2, bias=False),
                bn1=_norm(_STEM),
                act1=nn.ReLU6(inplace=True),
                blocks=nn.Sequential(*_stages(width, depth)),
            )
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                _initialise(module)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Compute the features of strides 4, 8, 16 and 32.

        Parameters
        ----------
        x : Tensor
            (B, bands, H, W) float32; H and W are multiples of 32.

        Returns
        -------
        list of Tensor
            (B, C, H / stride, W / stride), the finest first.
        """
        *stem, stages = self.model.children()
        for layer in stem:
            x = layer(x)
        features = []
        for number, stage in enumerate(stages.children()):
            x = stage(x)
            if number in _ENDS:
                features.append(x)
        return features


class FirstBlock(nn.Module):
    """The block of the first stage: a depthwise and a pointwise convolution."""

    def __init__(self, before: int, after: int, kernel: int) -> None:
        super().__init__()
        self.conv_dw = _depthwise(before, kernel, 1)
        self.bn1 = _norm(before)
        self.conv_pw = nn.Conv2d(before, after, 1, bias=False)
        self.bn2 = _norm(after)
        self.act = nn.ReLU6(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, after, H, W) of x (B, before, H, W)."""
        result: Tensor = self.bn2(self.conv_pw(self.act(self.bn1(self.conv_dw(x)))))
        return result


class InvertedResidual(nn.Module):
    """A block that expands its channels, convolves each of them, and projects them again."""

    def __init__(self, before: int, after: int, kernel: int, stride: int) -> None:
        super().__init__()
        inside = before * _EXPANSION
        self.conv_pw = nn.Conv2d(before, inside, 1, bias=False)
        self.bn1 = _norm(inside)
        self.conv_dw = _depthwise(inside, kernel, stride)
        self.bn2 = _norm(inside)
        self.conv_pwl = nn.Conv2d(inside, after, 1, bias=False)
        self.bn3 = _norm(after)
        self.act = nn.ReLU6(inplace=True)
        self.adds_input = stride == 1 and before == after

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, after, H / stride, W / stride) of x (B, before, H, W)."""
        inside = self.act(self.bn2(self.conv_dw(self.act(self.bn1(self.conv_pw(x))))))
        result: Tensor = self.bn3(self.conv_pwl(inside))
        return result + x if self.adds_input else result


class SameConv2d(nn.Conv2d):
    """A convolution of stride 2 that is padded as in TensorFlow: more on the right and below.

    Sides of its input are even, so that the padding does not depend on them.
    """

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  # the name in torch
        """Return (B, C, H / 2, W / 2)."""
        total = self.kernel_size[0] - 2
        before = total // 2
        padding = (before, total - before, before, total - before)
        padded = F.pad(input, padding)
        return F.conv2d(padded, self.weight, self.bias, self.stride, groups=self.groups)


def _stages(width: float, depth: float) -> Iterator[nn.Sequential]:
    """Yield the stages; the first and the last keep their number of blocks."""
    before = _STEM
    for number, (repeats, kernel, stride, channels) in enumerate(_STAGES):
        after = _round_channels(channels * width)
        if not number:
            yield nn.Sequential(FirstBlock(before, after, kernel))
        else:
            last = number == len(_STAGES) - 1
            count = repeats if last else math.ceil(repeats * depth)
            yield nn.Sequential(
                InvertedResidual(before, after, kernel, stride),
                *(InvertedResidual(after, after, kernel, 1) for _ in range(count - 1)),
            )
        before = after


def _round_channels(channels: float) -> int:
    """Round to a multiple of 8, but not down by more than a tenth."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded


def _depthwise(channels: int, kernel: int, stride: int) -> nn.Conv2d:
    if stride == 1:
        return nn.Conv2d(
            channels, channels, kernel, padding=kernel // 2, groups=channels, bias=False
        )
    return SameConv2d(channels, channels, kernel, stride=stride, groups=channels, bias=False)


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=_EPSILON)


def _initialise(convolution: nn.Conv2d) -> None:
    """Draw weights as TensorFlow does: normal, with the variance 2 / fan-out."""
    if convolution.weight.is_meta:
        return  # without values; torch would import torch._dynamo to draw none
    rows, columns = convolution.kernel_size
    fan_out = rows * columns * convolution.out_channels // convolution.groups
    nn.init.normal_(convolution.weight, 0.0, math.sqrt(2.0 / fan_out))
