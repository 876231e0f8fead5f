"""One process at a time: locks that the system takes away from a process that dies."""

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cafe_cli.errors import OutputError
from cafe_cli.system.atomic_write import translate_os_errors

if sys.platform != "win32":
    import fcntl


log = logging.getLogger("cafe")


@contextmanager
def exclusive_lock(path: Path, busy: str) -> Iterator[None]:
    """Lock a file, made where there is none, or refuse; its folder is made, too.

    The file may be removed while it is locked, with its folder: whoever comes next makes another.

    Raises
    ------
    OutputError
        `busy`, when another process has it; or it cannot be made.
    """
    with translate_os_errors(path.parent):
        descriptor = _acquire(path, busy)
    try:
        yield
    finally:
        if descriptor is not None:
            os.close(descriptor)


@contextmanager
def wait_for_lock(path: Path, busy: str) -> Iterator[None]:
    """Lock a file, made where there is none; wait for another process that has it, and log `busy`.

    The file stays: to remove it while others wait for it would let two of them in.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        if sys.platform != "win32" and not _is_free(descriptor):
            log.info("%s", busy)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _acquire(path: Path, busy: str) -> int | None:
    """Return an open file that is locked and has kept its name; None where there are no locks."""
    while True:
        path.parent.mkdir(exist_ok=True)
        if sys.platform == "win32":
            return None
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT)
        except FileNotFoundError:  # the other process has just removed the folder
            continue
        if not _is_free(descriptor):
            os.close(descriptor)
            raise OutputError(busy)
        try:
            if os.path.samestat(os.fstat(descriptor), os.stat(path)):
                return descriptor
        except FileNotFoundError:
            pass
        os.close(descriptor)


def _is_free(descriptor: int) -> bool:
    """Lock an open file, unless another process has."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
