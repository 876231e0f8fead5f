"""Arrays of numpy, for engines on CPUs that need no torch."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from cafe_cli.inference.arrays.base import Batch, Fetched
from cafe_cli.scenes.scene import Patch

_Floats = NDArray[np.float32]


@dataclass(frozen=True)
class _Here:
    """Planes that are on the CPU already."""

    arrays: Mapping[str, NDArray[np.uint8]]
    finite: bool

    def wait(self) -> None:
        """Return at once."""

    def planes(self) -> Mapping[str, NDArray[np.uint8]]:
        """Return the planes."""
        return self.arrays

    def is_finite(self) -> bool:
        """Whether all scores behind the planes are numbers."""
        return self.finite


class NumpyArrays:
    """`Arrays` of numpy; what is documented there is not repeated here."""

    device = "cpu"
    rows_at_once: int | None = 64

    def zeros(self, *shape: int, dtype: Literal["float32", "uint8"] = "float32") -> NDArray[Any]:
        return np.zeros(shape, dtype)

    def put(self, values: NDArray[Any]) -> NDArray[Any]:
        return values

    def batch(self, patches: Sequence[Patch], size: int) -> Batch:
        first = patches[0]
        side = first.optical_valid.shape
        shapes = (first.optical.shape, side, first.heights.shape, side)
        stacks = [
            np.zeros((size, *shape), kind)
            for shape, kind in zip(shapes, (np.float32, bool, np.float32, bool), strict=True)
        ]
        for index, patch in enumerate(patches):
            for stack, values in zip(stacks, patch, strict=True):
                stack[index] = values
        return Batch(*stacks)

    def float32(self, x: NDArray[Any]) -> _Floats:
        return x.astype(np.float32, copy=False)

    def turn(self, x: NDArray[Any], turns: int) -> NDArray[Any]:
        return np.rot90(x, turns, (-2, -1))

    def mirror(self, x: NDArray[Any]) -> NDArray[Any]:
        return x[..., ::-1]

    def where(self, condition: NDArray[np.bool_], x: _Floats, otherwise: float) -> _Floats:
        return np.where(condition, x, np.float32(otherwise))

    def at_least(self, x: _Floats, low: float) -> _Floats:
        return np.maximum(x, np.float32(low))

    def resize(self, x: _Floats, side: int) -> _Floats:
        from scipy.ndimage import zoom

        factors = (1, 1, side / x.shape[-2], side / x.shape[-1])
        resized: _Floats = zoom(x, factors, order=1, mode="nearest", grid_mode=True)
        return resized

    def add_product(self, total: _Floats, x: _Floats, weights: _Floats) -> None:
        if x.ndim == weights.ndim:
            total += x * weights
            return
        for part, values in zip(total, x, strict=True):  # a copy of one class at a time
            part += values * weights

    def best(self, scores: _Floats) -> tuple[NDArray[np.uint8], _Floats]:
        # argmax along the first axis takes several times as long.
        highest = scores[0].copy()
        labels = np.zeros(highest.shape, np.uint8)
        for index, other in enumerate(scores[1:], start=1):
            labels[other > highest] = index
            np.maximum(highest, other, out=highest)
        return labels, highest

    def percent(self, shares: _Floats) -> _Floats:
        rounded = np.round(shares * np.float32(100))
        # `all_finite` tells that something was no number; numpy warns where it becomes an integer.
        return np.nan_to_num(rounded, copy=False, posinf=0, neginf=0)

    def all_finite(self, x: _Floats) -> bool:
        return bool(np.isfinite(x).all())

    def fetch(self, planes: Mapping[str, NDArray[np.uint8]], finite: bool | None) -> Fetched:
        return _Here(planes, finite is not False)

    def computing(self) -> AbstractContextManager[object]:
        return nullcontext()

    def on_device(self) -> AbstractContextManager[object]:
        return nullcontext()

    def free(self) -> None:
        return None
