"""A pool of files that stay open between reads."""

import sys
from collections import OrderedDict
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, suppress
from typing import Generic, TypeVar

V = TypeVar("V")

if sys.platform != "win32":
    import resource

_OPEN = 64
_ENOUGH = 65_536
_WINDOWS = 8192  # what the C library of Windows allows
_SHARE = 16  # of the files that a process may have open, the part that a pool may have


def most_open() -> int:
    """Return how many files a pool keeps open: 64, or fewer under a low limit (``ulimit -n``).

    A raster may take several files, and a process has several pools.
    """
    if sys.platform != "win32":
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        if limit != resource.RLIM_INFINITY:
            return max(min(_OPEN, limit // _SHARE), 1)
    return _OPEN


def allow_more() -> int:
    """Raise the limit of open files as far as the system allows; return it."""
    if sys.platform != "win32":
        soft, hard = (
            _ENOUGH if limit == resource.RLIM_INFINITY else limit
            for limit in resource.getrlimit(resource.RLIMIT_NOFILE)
        )
        wanted = min(hard, _ENOUGH)
        if soft < wanted:
            with suppress(OSError, ValueError):
                limits = wanted, resource.getrlimit(resource.RLIMIT_NOFILE)[1]
                resource.setrlimit(resource.RLIMIT_NOFILE, limits)
                return wanted
        return min(soft, _ENOUGH)
    return _WINDOWS


class Pool(Generic[V]):
    """A least-recently-used cache of open files, by name.

    Not thread-safe.

    Parameters
    ----------
    most : int, optional
        Files that are open at a time; `most_open` if None.
    """

    def __init__(self, most: int | None = None) -> None:
        self._open: OrderedDict[str, tuple[ExitStack, V]] = OrderedDict()
        self._most = most or most_open()

    def get(self, name: str, open_it: Callable[[], AbstractContextManager[V]]) -> V:
        """Return the open file of a name, opened with `open_it` if necessary."""
        if name not in self._open:
            if len(self._open) >= self._most:
                self._close_oldest()
            stack = ExitStack()
            self._open[name] = stack, stack.enter_context(open_it())
        self._open.move_to_end(name)
        return self._open[name][1]

    def close(self) -> None:
        """Close all files."""
        while self._open:
            self._close_oldest()

    def _close_oldest(self) -> None:
        _, (stack, _) = self._open.popitem(last=False)
        stack.close()
