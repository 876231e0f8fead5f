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

from cafe_cli.area import Area
from cafe_cli.blend import RowBlender
from cafe_cli.classes import NODATA
from cafe_cli.device import current
from cafe_cli.feed import Feeder
from cafe_cli.forward import Forward
from cafe_cli.meter import Meter
from cafe_cli.scene import Patch
from cafe_cli.sliding import Band, Slide, Strip, runs
from cafe_cli.windows import Window

Planes: TypeAlias = dict[str, NDArray[np.uint8]]
Write: TypeAlias = Callable[[Window, Planes], None]

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

    feeder: Feeder
    area: Area
    slide: Slide
    weights: Tensor
    classes: int
    products: frozenset[str]
    meter: Meter
    progress: Callable[[Meter], None] = lambda meter: None

    def run(self, strips: Sequence[Strip], forwards: Sequence[Forward], write: Write) -> None:
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
        self, strips: Sequence[Strip], forwards: Sequence[Forward], writer: "_Writer"
    ) -> None:
        most = max(math.ceil(len(strips) / len(forwards) / _SHARES), 1)
        groups = runs(strips, most)
        lock, stop = threading.Lock(), threading.Event()

        def work(forward: Forward) -> None:
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
        self, group: Sequence[Strip], forward: Forward, writer: "_Writer", stop: threading.Event
    ) -> None:
        band, before = group[0].band, group[0].before
        rows = [*before, *(row for strip in group for row in strip.rows)]
        sweep = _Sweep(self, band, forward, rows[0])
        with current(forward.device), closing(self.feeder.rows(band.columns, rows)) as feed:
            for row in before:
                sweep.add(row, self._next(feed))
            for strip in group:
                parts: list[_Part] = []
                for row, top, bottom in strip.finished():
                    if stop.is_set():
                        return
                    sweep.add(row, self._next(feed))
                    with self.meter.on("forward"):
                        if parts:  # a GPU is one row of windows behind, no more
                            parts[-1].wait()
                        parts.append(sweep.decide(top, bottom))
                    self.meter.add(len(band.columns), 0, (bottom - top) * (band.last - band.first))
                    self.progress(self.meter)
                writer.put(strip.extent, parts)

    def _next(self, feed: Iterator[Patch]) -> Patch:
        with self.meter.on("read"):
            return next(feed)


class _Sweep:
    """One way down a band, row of windows by row of windows."""

    def __init__(self, inference: Inference, band: Band, forward: Forward, row: int) -> None:
        self._for, self._band, self._forward, self._row = inference, band, forward, row
        width = band.last - band.first
        self._blender = RowBlender(inference.classes, width, inference.weights, forward.device)

    def add(self, row: int, patch: Patch) -> None:
        """Run the windows of a row; `patch` begins with the first of them."""
        self._blender.advance(row - self._row)
        self._row, self._patch = row, patch
        height, width = patch.optical_valid.shape
        left, size = self._band.columns[0], self._for.slide.window
        self._wanted = patch.optical_valid & self._for.area.mask(Window(left, row, width, height))
        # A window without a pixel to label is not run.
        places = {c: slice(c - left, c - left + size) for c in self._band.columns}
        used = [c for c, place in places.items() if self._wanted[:, place].any()]
        windows = [patch.at((slice(None), places[c])) for c in used]
        with self._for.meter.on("forward"):
            for start, scores in self._forward.batches(windows):
                for column, window in zip(used[start:], scores, strict=False):
                    self._blender.add(column - self._band.first, window)
        self._for.meter.add(0, len(used), 0)

    def decide(self, top: int, bottom: int) -> "_Part":
        """Return what is known of rows of the scene that no later window touches."""
        left = self._band.columns[0]
        inside = (
            slice(top - self._row, bottom - self._row),
            slice(self._band.first - left, self._band.last - left),
        )
        wanted = self._wanted[inside]
        planes = _planes(self._blender, inside[0], self._for.products)
        if "quality" in self._for.products:
            planes["quality"] = torch.from_numpy(~self._patch.height_valid[inside])[None].byte()
        return _Part.of(planes, wanted)


def _planes(blender: RowBlender, rows: slice, products: frozenset[str]) -> dict[str, Tensor]:
    """Return uint8 rasters (bands, height, width) of rows: labels, and shares in per cent."""
    device = blender.device
    step = rows.stop - rows.start if device.type == "cuda" else _ROWS
    found: dict[str, list[Tensor]] = {name: [] for name in products - {"quality"}}
    for first in range(rows.start, rows.stop, step):
        piece = slice(first, min(first + step, rows.stop))
        labels, shares = blender.best(piece)
        if "labels" in found:
            found["labels"].append(labels[None].byte())
        if "confidence" in found:
            found["confidence"].append((shares[None] * 100).round().byte())
        if "probabilities" in found:
            found["probabilities"].append((blender.means(piece) * 100).round().byte())
    return {name: torch.cat(pieces, dim=1) for name, pieces in found.items()}


@dataclass(frozen=True)
class _Part:
    """Decided rows on their way to the writer: `ready` is None where nobody has to wait."""

    planes: Mapping[str, Tensor]
    wanted: NDArray[np.bool_]
    ready: torch.cuda.Event | None = None

    @classmethod
    def of(cls, planes: Mapping[str, Tensor], wanted: NDArray[np.bool_]) -> "_Part":
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

    def arrays(self) -> Planes:
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

    def put(self, extent: Window, parts: Sequence[_Part]) -> None:
        """Hand in a strip; wait while too many are not written yet."""
        with self._lock, self._meter.on("write"):
            self._waiting.append(self._thread.submit(self._do, extent, parts))
            while len(self._waiting) > _WAITING:
                self._waiting.popleft().result()

    def _do(self, extent: Window, parts: Sequence[_Part]) -> None:
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
