"""End a command that is asked to end, by SIGINT (Ctrl-C), SIGTERM or SIGHUP (closed terminal).

The first signal raises an exception in the main thread, which cleans up on its way. Python raises
it between two calls of compiled code, and cleaning up waits for threads: both can take minutes
while a server does not answer; so can the end of Python itself, which waits for threads that were
just being started. A thread of its own therefore ends the process where that takes longer than
`GRACE` seconds, or as soon as Ctrl-C is pressed again.
"""

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from types import FrameType
from typing import Any

GRACE = 2.0
"""Seconds that a command has to end by itself."""

_WINDING_UP = 2.0  # seconds that may then pass until the process is gone
_ENDING = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if name in dir(signal)]
_undo: list[Callable[[], None]] = []


class EndedBySignalError(SystemExit):
    """A signal other than SIGINT was received; what a Ctrl-C cleans up is cleaned up."""

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)
        self.number = number


def is_ignored(number: int) -> bool:
    """Whether a signal does nothing, as under ``nohup`` or in the background, or is not Python's.

    Such a signal keeps its meaning.
    """
    return signal.getsignal(number) in (signal.SIG_IGN, None)


@contextmanager
def end_on_signals(report: Callable[[int], None]) -> Iterator[None]:
    """Raise in the main thread when a signal asks to end, and end the process if that is in vain.

    SIGINT raises KeyboardInterrupt, the others raise `EndedBySignalError`; from then on the process
    is watched until it is gone. A signal that comes after the context ends the process at once:
    nothing is left to clean up. Signals that are ignored stay ignored, and those that the caller
    handles keep their handlers.

    Parameters
    ----------
    report : callable
        Called with the number of the signal before the process is ended from another thread, while
        other threads may hold any lock.
    """
    usual = (signal.SIG_DFL, signal.default_int_handler)
    numbers = [number for number in _ENDING if signal.getsignal(number) in usual]
    if not numbers or threading.current_thread() is not threading.main_thread():
        yield
        return
    heard = False

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal heard
        if heard:  # the watcher ends the process, or lets the main thread clean up
            return
        heard = True
        raise KeyboardInterrupt if number == signal.SIGINT else EndedBySignalError(number)

    watcher = _Watcher(handle, report)
    with _quiet_callbacks():
        watcher.start()
        for number in numbers:
            signal.signal(number, handle)
        try:
            yield
        finally:
            if not heard:
                for number in numbers:
                    signal.signal(number, signal.SIG_DFL)
                watcher.stop()


@contextmanager
def undo_when_ended(undo: Callable[[], None]) -> Iterator[None]:
    """Call `undo` where a signal ends the process within the context, without an exception."""
    _undo.append(undo)
    try:
        yield
    finally:
        _undo.remove(undo)


class _Watcher:
    """Ends the process when signals that `handler` handles do not.

    Python writes the numbers of signals to a socket even while the main thread runs compiled code.
    """

    def __init__(self, handler: Any, report: Callable[[int], None]) -> None:
        self._handler, self._report = handler, report
        self._signals, self._received = socket.socketpair()
        self._thread = threading.Thread(target=self._watch, daemon=True, name="signals")

    def start(self) -> None:
        self._received.setblocking(False)
        self._before = signal.set_wakeup_fd(self._received.fileno(), warn_on_full_buffer=False)
        self._thread.start()

    def stop(self) -> None:
        signal.set_wakeup_fd(self._before)
        self._received.close()
        self._thread.join()

    def _watch(self) -> None:
        with closing(self._signals):
            if (first := self._next(None)) is None:
                return
            until = time.monotonic() + GRACE
            with suppress(TimeoutError):
                while (number := self._next(until)) != signal.SIGINT:
                    if number is None:
                        return
        self._end(first)

    def _next(self, until: float | None) -> int | None:
        """Return the next signal that is to end the command; None once the command has ended.

        Raises TimeoutError at `until`, a time of `time.monotonic`.
        """
        while True:
            self._signals.settimeout(until and max(until - time.monotonic(), 1e-3))
            if not (received := self._signals.recv(1)):
                return None
            # Training replaces the handlers while it can save its state.
            if signal.getsignal(received[0]) is self._handler:
                return received[0]

    def _end(self, number: int) -> None:
        def wind_up() -> None:
            for undo in reversed(_undo):
                with suppress(Exception):
                    undo()
            self._report(number)

        try:
            last = threading.Thread(target=wind_up, daemon=True)
            last.start()
            last.join(_WINDING_UP)
        finally:
            os._exit(128 + number)


@contextmanager
def _quiet_callbacks() -> Iterator[None]:
    """Print nothing of a signal received in a callback, which cannot pass on exceptions.

    Python prints them by one hook, Cython by both.
    """
    before = sys.excepthook, sys.unraisablehook
    asked = (KeyboardInterrupt, EndedBySignalError)

    def print_exception(kind: type[BaseException], value: BaseException, trace: Any) -> None:
        if not issubclass(kind, asked):
            before[0](kind, value, trace)

    def print_unraisable(failed: Any) -> None:
        if not issubclass(failed.exc_type, asked):
            before[1](failed)

    sys.excepthook, sys.unraisablehook = print_exception, print_unraisable
    try:
        yield
    finally:
        sys.excepthook, sys.unraisablehook = before
