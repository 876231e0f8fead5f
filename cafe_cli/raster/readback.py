"""Read back what GDAL has written: it passes over some failed writes without an error."""

import logging
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.errors import RasterioIOError
from rasterio.io import DatasetReader, DatasetWriter

from cafe_cli.raster.reader import keep_environment
from cafe_cli.raster.value_counts import FloatStatistics, count_values, statistics_tags
from cafe_cli.raster.window import Window, blocks

_BLOCK = 2048  # pixels along each side that are read at a time
_PARTLY = 0.5  # share of valid pixels below an overview that cannot be empty
_Slices = tuple[tuple[int, int], tuple[int, int]]


class CheckedWriter(DatasetWriter):  # type: ignore[misc]
    """A raster to write window by window, all bands at once, that knows what was written.

    A raster of floating point numbers has one band.

    Attributes
    ----------
    counts : ndarray of int, (bands, 256)
        Pixels written by band and value; zeros unless the raster is uint8.
    """

    def __init__(self, path: Path, **profile: Any) -> None:
        keep_environment()
        super().__init__(str(path), "w", **profile)
        self.counts = np.zeros((self.count, 256), np.int64)
        self._statistics = FloatStatistics()
        self._sums: dict[_Slices, int] = {}
        self._header: dict[str, object] = {}

    def write(
        self, values: NDArray[Any], band: int | None = None, window: _Slices | None = None
    ) -> None:
        """Write a window, which overlaps no other: (bands, height, width), or (height, width)."""
        place = window or ((0, self.height), (0, self.width))
        if values.shape[-2:] == tuple(stop - start for start, stop in place):  # not resampled
            stored = values.astype(self.dtypes[0], copy=False)
            self._sums[place] = _checksum(stored)
            if self.dtypes[0] == "uint8":
                self.counts += count_values(stored.reshape(-1, *stored.shape[-2:]))
            else:
                self._statistics.add(stored, self.nodata)
        super().write(values, band, window=place)

    def close(self) -> None:
        """Close the file, after a note of its header; it gets the statistics of its values.

        A raster without nodata gets none: 255 counts as nodata in them.
        """
        if not self.closed:
            pixels = self.width * self.height
            if self.nodata is not None:
                counted = statistics_tags(self.counts[0], pixels)
                self.update_tags(1, **(counted or self._statistics.tags(pixels)))
            self._header = _header(self)
        super().close()

    def check_written(self, path: Path) -> None:
        """Compare the file with what was written, after this writer is closed.

        Raises
        ------
        RasterioIOError
            It is damaged, or holds something else.
        """
        with rasterio.open(path, num_threads="all_cpus") as dataset:
            header = _header(dataset)
            if any(header.get(key) != value for key, value in self._header.items()):
                raise RasterioIOError("the header cannot be read back; the disk is full or failing")
            for place, checksum in self._sums.items():
                if _checksum(dataset.read(window=place)) != checksum:
                    raise _differs(place)


@contextmanager
def errors_of_gdal() -> Iterator[None]:
    """Raise the first error of GDAL that rasterio does no more than log.

    Raises
    ------
    RasterioIOError
    """
    handler = _Collector(logging.ERROR)
    log = logging.getLogger("rasterio")
    log.addHandler(handler)
    try:
        yield
    finally:
        log.removeHandler(handler)
    if handler.messages:
        raise RasterioIOError(handler.messages[0])


class _Collector(logging.Handler):
    def __init__(self, level: int) -> None:
        super().__init__(level)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())


def check_copy(source: Path, copy: Path) -> None:
    """Compare all pixels of a copy with its source, and read all blocks of its overviews.

    Raises
    ------
    RasterioIOError
        A block cannot be read, differs from the source, or is an empty overview of pixels that are
        not.
    """
    with rasterio.open(source) as one, rasterio.open(copy, num_threads="all_cpus") as other:
        for window in blocks(one.width, one.height, _BLOCK):
            place = _slices(window)
            values, copied = one.read(window=place), other.read(window=place)
            if not np.array_equal(values, copied, equal_nan=values.dtype.kind == "f"):
                raise _differs(place)
        levels = len(other.overviews(1))
    for level in range(levels):
        _check_overview(copy, level)


def _check_overview(path: Path, level: int) -> None:
    finer = {} if level == 0 else {"overview_level": level - 1}
    with (
        rasterio.open(path, overview_level=level, num_threads="all_cpus") as dataset,
        rasterio.open(path, num_threads="all_cpus", **finer) as below,
    ):
        side = dataset.block_shapes[0][0]
        for window in blocks(dataset.width, dataset.height, side):
            values = dataset.read(window=_slices(window))
            if (values == dataset.nodata).all() and _share_valid(below, window) > _PARTLY:
                raise _differs(_slices(window))


def _share_valid(dataset: DatasetReader, window: Window) -> float:
    """Return the share of pixels with data below a window of an overview half as fine."""
    rows, columns = (
        (min(2 * start, side - 1), min(2 * stop, side))
        for start, stop, side in (
            (window.row, window.bottom, dataset.height),
            (window.col, window.right, dataset.width),
        )
    )
    return float((dataset.read(window=(rows, columns)) != dataset.nodata).mean())


def _header(dataset: DatasetReader) -> dict[str, object]:
    bands = (dataset.count, dataset.dtypes, dataset.nodatavals, dataset.units, dataset.descriptions)
    place = (dataset.shape, dataset.transform, dataset.crs is None)
    return {"bands": bands, "place": place, **dataset.tags()}


def _slices(window: Window) -> _Slices:
    return (window.row, window.bottom), (window.col, window.right)


def _checksum(values: NDArray[Any]) -> int:
    return zlib.crc32(np.ascontiguousarray(values).data)


def _differs(place: _Slices) -> RasterioIOError:
    return RasterioIOError(
        f"what was written at column {place[1][0]}, row {place[0][0]} cannot be read back; the "
        "disk is full or failing"
    )
