"""Reasons to stop training before its end: a signal, or the time limit."""

import logging
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import IntEnum
from types import FrameType

from cafe_cli.system.interrupts import is_ignored

log = logging.getLogger("cafe")


class StopReason(IntEnum):
    """Why to stop training. Processes agree on the largest value (all-reduce), the most urgent."""

    NONE = 0
    TIME_LIMIT = 1
    SIGHUP = 2
    SIGUSR1 = 3
    SIGTERM = 4
    SIGINT = 5

    @property
    def signal(self) -> int | None:
        """Number of the signal; None for other reasons."""
        return None if self <= StopReason.TIME_LIMIT else int(getattr(signal, self.name))


# Schedulers send SIGTERM or SIGUSR1 some time before SIGKILL; a terminal that closes, SIGHUP.
_REASONS = {
    getattr(signal, reason.name): reason for reason in StopReason if reason.name in dir(signal)
}


class StopRequestedError(Exception):
    """All processes have agreed to stop, for `reason`, in the middle of a validation."""

    def __init__(self, reason: StopReason) -> None:
        super().__init__(reason.name)
        self.reason = reason


@contextmanager
def watch_for_stop(limit: float | None, started: float) -> Iterator[Callable[[], StopReason]]:
    """Handle signals; yield a function that returns, between steps, the reason to stop.

    A second Ctrl-C raises KeyboardInterrupt at once. Signals that are ignored, as under ``nohup``
    or in the background, stay ignored.

    Parameters
    ----------
    limit : float or None
        Seconds after `started`; None for no limit.
    started : float
        A time of `time.monotonic`.
    """
    received = StopReason.NONE

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal received
        # A process may get both the Ctrl-C of the terminal and the SIGTERM of its launcher: only
        # SIGINT counts as a second Ctrl-C.
        if received and number == signal.SIGINT:
            raise KeyboardInterrupt
        if not received:
            log.warning("stopping after this step; Ctrl-C again stops at once")
            received = _REASONS[number]

    def reason() -> StopReason:
        if received:
            return received
        up = limit is not None and time.monotonic() - started >= limit
        return StopReason.TIME_LIMIT if up else StopReason.NONE

    with _install_handler(handle):
        yield reason


@contextmanager
def _install_handler(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    before = {}
    try:
        for number in _REASONS:
            if not is_ignored(number):
                before[number] = signal.signal(number, handler)
    except ValueError:  # only the main thread may set handlers: leave signals to the caller
        before = {}
    try:
        yield
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)
