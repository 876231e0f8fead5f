"""Run batches of work on a cluster: some items of a batch are a task."""

import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

from cafe_cli.cluster.checks import check_folder
from cafe_cli.cluster.cluster import Cluster
from cafe_cli.cluster.job import ClusterOptions, Shared, Task
from cafe_cli.errors import InputError
from cafe_cli.system.batches import Batch, Executor, R, T, U, run_in_threads

_SHARES = 8  # tasks per worker, at least, if there are enough items
_MOST = 64  # items per task: results of a task are in memory together
_LOOKED_AT = 200  # input files that workers are asked for

_turn = threading.Condition()
_inside = 0  # tasks that run in the working folder of this process


class ClusterExecutor:
    """Runs batches as tasks of a cluster: an `Executor`.

    Tasks run in the working folder of this process, so that relative names mean the same files,
    and messages about them are the same.

    Parameters
    ----------
    cluster : Cluster
        Entered already.
    """

    repeats = True

    def __init__(self, cluster: Cluster) -> None:
        self._cluster, self._calls, self._folder = cluster, count(), os.getcwd()

    def __call__(self, batches: Iterable[Batch[R, T, U]]) -> Iterator[Iterator[tuple[T, U]]]:
        """Run batches, all of them as one graph.

        Raises
        ------
        CafeError
            What an item raised, in the order of the items; or the scheduler is lost.
        """
        call, every = next(self._calls), list(batches)
        size = self._items_per_task(sum(len(batch.items) for batch in every))
        parts = [_divide(batch.items, size) for batch in every]
        shared = [
            batch.prepare
            and Shared(f"prepare-{call}-{number}", _prepare, (batch.prepare, self._folder))
            for number, batch in enumerate(every)
        ]
        places = ((number, part) for number, own in enumerate(parts) for part in own)
        tasks = (
            self._task(f"batch-{call}-{place}", place, every[number], part, shared[number])
            for place, (number, part) in enumerate(places)
        )
        results = self._in_order(tasks)
        for own, value in zip(parts, shared, strict=True):
            left = iter(own)
            yield _with_results(left, results)
            for _ in left:  # of which the caller has taken no results
                next(results)
            if value is not None:
                self._cluster.release(value)

    def check(self, inputs: Sequence[str], output: Path | None = None) -> None:
        """Check that all workers see the working folder, the inputs, and a folder to write to.

        Of very many inputs, some are looked for.

        Raises
        ------
        InputError
            A worker does not see one of the inputs, or the working folder.
        OutputError
            A worker does not see the folder of the output.
        """
        files = [name for name in inputs if os.path.exists(name)]
        some = files[:: -(-len(files) // _LOOKED_AT) or 1]
        for worker, unseen in self._cluster.ask(_unseen, self._folder, some).items():
            if unseen is not None:
                raise InputError(
                    f"the worker {worker} does not see {unseen}: inputs, and the folder in which "
                    "cafe is started, have to be on a disk that all machines share"
                )
        if output is not None:
            check_folder(self._cluster, output, "write to a folder that all machines share")

    def _items_per_task(self, items: int) -> int:
        return max(min(items // (len(self._cluster.workers) * _SHARES or 1), _MOST), 1)

    def _task(
        self,
        name: str,
        place: int,
        batch: Batch[Any, Any, Any],
        part: Sequence[Any],
        shared: Shared | None,
    ) -> Task:
        arguments = (replace(batch, items=part, prepare=None), self._folder)
        return Task(name, _run_part if shared is None else _run_prepared, arguments, shared, place)

    def _in_order(self, tasks: Iterator[Task]) -> Iterator[list[Any]]:
        """Yield the results of tasks in the order of the tasks."""
        waiting, due = dict[int, Any](), 0
        for outcome in self._cluster.run(tasks):
            waiting[outcome.task.owner] = outcome
            while due in waiting:
                yield waiting.pop(due).result()
                due += 1


@contextmanager
def executor_on(options: ClusterOptions | None) -> Iterator[Executor]:
    """Connect to a cluster, and yield what runs batches on it; threads run them without options.

    Raises
    ------
    ConfigError, CafeError
        See `cafe_cli.cluster.cluster.Cluster`.
    """
    if options is None:
        yield run_in_threads
        return
    with Cluster(options) as cluster:
        yield ClusterExecutor(cluster)


def _divide(items: Sequence[T], size: int) -> list[Sequence[T]]:
    return [items[first : first + size] for first in range(0, len(items), size)]


def _with_results(
    parts: Iterator[Sequence[T]], results: Iterator[list[U]]
) -> Iterator[tuple[T, U]]:
    for part in parts:
        yield from zip(part, next(results), strict=True)


def _prepare(prepare: Callable[[], object], folder: str) -> object:
    with _working_in(folder):
        return prepare()


def _run_prepared(prepared: object, batch: Batch[R, T, U], folder: str) -> list[U]:
    with _working_in(folder), batch.opened(prepared) as own:
        return [batch.work(own, item) for item in batch.items]


def _run_part(batch: Batch[R, T, U], folder: str) -> list[U]:
    with _working_in(folder), batch.opened() as own:
        return [batch.work(own, item) for item in batch.items]


@contextmanager
def _working_in(folder: str) -> Iterator[None]:
    """Work in a folder; tasks that need another one wait."""
    global _inside
    with _turn:
        _turn.wait_for(lambda: not _inside or os.getcwd() == folder)
        os.chdir(folder)
        _inside += 1
    try:
        yield
    finally:
        with _turn:
            _inside -= 1
            _turn.notify_all()


def _unseen(folder: str, files: Sequence[str]) -> str | None:
    """Return the first of a folder and files in it that this worker does not see."""
    paths = [folder, *(os.path.join(folder, name) for name in files)]
    return next((path for path in paths if not os.path.exists(path)), None)
