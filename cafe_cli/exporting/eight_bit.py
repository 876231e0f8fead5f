"""A network behind the one input that other programs feed: bands of 8 bits, divided by 255."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from cafe_cli.model.cafe import CaFE
from cafe_cli.scenes.eight_bit import HEIGHT_STEP, HEIGHT_VOID
from cafe_cli.scenes.valley_floor import UNKNOWN


class EightBitNetwork(nn.Module):
    """Decodes the bands of `cafe_cli.scenes.eight_bit.encode`, and runs a network on them.

    Parameters
    ----------
    network : CaFE
        In inference mode.
    order : sequence of int
        Where each optical band of the network is among the bands of the input, from 0.
    heights : bool
        Whether the last band of the input holds heights. Without it, a network with a height stream
        is told that there are none.
    """

    def __init__(self, network: CaFE, order: Sequence[int], heights: bool) -> None:
        super().__init__()
        self.network, self.order, self.heights = network, list(order), heights

    @property
    def channels(self) -> int:
        """Number of bands of the input."""
        return len(self.order) + self.heights

    def forward(self, image: Tensor) -> Tensor:
        """Return class probabilities (B, K, H, W) float32.

        Parameters
        ----------
        image : Tensor
            (B, channels, H, W) float32, the 8-bit values divided by 255. Pixels whose optical bands
            are all 0 have no data.
        """
        values = torch.round(image * 255)
        optical = values[:, self.order]
        valid = (optical != 0).any(dim=1)
        if not self.network.architecture.heights:
            return self._probabilities(optical, valid, None, None)
        if self.heights:
            steps = values[:, len(self.order) :]
            known = (steps[:, 0] != HEIGHT_VOID) & valid
        else:
            steps, known = torch.zeros_like(values[:, :1]), torch.zeros_like(valid)
        metres = steps * HEIGHT_STEP
        if self.network.architecture.height_planes > 1:  # 8 bits hold no ground
            metres = torch.cat([metres, torch.full_like(metres, UNKNOWN)], dim=1)
        return self._probabilities(optical, valid, metres, known)

    def _probabilities(self, *inputs: Tensor | None) -> Tensor:
        logits: Tensor = self.network(*inputs)
        return logits.softmax(dim=1)
