"""Python programs that run beside tests."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def running(*words: object, **streams: Any) -> Iterator[Any]:
    """Run a Python program beside the tests."""
    command = [sys.executable, *map(str, words)]
    with subprocess.Popen(command, text=True, **streams) as process:
        try:
            yield process
        finally:
            process.terminate()
