"""What the network is given: tensors of pixels, heights and masks, and the labels beside them."""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


class Inputs(NamedTuple):
    """What the network sees of a batch of patches (or of one, without the batch axis).

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
    """Inputs and labels (batch, height, width), int64, 255 where there is none."""

    inputs: Inputs
    labels: Tensor


def to_tensors(
    optical: NDArray[np.generic],
    optical_valid: NDArray[np.bool_],
    height: NDArray[np.float32],
    height_valid: NDArray[np.bool_],
) -> Inputs:
    """Turn what a scene gives of a window into tensors, without a batch axis."""
    return Inputs(
        torch.from_numpy(np.ascontiguousarray(optical, np.float32)),
        torch.from_numpy(np.ascontiguousarray(optical_valid)),
        torch.from_numpy(np.ascontiguousarray(height[None])),
        torch.from_numpy(np.ascontiguousarray(height_valid)),
    )
