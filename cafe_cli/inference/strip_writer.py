"""Copy decided pixel rows from a device to the CPU, and write strips in a thread."""

import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from cafe_cli.classes import NODATA
from cafe_cli.errors import ModelFileError
from cafe_cli.inference.arrays.base import Fetched
from cafe_cli.inference.throughput import Meter
from cafe_cli.raster.window import Window

ProductPlanes: TypeAlias = dict[str, NDArray[np.uint8]]
"""Rasters (bands, height, width) by product name."""
Write: TypeAlias = Callable[[Window, ProductPlanes], None]

_WAITING = 2  # strips that may be queued


@dataclass(frozen=True)
class DecidedRows:
    """The products of decided pixel rows, perhaps still being copied from a GPU.

    Attributes
    ----------
    fetched : Fetched
        uint8 (bands, height, width) by product name.
    wanted : ndarray of bool, (height, width)
        Pixels that get a value; the others become nodata.
    more : mapping
        Planes that never were on the device.
    """

    fetched: Fetched
    wanted: NDArray[np.bool_]
    more: ProductPlanes

    def wait(self) -> None:
        """Wait until the copy from the GPU is complete."""
        self.fetched.wait()

    def arrays(self) -> ProductPlanes:
        """Return the planes as arrays, with nodata outside `wanted`.

        Raises
        ------
        ModelFileError
            A score is NaN or infinite: every label there would be the first class.
        """
        self.wait()
        if not self.fetched.is_finite():
            raise ModelFileError(
                "the network returned NaN or infinite scores: its weights are finite, but too "
                "large for its arithmetic; use another model of the run, or train again with a "
                "lower train.learning_rate"
            )
        planes = {**self.fetched.planes(), **self.more}
        return {n: np.where(self.wanted, p, np.uint8(NODATA)) for n, p in planes.items()}


class StripWriter:
    """Writes strips in a thread of its own, from a queue of a few strips."""

    def __init__(self, write: Write, meter: Meter) -> None:
        self._write, self._meter = write, meter
        self._thread = ThreadPoolExecutor(1)
        self._waiting: deque[Future[None]] = deque()
        self._lock = threading.Lock()

    def put(self, extent: Window, decided: Sequence[DecidedRows]) -> None:
        """Queue a strip; block while too many are waiting."""
        with self._lock, self._meter.timed("write"):
            self._waiting.append(self._thread.submit(self._write_strip, extent, decided))
            while len(self._waiting) > _WAITING:
                self._waiting.popleft().result()

    def _write_strip(self, extent: Window, decided: Sequence[DecidedRows]) -> None:
        arrays = [rows.arrays() for rows in decided]
        joined = {name: [rows[name] for rows in arrays] for name in arrays[0]}
        self._write(extent, {name: np.concatenate(r, axis=1) for name, r in joined.items()})

    def __enter__(self) -> "StripWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                with self._meter.timed("write"):
                    for future in self._waiting:
                        future.result()
        finally:
            self._thread.shutdown(wait=True)
