"""File locks between processes; the operating system releases them when a process dies."""

import errno
import logging
import os
import socket
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path

from cafe_cli.errors import OutputError
from cafe_cli.system.atomic_write import LOCK, made_folder, translate_os_errors
from cafe_cli.system.interrupts import undo_when_ended

if sys.platform != "win32":
    import fcntl


log = logging.getLogger("cafe")

_MOST_TRIES = 100  # to make a file in a folder that others remove; /proc takes none
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL)


@contextmanager
def lock_outputs(paths: Sequence[Path]) -> Iterator[None]:
    """Keep other processes from writing these outputs, files or folders, at the same time.

    A lock is a file beside the output, ``.NAME.lock``. It names the process that holds it, and goes
    when that is done. One that a killed process has left is free.

    Raises
    ------
    OutputError
        Another process writes one of them; the message says which process.
    """
    with ExitStack() as stack:
        for absolute, path in {path.absolute(): path for path in paths}.items():
            stack.enter_context(made_folder(absolute.parent))
            lock = absolute.with_name(f".{absolute.name}.lock")
            stack.enter_context(exclusive_lock(lock, path))
        yield


@contextmanager
def lock_folder(folder: Path) -> Iterator[None]:
    """Lock a folder, creating it if missing, by a file in it: it may be a mount point.

    Raises
    ------
    OutputError
        See `lock_outputs`.
    """
    with translate_os_errors(folder), made_folder(folder), exclusive_lock(folder / LOCK, folder):
        yield


@contextmanager
def exclusive_lock(lock: Path, output: Path) -> Iterator[None]:
    """Lock a file, creating it if missing, and remove it in the end.

    Parameters
    ----------
    lock : Path
    output : Path
        What the lock protects, for messages.

    Raises
    ------
    OutputError
        Another process holds the lock, or the file cannot be created.
    """
    with translate_os_errors(output):
        descriptor = _open_locked(lock, output)
    if descriptor is None:
        yield
        return
    try:
        with undo_when_ended(partial(_remove_lock, descriptor, lock)):
            yield
    finally:
        _remove_lock(descriptor, lock)
        os.close(descriptor)


def _remove_lock(descriptor: int, lock: Path) -> None:
    """Remove a file while it is locked, so that whoever opens it now will look again."""
    with suppress(OSError):
        if os.path.samestat(os.fstat(descriptor), os.stat(lock)):
            lock.unlink()


@contextmanager
def wait_for_lock(path: Path, busy: str) -> Iterator[None]:
    """Lock a file, creating it if missing; log `busy` and wait if another process holds the lock.

    The file must not be removed: while others wait for it, two processes would get the lock.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        if not _try_lock(descriptor, path):
            log.info("%s", busy)
            _flock(descriptor, wait=True)
        yield
    finally:
        os.close(descriptor)


def _open_locked(path: Path, output: Path) -> int | None:
    """Open and lock a file that still has its name once locked; None without file locks."""
    tries = 0
    while sys.platform != "win32":
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except FileNotFoundError:  # a process that made the folder has just removed it
            if (tries := tries + 1) == _MOST_TRIES:
                raise OutputError(f"cannot write {output}: its folder is not writable") from None
            continue
        if not _try_lock(descriptor, output):
            holder = os.read(descriptor, 300).decode("utf-8", "replace").strip()
            os.close(descriptor)
            who = f"another process ({holder})" if holder else "another process"
            raise OutputError(f"{who} is writing {output}; wait for it, or name another output")
        with suppress(FileNotFoundError):  # the process that held it has removed it
            if os.path.samestat(os.fstat(descriptor), os.stat(path)):
                _name_holder(descriptor, path)
                return descriptor
        os.close(descriptor)
    return None


def _name_holder(descriptor: int, path: Path) -> None:
    """Write into a lock who holds it; remove it where that fails, e.g. on a full disk."""
    try:
        os.truncate(descriptor, 0)
        os.write(descriptor, f"pid {os.getpid()} on {socket.gethostname()}".encode())
    except OSError:
        _remove_lock(descriptor, path)
        os.close(descriptor)
        raise


def _try_lock(descriptor: int, output: Path) -> bool:
    """Lock an open file without waiting; return whether no other process holds the lock."""
    try:
        _flock(descriptor, wait=False)
    except OSError as error:
        if error.errno in _NO_LOCKS:  # network file systems that are mounted without locks
            log.warning(
                "%s is on a disk without file locks: do not start a second run on it", output
            )
            return True
        if error.errno in (errno.EAGAIN, errno.EWOULDBLOCK, errno.EACCES):
            return False
        raise
    return True


def _flock(descriptor: int, *, wait: bool) -> None:
    """Lock an open file; nothing on Windows, which has no such locks."""
    if sys.platform != "win32":
        fcntl.flock(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
