"""Batches on the device, read ahead by threads.

Threads copy tiles into buffers that are reused, in the data types of the tiles and, for a GPU, in
page-locked memory, from which a batch travels in one copy. The conversion to float32 and the
augmentation happen on the device, for the whole batch.
"""

import time
from collections import deque
from collections.abc import Generator, Iterable
from concurrent.futures import Future
from itertools import islice
from typing import NamedTuple, TypeAlias

import torch

from cafe_cli.model.host_memory import HostMemory
from cafe_cli.model.inputs import Sample
from cafe_cli.system.threads import WorkerThreads, cores
from cafe_cli.tilesets.cache import PackedArrays, PackedTiles
from cafe_cli.training.data.augment import AugmentParams, stack
from cafe_cli.training.data.dataset import TileDataset, TileSource, to_sample
from cafe_cli.training.data.sampler import SampleKey

_AHEAD = 2  # batches that are read while the network computes another
_MOST_THREADS = 8


class Batch(NamedTuple):
    """A batch on the device, and the keys of its samples."""

    sample: Sample
    keys: list[SampleKey]


class _Buffer(HostMemory):
    """Host memory of a batch."""

    def sample(self, number: int) -> PackedArrays:
        """Return views of the memory of one sample."""
        return PackedTiles(*(values[number].numpy() for values in self.tensors))

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.tensors[0])


class _Task(NamedTuple):
    """A sample to be read into its place in a buffer."""

    key: SampleKey
    buffer: _Buffer
    number: int


_Readers: TypeAlias = "WorkerThreads[TileSource, _Task, AugmentParams | None]"


class _PendingBatch(NamedTuple):
    """A batch that is being read; its futures return the augmentation of each sample, if any."""

    keys: list[SampleKey]
    buffer: _Buffer
    params: "list[Future[AugmentParams | None]]"


class Loader:
    """Reads batches of a dataset.

    Parameters
    ----------
    dataset : TileDataset
    device : torch.device
        Device of the batches.
    threads : int, optional
        Number of reading threads, at least one. By default one on a CPU, whose cores the network
        needs, and on a GPU one per core, at most 8.

    Attributes
    ----------
    waited : float
        Seconds that the consumer has waited for batches since this was last set to 0: for the
        threads and, on a CPU, for conversion and augmentation.
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
        waiting: deque[_PendingBatch] = deque()
        free: list[_Buffer] = []
        readers: _Readers = WorkerThreads(self._dataset.opened, self._read, self._threads)
        with readers:
            submitted = (self._submit(readers, batch, free) for batch in keys)
            while True:
                start = time.perf_counter()
                waiting.extend(islice(submitted, _AHEAD + 1 - len(waiting)))
                if not waiting:
                    return
                pending = waiting.popleft()
                sample = self._deliver(pending)
                free.append(pending.buffer)
                self.waited += time.perf_counter() - start
                yield Batch(sample, pending.keys)

    def _submit(
        self, readers: _Readers, keys: list[SampleKey], free: list[_Buffer]
    ) -> _PendingBatch:
        buffer = free.pop() if free else None
        if buffer is None or len(buffer) < len(keys):
            buffer = _Buffer(self._dataset.layout(len(keys)), self._device)
        tasks = (_Task(key, buffer, number) for number, key in enumerate(keys))
        return _PendingBatch(keys, buffer, [readers.submit(task) for task in tasks])

    def _read(self, source: TileSource, task: _Task) -> AugmentParams | None:
        task.buffer.wait()
        return self._dataset.read(source, task.key, task.buffer.sample(task.number))

    def _deliver(self, pending: _PendingBatch) -> Sample:
        """Wait for a batch and copy it to the device."""
        params = [drawn for future in pending.params if (drawn := future.result()) is not None]
        planes = PackedTiles(*(v[: len(pending.keys)] for v in pending.buffer.copy()))
        return to_sample(planes, stack(params, self._device) if params else None)
