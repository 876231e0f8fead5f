"""Windows of whole pixels, and dividing a raster into windows."""

from collections.abc import Iterator, Sequence
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

    @classmethod
    def from_bounds(cls, left: int, top: int, right: int, bottom: int) -> "Window":
        """Return the window from column `left` to before `right`, row `top` to before `bottom`."""
        return cls(left, top, right - left, bottom - top)

    @classmethod
    def hull(cls, windows: "Sequence[Window]") -> "Window":
        """Return the smallest window that holds all of `windows`, at least one."""
        lefts, tops, rights, bottoms = zip(*(w.bounds for w in windows), strict=True)
        return cls.from_bounds(min(lefts), min(tops), max(rights), max(bottoms))

    @property
    def right(self) -> int:
        """The column after the last."""
        return self.col + self.width

    @property
    def bottom(self) -> int:
        """The row after the last."""
        return self.row + self.height

    @property
    def bounds(self) -> tuple[int, int, int, int]:
        """(left, top, right, bottom) in pixels; right and bottom lie outside the window."""
        return self.col, self.row, self.right, self.bottom

    def intersection(self, other: "Window") -> "Window | None":
        """Return the pixels in both windows, None where there are none."""
        left, top = max(self.col, other.col), max(self.row, other.row)
        right, bottom = min(self.right, other.right), min(self.bottom, other.bottom)
        return (
            Window.from_bounds(left, top, right, bottom) if left < right and top < bottom else None
        )

    def expand(self, margin: int) -> "Window":
        """Return the window grown by `margin` pixels on every side."""
        left, top, right, bottom = self.bounds
        return Window.from_bounds(left - margin, top - margin, right + margin, bottom + margin)

    def shift(self, columns: int, rows: int) -> "Window":
        """Return the window moved to the right and down."""
        return Window(self.col + columns, self.row + rows, self.width, self.height)

    def relative_to(self, origin: "Window") -> "Window":
        """Return the window counted from the first pixel of `origin`."""
        return self.shift(-origin.col, -origin.row)

    def slices(self, origin: "Window | None" = None) -> tuple[slice, slice]:
        """Return the window as (rows, columns) slices of an array that covers `origin`."""
        left, top, right, bottom = (self.relative_to(origin) if origin else self).bounds
        return slice(top, bottom), slice(left, right)


def offsets(length: int, size: int, step: int) -> range:
    """Return the first pixels of the windows that cover `length` pixels.

    All are multiples of `step`: the last window reaches beyond the end instead of being moved back,
    so that the place of a window never depends on the size of the raster.
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
