"""CUDA graphs: the kernels of a pass, recorded once for each shape and then launched together.

A small network on a fast GPU waits for the host, which launches hundreds of kernels for a pass. A
graph costs memory, since what it works in is kept, and a copy of inputs and result.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from cafe_cli.errors import out_of_memory
from cafe_cli.text import first_line

log = logging.getLogger("cafe")

_PASSES = 3  # before the recording: libraries choose algorithms and allocate what they keep


@dataclass(frozen=True)
class _Recording:
    """A graph, and the memory that it reads from and writes to."""

    graph: torch.cuda.CUDAGraph
    inputs: tuple[Tensor, ...]
    result: Tensor

    def replay(self, inputs: tuple[Tensor, ...]) -> Tensor:
        for place, values in zip(self.inputs, inputs, strict=True):
            place.copy_(values)
        self.graph.replay()
        return self.result.clone()  # the next replay overwrites it


class GraphedNetwork:
    """A network on a GPU whose passes are replayed from CUDA graphs; results are the same.

    Where a pass cannot be recorded, the log says so, and the network runs as it is.

    Parameters
    ----------
    network : callable
        Takes and returns tensors on the current GPU, without waiting for the GPU in between.
    """

    def __init__(self, network: Callable[..., Tensor]) -> None:
        self._network = network
        self._recordings: dict[tuple[int, ...], _Recording | None] = {}

    def __call__(self, *inputs: Tensor) -> Tensor:
        """Return the result of the network; recordings of other batch sizes are dropped."""
        shape = tuple(inputs[0].shape)
        if shape not in self._recordings:
            kept = {s: r for s, r in self._recordings.items() if s[0] == shape[0]}
            self._recordings = kept
            self._recordings[shape] = self._record(inputs)
        recording = self._recordings[shape]
        return self._network(*inputs) if recording is None else recording.replay(inputs)

    def _record(self, inputs: tuple[Tensor, ...]) -> _Recording | None:
        """Record a pass on copies of the inputs; None if that is not possible."""
        own = tuple(values.clone() for values in inputs)
        main, side = torch.cuda.current_stream(), torch.cuda.Stream()  # type: ignore[no-untyped-call]
        graph = torch.cuda.CUDAGraph()
        try:
            with _no_autocast_cache():
                side.wait_stream(main)
                with torch.cuda.stream(side):
                    for _ in range(_PASSES):
                        self._network(*own)
                main.wait_stream(side)
                # Threads of other GPUs, and that which writes strips, go on meanwhile.
                with torch.cuda.graph(graph, capture_error_mode="thread_local"):
                    result = self._network(*own)
        except RuntimeError as error:
            if out_of_memory(error):
                raise
            log.warning("predict.cuda_graphs has no effect: %s", first_line(error))
            return None
        return _Recording(graph, own, result)


def _no_autocast_cache() -> torch.autocast:
    """Return autocast without its cache of weights, since a graph must own what it reads."""
    enabled, kind = torch.is_autocast_enabled("cuda"), torch.get_autocast_dtype("cuda")
    return torch.autocast("cuda", kind, enabled=enabled, cache_enabled=False)
