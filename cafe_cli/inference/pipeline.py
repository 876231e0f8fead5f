"""The inference pipeline of a scene: read, forward, blend, decide and write, strip by strip."""

import math
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import closing
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cafe_cli.inference.arrays.base import Array
from cafe_cli.inference.blending import Blender
from cafe_cli.inference.forward import BatchedForward
from cafe_cli.inference.quality import quality_codes
from cafe_cli.inference.strip_writer import DecidedRows, ProductPlanes, StripWriter, Write
from cafe_cli.inference.throughput import Meter
from cafe_cli.inference.tiling import Band, Strip, WindowGrid, contiguous_groups
from cafe_cli.inference.window_reader import WindowReader
from cafe_cli.model.distribution import PixelDistribution
from cafe_cli.raster.window import Window
from cafe_cli.scenes.scene import Patch
from cafe_cli.vector.area_of_interest import Area

_SHARES = 4  # least number of groups of strips per device, if there are enough strips


@dataclass(frozen=True)
class Inference:
    """Runs networks over the strips of a scene.

    Parameters
    ----------
    reader : WindowReader
    area : Area
        Area of interest; pixels outside become nodata.
    windows : WindowGrid
    weights : ndarray
        Blending weights (size, size) of a window's pixels.
    classes : int
        Number of classes K.
    products : frozenset of str
        Rasters to make: ``labels``, ``confidence``, ``probabilities``, ``quality``.
    meter : Meter
    progress : callable
        Called with the meter after every row of windows.
    known : tuple of PixelDistribution
        What the networks were trained on, for ``quality``.
    """

    reader: WindowReader
    area: Area
    windows: WindowGrid
    weights: NDArray[np.float32]
    classes: int
    products: frozenset[str]
    meter: Meter
    progress: Callable[[Meter], None] = lambda meter: None
    known: tuple[PixelDistribution, ...] = ()

    def run(
        self, strips: Sequence[Strip], forwards: Sequence[BatchedForward], write: Write
    ) -> None:
        """Run strips on one device or several, and write each of them when it is complete.

        The pixels of a strip do not depend on the other strips, nor on which of several devices of
        one kind runs it.
        """
        with StripWriter(write, self.meter) as writer:
            if len(forwards) == 1:
                for group in contiguous_groups(strips):
                    self._run(group, forwards[0], writer, threading.Event())
            else:
                self._run_on_devices(strips, forwards, writer)

    def _run_on_devices(
        self, strips: Sequence[Strip], forwards: Sequence[BatchedForward], writer: StripWriter
    ) -> None:
        """Run the strips on several devices, each in a thread that takes group after group."""
        most = max(math.ceil(len(strips) / len(forwards) / _SHARES), 1)
        groups = contiguous_groups(strips, most)
        lock, stop = threading.Lock(), threading.Event()

        def work(forward: BatchedForward) -> None:
            while not stop.is_set():
                with lock:
                    group = next(groups, None)
                if group is None:
                    return
                self._run(group, forward, writer, stop)

        with ThreadPoolExecutor(len(forwards)) as pool:
            try:
                working = [pool.submit(work, forward) for forward in forwards]
                for future in working:
                    # Wait with a timeout, so that Ctrl-C interrupts it.
                    while not future.done():
                        wait(working, timeout=0.2, return_when="FIRST_EXCEPTION")
                    future.result()
            finally:
                stop.set()

    def _run(
        self,
        group: Sequence[Strip],
        forward: BatchedForward,
        writer: StripWriter,
        stop: threading.Event,
    ) -> None:
        """Run strips that lie directly below each other."""
        band, before = group[0].band, group[0].before
        rows = [*before, *(row for strip in group for row in strip.rows)]
        runner = _BandRunner(self, band, forward)
        with forward.arrays.on_device(), closing(self.reader.rows(band.columns, rows)) as feed:
            for row in before:
                runner.row(row, self._next(feed), (row, row))
            for strip in group:
                decided: list[DecidedRows] = []
                for row, top, bottom in strip.finished():
                    if stop.is_set():
                        return
                    decided.append(runner.row(row, self._next(feed), (top, bottom)))
                    self.meter.add(len(band.columns), 0, (bottom - top) * band.width)
                    self.progress(self.meter)
                writer.put(strip.extent, decided)

    def _next(self, feed: Iterator[Patch]) -> Patch:
        with self.meter.timed("read"):
            return next(feed)


class _BandRunner:
    """Runs the rows of windows of a band from top to bottom."""

    def __init__(self, inference: Inference, band: Band, forward: BatchedForward) -> None:
        self._inference, self._band, self._forward = inference, band, forward
        windows, span = inference.windows, band.columns[-1] - band.columns[0]
        self._blender = Blender(
            inference.classes,
            span + windows.size,
            inference.weights,
            windows.stride,
            forward.arrays,
        )
        self._last: DecidedRows | None = None
        self._finite: Array | None = None  # whether the scores of the current row are numbers
        self._reach = 0  # the pixel row below the windows that were run so far

    def row(self, row: int, patch: Patch, final: tuple[int, int]) -> DecidedRows:
        """Run a row of windows and decide the pixel rows that no later window overlaps.

        Parameters
        ----------
        row : int
            First pixel row of the windows.
        patch : Patch
            Pixels of the row of windows.
        final : (int, int)
            The pixel rows [top, bottom) to decide.
        """
        height, width = patch.optical_valid.shape
        left, size = self._band.columns[0], self._inference.windows.size
        wanted = patch.optical_valid & self._inference.area.mask(Window(left, row, width, height))
        # Skip windows without pixels to label.
        places = {c: slice(c - left, c - left + size) for c in self._band.columns}
        used = {c: patch.at((slice(None), p)) for c, p in places.items() if wanted[:, p].any()}
        rows = slice(final[0] - row, final[1] - row)
        planes, self._finite = self._empty_planes(rows), None
        with self._inference.meter.timed("forward"):
            if used or row < self._reach:
                self._blend(used, rows, planes)
            if used:
                self._reach = row + size
            if self._last is not None:  # let a GPU lag behind by one row of windows at most
                self._last.wait()
            inside = (rows, slice(self._band.first - left, self._band.last - left))
            fetched = self._forward.arrays.fetch(planes, self._finite)
            self._last = DecidedRows(fetched, wanted[inside], self._quality(patch.at(inside)))
        self._inference.meter.add(0, len(used), 0)
        return self._last

    def _quality(self, patch: Patch) -> ProductPlanes:
        """Return the plane that does not depend on scores, if it is asked for."""
        if "quality" not in self._inference.products:
            return {}
        return {"quality": quality_codes(patch, self._inference.known)[None]}

    def _empty_planes(self, rows: slice) -> dict[str, Array]:
        """Return zeros for what depends on scores, uint8 (bands, height, width), of the band."""
        shape = (rows.stop - rows.start, self._band.width)
        depth = {"probabilities": self._inference.classes}
        return {
            name: self._forward.arrays.zeros(depth.get(name, 1), *shape, dtype="uint8")
            for name in self._inference.products - {"quality"}
        }

    def _blend(self, used: Mapping[int, Patch], rows: slice, planes: Mapping[str, Array]) -> None:
        """Blend the windows of a row from left to right and write final pixels to the planes."""
        columns, size = self._band.columns, self._inference.windows.size
        scores = (s for _, batch in self._forward.batches([*used.values()]) for s in batch)
        for column, following in zip(columns, (*columns[1:], columns[-1] + size), strict=True):
            self._blender.move_to(column - columns[0])
            if column in used:
                self._blender.add(next(scores))
            first = max(column, self._band.first)
            last = min(following, self._band.last)
            if first < last and rows.start < rows.stop:
                place = slice(first - self._band.first, last - self._band.first)
                self._decide(rows, slice(first - column, last - column), place, planes)
            self._blender.save_overlap(slice(0, following - column))

    def _decide(
        self, rows: slice, columns: slice, place: slice, planes: Mapping[str, Array]
    ) -> None:
        """Write labels and percentages of final pixels of the current window to the planes."""
        count = rows.stop - rows.start
        arrays = self._blender.arrays
        step = arrays.rows_at_once or count
        for first in range(0, count, step):
            here = slice(first, min(first + step, count))
            piece = slice(rows.start + here.start, rows.start + here.stop)
            labels, best = self._blender.best(piece, columns)
            finite = arrays.all_finite(best)
            self._finite = finite if self._finite is None else self._finite & finite
            if "labels" in planes:
                planes["labels"][0, here, place] = labels
            if "confidence" in planes:
                planes["confidence"][0, here, place] = arrays.percent(best)
            if "probabilities" in planes:
                means = self._blender.means(piece, columns)
                planes["probabilities"][:, here, place] = arrays.percent(means)
