"""Batches on the device, read ahead by threads.

Threads copy what they read into buffers that are used over and over, in the data types of the tiles
and, for a GPU, in page-locked memory. What multiplies the bytes (float32) or takes arithmetic
(flips, jitter) happens on the device, to the whole batch.
"""

import threading
import time
from collections import deque
from collections.abc import Generator, Iterable
from concurrent.futures import Future
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice
from queue import SimpleQueue
from typing import NamedTuple

import torch
from torch import Tensor

from cafe_cli.model.inputs import Sample
from cafe_cli.system.threads import cores
from cafe_cli.tilesets.cache import PackedArrays, PackedTiles
from cafe_cli.training.data.augment import AugmentParams, stacked
from cafe_cli.training.data.dataset import TileDataset, TileSource, to_sample
from cafe_cli.training.data.sampler import SampleKey

_AHEAD = 2  # batches that are read while the network has another
_MOST_THREADS = 8


class Batch(NamedTuple):
    """A batch on the device, and what it was made of."""

    sample: Sample
    keys: list[SampleKey]


@dataclass
class _Buffer:
    """Room for a batch; `copied` is the end of the last copy to a GPU."""

    planes: PackedTiles[Tensor]
    copied: torch.cuda.Event | None = None

    def place(self, number: int) -> PackedArrays:
        return PackedTiles(*(values[number].numpy() for values in self.planes))


class _Reading(NamedTuple):
    """A batch under way: a change will come of each key, None where nothing is augmented."""

    keys: list[SampleKey]
    buffer: _Buffer
    changes: "list[Future[AugmentParams | None]]"


class Loader:
    """Reads batches of a dataset.

    Parameters
    ----------
    dataset : TileDataset
    device : torch.device
        Where the samples go.
    threads : int, optional
        That read, at least one. If None, one for a CPU, whose cores the network needs more, and for
        a GPU one per core, at most 8.

    Attributes
    ----------
    waited : float
        Seconds that the consumer has waited for batches since this was last set to 0: for the
        threads and, on a CPU, for what is done to a whole batch.
    """

    def __init__(
        self, dataset: TileDataset, device: torch.device, threads: int | None = None
    ) -> None:
        if threads is None:
            threads = min(_MOST_THREADS, cores()) if device.type == "cuda" else 1
        self._dataset, self._device, self._threads = dataset, device, max(threads, 1)
        self.waited = 0.0

    def batches(self, keys: Iterable[list[SampleKey]]) -> Generator[Batch, None, None]:
        """Yield a batch for each list of keys, in their order.

        Two batches are read ahead. The threads end with this generator: close it
        (``contextlib.closing``) where it may not be used up.

        Raises
        ------
        InputError
            A file is missing, damaged, or changed since the virtual tile set was made.
        """
        waiting: deque[_Reading] = deque()
        free: list[_Buffer] = []
        with _Readers(self._dataset, self._threads) as readers:
            begun = (self._begin(readers, batch, free) for batch in keys)
            while True:
                start = time.perf_counter()
                waiting.extend(islice(begun, _AHEAD + 1 - len(waiting)))
                if not waiting:
                    return
                reading = waiting.popleft()
                sample = self._deliver(reading)
                free.append(reading.buffer)
                self.waited += time.perf_counter() - start
                yield Batch(sample, reading.keys)

    def _begin(self, readers: "_Readers", keys: list[SampleKey], free: list[_Buffer]) -> _Reading:
        buffer = free.pop() if free else None
        if buffer is None or len(buffer.planes.labels) < len(keys):
            buffer = _Buffer(self._dataset.blank(len(keys), pinned=self._device.type == "cuda"))
        changes = [readers.read(key, buffer, number) for number, key in enumerate(keys)]
        return _Reading(keys, buffer, changes)

    def _deliver(self, reading: _Reading) -> Sample:
        """Wait for a batch and bring it onto the device."""
        changes = [change for future in reading.changes if (change := future.result()) is not None]
        planes = PackedTiles(
            *(
                values[: len(reading.keys)].to(self._device, non_blocking=True)
                for values in reading.buffer.planes
            )
        )
        if self._device.type == "cuda":
            reading.buffer.copied = torch.cuda.current_stream(self._device).record_event()
        return to_sample(planes, stacked(changes, self._device) if changes else None)


class _Task(NamedTuple):
    key: SampleKey
    buffer: _Buffer
    number: int
    change: "Future[AugmentParams | None]"


class _Readers:
    """Threads that read samples into buffers; a context manager."""

    def __init__(self, dataset: TileDataset, threads: int) -> None:
        self._dataset = dataset
        self._tasks: SimpleQueue[_Task | None] = SimpleQueue()
        self._ended = False
        # An error that nobody catches must not wait for threads that wait for work.
        self._threads = [threading.Thread(target=self._serve, daemon=True) for _ in range(threads)]

    def __enter__(self) -> "_Readers":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended = True
        for _ in self._threads:
            self._tasks.put(None)
        for thread in self._threads:
            thread.join()

    def read(self, key: SampleKey, buffer: _Buffer, number: int) -> "Future[AugmentParams | None]":
        """Have a sample read into its place in a buffer."""
        change: Future[AugmentParams | None] = Future()
        self._tasks.put(_Task(key, buffer, number, change))
        return change

    def _serve(self) -> None:
        with ExitStack() as stack:
            source: TileSource | None = None
            while (task := self._tasks.get()) is not None and not self._ended:
                try:
                    source = source or stack.enter_context(self._dataset.opened())
                    task.change.set_result(self._read(source, task))
                except BaseException as error:  # noqa: BLE001 - handed on to whoever waits
                    task.change.set_exception(error)

    def _read(self, source: TileSource, task: _Task) -> AugmentParams | None:
        if task.buffer.copied is not None:
            task.buffer.copied.synchronize()
        return self._dataset.read(source, task.key, task.buffer.place(task.number))
