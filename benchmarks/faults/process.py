"""Commands in processes of their own, which can be watched, killed and sent signals."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

_IMPORTED = [
    "cafe_cli.cli.main", "cafe_cli.cli.console", "cafe_cli.evaluation.evaluate",
    "cafe_cli.inference.predict", "cafe_cli.mosaic.mosaic", "cafe_cli.scenes.height_map",
    "cafe_cli.tilesets.make", "cafe_cli.training.train", "cafe_cli.training.report.run",
    "matplotlib.backends.backend_agg", "onnxruntime", "torch.onnx", "torch.utils.tensorboard",
]  # fmt: skip
_ENVIRONMENT = {"OMP_NUM_THREADS": "1"}
_TIMEOUT = 600.0  # seconds after which a run counts as hanging
_HANGS = 128 + signal.SIGKILL


class Ended(NamedTuple):
    """How a run ended.

    Attributes
    ----------
    code : int
        Exit code as a shell has it: 128 and the number of the signal that killed it.
    lines : list of str
        What it said on stderr.
    output : bytes
        What it wrote to stdout.
    children : int
        Processes that it left running; they are killed.
    """

    code: int
    lines: list[str]
    output: bytes
    children: int

    @property
    def errors(self) -> list[str]:
        return [line for line in self.lines if line.startswith("Error: ")]

    @property
    def has_traceback(self) -> bool:
        return any(line.startswith(("Traceback ", "Exception ignored")) for line in self.lines)


@dataclass
class Run:
    """A run of ``cafe`` in a folder.

    By default the process is forked from a server that has imported what commands need: starting
    Python and importing torch take longer than the small commands, and write nothing.

    Attributes
    ----------
    words : sequence of str
    folder : Path
        Its working folder.
    prefix : sequence of str
        Words before ``python -m cafe_cli``, which makes a process of its own start.
    anew : bool
        Start a Python of its own.
    logs : Path, optional
        What the files of stdout and stderr begin with; by default beside the folder.
    printed : Path, optional
        Where stdout goes instead, e.g. a FIFO.
    """

    words: Sequence[str]
    folder: Path
    prefix: Sequence[str] = ()
    anew: bool = False
    logs: Path | None = None
    printed: Path | None = None

    def __post_init__(self) -> None:
        logs = self.logs or self.folder
        self._said = logs.with_name(f"{logs.name}.said")
        self.printed = self.printed or logs.with_name(f"{logs.name}.printed")
        self._said.write_bytes(b"")
        self.began = time.monotonic()
        if self.anew or self.prefix:
            self._start_anew()
        else:
            self._fork()

    def _start_anew(self) -> None:
        command = [*self.prefix, sys.executable, "-m", "cafe_cli", *self.words]
        path = os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
        with self._said.open("wb") as said, open(str(self.printed), "wb") as printed:
            self._popen = subprocess.Popen(
                command, cwd=self.folder, stdin=subprocess.DEVNULL, stdout=printed, stderr=said,
                env={**os.environ, **_ENVIRONMENT, "PYTHONPATH": path},
                start_new_session=True, preexec_fn=restore_signals,
            )  # fmt: skip
        self.pid = self._popen.pid
        self._process = None

    def _fork(self) -> None:
        os.environ.update(_ENVIRONMENT)  # the server gets it, which loads OpenMP
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(_IMPORTED)
        files = (str(self._said), str(self.printed))
        self._process = context.Process(target=child, args=(self.words, self.folder, *files))
        self._process.start()
        self.pid = self._process.pid or 0

    @property
    def alive(self) -> bool:
        if self._process is not None:
            return self._process.is_alive()
        return self._popen.poll() is None

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.began

    def wait(self, seconds: float) -> bool:
        """Wait until this long after the start; return whether it still runs then."""
        while self.alive and self.seconds < seconds:
            time.sleep(min(0.002, max(seconds - self.seconds, 0)))
        return self.alive

    def send(self, number: int, group: bool) -> None:
        """Send a signal to the process, or to its group as a terminal does."""
        with suppress(ProcessLookupError):
            # A process that has just been forked has no group of its own yet.
            leads = os.getpgid(self.pid) == self.pid
            (os.killpg if group and leads else os.kill)(self.pid, number)

    def end(self, timeout: float = _TIMEOUT) -> Ended:
        """Wait for the end; kill what hangs."""
        limit = time.monotonic() + timeout
        while self.alive and time.monotonic() < limit:
            time.sleep(0.005)
        if self.alive:
            self.send(signal.SIGKILL, group=True)
        if self._process is not None:
            self._process.join()
            code = self._process.exitcode
        else:
            code = self._popen.wait()
        left = self._children()
        if left:
            self.send(signal.SIGKILL, group=True)
        printed = Path(str(self.printed))
        return Ended(
            128 - code if code < 0 else code,
            [line for line in self._said.read_text(errors="replace").splitlines() if line],
            printed.read_bytes() if printed.is_file() else b"",
            left,
        )

    def _children(self) -> int:
        """Return how many processes of the session are left; one that is just ending is none."""
        for _ in range(100):
            left = sum(1 for _ in session(self.pid))
            if not left:
                return 0
            time.sleep(0.01)
        return left


def session(leader: int) -> Iterator[int]:
    """Yield the processes of a session that are no zombies."""
    for folder in Path("/proc").iterdir():
        if not folder.name.isdecimal():
            continue
        with suppress(OSError, ValueError, IndexError):
            state, _, _, number = (folder / "stat").read_text().rpartition(")")[2].split()[:4]
            if int(number) == leader and state not in "ZX":
                yield int(folder.name)


def restore_signals() -> None:
    """Give signals their meaning again: jobs in the background and under nohup ignore some."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def child(words: Sequence[str], folder: Path, said: str, printed: str) -> None:
    """Run a command in this process, which the server has just forked."""
    from cafe_cli.cli import main

    os.setsid()
    restore_signals()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for name, number in ((printed, 1), (said, 2)):
        descriptor = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.chdir(folder)
    sys.argv = ["cafe", *words]
    main.main()
