"""A small network with all parts, and random inputs for it."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from cafe_cli.model.architecture import Architecture
from cafe_cli.model.cafe import CaFE

K = 3
SMALL = Architecture(
    classes=K, optical_bands=4, optical_encoder="mobilenet_v2", width=8, guidance="distill"
)


def build(**changes: Any) -> CaFE:
    """Return a network with random weights and set statistics."""
    torch.manual_seed(0)
    network = CaFE(replace(SMALL, **changes))
    bands = network.architecture.optical_bands
    planes = network.architecture.height_planes
    network.set_statistics([100.0] * bands, [50.0] * bands, [10.0] * planes, [5.0] * planes)
    return network


def scene(height: int = 64, width: int = 64, batch: int = 2) -> tuple[tuple[Tensor, ...], Tensor]:
    """Return the four inputs and labels, with some void and some unlabelled pixels."""
    g = torch.Generator().manual_seed(1)
    optical = torch.rand(batch, 4, height, width, generator=g) * 255
    metres = torch.rand(batch, 1, height, width, generator=g) * 20
    valid = torch.rand(2, batch, height, width, generator=g) < 0.9
    labels = torch.randint(0, K, (batch, height, width), generator=g)
    labels[:, : height // 4] = 255
    return (optical, valid[0], metres, valid[1]), labels
