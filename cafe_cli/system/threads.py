"""Work on a scene in several threads, each with its own open rasters; results come in order."""

import logging
import os
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from itertools import islice
from queue import SimpleQueue
from typing import TypeAlias, TypeVar

R = TypeVar("R")
T = TypeVar("T")
U = TypeVar("U")
Tasks: TypeAlias = "SimpleQueue[tuple[Future[U], T] | None]"
ProgressCallback: TypeAlias = Callable[[int, int], None]
"""Called with the number of items done so far, and of all."""

_AHEAD = 2  # items per thread that may be done and wait for those before them


log = logging.getLogger("cafe")

_warnings: dict[tuple[str, str], object] = {}


def warn_once(scene: str, message: str) -> None:
    """Log a warning about a scene, though each thread that opens the scene comes across it."""
    mine = object()
    if _warnings.setdefault((scene, message), mine) is mine:  # atomic
        log.warning("%s", message)


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def in_order(
    opened: Callable[[], AbstractContextManager[R]],
    work: Callable[[R, T], U],
    items: Iterable[T],
    jobs: int,
) -> Generator[U, None, None]:
    """Do work on items in `jobs` threads and yield the results in the order of the items.

    GDAL works without Python's lock, so threads are enough. Memory holds a few results at a time.

    Parameters
    ----------
    opened : callable
        Opens what a thread works with, e.g. a scene. It is closed in the same thread, as rasterio
        wants it.
    work : callable
        Called with that and an item; the first exception ends all.
    items : iterable
    jobs : int
        With 1, everything happens in this thread.
    """
    if jobs <= 1:
        with opened() as own:
            yield from (work(own, item) for item in items)
        return
    tasks: Tasks[U, T] = SimpleQueue()
    items = iter(items)
    with ThreadPoolExecutor(jobs) as threads:
        serving = [threads.submit(_serve, opened, work, tasks) for _ in range(jobs)]
        waiting: deque[Future[U]] = deque()
        try:
            for item in islice(items, jobs * _AHEAD):
                waiting.append(_hand_in(tasks, item))
            while waiting:
                result = waiting.popleft().result()
                waiting.extend(_hand_in(tasks, item) for item in islice(items, 1))
                yield result
        finally:
            for future in waiting:
                future.cancel()
            for _ in serving:
                tasks.put(None)


def _hand_in(tasks: "Tasks[U, T]", item: T) -> "Future[U]":
    future: Future[U] = Future()
    tasks.put((future, item))
    return future


def _serve(
    opened: Callable[[], AbstractContextManager[R]],
    work: Callable[[R, T], U],
    tasks: "Tasks[U, T]",
) -> None:
    """Take tasks until there is a None. What goes wrong, in opening too, is their result."""
    try:
        with opened() as own:
            while (task := tasks.get()) is not None:
                _do(task[0], lambda item: work(own, item), task[1])
    except BaseException as error:  # noqa: BLE001 - handed on to whoever waits
        while (task := tasks.get()) is not None:
            task[0].set_exception(error)


def _do(future: "Future[U]", work: Callable[[T], U], item: T) -> None:
    if future.set_running_or_notify_cancel():
        try:
            future.set_result(work(item))
        except BaseException as error:  # noqa: BLE001 - handed on to whoever waits
            future.set_exception(error)
