"""Co-registration of image and heights: estimate the offset between them.

Roofs and crowns have outlines in both: the edges of the image and of the heights are
cross-correlated at every offset of a few pixels. Shadows have so many edges that they would
dominate, so dark pixels of the image are left out. The best offset is an estimate and not a
measurement: except in a true orthophoto, roofs and crowns lean by metres in different directions.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import fft
from scipy.ndimage import binary_dilation, binary_erosion, gaussian_filter, uniform_filter

from cafe_cli.findings import Finding
from cafe_cli.raster.reader import Mask

Plane = NDArray[np.float64]

_BLUR = 1.0  # sigma in pixels; edges of resampled heights are no sharper
_MARGIN = 4  # pixels next to a border or a shadow whose edge strength is unusable
_SHADE = 0.5  # darker is shadow: 0 is the darkest, 1 the median brightness
_SURROUNDINGS = 25  # pixels along each side of the area that edge strength is normalised by
_CLIP = 98.0  # percentile to which edge strength is clipped, so that no tower dominates
_MIN_SHARE = 0.1  # share of a window with data, below which there is no estimate
_MIN_PEAK = 0.05  # correlation
_CLEAR = 4.0  # standard errors that a peak lies above its surroundings
_BETTER = 2.0  # standard errors that a peak lies above no offset
_AGREE = 1.5  # pixels from the median within which offsets agree


@dataclass(frozen=True)
class OffsetEstimate:
    """The offset between heights and image in one window.

    Attributes
    ----------
    columns, rows : float
        Pixels that the heights have to be moved to the right and down.
    at_zero, at_peak : float
        Correlation of the edges without an offset, and at that offset.
    clear : bool
        Whether the offset is reliable: a single peak inside the search range, well above chance and
        its surroundings.
    shifted : bool
        Whether the offset is clear and fits significantly better than no offset.
    """

    columns: float
    rows: float
    at_zero: float
    at_peak: float
    clear: bool
    shifted: bool


@dataclass(frozen=True)
class OffsetConsensus:
    """The offset that several windows agree on.

    Attributes
    ----------
    columns, rows : float
        Median offset of the clear windows.
    at_zero, at_peak : float
        Median correlations of the clear windows.
    windows : int
        Number of clear windows.
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
) -> OffsetEstimate | None:
    """Find the offset at which the edges of the heights fit those of the image best.

    Parameters
    ----------
    image : ndarray, (bands, height, width)
    image_valid : ndarray of bool, (height, width)
    height : ndarray, (height, width)
    height_valid : ndarray of bool, (height, width)
    max_offset : int
        Pixels to search in each direction.

    Returns
    -------
    OffsetEstimate or None
        None if no edges can be compared: flat, void or smaller than the search range.
    """
    if min(height.shape) <= 4 * max_offset:
        return None
    brightness = image.mean(axis=0, dtype=np.float64)
    image_edges = _edges(brightness, _sunlit(brightness, image_valid))
    height_edges = _edges(height.astype(np.float64), height_valid)
    if image_edges is None or height_edges is None:
        return None
    surface, error = _correlate(image_edges, height_edges, max_offset)
    row, column = (int(i) for i in np.unravel_index(surface.argmax(), surface.shape))
    zero, peak = float(surface[max_offset, max_offset]), float(surface[row, column])
    clear = _stands_out(surface, row, column, error)
    return OffsetEstimate(
        columns=column + _subpixel_peak(surface[row], column) - max_offset,
        rows=row + _subpixel_peak(surface[:, column], row) - max_offset,
        at_zero=zero,
        at_peak=peak,
        clear=clear,
        shifted=clear and peak - zero > _BETTER * error,
    )


def combine_offsets(estimates: Sequence[OffsetEstimate | None]) -> OffsetConsensus | None:
    """Combine the estimates of several windows; None where none of them is clear."""
    clear = [e for e in estimates if e is not None and e.clear]
    if not clear:
        return None
    rows = np.array([(e.columns, e.rows, e.at_zero, e.at_peak) for e in clear])
    columns, down, zero, peak = (float(m) for m in np.median(rows, axis=0))
    near = np.hypot(rows[:, 0] - columns, rows[:, 1] - down) <= _AGREE
    shifted = sum(e.shifted for e in clear) / len(clear)
    return OffsetConsensus(columns, down, zero, peak, len(clear), float(near.mean()), shifted)


def check_registration(
    found: OffsetConsensus, columns: float, rows: float, metres: float | None
) -> Iterator[Finding]:
    """Warn of heights that are shifted by half a metre or more, by the same offset in most windows.

    Parameters
    ----------
    found : OffsetConsensus
        Offset in pixels of the downsampled image.
    columns, rows : float
        The same offset in pixels of the image.
    metres : float, optional
        Length of the offset; None if the pixel size is unknown.
    """
    small = math.hypot(found.columns, found.rows) < 1.5
    if small or (metres or 1.0) < 0.5 or min(found.agree, found.shifted) < 0.6:
        return
    right = f"{abs(columns):.1f} px to the {'right' if columns > 0 else 'left'}"
    down = f"{abs(rows):.1f} px {'down' if rows > 0 else 'up'}"
    length = "" if metres is None else f" ({metres:.1f} m)"
    places = f"{round(found.agree * found.windows)} of {found.windows}"
    yield Finding(
        "warning" if found.windows >= 3 else "note",
        f"the heights fit the image better when shifted {right} and {down}{length}: the "
        f"correlation of edges rises from {found.at_zero:.2f} to {found.at_peak:.2f}, alike in "
        f"{places} places; compare them in a GIS, since leaning buildings look the same",
    )


def _sunlit(brightness: Plane, valid: Mask) -> Mask:
    """Return which valid pixels (height, width) are neither in nor next to a shadow."""
    if not valid.any():
        return valid
    darkest, median = np.percentile(brightness[valid], [0.5, 50])
    shade = gaussian_filter(brightness, _BLUR) < darkest + _SHADE * (median - darkest)
    near_shadow: Mask = binary_dilation(shade & valid, iterations=_MARGIN - 1)
    return valid & ~near_shadow


def _edges(values: Plane, valid: Mask) -> tuple[Plane, Mask] | None:
    """Return edge strength (mean 0, deviation 1; 0 where unknown) and where it is known.

    Return None if there is no edge, or too few valid pixels.
    """
    known = binary_erosion(valid, iterations=_MARGIN)  # the border of a void is no edge
    if known.mean() < _MIN_SHARE:
        return None
    filled = np.where(valid, values, values[valid].mean())
    strength = np.hypot(*np.gradient(gaussian_filter(filled, _BLUR)))
    if strength[known].std() <= 1e-9 * max(1.0, float(np.abs(filled).max())):
        return None
    strength = np.minimum(strength, np.percentile(strength[known], _CLIP))
    strength = _normalise_locally(strength, known)
    strength = (strength - strength[known].mean()) / strength[known].std()
    return np.where(known, strength, 0.0), known


def _normalise_locally(strength: Plane, known: Mask) -> Plane:
    """Divide edge strength by its local mean, so that texture (trees, fields) does not dominate."""
    share = np.maximum(uniform_filter(known.astype(np.float64), _SURROUNDINGS), 1e-6)

    def mean(values: Plane) -> Plane:
        found: Plane = uniform_filter(np.where(known, values, 0.0), _SURROUNDINGS) / share
        return found

    above = strength - mean(strength)
    typical = np.sqrt(np.maximum(mean(above**2), 0.0))
    found: Plane = above / (typical + 0.3 * above[known].std())
    return found


def _correlate(
    image: tuple[Plane, Mask], height: tuple[Plane, Mask], reach: int
) -> tuple[Plane, float]:
    """Return Pearson's correlation at every offset, and the standard error of unrelated images.

    Element (reach + r, reach + c) is the correlation of the edges that both know when those of the
    heights are moved by r rows down and c columns to the right. The standard error allows for the
    similarity of neighbouring pixels: the product of both autocorrelations reduces the number of
    independent ones (Bartlett).
    """
    size = tuple(fft.next_fast_len(n + reach, real=True) for n in image[0].shape)
    around = np.ix_(*(np.arange(-reach, reach + 1),) * 2)

    def spectrum(values: NDArray[np.generic]) -> NDArray[np.complex128]:
        found: NDArray[np.complex128] = fft.rfft2(values.astype(np.float64), size)
        return found

    def sums(a: NDArray[np.complex128], b: NDArray[np.complex128]) -> Plane:
        found: Plane = fft.irfft2(a * b.conj(), size)[around]
        return found

    a, aa, am = (spectrum(v) for v in (image[0], image[0] ** 2, image[1]))
    b, bb, bm = (spectrum(v) for v in (height[0], height[0] ** 2, height[1]))
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
    """Whether a peak is inside the search range and well above the correlation farther away."""
    last = len(surface) - 1
    if not (0 < row < last and 0 < column < last):
        return False
    rows, columns = np.indices(surface.shape)
    around = surface[np.hypot(rows - row, columns - column) > last / 4]
    peak = surface[row, column]
    return bool(peak > _MIN_PEAK and peak - np.median(around) > _CLEAR * error)


def _subpixel_peak(line: Plane, at: int) -> float:
    """Return the offset from a peak to the vertex of the parabola through it and its neighbours."""
    if not 0 < at < len(line) - 1:
        return 0.0
    before, peak, after = (float(line[at + d]) for d in (-1, 0, 1))
    bend = before - 2 * peak + after
    return 0.5 * (before - after) / bend if bend < 0 else 0.0
