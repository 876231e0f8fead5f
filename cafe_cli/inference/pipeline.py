"""Networks over the strips of a scene: read, run, blend, decide, hand on to be written."""

import math
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import closing
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cafe_cli.classes import NODATA
from cafe_cli.inference.blending import Blender
from cafe_cli.inference.forward import BatchedForward
from cafe_cli.inference.throughput import Meter
from cafe_cli.inference.tiling import Band, Strip, WindowGrid, runs
from cafe_cli.inference.window_reader import WindowReader
from cafe_cli.model.device import current
from cafe_cli.raster.window import Window
from cafe_cli.scenes.scene import Patch
from cafe_cli.vector.area_of_interest import Area

ProductPlanes: TypeAlias = dict[str, NDArray[np.uint8]]
Write: TypeAlias = Callable[[Window, ProductPlanes], None]

_WAITING = 2  # strips that may wait to be written
_SHARES = 4  # runs that each of several devices gets, at least, if there are as many strips
_ROWS = 64  # rows that a CPU decides at a time, so that they stay in its cache


@dataclass(frozen=True)
class Inference:
    """Runs strips of a scene.

    Parameters
    ----------
    feeder : Feeder
    area : Area
        What is wanted.
    slide : Slide
    weights : Tensor
        Of the pixels of a window.
    classes : int
    products : frozenset of str
        Of ``labels``, ``confidence``, ``probabilities`` and ``quality``.
    meter : Meter
    progress : callable
        Called with the meter after every row of windows.
    """

    feeder: WindowReader
    area: Area
    slide: WindowGrid
    weights: Tensor
    classes: int
    products: frozenset[str]
    meter: Meter
    progress: Callable[[Meter], None] = lambda meter: None

    def run(
        self, strips: Sequence[Strip], forwards: Sequence[BatchedForward], write: Write
    ) -> None:
        """Run strips on one device, or on several at once; every one is written when it is done.

        What a strip holds does not depend on the other strips, nor on who runs them.
        """
        with _Writer(write, self.meter) as writer:
            if len(forwards) == 1:
                for group in runs(strips):
                    self._run(group, forwards[0], writer, threading.Event())
            else:
                self._share(strips, forwards, writer)

    def _share(
        self, strips: Sequence[Strip], forwards: Sequence[BatchedForward], writer: "_Writer"
    ) -> None:
        most = max(math.ceil(len(strips) / len(forwards) / _SHARES), 1)
        groups = runs(strips, most)
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
                    # A look now and then, so that Ctrl-C is heard.
                    while not future.done():
                        wait(working, timeout=0.2, return_when="FIRST_EXCEPTION")
                    future.result()
            finally:
                stop.set()

    def _run(
        self,
        group: Sequence[Strip],
        forward: BatchedForward,
        writer: "_Writer",
        stop: threading.Event,
    ) -> None:
        band, before = group[0].band, group[0].before
        rows = [*before, *(row for strip in group for row in strip.rows)]
        sweep = _BandRunner(self, band, forward)
        with current(forward.device), closing(self.feeder.rows(band.columns, rows)) as feed:
            for row in before:
                sweep.row(row, self._next(feed), (row, row))
            for strip in group:
                parts: list[_DecidedRows] = []
                for row, top, bottom in strip.finished():
                    if stop.is_set():
                        return
                    parts.append(sweep.row(row, self._next(feed), (top, bottom)))
                    self.meter.add(len(band.columns), 0, (bottom - top) * (band.last - band.first))
                    self.progress(self.meter)
                writer.put(strip.extent, parts)

    def _next(self, feed: Iterator[Patch]) -> Patch:
        with self.meter.on("read"):
            return next(feed)


class _BandRunner:
    """One way down a band, row of windows by row of windows."""

    def __init__(self, inference: Inference, band: Band, forward: BatchedForward) -> None:
        self._for, self._band, self._forward = inference, band, forward
        slide, span = inference.slide, band.columns[-1] - band.columns[0]
        self._blender = Blender(
            inference.classes, span + slide.window, inference.weights, slide.step, forward.device
        )
        self._last: _DecidedRows | None = None
        self._reach = 0  # below this row of the scene there is nothing of windows that were run

    def row(self, row: int, patch: Patch, final: tuple[int, int]) -> "_DecidedRows":
        """Run a row of windows and decide the rows of pixels [top, bottom) that are final then.

        `patch` begins with the first of the windows.
        """
        height, width = patch.optical_valid.shape
        left, size = self._band.columns[0], self._for.slide.window
        wanted = patch.optical_valid & self._for.area.mask(Window(left, row, width, height))
        # A window without a pixel to label is not run.
        places = {c: slice(c - left, c - left + size) for c in self._band.columns}
        used = {c: patch.at((slice(None), p)) for c, p in places.items() if wanted[:, p].any()}
        rows = slice(final[0] - row, final[1] - row)
        planes = self._empty(rows)
        with self._for.meter.on("forward"):
            if used or row < self._reach:
                self._blend(used, rows, planes)
            if used:
                self._reach = row + size
            if self._last is not None:  # a GPU is one row of windows behind, no more
                self._last.wait()
            inside = (rows, slice(self._band.first - left, self._band.last - left))
            if "quality" in planes:
                planes["quality"] = torch.from_numpy(~patch.height_valid[inside])[None].byte()
            self._last = _DecidedRows.of(planes, wanted[inside])
        self._for.meter.add(0, len(used), 0)
        return self._last

    def _empty(self, rows: slice) -> dict[str, Tensor]:
        """Return uint8 rasters (bands, height, width) for rows of the band."""
        shape = (rows.stop - rows.start, self._band.last - self._band.first)
        depth = {"probabilities": self._for.classes}
        return {
            name: torch.zeros(
                depth.get(name, 1), *shape, dtype=torch.uint8, device=self._forward.device
            )
            for name in self._for.products
        }

    def _blend(self, used: Mapping[int, Patch], rows: slice, planes: Mapping[str, Tensor]) -> None:
        """Add the windows of a row from left to right; what they finish goes to the planes."""
        columns, size = self._band.columns, self._for.slide.window
        scores = (s for _, batch in self._forward.batches([*used.values()]) for s in batch)
        for column, following in zip(columns, (*columns[1:], columns[-1] + size), strict=True):
            self._blender.go_to(column - columns[0])
            if column in used:
                self._blender.add(next(scores))
            first = max(column, self._band.first)
            last = min(following, self._band.last)
            if first < last and rows.start < rows.stop:
                place = slice(first - self._band.first, last - self._band.first)
                self._decide(rows, slice(first - column, last - column), place, planes)
            self._blender.leave(slice(0, following - column))

    def _decide(
        self, rows: slice, columns: slice, place: slice, planes: Mapping[str, Tensor]
    ) -> None:
        """Decide pixels of the current window; labels, and shares in per cent."""
        many = rows.stop - rows.start
        step = many if self._blender.device.type == "cuda" else _ROWS
        for first in range(0, many, step):
            here = slice(first, min(first + step, many))
            piece = slice(rows.start + here.start, rows.start + here.stop)
            labels, shares = self._blender.best(piece, columns)
            if "labels" in planes:
                planes["labels"][0, here, place] = labels
            if "confidence" in planes:
                planes["confidence"][0, here, place] = (shares * 100).round_()
            if "probabilities" in planes:
                means = self._blender.means(piece, columns)
                planes["probabilities"][:, here, place] = (means * 100).round_()


@dataclass(frozen=True)
class _DecidedRows:
    """Decided rows on their way to the writer: `ready` is None where nobody has to wait."""

    planes: Mapping[str, Tensor]
    wanted: NDArray[np.bool_]
    ready: torch.cuda.Event | None = None

    @classmethod
    def of(cls, planes: Mapping[str, Tensor], wanted: NDArray[np.bool_]) -> "_DecidedRows":
        """Let rows travel from a GPU while it goes on."""
        moved = {name: plane.to("cpu", non_blocking=True) for name, plane in planes.items()}
        if not any(plane.is_cuda for plane in planes.values()):
            return cls(moved, wanted)
        ready = torch.cuda.Event()  # type: ignore[no-untyped-call]
        ready.record()
        return cls(moved, wanted, ready)

    def wait(self) -> None:
        """Wait until it has arrived from the GPU."""
        if self.ready is not None:
            self.ready.synchronize()

    def arrays(self) -> ProductPlanes:
        """Return the rasters, with nodata where nothing is wanted."""
        self.wait()
        hidden = np.uint8(NODATA)
        return {n: np.where(self.wanted, p.numpy(), hidden) for n, p in self.planes.items()}


class _Writer:
    """Writes strips in a thread of its own, a few of them behind."""

    def __init__(self, write: Write, meter: Meter) -> None:
        self._write, self._meter = write, meter
        self._thread = ThreadPoolExecutor(1)
        self._waiting: deque[Future[None]] = deque()
        self._lock = threading.Lock()

    def put(self, extent: Window, parts: Sequence[_DecidedRows]) -> None:
        """Hand in a strip; wait while too many are not written yet."""
        with self._lock, self._meter.on("write"):
            self._waiting.append(self._thread.submit(self._do, extent, parts))
            while len(self._waiting) > _WAITING:
                self._waiting.popleft().result()

    def _do(self, extent: Window, parts: Sequence[_DecidedRows]) -> None:
        arrays = [part.arrays() for part in parts]
        joined = {name: [rows[name] for rows in arrays] for name in arrays[0]}
        self._write(extent, {name: np.concatenate(r, axis=1) for name, r in joined.items()})

    def __enter__(self) -> "_Writer":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                with self._meter.on("write"):
                    for future in self._waiting:
                        future.result()
        finally:
            self._thread.shutdown(wait=True)
