"""How many points each stratum of a sample gets, and which classes make a stratum."""

from collections.abc import Sequence
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from cafe_cli.classes import ClassTable
from cafe_cli.errors import ConfigError, InputError
from cafe_cli.scenes.label_values import find_class, list_classes
from cafe_cli.text import did_you_mean

Allocation: TypeAlias = Literal["proportional", "equal"]

_STEPS = 200  # halvings of the range of the factor; more than a float has bits


def group_classes(
    classes: ClassTable, groups: Sequence[str]
) -> tuple[tuple[str, ...], NDArray[np.intp]]:
    """Return the names of the strata, and the stratum of each class, (K,).

    Parameters
    ----------
    classes : ClassTable
    groups : sequence of str
        Names of classes, separated by commas: each is a stratum. Other classes are strata alone.

    Raises
    ------
    ConfigError
        A name is no class, or belongs to two groups.
    """
    strata = np.arange(len(classes))
    seen = set[int]()
    for group in groups:
        members = [_find(name.strip(), classes) for name in group.split(",")]
        if twice := [classes.names[i] for i in members if i in seen or members.count(i) > 1]:
            raise ConfigError(f"--stratum names {twice[0]!r} twice; a class has one stratum")
        seen |= set(members)
        strata[members] = min(members)
    used, index = np.unique(strata, return_inverse=True)
    names = tuple(
        "+".join(land.name for land, own in zip(classes, strata, strict=True) if own == first)
        for first in used
    )
    return names, index.astype(np.intp)


def allocate(
    pixels: NDArray[np.int64], count: int, minimum: int, rule: Allocation
) -> NDArray[np.int64]:
    """Return the number of points of each stratum, (H,); their sum is `count`.

    A stratum gets no fewer than `minimum` points (Olofsson et al. 2014, section 5.1.2, which gives
    the rare classes a fixed number and divides the rest in proportion), and no more than its
    pixels.

    Parameters
    ----------
    pixels : ndarray of int64, (H,)
        Pixels of each stratum; one without pixels gets no points.
    count : int
    minimum : int
    rule : {"proportional", "equal"}
        Points in proportion to the pixels, or as many in each stratum.

    Raises
    ------
    ConfigError
        `count` is too small for `minimum`.
    InputError
        The map has fewer pixels than `count`.
    """
    least = np.minimum(minimum, pixels)
    present = int((pixels > 0).sum())
    if int(pixels.sum()) < count:
        raise InputError(
            f"the map has {int(pixels.sum()):,} pixels with a class, fewer than the {count:,} "
            "points asked for; use a smaller -n"
        )
    if least.sum() > count:
        raise ConfigError(
            f"{count:,} points (-n) are too few for {minimum} in each of {present} strata, which "
            f"need {int(least.sum()):,}; use a larger -n, or --min-per-class {count // present}"
        )
    shares = pixels.astype(float) if rule == "proportional" else (pixels > 0).astype(float)
    low, high = 0.0, float(count)
    for _ in range(_STEPS):  # the factor by which all shares give `count` points within the limits
        factor = (low + high) / 2
        if np.clip(factor * shares, least, pixels).sum() < count:
            low = factor
        else:
            high = factor
    wanted = np.clip(high * shares, least, pixels)
    points = np.floor(wanted + 1e-9).astype(np.int64)
    order = np.argsort(points - wanted, kind="stable")  # the largest fractions first
    rest = [h for h in order.tolist() if points[h] < pixels[h]]
    points[rest[: count - int(points.sum())]] += 1
    return points


def _find(name: str, classes: ClassTable) -> int:
    found = find_class(name, classes)
    if found is None:
        hint = did_you_mean(name, classes.names) or list_classes(classes)
        raise ConfigError(f"--stratum names {name!r}, which is not a class; {hint}")
    return found
