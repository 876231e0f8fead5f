"""The inputs of the network as tensors: pixels, heights and masks, and labels for training."""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cafe_cli.model.cafe import CaFE

TOLERANCE = 1e-3
"""Largest difference of logits after folding or exporting, relative to the largest logit. Rounding
alone causes 1e-6 to 3e-6 in networks of 40 to 240 layers, a wrongly folded BatchNorm 0.1 and more.
The limit is far from both, and an error of this size changes labels only where classes nearly
tie."""


class Inputs(NamedTuple):
    """The arguments of `CaFE.forward` for a batch of patches, or for one without batch axis.

    Attributes
    ----------
    optical : Tensor of float32, (batch, bands, height, width)
        Raw pixel values.
    optical_valid, height_valid : Tensor of bool, (batch, height, width)
    height : Tensor of float32, (batch, planes, height, width)
        Metres.
    """

    optical: Tensor
    optical_valid: Tensor
    height: Tensor
    height_valid: Tensor


class Sample(NamedTuple):
    """Inputs with labels (batch, height, width), int64, 255 without a label."""

    inputs: Inputs
    labels: Tensor


def to_tensors(
    optical: NDArray[np.generic],
    optical_valid: NDArray[np.bool_],
    heights: NDArray[np.float32],
    height_valid: NDArray[np.bool_],
) -> Inputs:
    """Convert the arrays of a `cafe_cli.scenes.scene.Patch` to tensors without a batch axis."""
    return Inputs(
        torch.from_numpy(np.ascontiguousarray(optical, np.float32)),
        torch.from_numpy(np.ascontiguousarray(optical_valid)),
        torch.from_numpy(np.ascontiguousarray(heights)),
        torch.from_numpy(np.ascontiguousarray(height_valid)),
    )


def example_inputs(network: CaFE, *shape: int) -> tuple[Tensor | None, ...]:
    """Draw random inputs of `CaFE.forward` with the statistics of the training data.

    Parameters
    ----------
    network : CaFE
    *shape : int
        Batch size, height and width in pixels.

    Returns
    -------
    tuple of (Tensor or None)
        Optical image, its mask, heights and their mask, on the CPU; None for the heights of a
        network without a height stream.
    """
    random = torch.Generator().manual_seed(0)
    batch, *size = shape
    valid = torch.rand(shape, generator=random) < 0.95

    def draw(mean: Tensor, std: Tensor) -> Tensor:
        noise = torch.randn(batch, len(mean), *size, generator=random)
        return noise * std.cpu()[:, None, None] + mean.cpu()[:, None, None]

    optical = draw(network.optical_mean, network.optical_std)
    if not network.architecture.heights:
        return optical, valid, None, None
    return optical, valid, draw(network.height_mean, network.height_std), valid
