"""Merge small regions into their neighbours, the smallest first."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cafe_cli.regions.labelling import Contacts, Ids, Regions, join_contacts
from cafe_cli.regions.survey import Survey

_LEAST = 1 - 1e-9  # a region of just the limit stays, whatever the rounding of its area


class _State(NamedTuple):
    classes: NDArray[np.uint8]
    pixels: NDArray[np.int64]
    metres: NDArray[np.float64]
    scores: NDArray[np.float32] | None


class _Borders(NamedTuple):
    """Borders as seen from a small region."""

    small: NDArray[np.int64]
    other: NDArray[np.int64]
    sides: NDArray[np.int64]


def merge_small(found: Survey, limit: float) -> Regions:
    """Give every region below an area to a class next to it, in the order of their sizes.

    The class is the most probable of those around the region, by the sum of the model's
    probabilities over its pixels; without probabilities, or where they are equal, the class that
    shares the longest border. The region becomes one with all its neighbours of that class. A
    region that only pixels without a class surround stays as it is.

    Parameters
    ----------
    found : Survey
    limit : float
        Square metres.

    Returns
    -------
    regions : Regions
        Numbered without gaps; the pieces are those of `found`.
    """
    regions = found.regions
    state = _State(regions.classes, regions.pixels, regions.metres, found.scores)
    number, contacts = regions.number, found.contacts
    while True:
        small = state.metres < limit * _LEAST
        borders = _small_borders(small, contacts)
        if not len(borders.small):
            return Regions(state.classes, state.pixels, state.metres, number)
        ready = _smallest_first(state, borders)
        target = _choose_classes(state, borders, ready)
        joins = ready & (state.classes[borders.other] == target[borders.small])
        merged = join_contacts(borders.small[joins], borders.other[joins], len(state.classes))
        state = _merge(state, merged, target)
        number = merged[number]
        contacts = _renumber(borders, small, merged)


def _small_borders(small: NDArray[np.bool_], contacts: Contacts) -> _Borders:
    one = np.concatenate([contacts.first, contacts.second])
    other = np.concatenate([contacts.second, contacts.first])
    keep = small[one]
    sides = np.concatenate([contacts.sides, contacts.sides])
    return _Borders(one[keep], other[keep], sides[keep])


def _smallest_first(state: _State, borders: _Borders) -> NDArray[np.bool_]:
    """Return which borders belong to a region that is smaller than every neighbour.

    No two of these regions touch, so that merging them at once is merging them one by one.
    """
    pixels = state.pixels
    one, other = borders.small, borders.other
    smaller = (pixels[other] < pixels[one]) | ((pixels[other] == pixels[one]) & (other < one))
    waits = np.zeros(len(pixels), bool)
    waits[one[smaller]] = True
    ready: NDArray[np.bool_] = ~waits[one]
    return ready


def _choose_classes(state: _State, borders: _Borders, ready: NDArray[np.bool_]) -> Ids:
    """Return the class that each region of a ready border is given, -1 for other regions."""
    key = (borders.small[ready] << 8) | state.classes[borders.other[ready]]
    pairs, inverse = np.unique(key, return_inverse=True)
    sides = np.bincount(inverse, borders.sides[ready])
    region, class_ = pairs >> 8, pairs & 0xFF
    score = state.scores[region, class_] if state.scores is not None else np.zeros(len(pairs))
    best = np.lexsort((-class_, sides, score, region))  # the last of each region is the best
    last = np.append(region[best][1:] != region[best][:-1], True)
    target = np.full(len(state.classes), -1, np.int32)
    target[region[best][last]] = class_[best][last]
    return target


def _merge(state: _State, merged: Ids, target: Ids) -> _State:
    size = int(merged.max()) + 1
    classes = np.empty(size, np.uint8)
    classes[merged] = np.where(target >= 0, target, state.classes)
    pixels = np.bincount(merged, state.pixels, size).astype(np.int64)
    metres = np.bincount(merged, state.metres, size).astype(np.float64)
    scores = None
    if state.scores is not None:
        sums = [np.bincount(merged, band, size) for band in state.scores.T]
        scores = np.stack(sums, axis=1).astype(np.float32)
    return _State(classes, pixels, metres, scores)


def _renumber(borders: _Borders, small: NDArray[np.bool_], merged: Ids) -> Contacts:
    """Return the borders between the merged regions, each once."""
    one, other = merged[borders.small].astype(np.int64), merged[borders.other].astype(np.int64)
    low, high = np.minimum(one, other), np.maximum(one, other)
    # A border of two small regions is seen from both of them.
    keep = (one != other) & ~(small[borders.other] & (borders.small > borders.other))
    key, inverse = np.unique((low[keep] << 32) | high[keep], return_inverse=True)
    sides = np.bincount(inverse, borders.sides[keep], len(key)).astype(np.int64)
    return Contacts(key >> 32, key & 0xFFFFFFFF, sides)
