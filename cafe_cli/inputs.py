"""What the network is given: tensors of pixels, heights and masks, and the labels beside them."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from cafe_cli.scene import Patch


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


def to_tensors(patch: Patch) -> Inputs:
    """Turn one patch into tensors without a batch axis."""
    return Inputs(
        torch.from_numpy(np.ascontiguousarray(patch.optical, np.float32)),
        torch.from_numpy(np.ascontiguousarray(patch.optical_valid)),
        torch.from_numpy(np.ascontiguousarray(patch.height[None])),
        torch.from_numpy(np.ascontiguousarray(patch.height_valid)),
    )
