"""A pool of threads, each with its own open resource, that returns results in order."""

import os
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future
from contextlib import AbstractContextManager
from itertools import islice
from queue import SimpleQueue
from typing import Generic, TypeAlias, TypeVar

R = TypeVar("R")
T = TypeVar("T")
U = TypeVar("U")
ProgressCallback: TypeAlias = Callable[[int, int], None]
"""Called with the number of items done so far, and of all."""

_AHEAD = 2  # results per thread that may wait for those of earlier items


def cores() -> int:
    """Return the number of CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def in_order(
    opened: Callable[[], AbstractContextManager[R]],
    work: Callable[[R, T], U],
    items: Iterable[T],
    jobs: int,
) -> Generator[U, None, None]:
    """Map `work` over items in `jobs` threads and yield the results in the order of the items.

    Threads are enough because GDAL releases the GIL. At most two results per thread are in memory.

    Parameters
    ----------
    opened : callable
        Opens the resource of a thread, e.g. a scene. The same thread closes it, as rasterio
        requires.
    work : callable
        Called with the resource and an item; its first exception is raised and stops the others.
    items : iterable
    jobs : int
        With 1, the calling thread does the work.
    """
    if jobs <= 1:
        with opened() as own:
            yield from (work(own, item) for item in items)
        return
    items = iter(items)
    with WorkerThreads(opened, work, jobs) as threads:
        waiting: deque[Future[U]] = deque()
        for item in islice(items, jobs * _AHEAD):
            waiting.append(threads.submit(item))
        while waiting:
            result = waiting.popleft().result()
            waiting.extend(threads.submit(item) for item in islice(items, 1))
            yield result


class WorkerThreads(Generic[R, T, U]):
    """A pool of threads, each with its own resource, as a context manager.

    Unlike a `ThreadPoolExecutor`, it opens and closes the resource of a thread in that thread, and
    its threads do not keep the process alive after an uncaught error.

    Parameters
    ----------
    opened, work : callable
        See `in_order`.
    count : int
        Number of threads.
    """

    def __init__(
        self, opened: Callable[[], AbstractContextManager[R]], work: Callable[[R, T], U], count: int
    ) -> None:
        self._opened, self._work = opened, work
        self._tasks: SimpleQueue[tuple[Future[U], T] | None] = SimpleQueue()
        self._closing = False
        self._threads = [threading.Thread(target=self._serve, daemon=True) for _ in range(count)]

    def __enter__(self) -> "WorkerThreads[R, T, U]":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        """Cancel tasks that have not begun, and wait for the threads."""
        self._closing = True
        for _ in self._threads:
            self._tasks.put(None)
        for thread in self._threads:
            thread.join()

    def submit(self, item: T) -> "Future[U]":
        """Queue an item; an error, also one of opening the resource, is set on the future."""
        future: Future[U] = Future()
        self._tasks.put((future, item))
        return future

    def _serve(self) -> None:
        try:
            with self._opened() as own:
                self._work_on_tasks(own)
        except BaseException as error:  # noqa: BLE001 - set on the futures
            while (task := self._tasks.get()) is not None:
                task[0].set_exception(error)

    def _work_on_tasks(self, own: R) -> None:
        while (task := self._tasks.get()) is not None:
            future, item = task
            if self._closing:
                future.cancel()
                continue
            try:
                future.set_result(self._work(own, item))
            except BaseException as error:  # noqa: BLE001 - set on the future
                future.set_exception(error)
