"""A Dask scheduler and workers as processes that tests may stop, slow down and kill."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[2]


class DaskProcesses:
    """A scheduler and workers, each in a process of its own.

    Workers that end are started again, as Slurm and Kubernetes do it.

    Parameters
    ----------
    workers : int
    folder : Path
        For temporary files and logs.
    """

    def __init__(self, workers: int, folder: Path) -> None:
        self._folder = folder
        self._port = _free_port()
        self._stopped = threading.Event()
        self.scheduler = self._start_scheduler()
        self.workers = [self._start_worker(number) for number in range(workers)]
        self._lock = threading.Lock()
        self._keeper = threading.Thread(target=self._keep, daemon=True)
        self._keeper.start()

    @property
    def address(self) -> str:
        """Address of the scheduler."""
        return f"tcp://127.0.0.1:{self._port}"

    def add_worker(self) -> None:
        """Start one more worker."""
        with self._lock:
            self.workers.append(self._start_worker(len(self.workers)))

    def restart_scheduler(self) -> None:
        """Kill the scheduler, and start another at the same address."""
        self.scheduler.kill()
        self.scheduler.wait()
        self.scheduler = self._start_scheduler()

    def kill_worker(self, number: int) -> int:
        """Kill a worker; return the id of its process."""
        with self._lock:
            process = self.workers[number]
        process.kill()
        return process.pid

    @contextmanager
    def slowed(self, number: int, share: float = 0.2) -> Iterator[None]:
        """Let a worker run for a share of the time only."""
        done = threading.Event()

        def alternate() -> None:
            while not done.is_set():
                with self._lock:
                    process = self.workers[number]
                _signal(process, signal.SIGSTOP)
                done.wait(0.5 * (1 - share))
                _signal(process, signal.SIGCONT)
                done.wait(0.5 * share)

        thread = threading.Thread(target=alternate)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()

    def close(self) -> None:
        """Kill all processes."""
        self._stopped.set()
        self._keeper.join()
        for process in (*self.workers, self.scheduler):
            process.kill()
            process.wait()

    def _keep(self) -> None:
        while not self._stopped.wait(0.2):
            for number, process in enumerate(self.workers):
                if process.poll() is not None:
                    with self._lock:
                        self.workers[number] = self._start_worker(number)

    def _start_scheduler(self) -> "subprocess.Popen[bytes]":
        process = self._start(
            "dask_scheduler", "--host", "127.0.0.1", "--port", str(self._port), "--no-dashboard"
        )
        wait_until(lambda: _answers(self._port))
        return process

    def _start_worker(self, number: int) -> "subprocess.Popen[bytes]":
        return self._start(
            "dask_worker", self.address, "--nthreads", "1", "--no-nanny", "--no-dashboard",
            "--name", str(number), "--local-directory", str(self._folder), "--memory-limit", "0",
            "--death-timeout", "60",
        )  # fmt: skip

    def _start(self, module: str, *words: str) -> "subprocess.Popen[bytes]":
        path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
        with (self._folder / f"{module}.log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", f"distributed.cli.{module}", *words],
                stdout=log, stderr=log, stdin=subprocess.DEVNULL, cwd=ROOT,
                env={**os.environ, "PYTHONPATH": path},
            )  # fmt: skip


@contextmanager
def dask_processes(workers: int, folder: Path) -> Iterator[DaskProcesses]:
    """Start a cluster, and kill it in the end."""
    processes = DaskProcesses(workers, folder)
    try:
        yield processes
    finally:
        processes.close()


def wait_until(happened: Callable[[], bool], seconds: float = 60.0) -> None:
    """Wait until something has happened; fail after a long time."""
    until = time.monotonic() + seconds
    while not happened():
        if time.monotonic() > until:
            raise TimeoutError("it has not happened")
        time.sleep(0.05)


def _answers(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1):
            return True
    except OSError:
        return False


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _signal(process: "subprocess.Popen[bytes]", number: int) -> None:
    if process.poll() is None:
        process.send_signal(number)
