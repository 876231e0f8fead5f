"""Progress and throughput of an inference, and the time each stage takes."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from cafe_cli.raster.skipped import SkippedFile

Stage = Literal["read", "forward", "write"]


class Meter:
    """Counts windows and pixels, and the seconds of each stage; safe to share between threads.

    Attributes
    ----------
    name : str
        Name of the scene, where there are several.
    windows, total : int
        Windows done, empty ones included, and windows in all.
    run : int
        Windows that went through the network.
    pixels : int
        Pixels of the scene that this run has decided.
    written : int
        Maps written; maps that were complete already do not count.
    skipped : tuple of SkippedFile
        What could not be read, and is nodata in the maps.
    seconds : dict
        Seconds by stage: waiting for pixels, running the network, waiting for the writer.
    """

    def __init__(self, total: int = 0, name: str = "") -> None:
        self.total, self.name = total, name
        self.windows = self.run = self.pixels = self.written = 0
        self.skipped: tuple[SkippedFile, ...] = ()
        self.seconds: dict[Stage, float] = {"read": 0.0, "forward": 0.0, "write": 0.0}
        self._start = time.perf_counter()
        self._lock = threading.Lock()

    def resume(self, windows: int) -> None:
        """Count the windows of an earlier run that this one continues."""
        self.windows = windows

    def add(self, windows: int, run: int, pixels: int) -> None:
        """Count windows done, windows run and pixels decided."""
        with self._lock:
            self.windows += windows
            self.run += run
            self.pixels += pixels

    def merge(self, other: "Meter") -> None:
        """Add the counts of another meter; the start time stays."""
        self.total += other.total
        self.written += other.written
        self.skipped += other.skipped
        self.add(other.windows, other.run, other.pixels)
        for stage, seconds in other.seconds.items():
            self.seconds[stage] += seconds

    @contextmanager
    def timed(self, stage: Stage) -> Iterator[None]:
        """Add the time spent inside the context to a stage."""
        start = time.perf_counter()
        try:
            yield
        finally:
            with self._lock:
                self.seconds[stage] += time.perf_counter() - start

    @property
    def elapsed(self) -> float:
        """Seconds since the start."""
        return time.perf_counter() - self._start

    @property
    def windows_per_second(self) -> float:
        """Windows through the network per second."""
        return self.run / max(self.elapsed, 1e-9)

    @property
    def megapixels_per_second(self) -> float:
        """Pixels decided, in millions per second."""
        return self.pixels / 1e6 / max(self.elapsed, 1e-9)

    @property
    def shares(self) -> dict[Stage, float]:
        """Fraction of the measured time by stage."""
        total = sum(self.seconds.values())
        return {stage: value / max(total, 1e-9) for stage, value in self.seconds.items()}
