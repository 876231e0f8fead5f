"""Run tasks on workers: a bounded number at a time, again where they fail, the last ones twice."""

import itertools
import logging
import queue
import statistics
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar
from uuid import uuid4

from cafe_cli.cluster.connection import Connection
from cafe_cli.cluster.job import ClusterOptions, Incidents, Outcome, Shared, Task
from cafe_cli.cluster.worker import Returned, WorkerFacts, call, check_versions, describe
from cafe_cli.errors import CafeError, ConfigError, ModelFileError

log = logging.getLogger("cafe")

T = TypeVar("T")

_TRIES = 3  # times that a task may fail
_TICK = 0.5  # seconds between looks at the connection and at stragglers
_LOOK = 5.0  # seconds between questions for the number of workers
_AHEAD = 2  # tasks per worker that are with the scheduler
_FETCH = 60.0  # seconds to fetch a result
_LOST = ("cancelled", "lost")  # what futures become with the scheduler, or with a worker
_FINAL = (ConfigError, ModelFileError)  # errors that another worker has, too


@dataclass
class _Attempt:
    """A task that was given to the scheduler."""

    task: Task
    future: Any
    started: float


class Cluster:
    """Workers on which tasks are run; a context manager.

    Tasks run at least once, at most three times if they fail, and a few run twice at a time: the
    last ones, where they take much longer than the others. The first result counts. A scheduler
    that is restarted is given all tasks again of which there is no result.

    Parameters
    ----------
    options : ClusterOptions
    slow : float
        How many times the median of the other tasks a task has to take to be run a second time.
    least : float
        Seconds that it has to take at least.

    Attributes
    ----------
    facts : dict of WorkerFacts
        The workers that there were at first, by address.
    incidents : Incidents

    Raises
    ------
    ConfigError, CafeError
        See `cafe_cli.cluster.connection.Connection`; or a worker has another version of cafe.
    """

    def __init__(self, options: ClusterOptions, slow: float = 3.0, least: float = 10.0) -> None:
        self._connection = Connection(options)
        self._slow, self._least = slow, least
        self._run = uuid4().hex[:8]
        self._events: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._running: dict[str, _Attempt] = {}
        self._shared: dict[str, Any] = {}
        self._again: deque[Task] = deque()
        self._failures: dict[str, int] = {}
        self._times: deque[float] = deque(maxlen=1000)
        self._done: set[str] = set()  # of tasks with a copy
        self._numbers = itertools.count()
        self._room, self._looked = 0, 0.0
        self.incidents = Incidents()
        self.facts: dict[str, WorkerFacts] = {}

    def __enter__(self) -> "Cluster":
        """Connect, wait for a worker, and check that all have this version of cafe."""
        self._connection.__enter__()
        try:
            self._wait_for_workers()
            self.facts = self.ask(describe)
            check_versions(self.facts)
        except BaseException:
            self._connection.__exit__(*sys.exc_info())
            raise
        return self

    def __exit__(self, *error: Any) -> None:
        """Close the connection; what still runs is given up with it."""
        self._running.clear()
        self._shared.clear()
        self._connection.__exit__(*error)

    @property
    def _client(self) -> Any:
        return self._connection.client

    @property
    def workers(self) -> list[str]:
        """Addresses of the workers that are there now."""
        return sorted(self._client.nthreads())

    def ask(self, function: Callable[..., T], *args: object) -> dict[str, T]:
        """Call a function on every worker that is there now.

        Returns
        -------
        dict
            What it returned, by address of the worker. Workers that were lost meanwhile are absent.

        Raises
        ------
        CafeError
            What the function raised on a worker.
        """
        answers = self._client.run(call, function, args, on_error="return")
        found: dict[str, T] = {}
        for worker, answer in answers.items():
            if isinstance(answer, ImportError | AttributeError):
                raise CafeError(
                    f"the worker {worker} cannot import this cafe ({answer}): install the same "
                    "version there"
                )
            if not isinstance(answer, Returned):
                log.debug("%s did not answer: %r", worker, answer)
                continue
            if answer.error is not None:
                raise answer.error
            found[worker] = answer.value
        if not found:
            raise CafeError("no worker answered; look at their logs, and run again")
        return found

    def run(self, tasks: Iterable[Task | None]) -> Iterator[Outcome]:
        """Run tasks, and yield what became of each, in the order in which they end.

        Parameters
        ----------
        tasks : iterable of Task or None
            Taken as there is room for them, so that they may be as many as there is work. None
            means that there is none at the moment: the iterable is asked again later.

        Raises
        ------
        CafeError
            The scheduler was lost and is not found again.
        """
        left = iter(tasks)
        exhausted = False
        while True:
            exhausted = self._fill(left) or exhausted
            if exhausted and not self._running and not self._again:
                return
            try:
                key = self._events.get(timeout=_TICK)
            except queue.Empty:
                self._look_after(exhausted)
                continue
            if (outcome := self._take(key)) is not None:
                yield outcome

    def release(self, shared: Shared) -> None:
        """Let the workers forget a value that no more task needs."""
        self._shared.pop(shared.name, None)

    def _fill(self, left: Iterator[Task | None]) -> bool:
        """Give tasks to the scheduler while there is room; return whether none are left."""
        if not self._connection.is_open:
            self._reconnect()
        while len(self._running) < self._limit:
            try:
                task = self._again.popleft() if self._again else next(left)
            except StopIteration:
                return True
            if task is None:
                break
            self._submit(task)
        return False

    @property
    def _limit(self) -> int:
        """Number of tasks that may be with the scheduler."""
        if time.monotonic() - self._looked > _LOOK:
            with suppress(Exception):  # the scheduler is lost: another look will tell
                self._room = sum(self._client.nthreads().values())
            self._looked = time.monotonic()
        return max(_AHEAD * self._room, 1) + 1

    def _submit(self, task: Task, workers: Sequence[str] | None = None) -> None:
        shared = [] if task.shared is None else [self._share(task.shared)]
        future = self._client.submit(
            call, task.function, task.args, *shared, key=self._key(task.name), pure=False,
            workers=workers,
        )  # fmt: skip
        self._running[future.key] = _Attempt(task, future, time.monotonic())
        future.add_done_callback(partial(_put_key, self._events))

    def _share(self, shared: Shared) -> Any:
        if shared.name not in self._shared:
            self._shared[shared.name] = self._client.submit(
                call, shared.function, shared.args, key=self._key(shared.name), pure=False
            )
        return self._shared[shared.name]

    def _key(self, name: str) -> str:
        # What comes before the last hyphen groups tasks in the dashboard.
        return f"{name}-{self._run}{next(self._numbers):08x}"

    def _take(self, key: str) -> Outcome | None:
        """Return the outcome of an attempt that has ended; None if its task is not done yet."""
        if (attempt := self._running.pop(key, None)) is None:
            return None
        task = attempt.task
        if task.name in self._done:  # by its copy
            self._done.discard(task.name)
            return None
        returned = self._fetch(attempt)
        if isinstance(returned, Returned):
            for level, line in returned.lines:
                log.log(level, "%s", line)
            if returned.error is None:
                return self._finish(task, returned)
        return self._fail(task, returned)

    def _finish(self, task: Task, returned: Returned) -> Outcome:
        self._times.append(returned.seconds)
        self._failures.pop(task.name, None)
        for other in self._attempts(task):
            self._done.add(task.name)
            with suppress(Exception):
                self._client.cancel([other.future], force=True)
        return Outcome(task, returned.value, None, returned.seconds, returned.worker)

    def _fail(self, task: Task, returned: Returned | CafeError | None) -> Outcome | None:
        """Run a task again, unless it has failed too often, or a copy of it still runs."""
        if self._attempts(task):
            return None
        self.incidents.retried += 1
        if returned is None:  # lost with the scheduler
            self._again.append(task)
            return None
        error = returned.error if isinstance(returned, Returned) else returned
        self._failures[task.name] = self._failures.get(task.name, 0) + 1
        if isinstance(error, _FINAL) or self._failures[task.name] >= _TRIES:
            self.incidents.retried -= 1
            worker = returned.worker if isinstance(returned, Returned) else ""
            return Outcome(task, None, error, 0.0, worker)
        log.debug("%s failed and runs again: %s", task.name, error)
        if task.shared is not None:
            self.release(task.shared)  # it may be what failed
        self._again.append(task)
        return None

    def _fetch(self, attempt: _Attempt) -> Returned | CafeError | None:
        """Return the result of an attempt, the error of its worker, or None if it was lost."""
        from distributed import KilledWorker

        try:
            returned: Returned = attempt.future.result(timeout=_FETCH)
        except KilledWorker:
            return CafeError(
                f"{attempt.task.name}: {_killed_times()} workers died while they ran it; the "
                "usual reason is memory: give the workers more, or cafe predict a smaller --window"
            )
        except Exception as error:  # noqa: BLE001 - comms have many ways to fail
            log.debug("%s has no result: %s", attempt.task.name, error)
            if attempt.future.status in _LOST or not self._connection.is_open:
                return None
            return CafeError(f"{attempt.task.name}: {type(error).__name__}: {error}")
        return returned

    def _attempts(self, task: Task) -> list[_Attempt]:
        """Return the attempts of a task that still run."""
        return [a for a in self._running.values() if a.task.name == task.name]

    def _look_after(self, exhausted: bool) -> None:
        """Find a lost scheduler, and start second copies of the last tasks where they are slow."""
        if not self._connection.is_open:
            self._reconnect()
        lost = [k for k, a in self._running.items() if a.future.status in _LOST]
        for key in lost:
            self._events.put(key)
        if exhausted and not self._again and self._times and not lost:
            with suppress(OSError):
                self._copy_stragglers()

    def _copy_stragglers(self) -> None:
        after = max(self._slow * statistics.median(self._times), self._least)
        now = time.monotonic()
        slow = [a for a in self._running.values() if now - a.started > after]
        if not slow:
            return
        idle = [worker for worker, keys in self._client.processing().items() if not keys]
        for attempt, worker in zip(slow, idle, strict=False):
            if len(self._attempts(attempt.task)) == 1:
                self.incidents.copied += 1
                log.debug("%s runs a second time, on %s", attempt.task.name, worker)
                self._submit(attempt.task, [worker])

    def _reconnect(self) -> None:
        """Connect to the scheduler that was lost, and take back what it was given."""
        self._connection.reopen()
        self.incidents.reconnected += 1
        self._shared.clear()
        again = {a.task.name: a.task for a in self._running.values()}
        self._again.extend(task for name, task in again.items() if name not in self._done)
        self._running.clear()
        self._done.clear()
        self._looked = 0.0

    def _wait_for_workers(self) -> None:
        said = False
        while not self._client.nthreads():
            if not said:
                log.info("%s has no worker yet: waiting for one", self._connection.name)
                said = True
            time.sleep(_TICK)


def _put_key(events: "queue.SimpleQueue[str]", future: Any) -> None:
    events.put(future.key)


def _killed_times() -> int:
    import dask

    return int(dask.config.get("distributed.scheduler.allowed-failures", 3)) + 1
