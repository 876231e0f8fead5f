"""Registration: whether the height raster lies shifted against the image.

Roofs and crowns have an outline in both: the edges of one are correlated with those of the other
at every offset of a few pixels. The outlines of shadows would win that by their number, so what is
dark is left out of the image. The best offset is a hint and no measurement: in an orthophoto that
is not true, roofs and crowns lean away from their place by metres, each in a direction of its own.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import fft
from scipy.ndimage import binary_dilation, binary_erosion, gaussian_filter, uniform_filter

Plane = NDArray[np.float64]
Mask = NDArray[np.bool_]

_BLUR = 1.0  # pixels; edges of resampled heights are no sharper than that
_MARGIN = 4  # pixels that a border or a shadow reaches into the edges beside it
_SHADE = 0.5  # between the darkest and the median brightness
_SURROUNDINGS = 25  # pixels; an edge is one by comparison with those around it
_CLIP = 98.0  # percentile beyond which an edge is an edge, however high the tower
_MIN_SHARE = 0.1  # of a window that has to have data
_MIN_PEAK = 0.05
_CLEAR = 4.0  # standard errors between a peak and its surroundings
_BETTER = 2.0  # standard errors between the peak and no offset
_AGREE = 1.5  # pixels between offsets that are the same


@dataclass(frozen=True)
class Registration:
    """How one window of heights lies on its image.

    Attributes
    ----------
    columns, rows : float
        How far the heights have to be moved to fit, in pixels to the right and down.
    at_zero, at_peak : float
        Correlation of the edges as they lie, and at that offset.
    clear : bool
        Whether the offset can be believed: a single peak off the rim of the search, well above
        chance and its surroundings.
    shifted : bool
        Whether it is clear and fits significantly better than no offset.
    """

    columns: float
    rows: float
    at_zero: float
    at_peak: float
    clear: bool
    shifted: bool


@dataclass(frozen=True)
class OffsetConsensus:
    """What several windows say together.

    Attributes
    ----------
    columns, rows : float
        Median offset of the clear windows.
    at_zero, at_peak : float
        Their median correlations.
    windows : int
        How many were clear.
    agree : float
        Share of the clear windows whose offset lies within 1.5 pixels of the median.
    shifted : float
        Share of the clear windows that fit significantly better at their offset.
    """

    columns: float
    rows: float
    at_zero: float
    at_peak: float
    windows: int
    agree: float
    shifted: float


def estimate_offset(
    image: NDArray[np.generic],
    image_valid: NDArray[np.bool_],
    height: NDArray[np.floating],
    height_valid: NDArray[np.bool_],
    max_offset: int = 8,
) -> Registration | None:
    """Find the offset at which the edges of the heights fit those of the image best.

    Parameters
    ----------
    image : ndarray, (bands, height, width)
    image_valid : ndarray of bool, (height, width)
    height : ndarray, (height, width)
    height_valid : ndarray of bool, (height, width)
    max_offset : int
        Pixels to look in each direction.

    Returns
    -------
    Registration or None
        None where there is too little to see: flat, void or smaller than the search.
    """
    if min(height.shape) <= 4 * max_offset:
        return None
    brightness = image.mean(axis=0, dtype=np.float64)
    ours = _edges(brightness, _lit(brightness, image_valid))
    theirs = _edges(height.astype(np.float64), height_valid)
    if ours is None or theirs is None:
        return None
    surface, error = _correlate(ours, theirs, max_offset)
    row, column = (int(i) for i in np.unravel_index(surface.argmax(), surface.shape))
    zero, peak = float(surface[max_offset, max_offset]), float(surface[row, column])
    clear = _stands_out(surface, row, column, error)
    return Registration(
        columns=column + _vertex(surface[row], column) - max_offset,
        rows=row + _vertex(surface[:, column], row) - max_offset,
        at_zero=zero,
        at_peak=peak,
        clear=clear,
        shifted=clear and peak - zero > _BETTER * error,
    )


def combine_offsets(hints: Sequence[Registration | None]) -> OffsetConsensus | None:
    """Combine the hints of several windows; None where none of them is clear."""
    clear = [h for h in hints if h is not None and h.clear]
    if not clear:
        return None
    rows = np.array([(h.columns, h.rows, h.at_zero, h.at_peak) for h in clear])
    columns, down, zero, peak = (float(m) for m in np.median(rows, axis=0))
    near = np.hypot(rows[:, 0] - columns, rows[:, 1] - down) <= _AGREE
    shifted = sum(h.shifted for h in clear) / len(clear)
    return OffsetConsensus(columns, down, zero, peak, len(clear), float(near.mean()), shifted)


def _lit(brightness: Plane, valid: Mask) -> Mask:
    """Return what is neither void nor in the shade, nor beside it: (height, width)."""
    if not valid.any():
        return valid
    darkest, median = np.percentile(brightness[valid], [0.5, 50])
    shade = gaussian_filter(brightness, _BLUR) < darkest + _SHADE * (median - darkest)
    beside: Mask = binary_dilation(shade & valid, iterations=_MARGIN - 1)
    return valid & ~beside


def _edges(values: Plane, valid: Mask) -> tuple[Plane, Mask] | None:
    """Return edge strength (mean 0, deviation 1; 0 where unknown) and where it is known.

    None where there is no edge, or hardly anything known.
    """
    known = binary_erosion(valid, iterations=_MARGIN)  # the border of a void is no edge
    if known.mean() < _MIN_SHARE:
        return None
    filled = np.where(valid, values, values[valid].mean())
    strength = np.hypot(*np.gradient(gaussian_filter(filled, _BLUR)))
    if strength[known].std() <= 1e-9 * max(1.0, float(np.abs(filled).max())):
        return None
    strength = np.minimum(strength, np.percentile(strength[known], _CLIP))
    strength = _against_surroundings(strength, known)
    strength = (strength - strength[known].mean()) / strength[known].std()
    return np.where(known, strength, 0.0), known


def _against_surroundings(strength: Plane, known: Mask) -> Plane:
    """Even out edge strength: what is textured (trees, fields) must not count more than a roof."""
    share = np.maximum(uniform_filter(known.astype(np.float64), _SURROUNDINGS), 1e-6)

    def mean(values: Plane) -> Plane:
        found: Plane = uniform_filter(np.where(known, values, 0.0), _SURROUNDINGS) / share
        return found

    above = strength - mean(strength)
    typical = np.sqrt(np.maximum(mean(above**2), 0.0))
    found: Plane = above / (typical + 0.3 * above[known].std())
    return found


def _correlate(
    ours: tuple[Plane, Mask], theirs: tuple[Plane, Mask], reach: int
) -> tuple[Plane, float]:
    """Return Pearson's correlation of what both know at every offset, and its standard error.

    Element (reach + r, reach + c) is the correlation once `theirs` have moved by r rows down and c
    columns to the right. The error is that of images that have nothing to do with each other:
    neighbouring pixels are alike, so fewer count than there are, by the product of both
    autocorrelations (Bartlett).
    """
    size = tuple(fft.next_fast_len(n + reach, real=True) for n in ours[0].shape)
    around = np.ix_(*(np.arange(-reach, reach + 1),) * 2)

    def spectrum(values: NDArray[np.generic]) -> NDArray[np.complex128]:
        found: NDArray[np.complex128] = fft.rfft2(values.astype(np.float64), size)
        return found

    def sums(a: NDArray[np.complex128], b: NDArray[np.complex128]) -> Plane:
        found: Plane = fft.irfft2(a * b.conj(), size)[around]
        return found

    a, aa, am = (spectrum(v) for v in (ours[0], ours[0] ** 2, ours[1]))
    b, bb, bm = (spectrum(v) for v in (theirs[0], theirs[0] ** 2, theirs[1]))
    count = np.maximum(sums(am, bm), 1.0)
    mean_a, mean_b = sums(a, bm) / count, sums(am, b) / count
    spread = (sums(aa, bm) / count - mean_a**2) * (sums(am, bb) / count - mean_b**2)
    product = sums(a, b) / count - mean_a * mean_b
    surface: Plane = product / np.sqrt(np.maximum(spread, 1e-6))
    alike = sums(a, a) * sums(b, b)
    alike /= alike[reach, reach]
    error = np.sqrt(max(float(alike.sum()), 1.0) / count[reach, reach])
    return surface, float(error)


def _stands_out(surface: Plane, row: int, column: int, error: float) -> bool:
    """Whether a peak is off the rim and well above what lies further away from it."""
    last = len(surface) - 1
    if not (0 < row < last and 0 < column < last):
        return False
    rows, columns = np.indices(surface.shape)
    around = surface[np.hypot(rows - row, columns - column) > last / 4]
    peak = surface[row, column]
    return bool(peak > _MIN_PEAK and peak - np.median(around) > _CLEAR * error)


def _vertex(line: Plane, at: int) -> float:
    """Return how far the top of a parabola through a peak and its neighbours is off the peak."""
    if not 0 < at < len(line) - 1:
        return 0.0
    before, peak, after = (float(line[at + d]) for d in (-1, 0, 1))
    bend = before - 2 * peak + after
    return 0.5 * (before - after) / bend if bend < 0 else 0.0
