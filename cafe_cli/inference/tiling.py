"""How windows slide over a scene: columns in bands, rows in strips, and what finishes where.

The windows of a scene lie on one grid that begins at its upper left pixel, whatever part of it is
wanted and however the work is divided. So a pixel is always seen by the same windows.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from cafe_cli.errors import ConfigError
from cafe_cli.raster.window import Window, offsets

STRIDE = 32
"""Windows lie on multiples of the network's stride: off it, labels differ by several per cent."""

_MEMORY = 192_000_000  # bytes of pixels and scores of a band, about
_PIXEL = 20  # bytes of a pixel while it is read: values, masks, and what is read ahead
_OVERLAP = 128
_LARGE = range(768, 1280)  # sides of windows to choose from, where a scene is large enough
_STRIP = 4_000_000  # pixels that a strip has at least, if there are more window rows


@dataclass(frozen=True)
class WindowGrid:
    """Side of the windows and distance from one to the next, in pixels.

    Raises
    ------
    ConfigError
        They are no multiples of the network's stride, or leave gaps.
    """

    window: int
    step: int

    def __post_init__(self) -> None:
        """Check the numbers, which a person gave."""
        if self.window % STRIDE or self.step % STRIDE or not STRIDE <= self.step <= self.window:
            near = max(round(self.window / STRIDE), 1) * STRIDE
            raise ConfigError(
                f"window {self.window} and overlap {self.overlap} have to be multiples of {STRIDE} "
                "(the network's stride), the overlap the smaller one, e.g. "
                f"--window {near} --overlap {usual_overlap(near)}"
            )

    @property
    def overlap(self) -> int:
        """Pixels that a window shares with the next."""
        return self.window - self.step

    def computed(self, scene: Window) -> int:
        """Return how many pixels all windows over a scene have."""
        columns, rows = (
            len(offsets(length, self.window, self.step)) for length in (scene.width, scene.height)
        )
        return columns * rows * self.window**2

    def touching(self, length: int, first: int, last: int) -> tuple[int, ...]:
        """Return the offsets of the windows, of those over `length` pixels, that touch a part."""
        every = offsets(length, self.window, self.step)
        return tuple(o for o in every if o < last and o + self.window > first)


@dataclass(frozen=True)
class Band:
    """Columns whose scores are in memory together: [first, last), and the windows over them.

    Windows on the border of two bands are run for both.
    """

    first: int
    last: int
    columns: tuple[int, ...]


@dataclass(frozen=True)
class Strip:
    """The unit of work: rows [top, bottom) of a band, finished by whole rows of windows.

    Attributes
    ----------
    band : Band
    before : tuple of int
        Rows of windows that reach in from the strip above, which has run them already.
    rows : tuple of int
        Rows of windows that finish here.
    top, bottom : int
    """

    band: Band
    before: tuple[int, ...]
    rows: tuple[int, ...]
    top: int
    bottom: int

    @property
    def extent(self) -> Window:
        """The pixels of the scene that it finishes."""
        return Window.from_bounds(self.band.first, self.top, self.band.last, self.bottom)

    @property
    def windows(self) -> int:
        """How many windows finish here."""
        return len(self.rows) * len(self.band.columns)

    def finished(self) -> Iterator[tuple[int, int, int]]:
        """Yield each of `rows` with the rows of pixels [top, bottom) that are final after it."""
        for row, below in zip(self.rows, (*self.rows[1:], self.bottom), strict=True):
            yield row, max(row, self.top), below


def usual_overlap(window: int) -> int:
    """Return the overlap for a window: 128 pixels, or about a quarter of a small window."""
    if window >= 4 * _OVERLAP:
        return _OVERLAP
    return max(window // 4 // STRIDE, 1) * STRIDE if window > STRIDE else 0


def fitting(scene: Window, trained: int, overlap: int | None = None) -> WindowGrid:
    """Return the slide that computes the fewest pixels for a scene, with windows that are large.

    Parameters
    ----------
    scene : Window
        Its extent. Nothing else counts, so that a map does not depend on the machine.
    trained : int
        Side of the windows that a network was trained on; larger ones are as good if its attention
        is bounded.
    overlap : int, optional
        A multiple of the network's stride; `usual_overlap` if None.
    """
    longer, shorter = max(scene.width, scene.height), min(scene.width, scene.height)
    least = min(_LARGE.start, max(trained, shorter), longer)
    slides = []
    for window in range(whole_strides(least), max(_LARGE.stop, whole_strides(trained)) + 1, STRIDE):
        shared = usual_overlap(window) if overlap is None else overlap
        if shared < window:
            slides.append(WindowGrid(window, window - shared))
    if not slides:
        raise ConfigError(f"overlap {overlap} leaves nothing of windows of {_LARGE.stop} pixels")
    return min(slides, key=lambda slide: (slide.computed(scene), -slide.window))


def whole_strides(length: int) -> int:
    """Return the next multiple of the network's stride."""
    return -(-length // STRIDE) * STRIDE


def divide(scene: Window, area: Window, slide: WindowGrid, classes: int) -> list[Strip]:
    """Divide an area of a scene into strips, band by band from top to bottom.

    Parameters
    ----------
    scene : Window
        Extent of the scene.
    area : Window
        What is wanted of it.
    slide : Slide
    classes : int
        Scores per pixel; they decide how broad a band is.
    """
    strips: list[Strip] = []
    for band in bands(scene, area, slide, classes):
        strips += _strips(scene, area, slide, band)
    return strips


def bands(scene: Window, area: Window, slide: WindowGrid, classes: int) -> Iterator[Band]:
    """Divide the columns of an area into bands that fit into memory."""
    fitting = _MEMORY // (_PIXEL * slide.window + 4 * (classes + 1) * slide.overlap)
    broad = max(fitting // slide.step, 1) * slide.step
    end = area.right
    # Borders lie on the grid of windows: nobody is to know from the map where a band began.
    borders = range((area.col // broad + 1) * broad, end, broad)
    for first, last in itertools.pairwise([area.col, *borders, end]):
        yield Band(first, last, slide.touching(scene.width, first, last))


def _strips(scene: Window, area: Window, slide: WindowGrid, band: Band) -> Iterator[Strip]:
    end = area.bottom
    rows = slide.touching(scene.height, area.row, end)
    # The rows of a window row are final where the next one begins.
    finishing = [row for row in rows[:-1] if row + slide.step > area.row] + [rows[-1]]
    each = max(_STRIP // ((band.last - band.first) * slide.step), 1)
    for own in _batched(finishing, each):
        top = max(own[0], area.row)
        bottom = end if own[-1] == rows[-1] else own[-1] + slide.step
        before = tuple(row for row in rows if row < own[0] and row + slide.window > top)
        yield Strip(band, before, own, top, bottom)


def _batched(values: Sequence[int], size: int) -> Iterator[tuple[int, ...]]:
    for start in range(0, len(values), size):
        yield tuple(values[start : start + size])


def runs(strips: Sequence[Strip], most: int | None = None) -> Iterator[list[Strip]]:
    """Group strips that follow each other downwards, at most so many of them.

    A group can be run in one go: every strip carries on with the scores of the one above.
    """
    run: list[Strip] = []
    for strip in strips:
        follows = run and strip.band == run[-1].band and strip.top == run[-1].bottom
        if run and (not follows or len(run) == most):
            yield run
            run = []
        run.append(strip)
    if run:
        yield run
