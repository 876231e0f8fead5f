"""Batches of work: items that share an open resource, such as the windows of a scene.

Whatever runs a batch, the results come in the order of its items, so that sums of floating point
numbers are the same to the last bit.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
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
        Opens the resource; called with the value of `prepare`, if that is given.
    work : callable
        Called with the resource and an item.
    items : sequence
    jobs : int
        Threads that may hold the resource on one machine.
    prepare : callable, optional
        Returns a value that takes long to compute, and that all who open the resource need.
    """

    opened: Callable[..., AbstractContextManager[R]]
    work: Callable[[R, T], U]
    items: Sequence[T]
    jobs: int = 1
    prepare: Callable[[], object] | None = None


class Executor(Protocol):
    """Runs batches, and yields the items of each with their results, in the order of the items.

    The results of a batch have to be taken before those of the next one.

    Attributes
    ----------
    repeats : bool
        Whether an item may be worked on twice, even at a time.
    """

    repeats: bool

    def __call__(self, batches: Iterable[Batch[R, T, U]]) -> Iterator[Iterator[tuple[T, U]]]:
        """Run batches."""
        ...

    def check(self, inputs: Sequence[str], output: Path | None = None) -> None:
        """Refuse files that are not seen where the batches run, and a folder to write to."""
        ...


class ThreadExecutor:
    """Runs batches one after another in threads of this process."""

    repeats = False

    def __call__(self, batches: Iterable[Batch[R, T, U]]) -> Iterator[Iterator[tuple[T, U]]]:
        """Run batches; each is made when those before it are done."""
        for batch in batches:
            opened = batch.opened
            if batch.prepare is not None:
                opened = partial(opened, batch.prepare())
            jobs = min(batch.jobs, len(batch.items))
            yield zip(batch.items, in_order(opened, batch.work, batch.items, jobs), strict=True)

    def check(self, inputs: Sequence[str], output: Path | None = None) -> None:
        """Check nothing: this process sees what it sees."""


run_in_threads = ThreadExecutor()


def run_batch(run: Executor, batch: Batch[R, T, U]) -> Iterator[tuple[T, U]]:
    """Run a single batch; yield its items with their results."""
    return chain.from_iterable(run([batch]))
