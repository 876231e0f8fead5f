"""Functions that tests of the cluster run on workers, which import them by name."""

import logging
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cafe_cli.errors import ConfigError, InputError

log = logging.getLogger("cafe")


def square(number: int) -> int:
    return number * number


def add(shared: int, number: int) -> int:
    return shared + number


def warn(number: int) -> int:
    log.warning("%d is a number", number)
    return number


def note(folder: Path, name: str, seconds: float = 0.0) -> int:
    """Leave a file for each run; return the id of the process."""
    (folder / f"{name}.{os.getpid()}.{time.time_ns()}").touch()
    time.sleep(seconds)
    return os.getpid()


def fail_at_first(folder: Path, times: int) -> str:
    """Fail some times, then return."""
    note(folder, "try")
    if len(list(folder.glob("try.*"))) <= times:
        raise InputError("the server is away")
    return "done"


def refuse(text: str) -> None:
    raise ConfigError(text)


def stumble() -> None:
    raise ZeroDivisionError("by nought")


def die_once(folder: Path) -> str:
    """End the process at the first call."""
    mark = folder / "died"
    if not mark.exists():
        mark.touch()
        os._exit(1)
    return "done"


def linger_once(folder: Path, seconds: float) -> str:
    """Take long at the first call only."""
    mark = folder / "lingered"
    try:
        mark.touch(exist_ok=False)
    except FileExistsError:
        return "second"
    time.sleep(seconds)
    return "first"


@contextmanager
def opened_with(value: int) -> Iterator[int]:
    """Open what is the value itself."""
    yield value


def add_slowly(own: int, item: int) -> int:
    """Add, the longer the smaller the item is, so that results come out of order."""
    time.sleep(0.05 / (item + 1))
    return own + item


def sees_nothing(path: Path, content: str) -> bool:
    return False


def return_a_lock() -> object:
    """Return what cannot be sent."""
    return threading.Lock()
