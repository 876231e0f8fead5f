"""Linked lists, many at once: the list and the place of each item."""

import numpy as np
from numpy.typing import NDArray


def order_lists(
    previous: NDArray[np.integer],
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]:
    """Put the items of doubly linked lists in order, by pointer doubling.

    Parameters
    ----------
    previous : ndarray of int, (n,)
        The item before each, -1 at the start of a list. A list may be closed: it is cut before its
        item with the lowest number.

    Returns
    -------
    order : ndarray of int64, (n,)
        Items list by list, each from its start.
    starts : ndarray of int64, (lists + 1,)
        Where each list begins in `order`, and the end.
    closed : ndarray of bool, (lists,)
    """
    before = previous.astype(np.int64)
    cut = _find_cuts(before)
    before[cut] = -1
    start, place = _rank(before)
    order = np.lexsort((place, start))
    first = start[order]
    begins = np.flatnonzero(np.append(True, first[1:] != first[:-1])) if len(first) else first
    return order, np.append(begins, len(order)), np.isin(order[begins], cut)


def _rank(before: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the start of each item's list and its place there; closed lists do not end."""
    pointer = np.where(before >= 0, before, np.arange(len(before)))
    place = (before >= 0).astype(np.int64)
    todo = np.flatnonzero(before >= 0)
    for _ in range(max(len(before), 1).bit_length() + 1):
        far = pointer[pointer[todo]]
        more = place[pointer[todo]]
        moved = far != pointer[todo]
        if not moved.any():
            break
        place[todo] += more
        pointer[todo] = far
        todo = todo[moved]
    return pointer, place


def _find_cuts(before: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the item with the lowest number of each closed list."""
    pointer, _ = _rank(before)
    rest = np.flatnonzero(before[pointer] >= 0)  # the others have come to a start
    number = np.full(len(before), -1, np.int64)
    number[rest] = np.arange(len(rest))
    pointer = number[before[rest]]
    lowest = np.arange(len(rest))
    for _ in range(max(len(rest), 1).bit_length() + 1):
        lowest = np.minimum(lowest, lowest[pointer])
        pointer = pointer[pointer]
    return rest[np.unique(lowest)]
