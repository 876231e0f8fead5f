"""Find pixels of an orthophoto that are undeclared nodata.

There are two kinds. Codes such as -9999 lie far from all grey values and can be nothing else.
Margins are black or white like the image itself; they are told by their place along the rim.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import scipy  # loads its parts when they are first used
from rasterio.io import DatasetReader

from cafe_cli.findings import Finding
from cafe_cli.raster.reader import Array, Mask
from cafe_cli.raster.samples import Sample, read_samples
from cafe_cli.raster.skipped import Skipped
from cafe_cli.scenes.height_voids import as_written, is_code
from cafe_cli.text import percent

IMPOSSIBLE = 1e15
"""Size of a value from which on a float is no grey value, whatever the others are."""

_FEW = 0.001  # share of the pixels from which a value is worth a warning
_MARGIN = 0.01  # share of the pixels that are a margin
_MOST_CODES = 8
_SPECKLE = 400  # pixels of the largest area that is taken for part of the image
_BEYOND = 8, 12  # pixels from a margin to those that tell it from clipped light, past JPEG's blocks
_SHARP = 0.1  # of the range of values: what the edge of a margin differs from it
_LOSSY = 3  # steps of 8 bits by which JPEG changes black and white


class ImageVoids(NamedTuple):
    """What was found about voids in the samples of an orthophoto.

    Attributes
    ----------
    findings : list of Finding
        Errors and warnings; `Finding.where` is the file.
    span : (float, float) or None
        Lowest and highest value of the sampled pixels; None if there is none, or if no value of
        the data type can be told from grey values.
    """

    findings: list[Finding]
    span: tuple[float, float] | None


def find_image_voids(
    dataset: DatasetReader,
    bands: Sequence[int],
    nodata: float | None,
    count: int = 4,
    skipped: Skipped | None = None,
) -> ImageVoids:
    """Look for undeclared voids in `count` x `count` windows of an orthophoto.

    Parameters
    ----------
    dataset : DatasetReader
    bands : sequence of int
        From 1.
    nodata : float, optional
        Replaces the raster's own.
    count : int
    skipped : Skipped, optional
        Pixels that cannot be read are left out, instead of an error.

    Raises
    ------
    InputError
        The file is damaged.
    """
    samples = list(read_samples(dataset, bands, nodata, count, skipped))
    pixels = np.concatenate([s.values[:, s.valid] for s in samples], axis=1)
    declared = dataset.nodata if nodata is None else nodata
    occurs = declared is not None and not all(s.valid.all() for s in samples)
    others = [declared] if occurs and declared is not None and np.isfinite(declared) else []
    found = [*_check_codes(pixels, dataset.name, others)]
    found += _check_margins(samples, dataset.name)
    if declared in (0, 255) and pixels.dtype == np.uint8:
        found += _check_speckle(samples, float(declared), dataset.name)
    span = None
    if pixels.size and pixels.dtype != np.uint8:
        span = float(pixels.min()), float(pixels.max())
    return ImageVoids(found, span)


def find_image_codes(pixels: Array) -> list[tuple[float, float, bool]]:
    """Find values far from all others that pixels have in all bands.

    Parameters
    ----------
    pixels : ndarray, (bands, n)

    Returns
    -------
    list of (float, float, bool)
        Value, share of the pixels, and whether it cannot be a grey value.
    """
    codes: list[tuple[float, float, bool]] = []
    if pixels.dtype == np.uint8:
        return codes
    total, rest = pixels.shape[1], pixels
    while rest.size and len(codes) < _MOST_CODES:
        for value in (rest.min(), rest.max()):
            same = _has_value(rest, value)
            if (certain := _judge(float(value), rest, same)) is not None:
                codes.append((float(value), float(same.sum() / total), certain))
                rest = rest[:, ~same]
                break
        else:
            return codes
    return codes


def _has_value(pixels: Array, value: Any) -> Mask:
    """Return the pixels with a value in all bands; in any, if it is impossible: (n,)."""
    same = pixels == value
    found: Mask = same.any(axis=0) if _is_impossible(value, pixels) else same.all(axis=0)
    return found


def _is_impossible(value: Any, pixels: Array) -> bool:
    return pixels.dtype.kind == "f" and abs(float(value)) > IMPOSSIBLE


def _judge(value: float, pixels: Array, same: Mask) -> bool | None:
    """Say whether a value certainly or possibly marks voids; None if it is a grey value."""
    if _is_impossible(value, pixels):
        return True
    opposite = pixels.max() if value == pixels.min() else pixels.min()
    grey = pixels[:, ~same & ~_has_value(pixels, opposite)]
    if not is_code(value) or value == 0 or not grey.size or not same.any():
        return None
    low, high = float(grey.min()), float(grey.max())
    if is_far(value, low, high):
        return True
    gap = max(low - value, value - high)
    doubtful = gap > high - low or (value < 0 <= low)
    return False if doubtful and same.mean() >= _FEW else None


def is_far(value: float, low: float, high: float) -> bool:
    """Whether a code cannot be a grey value beside those from `low` to `high`."""
    gap, span = max(low - value, value - high), high - low
    return gap > 3 * span or (value < 0 <= low and (value <= -99 or gap > span / 2))


def find_far_code(values: Array, valid: Mask, span: tuple[float, float] | None) -> float | None:
    """Return a code among the values (bands, height, width) of a window that was not sampled.

    Parameters
    ----------
    values, valid : ndarray
    span : (float, float), optional
        Lowest and highest value of the samples, from `find_image_voids`.
    """
    pixels = values[0][valid]
    if span is None or not pixels.size:
        return None
    for value in (float(pixels.min()), float(pixels.max())):
        if _is_impossible(value, pixels):
            return value
        beyond = not span[0] <= value <= span[1]
        if beyond and is_code(value) and value != 0 and is_far(value, *span):
            same = (values == value).all(axis=0) & valid
            if same.any():
                return value
    return None


def describe_code(value: float, path: str, others: Sequence[float] = ()) -> str:
    """Return how to declare a value of an orthophoto as void, beside `others` declared."""
    void = as_written(value)
    if others:
        both = ",".join([*map(as_written, others), void])
        return (
            f"make them one: gdal_calc.py -A {path} --allBands A --outfile NEW.tif --NoDataValue="
            f'{as_written(others[0])} --calc "where(isin(A,[{both}]),{as_written(others[0])},A)"'
        )
    return (
        f"declare them with scenes.optical_nodata = {void} (--optical-nodata) or gdal_edit.py "
        f"-a_nodata {void} {path}"
    )


def _check_codes(pixels: Array, path: str, others: Sequence[float]) -> Iterator[Finding]:
    codes = find_image_codes(pixels)
    for certain in (True, False):
        some = [(value, share) for value, share, sure in codes if sure is certain]
        if some:
            rest = pixels[:, ~np.any([_has_value(pixels, v) for v, *_ in codes], axis=0)]
            listed = " and ".join(f"{as_written(v)} ({percent(s)} of the pixels)" for v, s in some)
            beside = f" beside values from {rest.min():g} to {rest.max():g}" if rest.size else ""
            (first, _), *more = some
            remedy = describe_code(first, path, [*others, *(v for v, _ in more)])
            what = (
                "has pixels that look like undeclared nodata"
                if certain
                else "may have undeclared nodata"
            )
            message = f"{path} {what}: {listed}{beside}; if they mark voids, {remedy}"
            yield Finding("error" if certain else "warning", message, path)


def _check_margins(samples: Sequence[Sample], path: str) -> Iterator[Finding]:
    """Look for black and white areas along the rim of the raster."""
    dtype = samples[0].values.dtype
    top = float(np.iinfo(dtype).max) if dtype.kind in "iu" else 1.0
    slack = _LOSSY if dtype == np.uint8 else 0
    for color, pure in (("black", 0.0), ("white", top)):
        found = _measure_margin(samples, pure, slack)
        if not _MARGIN < found.share < found.valid:
            continue
        values = f"{pure:g}" if found.lossless else f"{pure:g}, give or take {slack},"
        sure = found.edge > _SHARP * top and found.corners > (0 if color == "black" else 1)
        yield Finding(
            "warning" if sure else "note",
            f"{path} has a {color} margin: {percent(found.share)} of the sampled pixels, along "
            f"the edge, are {values} in every band and count as image; if they are void, "
            f"{_declare_margin(color, pure, found.lossless, path)}",
            path,
        )


class _Margin(NamedTuple):
    """Areas of one colour along the rim of a raster.

    Attributes
    ----------
    share, valid : float
        Share of the sampled pixels that are such areas, and that have data.
    lossless : bool
        Whether they have one value.
    corners : int
        Number of corners of the raster that they reach.
    edge : float
        By how much the pixels at some distance around differ from their colour.
    """

    share: float
    valid: float
    lossless: bool
    corners: int
    edge: float


def _measure_margin(samples: Sequence[Sample], pure: float, slack: int) -> _Margin:
    total, exact, corners = 0, 0, 0
    edges = [np.zeros(0)]
    for sample in samples:
        near = _is_near(sample.values, pure, slack) & sample.valid
        area = margin(near, sample)
        if not area.any():
            continue
        total += int(area.sum())
        exact += int((sample.values == pure).all(axis=0)[area].sum())
        corners += _corners(area, sample)
        around = _surround(area) & sample.valid & ~near
        edges.append(np.abs(sample.values[:, around].mean(axis=0, dtype=float) - pure))
    edge = np.concatenate(edges)
    pixels = sum(s.valid.size for s in samples)
    return _Margin(
        share=total / pixels,
        valid=sum(int(s.valid.sum()) for s in samples) / pixels,
        lossless=exact > 0.999 * total,
        corners=corners,
        edge=float(np.median(edge)) if edge.size else 0.0,
    )


def _is_near(values: Array, pure: float, slack: int) -> Mask:
    """Return the pixels (height, width) that are within `slack` of a colour in all bands."""
    low, high = max(pure - slack, 0), pure + slack
    inside: Mask = (values >= low) & (values <= high)
    near: Mask = np.logical_and.reduce(inside, axis=0)
    return near


def margin(near: Mask, sample: Sample) -> Mask:
    """Return the areas of a mask (height, width) of a sample that touch the rim of the raster."""
    top, bottom, left, right = sample.sides
    rim = np.zeros(near.shape, bool)
    rim[[0, -1]] |= np.array([top, bottom])[:, None]
    rim[:, [0, -1]] |= np.array([left, right])
    areas, _ = scipy.ndimage.label(near)
    found: Mask = np.isin(areas, np.setdiff1d(areas[rim], [0]))
    return found


def _surround(area: Mask) -> Mask:
    """Return the pixels at some distance around an area."""
    near = scipy.ndimage.binary_dilation(area, iterations=_BEYOND[0])
    found: Mask = scipy.ndimage.binary_dilation(near, iterations=_BEYOND[1] - _BEYOND[0]) & ~near
    return found


def _corners(area: Mask, sample: Sample) -> int:
    """Return how many corners of the raster lie in an area of a sample."""
    top, bottom, left, right = sample.sides
    ends = ((top, 0, left, 0), (top, 0, right, -1), (bottom, -1, left, 0), (bottom, -1, right, -1))
    return sum(bool(v and h and area[row, col]) for v, row, h, col in ends)


def _declare_margin(color: str, pure: float, lossless: bool, path: str) -> str:
    white = "-white " if color == "white" else ""
    tool = f"nearblack {white}-setmask -o NEW.tif {path}"
    if not lossless:
        return f"mask them with {tool}"
    return (
        f"mask them with {tool} or, if the image itself is nowhere {pure:g}, set "
        f"scenes.optical_nodata = {pure:g} (--optical-nodata)"
    )


def _check_speckle(samples: Sequence[Sample], nodata: float, path: str) -> Iterator[Finding]:
    """Warn of small areas inside the image that count as void because they have its value.

    They are part of the image if what surrounds them is bright, or dark, as they are.
    """
    count, total = 0, 0
    edges, grey = [np.zeros(0)], [np.zeros(0)]
    for sample in samples:
        small = _inner_areas((sample.values == nodata).all(axis=0) & ~sample.valid)
        brightness = sample.values.mean(axis=0)
        edges.append(brightness[scipy.ndimage.binary_dilation(small) & sample.valid])
        grey.append(brightness[sample.valid])
        count += int(small.sum())
        total += small.size
    if count <= _FEW * total or not (around := np.concatenate(edges)).size:
        return
    middle = float((np.concatenate(grey) < np.median(around)).mean())
    if middle > 0.7 if nodata else middle < 0.3:
        yield Finding(
            "warning",
            f"{path}: {count:,} of {total:,} sampled pixels lie in small areas inside the "
            f"image and count as void, because nodata is {nodata:g}, but look like "
            f"{'saturated' if nodata else 'black'} pixels; keep them with gdal_edit.py "
            f"-unsetnodata {path}, then mask a margin with nearblack "
            f"{'-white ' if nodata else ''}-setmask -o NEW.tif",
            path,
        )


def _inner_areas(void: Mask) -> Mask:
    """Return the small areas of a mask that do not touch its border."""
    areas, count = scipy.ndimage.label(void)
    sizes = np.bincount(areas.ravel(), minlength=count + 1)
    ends = np.concatenate([areas[0], areas[-1], areas[:, 0], areas[:, -1]])
    sizes[[0, *np.unique(ends)]] = 0
    small: Mask = ((sizes > 0) & (sizes <= _SPECKLE))[areas]
    return small
