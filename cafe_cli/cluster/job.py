"""Which cluster, and what it is given to do, as plain values."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from cafe_cli.errors import CafeError


@dataclass(frozen=True)
class ClusterOptions:
    """The cluster to run on.

    Parameters
    ----------
    scheduler : str, optional
        Address of a running Dask scheduler, e.g. ``tcp://host:8786``, or the file that it wrote
        (``dask scheduler --scheduler-file``).
    workers : int, optional
        Start this many worker processes on this machine instead.
    scratch : str, optional
        Where workers leave what they have finished, where that is not written to its place: a
        folder that all machines see, or ``s3://bucket/prefix``.
    """

    scheduler: str | None = None
    workers: int | None = None
    scratch: str | None = None


@dataclass(frozen=True)
class Shared:
    """A value that several tasks need: computed once on a worker, then passed among workers.

    Attributes
    ----------
    name : str
        Unique in a run.
    function : callable
        At module level; its result can be pickled. It may run more than once, since a value is
        lost with its worker.
    args : tuple
    """

    name: str
    function: Callable[..., object]
    args: tuple[object, ...] = ()


@dataclass(frozen=True)
class Task:
    """A call for a worker. It may run more than once, also at the same time in two places.

    Attributes
    ----------
    name : str
        Unique in a run.
    function : callable
        At module level; arguments and result can be pickled.
    args : tuple
    shared : Shared, optional
        Its value is passed before `args`.
    owner : object
        Whatever the caller wants to find again; it does not leave this process.
    """

    name: str
    function: Callable[..., object]
    args: tuple[object, ...] = ()
    shared: Shared | None = None
    owner: Any = field(default=None, compare=False)


@dataclass(frozen=True)
class Outcome:
    """What became of a task.

    Attributes
    ----------
    task : Task
    value : object
        What the function returned; None if it failed.
    error : CafeError or None
        Why it failed for good.
    seconds : float
        Time that the worker took.
    worker : str
        Address of the worker.
    """

    task: Task
    value: Any
    error: CafeError | None = None
    seconds: float = 0.0
    worker: str = ""

    def result(self) -> Any:
        """Return the value, or raise the error."""
        if self.error is not None:
            raise self.error
        return self.value


@dataclass
class Incidents:
    """What did not go as planned, and was made good.

    Attributes
    ----------
    retried : int
        Tasks that failed, or whose worker was lost, and ran again.
    copied : int
        Tasks of which a second copy was started because they took long.
    reconnected : int
        Times that the scheduler was lost and found again.
    """

    retried: int = 0
    copied: int = 0
    reconnected: int = 0
