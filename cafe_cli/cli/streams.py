"""Standard output and error that may be closed by whoever reads them.

What is printed then is lost, what is written to files is not: the command goes on without its
stderr, and ends when it next prints to stdout, which commands do last.
"""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO

from cafe_cli.errors import OutputError

_CLOSED = 128 + getattr(signal, "SIGPIPE", 13)


class ClosedPipeError(SystemExit):
    """Nobody reads stdout any more, as after ``| head -1``; the exit code is that of SIGPIPE."""

    def __init__(self) -> None:
        super().__init__(_CLOSED)


@contextmanager
def survive_closed_streams() -> Iterator[None]:
    """Replace ``sys.stdout`` and ``sys.stderr`` by streams that outlive their readers."""
    _occupy_standard_descriptors()
    out, err = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = _Output(out), _Talk(err)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = out, err


def _occupy_standard_descriptors() -> None:
    """Open the null device in place of a stream closed with ``>&-``.

    Otherwise the next file opened gets its number, and what libraries print lands in that file.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)


class _Talk:
    """stderr; the work continues without it."""

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream if stream is not None else open(os.devnull, "w")  # noqa: SIM115

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except OSError as error:
            self.give_up(error)
            return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError as error:
            self.give_up(error)

    def give_up(self, error: OSError) -> None:
        """Send what is printed from now on nowhere."""
        with suppress(OSError, ValueError):
            descriptor = os.open(os.devnull, os.O_WRONLY)
            os.dup2(descriptor, self._stream.fileno())
            os.close(descriptor)


class _Output(_Talk):
    """stdout, whose reader must not miss anything without an exit code that says so."""

    _error: OSError | None = None

    def write(self, text: str) -> int:
        self._raise()  # click hides the error of a first, empty write
        return super().write(text)

    def give_up(self, error: OSError) -> None:
        """Send what is printed nowhere, so that the interpreter can exit, and raise."""
        super().give_up(error)
        self._error = error
        self._raise()

    def _raise(self) -> None:
        if isinstance(self._error, BrokenPipeError):
            raise ClosedPipeError from None
        if self._error is not None:
            raise OutputError(f"cannot write to standard output: {self._error.strerror}")
