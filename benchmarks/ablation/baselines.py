"""Networks to compare CaFE with: a U-Net of segmentation-models-pytorch on the same inputs."""

from contextlib import AbstractContextManager
from typing import Any, TypeAlias

import segmentation_models_pytorch as smp
import torch
from torch import Tensor, nn

from cafe_cli.model.cafe import CaFE, TrainingOutputs, pad, standardise
from cafe_cli.model.device import has_native_bf16
from cafe_cli.raster.statistics import Statistics


class StackedUnet(nn.Module):
    """All bands stacked at the input of one encoder: image, height, and whether there is a height.

    The inputs are standardised as CaFE does it, and voids are 0.

    Parameters
    ----------
    encoder : str
        Name of `segmentation_models_pytorch`.
    classes : int
    optical, height : Statistics
        Of the tile set; `height` None leaves the heights out.
    """

    def __init__(
        self, encoder: str, classes: int, optical: Statistics, height: Statistics | None
    ) -> None:
        super().__init__()
        self.heights = height is not None
        bands = len(optical.mean) + 2 * self.heights
        self.unet = smp.Unet(encoder, encoder_weights=None, in_channels=bands, classes=classes)
        for name, statistics in {"optical": optical, "height": height or optical}.items():
            std = torch.tensor(statistics.std)
            self.register_buffer(f"{name}_mean", torch.tensor(statistics.mean))
            self.register_buffer(f"{name}_std", torch.where(std > 0, std, 1.0))
        self._limits = (
            [torch.tensor(v)[:, None, None] for v in (optical.low, optical.high)]
            if optical.low and optical.high
            else None
        )

    def forward(
        self, optical: Tensor, optical_valid: Tensor, height: Tensor, height_valid: Tensor
    ) -> Tensor:
        """Return logits (B, K, H, W), as `CaFE.forward` does."""
        if self._limits is not None:
            low, high = (limit.to(optical.device) for limit in self._limits)
            optical = optical.clamp(low, high)
        x = standardise(optical, optical_valid, *self._statistics("optical"))
        if self.heights:
            metres = standardise(height, height_valid, *self._statistics("height"))
            x = torch.cat([x, metres, height_valid[:, None].to(x.dtype)], dim=1)
        rows, columns = x.shape[-2:]
        logits: Tensor = self.unet(pad(x))[..., :rows, :columns]
        return logits.float()

    def _statistics(self, stream: str) -> tuple[Tensor, Tensor]:
        return getattr(self, f"{stream}_mean"), getattr(self, f"{stream}_std")

    def training_outputs(
        self,
        optical: Tensor,
        optical_valid: Tensor,
        height: Tensor,
        height_valid: Tensor,
        labels: Tensor,
    ) -> TrainingOutputs:
        """Return the logits as the plain path's; there is no other."""
        return TrainingOutputs([self(optical, optical_valid, height, height_valid)])


Network: TypeAlias = CaFE | StackedUnet


def mixed(device: torch.device) -> AbstractContextManager[Any]:
    """Compute in bf16 on GPUs that can, as ``cafe train`` does."""
    return torch.autocast(device.type, torch.bfloat16, enabled=has_native_bf16(device))
