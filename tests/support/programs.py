"""Programs that run beside tests: an S3 server, as a fixture."""

import re
import subprocess
from collections.abc import Iterator
from threading import Thread

import pytest

from tests.support.running import running


@pytest.fixture(scope="module")
def object_store() -> Iterator[str]:
    """An S3 server on this machine: its address."""
    words = ("-m", "moto.server", "-H", "127.0.0.1", "-p", 0)
    with running(*words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        said = ""
        for line in process.stderr:
            said += line
            if place := re.search(r"Running on http://(\S+)", line):
                break
        else:
            raise RuntimeError(f"moto's server did not start: {said}")
        # A full pipe would stop the server.
        Thread(target=process.stderr.read, daemon=True).start()
        yield place[1]
