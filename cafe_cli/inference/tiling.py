"""The grid of windows over a scene, its division into column bands and strips, and shares of them.

The grid always begins at the upper left pixel of the scene, so that the same windows cover a pixel
in every run, whichever part of the scene is predicted and however the work is divided.
"""

import itertools
import math
import re
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from cafe_cli.config.schema import STRIDE
from cafe_cli.errors import ConfigError
from cafe_cli.raster.window import Window, offsets

_MEMORY = 192_000_000  # bytes of pixels and scores of a band, about
_PIXEL = 20  # bytes per pixel while it is read: values, masks, and the pieces read ahead
_OVERLAP = 128
_LARGE = range(768, 1280)  # window sizes to choose from where the scene is large enough
_GROUP = 16  # strips per task at most: a task runs a row of windows that the one above has run, too
_ROUNDS = 2  # tasks of a scene per worker, at least, if it has enough strips
_STRIP = 4_000_000  # pixels per strip, at least, where the scene has more than one row of windows


@dataclass(frozen=True)
class WindowGrid:
    """Square windows of `size` pixels, the first pixels of neighbours `stride` pixels apart.

    Raises
    ------
    ConfigError
        Size or stride is not a multiple of the network's stride, or the windows leave gaps.
    """

    size: int
    stride: int

    def __post_init__(self) -> None:
        """Validate size and stride, which come from the command line."""
        if self.size % STRIDE or self.stride % STRIDE or not STRIDE <= self.stride <= self.size:
            near = max(round(self.size / STRIDE), 1) * STRIDE
            raise ConfigError(
                f"window {self.size} and overlap {self.overlap} have to be multiples of {STRIDE} "
                f"(the network's stride), and the overlap below the window, e.g. --window {near} "
                f"--overlap {default_overlap(near)}"
            )

    @property
    def overlap(self) -> int:
        """Pixels that neighbouring windows share."""
        return self.size - self.stride

    def computed_pixels(self, scene: Window) -> int:
        """Return the number of pixels of all windows over a scene, overlaps counted repeatedly."""
        columns, rows = (
            len(offsets(length, self.size, self.stride)) for length in (scene.width, scene.height)
        )
        return columns * rows * self.size**2

    def overlapping(self, length: int, first: int, last: int) -> tuple[int, ...]:
        """Return the offsets of the windows over `length` pixels that overlap [first, last)."""
        every = offsets(length, self.size, self.stride)
        return tuple(o for o in every if o < last and o + self.size > first)


@dataclass(frozen=True)
class Band:
    """The pixel columns [first, last), whose scores fit into memory, and the windows over them.

    A window that overlaps two bands is run for both.

    Attributes
    ----------
    first, last : int
    columns : tuple of int
        First pixel columns of the windows.
    """

    first: int
    last: int
    columns: tuple[int, ...]

    @property
    def width(self) -> int:
        """Width in pixels."""
        return self.last - self.first


@dataclass(frozen=True)
class Strip:
    """The unit of work: the pixel rows [top, bottom) of a band.

    Attributes
    ----------
    band : Band
    before : tuple of int
        First pixel rows of the windows that belong to the strip above and overlap this one.
    rows : tuple of int
        First pixel rows of the windows that belong to this strip.
    top, bottom : int
    """

    band: Band
    before: tuple[int, ...]
    rows: tuple[int, ...]
    top: int
    bottom: int

    @property
    def extent(self) -> Window:
        """The pixels of the scene that the strip covers."""
        return Window.from_bounds(self.band.first, self.top, self.band.last, self.bottom)

    @property
    def window_count(self) -> int:
        """Number of windows that belong to the strip."""
        return len(self.rows) * len(self.band.columns)

    def finished(self) -> Iterator[tuple[int, int, int]]:
        """Yield each of `rows` with the pixel rows [top, bottom) that no later window overlaps."""
        for row, below in zip(self.rows, (*self.rows[1:], self.bottom), strict=True):
            yield row, max(row, self.top), below


def default_overlap(size: int) -> int:
    """Return the default overlap: 128 pixels, or about a quarter of a small window."""
    if size >= 4 * _OVERLAP:
        return _OVERLAP
    return max(size // 4 // STRIDE, 1) * STRIDE if size > STRIDE else 0


def fit_window_grid(scene: Window, trained: int, overlap: int | None = None) -> WindowGrid:
    """Return the grid of large windows that computes the fewest pixels for a scene.

    Parameters
    ----------
    scene : Window
        Extent of the scene. The choice depends on nothing else, so that every machine makes the
        same map.
    trained : int
        Window size that the network was trained on. Larger windows are as accurate if the
        attention is bounded.
    overlap : int, optional
        A multiple of the network's stride; `default_overlap` if None.
    """
    longer, shorter = max(scene.width, scene.height), min(scene.width, scene.height)
    least = min(_LARGE.start, max(trained, shorter), longer)
    grids = []
    largest = max(_LARGE.stop, whole_strides(trained))
    for size in range(whole_strides(least), largest + 1, STRIDE):
        shared = default_overlap(size) if overlap is None else overlap
        if shared < size:
            grids.append(WindowGrid(size, size - shared))
    if not grids:
        raise ConfigError(
            f"overlap {overlap} is not below the windows of {largest} pixels; also set a larger "
            f"window, e.g. --window {2 * (overlap or 0)}"
        )
    return min(grids, key=lambda windows: (windows.computed_pixels(scene), -windows.size))


def whole_strides(length: int) -> int:
    """Round a length up to a multiple of the network's stride."""
    return -(-length // STRIDE) * STRIDE


def divide(scene: Window, area: Window, windows: WindowGrid, classes: int) -> list[Strip]:
    """Divide an area of a scene into strips, band by band from top to bottom.

    Parameters
    ----------
    scene : Window
        Extent of the scene.
    area : Window
        The part of the scene to predict.
    windows : WindowGrid
    classes : int
        Number of scores per pixel, which limits the width of a band.
    """
    strips: list[Strip] = []
    for band in bands(scene, area, windows, classes):
        strips += _strips(scene, area, windows, band)
    return strips


def bands(scene: Window, area: Window, windows: WindowGrid, classes: int) -> Iterator[Band]:
    """Divide the columns of an area into bands whose scores fit into memory."""
    columns = _MEMORY // (_PIXEL * windows.size + 4 * (classes + 1) * windows.overlap)
    broad = max(columns // windows.stride, 1) * windows.stride
    end = area.right
    # Bands meet on the grid of windows, so that no seam shows in the map.
    borders = range((area.col // broad + 1) * broad, end, broad)
    for first, last in itertools.pairwise([area.col, *borders, end]):
        yield Band(first, last, windows.overlapping(scene.width, first, last))


def _strips(scene: Window, area: Window, windows: WindowGrid, band: Band) -> Iterator[Strip]:
    end = area.bottom
    rows = windows.overlapping(scene.height, area.row, end)
    # The pixels of a row of windows that lie above the next row are final.
    finishing = [row for row in rows[:-1] if row + windows.stride > area.row] + [rows[-1]]
    each = max(_STRIP // (band.width * windows.stride), 1)
    for own in _batched(finishing, each):
        top = max(own[0], area.row)
        bottom = end if own[-1] == rows[-1] else own[-1] + windows.stride
        before = tuple(row for row in rows if row < own[0] and row + windows.size > top)
        yield Strip(band, before, own, top, bottom)


def _batched(values: Sequence[int], size: int) -> Iterator[tuple[int, ...]]:
    for start in range(0, len(values), size):
        yield tuple(values[start : start + size])


def divide_among(strips: Sequence[Strip], workers: int) -> Iterator[list[Strip]]:
    """Group the strips of a scene into tasks for workers, each of contiguous strips."""
    return contiguous_groups(strips, strips_per_task(strips, workers))


def strips_per_task(strips: Sequence[Strip], workers: int) -> int:
    """Return into groups of how many strips to divide a scene, so that it is done soonest.

    A task also runs the row of windows above its strips. Fewer, larger tasks run fewer rows twice;
    more, smaller ones keep workers of unequal speed busy.
    """
    if not strips:
        return 1
    rows = max(len(strip.rows) for strip in strips)

    def cost(size: int) -> tuple[bool, int]:
        tasks = math.ceil(len(strips) / size)
        return tasks < _ROUNDS * workers, math.ceil(tasks / workers) * (size * rows + 1)

    return min(range(1, _GROUP + 1), key=cost)


def contiguous_groups(strips: Sequence[Strip], most: int | None = None) -> Iterator[list[Strip]]:
    """Group strips that lie directly below each other, at most `most` per group.

    Within a group, a strip reuses the scores of the strip above, so that windows that overlap both
    run only once.
    """
    group: list[Strip] = []
    for strip in strips:
        follows = group and strip.band == group[-1].band and strip.top == group[-1].bottom
        if group and (not follows or len(group) == most):
            yield group
            group = []
        group.append(strip)
    if group:
        yield group


@dataclass(frozen=True)
class Share:
    """The part of an ordered list of work that one of several jobs does, written ``I/N``.

    The parts are contiguous, together the whole list, and about equal.

    Attributes
    ----------
    number : int
        Of the job, from 1.
    count : int
        Number of jobs.

    Raises
    ------
    ConfigError
        The number is not between 1 and the count.
    """

    number: int
    count: int

    def __post_init__(self) -> None:
        """Validate the numbers, which come from the command line."""
        if not 1 <= self.number <= self.count:
            raise ConfigError(
                f"--strips {self}: I of I/N lies between 1 and N; number the jobs of an array "
                "from 1"
            )

    def __str__(self) -> str:
        """Return ``I/N``."""
        return f"{self.number}/{self.count}"

    @classmethod
    def parse(cls, text: str) -> "Share":
        """Parse ``I/N``.

        Raises
        ------
        ConfigError
            The text is something else, or there is no such part.
        """
        if not (numbers := re.fullmatch(r"\s*([0-9]{1,9})\s*/\s*([0-9]{1,9})\s*", text)):
            raise ConfigError(f"--strips {text!r} is not a part of N, counted from 1, like 2/7")
        return cls(*map(int, numbers.groups()))

    def of(self, sizes: Sequence[int], what: str) -> slice:
        """Return the items of this job.

        Parameters
        ----------
        sizes : sequence of int
            Work per item, above 0; the parts have about equal sums, and an item at least.
        what : str
            What the items are, in the error.

        Raises
        ------
        ConfigError
            There are fewer items than jobs.
        """
        if self.count > len(sizes):
            raise ConfigError(
                f"--strips {self}: there are more parts than {what}, {len(sizes)}; divide the work "
                f"into at most {len(sizes)}, like --strips 1/{len(sizes)}"
            )
        sums = [0, *itertools.accumulate(sizes)]
        first = last = 0
        for number in range(1, self.number + 1):
            first, wanted = last, sums[-1] * number / self.count
            last = bisect_left(sums, wanted)
            if wanted - sums[last - 1] < sums[last] - wanted:
                last -= 1
            last = min(max(last, first + 1), len(sizes) - self.count + number)
        return slice(first, last)
