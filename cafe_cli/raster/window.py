"""Integer pixel windows, and how to cover a raster with them."""

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Window:
    """A rectangle of pixels; it may reach beyond the raster that it is read from.

    Raises
    ------
    ValueError
        A width or height below one pixel.
    """

    col: int
    row: int
    width: int
    height: int

    def __post_init__(self) -> None:
        """Refuse empty windows."""
        if self.width < 1 or self.height < 1:
            raise ValueError(f"window of {self.width} x {self.height} pixels")

    def intersection(self, other: "Window") -> "Window | None":
        """Return the pixels in both windows, None where there are none."""
        col, row = max(self.col, other.col), max(self.row, other.row)
        width = min(self.col + self.width, other.col + other.width) - col
        height = min(self.row + self.height, other.row + other.height) - row
        return Window(col, row, width, height) if width > 0 and height > 0 else None

    def expand(self, margin: int) -> "Window":
        """Return the window grown by `margin` pixels on every side."""
        return Window(
            self.col - margin, self.row - margin, self.width + 2 * margin, self.height + 2 * margin
        )

    def slices(self, origin: "Window | None" = None) -> tuple[slice, slice]:
        """Return (rows, columns) as slices of an array whose first pixel is that of `origin`."""
        col, row = (origin.col, origin.row) if origin else (0, 0)
        top, left = self.row - row, self.col - col
        return slice(top, top + self.height), slice(left, left + self.width)


def offsets(length: int, size: int, step: int) -> range:
    """Return the first pixels of the windows that cover `length` pixels.

    All of them are multiples of `step`: the last window reaches beyond the end instead of being
    moved back, so that a window's place never depends on the size of the raster.
    """
    beyond = max(length - size, 0)
    return range(0, -(-beyond // step) * step + 1, step)


def cover(width: int, height: int, size: int, step: int) -> Iterator[Window]:
    """Cover a raster with square windows, row by row."""
    for row in offsets(height, size, step):
        for col in offsets(width, size, step):
            yield Window(col, row, size, size)


def blocks(width: int, height: int, size: int) -> Iterator[Window]:
    """Divide a raster into disjoint blocks, row by row, cut off at the right and lower edges."""
    for row in range(0, height, size):
        for col in range(0, width, size):
            yield Window(col, row, min(size, width - col), min(size, height - row))


def spread(width: int, height: int, side: int, count: int) -> list[Window]:
    """Return count x count windows spread over a raster, or fewer that cover all of it."""

    def places(length: int) -> list[tuple[int, int]]:
        if length <= side * count:
            return [(start, min(side, length - start)) for start in range(0, length, side)]
        room = length - side
        return [(round(i * room / max(count - 1, 1)), side) for i in range(count)]

    return [Window(col, row, w, h) for row, h in places(height) for col, w in places(width)]
