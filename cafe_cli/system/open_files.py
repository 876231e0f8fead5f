"""A pool of files that stay open between reads."""

from collections import OrderedDict
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from typing import Generic, TypeVar

V = TypeVar("V")

_OPEN = 64


class Pool(Generic[V]):
    """A least-recently-used cache of up to 64 open files, by name.

    Not thread-safe.
    """

    def __init__(self) -> None:
        self._open: OrderedDict[str, tuple[ExitStack, V]] = OrderedDict()

    def get(self, name: str, open_it: Callable[[], AbstractContextManager[V]]) -> V:
        """Return the open file of a name, opened with `open_it` if necessary."""
        if name not in self._open:
            if len(self._open) >= _OPEN:
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
