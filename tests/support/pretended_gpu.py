"""A device that asks for the ways of a GPU, on a machine without one: its copies are real."""

from typing import Any

import torch


class PretendedGpu:
    """Stands for a `torch.device` of the type "cuda"; whatever is sent there is copied.

    Attributes
    ----------
    log : list of str
        What a GPU would have been asked for, in this order: "pinned", "copy", "record", "wait".
    """

    type = "cuda"

    def __init__(self, monkeypatch: Any) -> None:
        self.log: list[str] = []
        zeros, to = torch.zeros, torch.Tensor.to

        def pinned_zeros(*size: Any, pin_memory: bool = False, **options: Any) -> torch.Tensor:
            self.log += ["pinned"] * pin_memory
            return zeros(*size, **options)

        def send(tensor: torch.Tensor, *where: Any, **options: Any) -> torch.Tensor:
            if not where or where[0] is not self:
                return to(tensor, *where, **options)
            assert options == {"non_blocking": True}
            self.log.append("copy")
            return tensor.clone()

        monkeypatch.setattr(torch, "zeros", pinned_zeros)
        monkeypatch.setattr(torch.Tensor, "to", send)
        monkeypatch.setattr(torch.cuda, "current_stream", lambda device: self)

    def record_event(self) -> "PretendedGpu":
        """Stand for the stream that records an event."""
        self.log.append("record")
        return self

    def synchronize(self) -> None:
        """Stand for the event that is waited for."""
        self.log.append("wait")
