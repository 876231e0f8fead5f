"""The operations on arrays that differ between numpy and torch; indexing and arithmetic do not."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Literal, NamedTuple, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from cafe_cli.scenes.scene import Patch

Array: TypeAlias = Any
"""An ndarray or a tensor on a device."""


class Batch(NamedTuple):
    """A batch of windows: the arguments of a network.

    Attributes
    ----------
    optical : array of float32, (batch, bands, height, width)
        Raw pixel values; before `transform_inputs` of any data type.
    optical_valid, height_valid : array of bool, (batch, height, width)
    height : array of float32, (batch, planes, height, width)
        Metres.
    """

    optical: Array
    optical_valid: Array
    height: Array
    height_valid: Array


Network: TypeAlias = Callable[[Array, Array, Array, Array], Array]
"""Called with the arrays of a `Batch`; returns class probabilities (batch, K, height, width)."""


class Fetched(Protocol):
    """Planes on the way from a device to the CPU."""

    def wait(self) -> None:
        """Wait until they have arrived."""

    def planes(self) -> Mapping[str, NDArray[np.uint8]]:
        """Return them; call `wait` first."""

    def is_finite(self) -> bool:
        """Whether all scores behind them are numbers; call `wait` first."""


class Arrays(Protocol):
    """The arrays of one library on one device.

    Attributes
    ----------
    device : str
        ``cpu``, ``cuda`` or ``cuda:N``.
    rows_at_once : int or None
        Pixel rows to decide at a time, so that they stay in the cache of a CPU; None for all.
    """

    device: str
    rows_at_once: int | None

    def zeros(self, *shape: int, dtype: Literal["float32", "uint8"] = "float32") -> Array:
        """Return zeros on the device."""

    def put(self, values: NDArray[Any]) -> Array:
        """Return values on the device."""

    def batch(self, patches: Sequence[Patch], size: int) -> Batch:
        """Stack patches of one shape; samples beyond them are zero, and nothing in them valid."""

    def float32(self, x: Array) -> Array:
        """Return values as float32."""

    def turn(self, x: Array, turns: int) -> Array:
        """Rotate x (..., size, size) counter-clockwise by quarter turns."""

    def mirror(self, x: Array) -> Array:
        """Flip x (..., size, size) left to right."""

    def where(self, condition: Array, x: Array, otherwise: float) -> Array:
        """Return x where a condition holds, a number elsewhere."""

    def at_least(self, x: Array, low: float) -> Array:
        """Return x, but no value below `low`."""

    def resize(self, x: Array, side: int) -> Array:
        """Resample x (n, bands, size, size) to side x side pixels, bilinear between centres."""

    def add_product(self, total: Array, x: Array, weights: Array) -> None:
        """Add x times weights to `total`, in place."""

    def best(self, scores: Array) -> tuple[Array, Array]:
        """Return index and value of the highest of scores (K, ...); ties go to the lowest index."""

    def percent(self, shares: Array) -> Array:
        """Return shares of 1 as whole per cent, to be written to uint8."""

    def all_finite(self, x: Array) -> Array:
        """Return whether all values are numbers, without waiting for the device."""

    def fetch(self, planes: Mapping[str, Array], finite: Array | None) -> Fetched:
        """Start to copy planes to the CPU; `finite` is what `all_finite` has returned."""

    def computing(self) -> AbstractContextManager[object]:
        """Return a context for passes of a network."""

    def on_device(self) -> AbstractContextManager[object]:
        """Return a context that makes the device the current one of this thread."""

    def free(self) -> None:
        """Give back memory that the library keeps, after it ran out of it."""
