"""Batches of work: items that share an open resource, such as the windows of a scene.

Whatever runs a batch, the results come in the order of its items, so that sums of floating point
numbers are the same to the last bit.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import chain
from typing import Generic, Protocol, TypeVar

from cafe_cli.system.threads import in_order

R = TypeVar("R")
T = TypeVar("T")
U = TypeVar("U")


@dataclass(frozen=True)
class Batch(Generic[R, T, U]):
    """Items to work on, with a resource that each thread or process opens for itself.

    All of it can be pickled, and an item may be worked on twice, even at a time: the result, and
    what is written, is the same.

    Attributes
    ----------
    opened : callable
        Opens the resource.
    work : callable
        Called with the resource and an item.
    items : sequence
    jobs : int
        Threads that may hold the resource on one machine.
    """

    opened: Callable[[], AbstractContextManager[R]]
    work: Callable[[R, T], U]
    items: Sequence[T]
    jobs: int = 1


class Executor(Protocol):
    """Runs batches, and yields the items of each with their results, in the order of the items.

    The results of a batch have to be taken before those of the next one.
    """

    def __call__(self, batches: Iterable[Batch[R, T, U]]) -> Iterator[Iterator[tuple[T, U]]]:
        """Run batches; they are made when they are needed, one after another."""
        ...


def run_in_threads(batches: Iterable[Batch[R, T, U]]) -> Iterator[Iterator[tuple[T, U]]]:
    """Run batches one after another in threads of this process: an `Executor`."""
    for batch in batches:
        jobs = min(batch.jobs, len(batch.items))
        results = in_order(batch.opened, batch.work, batch.items, jobs)
        yield zip(batch.items, results, strict=True)


def run_batch(run: Executor, batch: Batch[R, T, U]) -> Iterator[tuple[T, U]]:
    """Run a single batch; yield its items with their results."""
    return chain.from_iterable(run([batch]))
