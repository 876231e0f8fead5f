"""What runs on the workers: a call, with what it logged and how long it took."""

import logging
import os
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from cafe_cli import __version__
from cafe_cli.errors import CafeError
from cafe_cli.system.threads import cores

_log = logging.getLogger("cafe")
_here = threading.local()  # the worker that runs the call of a thread


@dataclass(frozen=True)
class Returned:
    """The end of a call.

    Attributes
    ----------
    value : object
        None if it failed.
    error : CafeError or None
    seconds : float
    worker : str
        Address of the worker.
    lines : tuple of (int, str)
        Level and text of what was logged.
    """

    value: Any
    error: CafeError | None
    seconds: float
    worker: str
    lines: tuple[tuple[int, str], ...]


def call(
    function: Callable[..., object],
    arguments: tuple[object, ...],
    *shared: "Returned",
    dask_worker: Any = None,
) -> Returned:
    """Call a function; an exception is returned, so that Dask does not judge it.

    Parameters
    ----------
    function : callable
    arguments : tuple
    *shared : Returned
        What `call` has returned of values to pass before the arguments.
    dask_worker : optional
        Given by Dask where the call is not a task.
    """
    start, lines = time.monotonic(), _Lines()
    _here.worker = dask_worker or _worker_of_task()
    _log.addHandler(lines)
    # Each process logs what is worth it, and the driver prints what its own level lets through.
    _log.setLevel(logging.INFO)
    value, error = None, None
    try:
        before = []
        for one in shared:
            if one.error is not None:
                raise one.error
            before.append(one.value)
        value = function(*before, *arguments)
    except CafeError as found:
        error = found
    except Exception as found:  # noqa: BLE001 - reported by the driver, in one line
        error = CafeError(f"{type(found).__name__}: {found}")
    finally:
        _log.removeHandler(lines)
    seconds = time.monotonic() - start
    said = [line for one in shared for line in one.lines]
    return Returned(value, error, seconds, _here.worker.address, (*said, *lines.found))


def _worker_of_task() -> Any:
    from distributed import get_worker

    return get_worker()


@dataclass(frozen=True)
class WorkerFacts:
    """What a worker is.

    Attributes
    ----------
    version : str
        Version of cafe.
    host : str
    name : str
        Name that the cluster gave to the worker: a number, of a local one.
    cores : int
        Cores that its process may use.
    """

    version: str
    host: str
    name: str
    cores: int


def describe() -> WorkerFacts:
    """Describe the worker that runs this call."""
    worker = _here.worker
    host = worker.address.rpartition(":")[0].rpartition("/")[2]
    return WorkerFacts(__version__, host, str(worker.name), cores())


def check_versions(facts: Mapping[str, WorkerFacts]) -> None:
    """Refuse workers with another version of cafe.

    Raises
    ------
    CafeError
    """
    for fact in facts.values():
        if fact.version != __version__:
            raise CafeError(
                f"the worker on {fact.host} has cafe {fact.version}, this is {__version__}: "
                "install the same on all machines"
            )


def share_cores(peers: int) -> int:
    """Share the cores of a machine among its workers: set and return the threads of this one.

    A process that was bound to some cores, as by Slurm, uses all of those. Dask starts workers
    with one thread for each library that computes.

    Parameters
    ----------
    peers : int
        Workers on this machine.
    """
    own, all_cores = cores(), os.cpu_count() or 1
    threads = own if own < all_cores else max(own // peers, 1)
    os.environ["OMP_NUM_THREADS"] = str(threads)
    return threads


class _Lines(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[int, str]] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.found.append((record.levelno, record.getMessage()))
