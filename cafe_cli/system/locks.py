"""File locks between processes; the operating system releases them when a process dies."""

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
    """Lock a file, creating it and its folder if missing; fail if another process holds the lock.

    The file and its folder may be removed while locked: the next process creates new ones.

    Raises
    ------
    OutputError
        Another process holds the lock (the message is `busy`), or the file cannot be created.
    """
    with translate_os_errors(path.parent):
        descriptor = _open_locked(path, busy)
    try:
        yield
    finally:
        if descriptor is not None:
            os.close(descriptor)


@contextmanager
def wait_for_lock(path: Path, busy: str) -> Iterator[None]:
    """Lock a file, creating it if missing; log `busy` and wait if another process holds the lock.

    The file must not be removed: while others wait for it, two processes would get the lock.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        if sys.platform != "win32" and not _try_lock(descriptor):
            log.info("%s", busy)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _open_locked(path: Path, busy: str) -> int | None:
    """Open and lock a file that still has its name once locked; None without file locks."""
    while True:
        path.parent.mkdir(exist_ok=True)
        if sys.platform == "win32":
            return None
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT)
        except FileNotFoundError:  # another process has just removed the folder
            continue
        if not _try_lock(descriptor):
            os.close(descriptor)
            raise OutputError(busy)
        try:
            if os.path.samestat(os.fstat(descriptor), os.stat(path)):
                return descriptor
        except FileNotFoundError:
            pass
        os.close(descriptor)


def _try_lock(descriptor: int) -> bool:
    """Lock an open file without waiting; return whether that succeeded."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
