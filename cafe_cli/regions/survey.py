"""The first reading of a map: its regions, their areas, neighbours and probabilities."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cafe_cli.raster.window import Window
from cafe_cli.regions.labelling import (
    Contacts,
    ReadClasses,
    Regions,
    Seams,
    find_contacts,
    join_contacts,
    label_tiles,
)

RowAreas = Callable[[Window], NDArray[np.float64]]
"""Returns the area in square metres of a pixel in each row of a window, (height,)."""
ReadScores = Callable[[Window], NDArray[np.float32]]
"""Reads the probabilities (classes, height, width) of a window; 0 where they are not known."""


class Survey(NamedTuple):
    """What the first reading finds.

    Attributes
    ----------
    regions : Regions
    contacts : Contacts
        The borders of small pieces, by region; empty if nothing is to be merged.
    scores : ndarray of float32, (regions + 1, classes), or None
        Sums of the probabilities of the classes over the pixels of each region.
    """

    regions: Regions
    contacts: Contacts
    scores: NDArray[np.float32] | None


class _Pieces:
    """The pieces of regions, collected tile by tile."""

    def __init__(self, limit: float, classes: int | None) -> None:
        self.limit = limit
        self.classes = [np.full(1, 255, np.uint8)]
        self.pixels = [np.zeros(1, np.int64)]
        self.metres = [np.zeros(1)]
        self.scores = [np.zeros((1, classes), np.float32)] if classes else None
        self.same: list[NDArray[np.int64]] = []
        self.borders: list[NDArray[np.int64]] = []


def survey(
    width: int,
    height: int,
    read: ReadClasses,
    row_areas: RowAreas,
    limit: float = 0.0,
    read_scores: ReadScores | None = None,
    classes: int = 0,
    done: Callable[[], None] = lambda: None,
) -> Survey:
    """Read a label raster, and find its regions.

    Parameters
    ----------
    width, height : int
        Pixels of the raster.
    read : callable
    row_areas : callable
    limit : float
        Area in square metres below which regions will be merged; 0 collects no borders.
    read_scores : callable, optional
        Probabilities, which are collected if regions will be merged.
    classes : int
        Number of classes of the probabilities.
    done : callable
        Called after each tile.
    """
    pieces = _Pieces(limit, classes if read_scores and limit else None)
    seams = Seams(width)
    kind = Seams(width)  # the classes beside the tile
    count = 1
    for tile in label_tiles(width, height, read):
        ids = np.where(tile.local > 0, tile.local + np.int32(count - 1), np.int32(0))
        own = np.concatenate([[255], tile.classes]).astype(np.int32)
        _measure(pieces, tile.local, tile.classes, row_areas(tile.window))
        if pieces.scores is not None and read_scores is not None:
            pieces.scores.append(_sum_scores(tile.local, len(own), read_scores(tile.window)))
        padded, kinds = seams.pad(tile.window, ids), kind.pad(tile.window, own[tile.local])
        _collect_same(pieces, padded, kinds)
        if limit:
            _collect_borders(pieces, padded, count)
        count += len(tile.classes)
        done()
    return _joined(pieces, count)


def _measure(
    pieces: _Pieces, local: NDArray[np.int32], classes: NDArray[np.uint8], row: NDArray[np.float64]
) -> None:
    flat, size = local.ravel(), len(classes) + 1
    pixels = np.bincount(flat, minlength=size)
    pieces.classes.append(classes)
    pieces.pixels.append(pixels[1:])
    if (row == row[0]).all():
        pieces.metres.append(pixels[1:] * row[0])
    else:
        weights = np.broadcast_to(row[:, None], local.shape).ravel()
        metres = np.bincount(flat, weights, minlength=size).astype(np.float64)
        pieces.metres.append(metres[1:])


def _sum_scores(
    local: NDArray[np.int32], size: int, scores: NDArray[np.float32]
) -> NDArray[np.float32]:
    flat = local.ravel()
    sums = [np.bincount(flat, band.ravel(), minlength=size)[1:] for band in scores]
    return np.stack(sums, axis=1).astype(np.float32)


def _collect_same(pieces: _Pieces, padded: NDArray[np.int32], kinds: NDArray[np.int32]) -> None:
    """Collect pairs of pieces of one class on both sides of the upper and the left edge."""
    edges = [
        (padded[0, 1:], padded[1, 1:], kinds[0, 1:] == kinds[1, 1:]),
        (padded[1:, 0], padded[1:, 1], kinds[1:, 0] == kinds[1:, 1]),
    ]
    for one, other, same in edges:
        touch = same & (one > 0) & (other > 0)
        if touch.any():
            pairs = np.stack([one[touch], other[touch]]).astype(np.int64)
            pieces.same.append(np.unique(pairs, axis=1))


def _collect_borders(pieces: _Pieces, padded: NDArray[np.int32], count: int) -> None:
    """Collect the borders of pieces that are small, or that an edge of the tile may cut."""
    found = find_contacts(padded)
    metres = pieces.metres[-1]
    first, second = (
        np.where(n < count, 0.0, metres[np.maximum(n - count, 0)])
        for n in (found.first, found.second)
    )
    keep = np.minimum(first, second) < pieces.limit
    pieces.borders.append(np.stack(found)[:, keep])


def _joined(pieces: _Pieces, count: int) -> Survey:
    """Join the pieces of regions that tiles cut."""
    same = np.concatenate([np.zeros((2, 0), np.int64), *pieces.same], axis=1)
    number = join_contacts(same[0], same[1], count)
    size = int(number.max()) + 1
    classes = np.empty(size, np.uint8)
    classes[number] = np.concatenate(pieces.classes)
    pixels = np.bincount(number, np.concatenate(pieces.pixels), size).astype(np.int64)
    metres = np.bincount(number, np.concatenate(pieces.metres), size).astype(np.float64)
    borders = np.concatenate([np.zeros((3, 0), np.int64), *pieces.borders], axis=1)
    contacts = Contacts(number[borders[0]], number[borders[1]], borders[2])
    scores = None
    if pieces.scores is not None:
        each = np.concatenate(pieces.scores)
        sums = [np.bincount(number, each[:, k], size) for k in range(each.shape[1])]
        scores = np.stack(sums, axis=1).astype(np.float32)
    return Survey(Regions(classes, pixels, metres, number), contacts, scores)
