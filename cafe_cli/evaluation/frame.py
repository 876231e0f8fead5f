"""A whole map, read once by windows: pixels and ground of each class, and its fingerprint."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from cafe_cli.classes import NODATA, ClassTable
from cafe_cli.evaluation.land_cover_map import LandCoverMap, MapReader, refuse_hidden
from cafe_cli.evaluation.reference import blocks_of
from cafe_cli.raster.grid import Grid
from cafe_cli.raster.ground_area import row_areas
from cafe_cli.raster.window import Window
from cafe_cli.system.batches import Batch, Executor, run_batch, run_in_threads
from cafe_cli.system.threads import ProgressCallback

Visit: TypeAlias = Callable[[Window, NDArray[np.uint8]], None]
"""Takes a window of a map and its class ids, (height, width); 255 is no class."""


@dataclass(frozen=True)
class Frame:
    """What a map holds of each class.

    Attributes
    ----------
    pixels : ndarray of int64, (K,)
    square_metres : ndarray of float64, (K,), or None
        None if the map has no CRS, so that nothing tells the size of its pixels.
    unclassified : int
        Pixels without a class, in the rectangle around all sheets.
    """

    pixels: NDArray[np.int64]
    square_metres: NDArray[np.float64] | None
    unclassified: int


def survey(
    map_: LandCoverMap,
    classes: ClassTable,
    visits: tuple[Visit, ...] = (),
    progress: ProgressCallback = lambda done, total: None,
    run: Executor = run_in_threads,
) -> Frame:
    """Read a whole map by windows, each pixel once, and measure its classes.

    The size of a pixel is that of `row_areas`.

    Parameters
    ----------
    map_ : LandCoverMap
    classes : ClassTable
    visits : tuple of callable
        Called with every window, in this process: not together with `run`.
    progress : callable
        Called with the number of blocks done and of all.
    run : Executor
        Runs the reading; by default in this process. It does not change what is measured.

    Raises
    ------
    LabelError
        A value belongs to no class, or the map declares a class as nodata.
    """
    grid, count = map_.grid, len(classes)
    windows = blocks_of(map_.members, grid)
    pixels, hidden = np.zeros((2, NODATA + 1), np.int64)
    metres = np.zeros(NODATA + 1)
    measure = partial(_measure_window, grid=grid, visits=visits)
    batch = Batch(partial(map_.open, grid, classes), measure, windows)
    for done, (_, found) in enumerate(run_batch(run, batch), start=1):
        hidden += found.hidden
        pixels += found.pixels
        metres += found.square_metres
        progress(done, len(windows))
    refuse_hidden(map_, classes, hidden[:count])
    known = grid.crs is not None or grid.pixel_size is not None
    classified = int(pixels[:count].sum())
    return Frame(
        pixels[:count],
        metres[:count] if known else None,
        grid.width * grid.height - classified,
    )


class _Measured(NamedTuple):
    """What a window of a map holds of each value, (256,): pixels, ground, and hidden pixels."""

    pixels: NDArray[np.int64]
    square_metres: NDArray[np.float64]
    hidden: NDArray[np.int64]


def _measure_window(
    reader: MapReader, window: Window, grid: Grid, visits: tuple[Visit, ...]
) -> _Measured:
    found = reader.read(window)
    ids = found.ids.ravel()
    sizes = np.broadcast_to(row_areas(grid, window)[:, None], found.ids.shape).ravel()
    for visit in visits:
        visit(window, found.ids)
    return _Measured(
        np.bincount(ids, minlength=NODATA + 1),
        np.bincount(ids, sizes, minlength=NODATA + 1).astype(np.float64, copy=False),
        np.bincount(found.hidden.ravel(), minlength=NODATA + 1),
    )


class Fingerprint:
    """A number that two maps share if they have the same classes on the same pixels.

    It does not depend on the windows, the order in which they are read, the format or the
    compression.

    Parameters
    ----------
    grid : Grid
        That of the map.
    """

    def __init__(self, grid: Grid) -> None:
        self._grid = grid
        self._sum = (grid.width << 32) + grid.height

    def visit(self, window: Window, ids: NDArray[np.uint8]) -> None:
        """Add the pixels of a window that have a class."""
        known = ids != NODATA
        values = positions(window, self._grid)[known] * np.uint64(NODATA + 1) + ids[known]
        self._sum += int(scramble(values).sum(dtype=np.uint64))

    @property
    def text(self) -> str:
        """Sixteen hexadecimal digits."""
        return f"{self._sum % 2**64:016x}"


def positions(window: Window, grid: Grid) -> NDArray[np.uint64]:
    """Return the place of each pixel of a window in its grid, row by row from 0."""
    rows = np.arange(window.row, window.bottom, dtype=np.uint64)
    columns = np.arange(window.col, window.right, dtype=np.uint64)
    return rows[:, None] * np.uint64(grid.width) + columns


def scramble(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Map 64-bit numbers one to one to numbers that look random.

    The finaliser of splitmix64: Steele, Lea and Flood, "Fast splittable pseudorandom number
    generators", OOPSLA 2014, doi 10.1145/2660193.2660195.
    """
    mixed = values + np.uint64(0x9E3779B97F4A7C15)
    mixed ^= mixed >> np.uint64(30)
    mixed *= np.uint64(0xBF58476D1CE4E5B9)
    mixed ^= mixed >> np.uint64(27)
    mixed *= np.uint64(0x94D049BB133111EB)
    mixed ^= mixed >> np.uint64(31)
    return mixed
