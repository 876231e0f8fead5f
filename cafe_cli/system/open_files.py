"""Files that stay open between reads, a bounded number of them at a time."""

from collections import OrderedDict
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from typing import Generic, TypeVar

V = TypeVar("V")

_OPEN = 64


class Pool(Generic[V]):
    """Keeps open what was opened; beyond 64 the one longest unused is closed.

    Not to be shared between threads.
    """

    def __init__(self) -> None:
        self._open: OrderedDict[str, tuple[ExitStack, V]] = OrderedDict()

    def get(self, name: str, open_it: Callable[[], AbstractContextManager[V]]) -> V:
        """Return what has a name; `open_it` is called where it is not open."""
        if name not in self._open:
            if len(self._open) >= _OPEN:
                self._close_oldest()
            stack = ExitStack()
            self._open[name] = stack, stack.enter_context(open_it())
        self._open.move_to_end(name)
        return self._open[name][1]

    def close(self) -> None:
        """Close what is open."""
        while self._open:
            self._close_oldest()

    def _close_oldest(self) -> None:
        _, (stack, _) = self._open.popitem(last=False)
        stack.close()
