"""What is checked of the workers of a cluster before they are given work."""

import time
from collections.abc import Mapping
from pathlib import Path
from uuid import uuid4

from cafe_cli.cluster.cluster import Cluster
from cafe_cli.cluster.worker import WorkerFacts
from cafe_cli.errors import OutputError
from cafe_cli.system.atomic_write import remove, write_text

_PROBE = "seen-by-workers"
_ARRIVAL = 30.0  # seconds until a file that another machine wrote is visible, at most
_PAUSE = 0.2


def check_folder(cluster: Cluster, folder: Path, remedy: str) -> None:
    """Check that all workers see a folder to which they shall write.

    Raises
    ------
    OutputError
        One does not; the message ends with `remedy`.
    """
    probe, text = folder / _PROBE, uuid4().hex
    write_text(probe, text)
    try:
        for worker, found in cluster.ask(_sees, probe, text).items():
            if not found:
                raise OutputError(f"the worker {worker} does not see {folder}: {remedy}")
    finally:
        remove(probe)


def await_file(path: Path, size: int) -> None:
    """Wait until a file that another machine has written is visible here, with all its bytes.

    Raises
    ------
    OutputError
        It is not within half a minute.
    """
    until = time.monotonic() + _ARRIVAL
    while not _has_size(path, size):
        if time.monotonic() > until:
            raise OutputError(
                f"{path} was written by a worker, but is not visible here after {_ARRIVAL:.0f} s: "
                f"all machines have to see {path.parent}"
            )
        time.sleep(_PAUSE)


def threads_per_worker(facts: Mapping[str, WorkerFacts]) -> int:
    """Return how many threads each worker may use, if those of a machine share its cores."""
    hosts = [fact.host for fact in facts.values()]
    return max(min(fact.cores // hosts.count(fact.host) for fact in facts.values()), 1)


def _has_size(path: Path, size: int) -> bool:
    try:
        return path.stat().st_size == size
    except OSError:
        return False


def _sees(path: Path, content: str) -> bool:
    """Whether this worker finds a file with that content."""
    try:
        return path.read_text("utf-8") == content
    except OSError:
        return False
