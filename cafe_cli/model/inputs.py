"""The inputs of the network as tensors: pixels, heights and masks, and labels for training."""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


class Inputs(NamedTuple):
    """The arguments of `CaFE.forward` for a batch of patches, or for one without batch axis.

    Attributes
    ----------
    optical : Tensor of float32, (batch, bands, height, width)
        Raw pixel values.
    optical_valid, height_valid : Tensor of bool, (batch, height, width)
    height : Tensor of float32, (batch, 1, height, width)
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
    height: NDArray[np.float32],
    height_valid: NDArray[np.bool_],
) -> Inputs:
    """Convert the arrays of a `cafe_cli.scenes.scene.Patch` to tensors without a batch axis."""
    return Inputs(
        torch.from_numpy(np.ascontiguousarray(optical, np.float32)),
        torch.from_numpy(np.ascontiguousarray(optical_valid)),
        torch.from_numpy(np.ascontiguousarray(height[None])),
        torch.from_numpy(np.ascontiguousarray(height_valid)),
    )
