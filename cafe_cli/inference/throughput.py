"""How far an inference is, how fast, and what it waits for."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

Stage = Literal["read", "forward", "write"]


class Meter:
    """Counts windows and pixels, and the seconds spent on each stage. Shared by threads.

    Attributes
    ----------
    name : str
        Of the scene, if there are several.
    windows, total : int
        Windows that are done, empty ones among them, and all of them.
    run : int
        Windows that went through the network.
    pixels : int
        Pixels of the scene that are finished in this run.
    written : int
        Maps that were written; none where they were complete.
    seconds : dict
        Waited for pixels to be read, spent on the network, waited for strips to be written.
    """

    def __init__(self, total: int = 0, name: str = "") -> None:
        self.total, self.name = total, name
        self.windows = self.run = self.pixels = self.written = 0
        self.seconds: dict[Stage, float] = {"read": 0.0, "forward": 0.0, "write": 0.0}
        self._resumed = 0
        self._start = time.perf_counter()
        self._lock = threading.Lock()

    def resume(self, windows: int) -> None:
        """Count windows that an earlier run has done."""
        self.windows = self._resumed = windows

    def add(self, windows: int, run: int, pixels: int) -> None:
        """Count what has been done."""
        with self._lock:
            self.windows += windows
            self.run += run
            self.pixels += pixels

    def join(self, other: "Meter") -> None:
        """Add what another one has counted; the time is that of this one."""
        self.total += other.total
        self.written += other.written
        self.add(other.windows, other.run, other.pixels)
        for stage, seconds in other.seconds.items():
            self.seconds[stage] += seconds

    @contextmanager
    def on(self, stage: Stage) -> Iterator[None]:
        """Count the time inside for a stage."""
        start = time.perf_counter()
        try:
            yield
        finally:
            with self._lock:
                self.seconds[stage] += time.perf_counter() - start

    @property
    def elapsed(self) -> float:
        """Seconds since the beginning."""
        return time.perf_counter() - self._start

    @property
    def windows_per_second(self) -> float:
        """Windows that went through the network, per second."""
        return self.run / max(self.elapsed, 1e-9)

    @property
    def megapixels_per_second(self) -> float:
        """Finished pixels of the scene, in millions per second."""
        return self.pixels / 1e6 / max(self.elapsed, 1e-9)

    @property
    def remaining(self) -> float | None:
        """Seconds left at the pace so far, None before there is one."""
        done = self.windows - self._resumed
        return self.elapsed * (self.total - self.windows) / done if done else None

    @property
    def shares(self) -> dict[Stage, float]:
        """Share of each stage in the time that was measured."""
        total = sum(self.seconds.values())
        return {stage: value / max(total, 1e-9) for stage, value in self.seconds.items()}
