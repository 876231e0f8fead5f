"""Whether to stop before the end: because somebody asks, or because the time is up."""

import logging
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

log = logging.getLogger("cafe")

GO_ON, TIME_UP, ASKED = range(3)
"""Reasons, the more urgent the greater."""

# Schedulers send the others before they kill.
_SIGNALS = [
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if name in dir(signal)
]


@contextmanager
def watching(limit: float | None, started: float) -> Iterator[Callable[[], int]]:
    """Hand out a function that says, between steps, whether to stop: one of the reasons.

    A second Ctrl-C stops at once, with a KeyboardInterrupt.

    Parameters
    ----------
    limit : float or None
        Seconds after `started`, a time of `time.monotonic`.
    """
    asked = False

    def ask(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        # Of several processes each gets the Ctrl-C of the terminal, and the launcher's signal too.
        if asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        if not asked:
            log.warning("stopping after this step; Ctrl-C again stops at once")
        asked = True

    def reason() -> int:
        if asked:
            return ASKED
        up = limit is not None and time.monotonic() - started >= limit
        return TIME_UP if up else GO_ON

    with _handled_by(ask):
        yield reason


@contextmanager
def _handled_by(ask: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    before = {}
    try:
        for number in _SIGNALS:
            before[number] = signal.signal(number, ask)
    except ValueError:  # not in the main thread: whoever called handles signals
        before = {}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
