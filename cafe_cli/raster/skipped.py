"""Collect and count the parts of files that a run could not read and skipped."""

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from cafe_cli.errors import InputError, PartialFailureError
from cafe_cli.raster.window import Window
from cafe_cli.redaction import redact
from cafe_cli.text import list_some, percent

T = TypeVar("T")

log = logging.getLogger("cafe")

_SLOW = 1.0  # seconds of a failure from which on it is a server or a disk that keeps one waiting
_MOST_SLOW = 3  # such failures of a file in a row, after which it is not asked again


@dataclass(frozen=True)
class SkippedFile:
    """What of a file could not be read.

    Attributes
    ----------
    file : str
        Its name, without passwords and tokens.
    pixels, total : int
        Pixels that were skipped, and all of the file.
    windows : int
        Windows that they lie in: blocks of the file.
    bounds : tuple of int
        Column, row, width and height of the window of the file that holds all of them.
    """

    file: str
    pixels: int
    total: int
    windows: int
    bounds: tuple[int, int, int, int]

    def __str__(self) -> str:
        """Say it in words."""
        col, row, width, height = self.bounds
        blocks = f"{self.windows} window{'s' * (self.windows > 1)}"
        return (
            f"{self.pixels:,} pixels ({percent(self.pixels / self.total)}) of {self.file} in "
            f"{blocks} within column {col}, row {row}, {width} x {height} pixels"
        )


class Skipped:
    """Collects what could not be read of the files of a run; threads may share it."""

    def __init__(self) -> None:
        self._windows: dict[str, set[Window]] = {}
        self._extents: dict[str, Window] = {}
        self._areas: set[Window] = set()
        self._everywhere = False
        self._slow: Counter[str] = Counter()
        self._lock = threading.Lock()

    def aside(self) -> "Skipped":
        """Return a collector for samples, which are not the output: it counts apart.

        Files that are not asked again are the same.
        """
        other = Skipped()
        other._slow = self._slow
        return other

    def on_grid(self) -> "Skipped":
        """Return a collector for a grid of its own: its files are counted here, not its areas."""
        other = self.aside()
        other._lock, other._windows, other._extents = self._lock, self._windows, self._extents
        return other

    def adopt(self, other: "Skipped") -> None:
        """Let a collector of another process be one of `on_grid`."""
        self.merge(other)
        other._lock, other._windows, other._extents = self._lock, self._windows, self._extents

    def attempt(self, name: str, read: Callable[[], T]) -> T | None:
        """Return what a function reads of a file; None if it fails.

        After three failures in a row that took seconds, as of a server that stalls, the file is
        not asked again.
        """
        if self._slow[name] >= _MOST_SLOW:
            return None
        start = time.monotonic()
        try:
            found = read()
        except InputError as error:
            log.debug("skipped: %s", error)
            if time.monotonic() - start > _SLOW:
                self._count_slow(name, error)
            return None
        self._slow[name] = 0
        return found

    def add(self, name: str, windows: Iterable[Window], extent: Window) -> None:
        """Record windows of a file of some extent that could not be read."""
        with self._lock:
            self._extents[name] = extent
            self._windows.setdefault(name, set()).update(windows)

    def add_area(self, window: Window | None) -> None:
        """Record a window of the output's grid that was skipped; None if it affects all of it."""
        with self._lock:
            if window is None:
                self._everywhere = True
            else:
                self._areas.add(window)

    def affects(self, window: Window) -> bool:
        """Whether what was skipped has an influence on a window of the output's grid."""
        return self._everywhere or self.lacks(window)

    def lacks(self, window: Window) -> bool:
        """Whether pixels of a window of the output's grid were skipped."""
        with self._lock:
            return any(window.intersection(area) for area in self._areas)

    def merge(self, other: "Skipped") -> None:
        """Add what another process has skipped."""
        if other is self:
            return
        with self._lock:
            self._extents |= other._extents
            for name, windows in other._windows.items():
                self._windows.setdefault(name, set()).update(windows)
            self._areas |= other._areas
            self._everywhere = self._everywhere or other._everywhere

    def renamed(self, names: Mapping[str, str]) -> "Skipped":
        """Return the same with other names of files, where `names` has some."""
        other = Skipped()
        other.merge(self)
        other._windows = {names.get(name, name): found for name, found in self._windows.items()}
        other._extents = {names.get(name, name): found for name, found in self._extents.items()}
        return other

    def __getstate__(self) -> dict[str, object]:
        with self._lock:
            return {key: value for key, value in vars(self).items() if key != "_lock"}

    def __setstate__(self, state: dict[str, object]) -> None:
        vars(self).update(state, _lock=threading.Lock())

    def files(self) -> tuple[SkippedFile, ...]:
        """Return what was skipped of each file, in the order of their names."""
        with self._lock:
            return tuple(
                _describe(name, windows, self._extents[name])
                for name, windows in sorted(self._windows.items())
            )

    def _count_slow(self, name: str, error: InputError) -> None:
        with self._lock:
            self._slow[name] += 1
            given_up = self._slow[name] == _MOST_SLOW
        if given_up:
            log.warning("%s; it failed %d times in a row: it is not read again", error, _MOST_SLOW)


def _describe(name: str, windows: set[Window], extent: Window) -> SkippedFile:
    pixels = 0
    for window in windows:
        pixels += window.width * window.height
    total = extent.width * extent.height
    hull = Window.hull([*windows])
    bounds = hull.col, hull.row, hull.width, hull.height
    return SkippedFile(redact(name), min(pixels, total), total, len(windows), bounds)


def files_of(skipped: Skipped | None) -> tuple[SkippedFile, ...]:
    """Return what was skipped of each file; nothing without a collector."""
    return skipped.files() if skipped else ()


def try_read(skipped: Skipped | None, name: str, read: Callable[[], T]) -> T | None:
    """Return what a function reads of a file; without a collector, an error is raised."""
    return read() if skipped is None else skipped.attempt(name, read)


def skipped_settings(files: Sequence[SkippedFile]) -> dict[str, object]:
    """Return what was skipped as values of a settings file; empty if nothing was."""
    if not files:
        return {}
    return {"skipped": [{**vars(file), "bounds": [*file.bounds]} for file in files]}


def skipped_tag(files: Sequence[SkippedFile]) -> dict[str, str]:
    """Return what was skipped as a tag of a raster; empty if nothing was."""
    return {"CAFE_SKIPPED": "; ".join(map(str, files))} if files else {}


def check_skipped(files: Sequence[SkippedFile], output: Path) -> None:
    """Raise an error that counts what was skipped, if anything was, once an output is written.

    Raises
    ------
    PartialFailureError
    """
    if files:
        listed = list_some([*map(str, files)], 3)
        raise PartialFailureError(
            f"{output} is incomplete, since files could not be read: {listed}; run again with "
            "intact files and --overwrite"
        )
