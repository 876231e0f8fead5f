"""The design of a sample of points: their strata, and whether a map is the one they are from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cafe_cli.classes import ClassTable
from cafe_cli.errors import LabelError
from cafe_cli.evaluation.frame import Frame
from cafe_cli.evaluation.sample import DESIGN
from cafe_cli.evaluation.stratified import Strata
from cafe_cli.scenes.label_values import find_class
from cafe_cli.text import list_some
from cafe_cli.vector.features import AttributeValue
from cafe_cli.vector.points import PointFeatures, read_table

_COLUMNS = ("stratum_pixels", "stratum_sampled", "inclusion_probability", "map_fingerprint")
_SHORT = 10  # characters of a column's name in a Shapefile
_SAME = 1e-6  # relative difference of sums of pixels that rounding explains


@dataclass(frozen=True)
class Design:
    """How points were drawn.

    Attributes
    ----------
    path : str
        The file, in errors.
    names : tuple of str
        Strata.
    pixels : ndarray of float64, (H,)
        Pixels of each stratum.
    stratum : ndarray of intp, (n,)
        The stratum of each point.
    map_class : sequence of str or None
        The class of the map at each point, where the file says it.
    fingerprint : str or None
        That of the map, where the file says it.
    """

    path: str
    names: tuple[str, ...]
    pixels: NDArray[np.float64]
    stratum: NDArray[np.intp]
    map_class: Sequence[AttributeValue] | None
    fingerprint: str | None

    def strata(self, frame: Frame, classes: ClassTable) -> Strata:
        """Return the strata with their ground, given the map that they are from."""
        if frame.square_metres is None:
            return Strata(self.names, self.pixels)
        mean = float(frame.square_metres.sum()) / max(int(frame.pixels.sum()), 1)
        metres = [
            float(frame.square_metres[members].sum()) if members else float(pixels) * mean
            for members, pixels in zip(
                (_members(name, classes) for name in self.names), self.pixels, strict=True
            )
        ]
        return Strata(self.names, self.pixels, np.array(metres))


def find_design(points: PointFeatures) -> Design | str:
    """Return the design of points, or why they are not a known probability sample.

    Columns are those of ``cafe sample``, in the layer of the points or, joined by ``id``, in a
    table `DESIGN` of the same file.

    Raises
    ------
    LabelError
        The columns contradict each other, or a stratum has more points than were drawn.
    """
    columns = _full_names({**points.columns, **_joined(points)})
    chance = columns.get("inclusion_probability")
    if "stratum" not in columns and chance is not None and len(set(chance)) == 1:
        columns["stratum"] = ["all"] * len(chance)  # a simple random sample
    if "stratum" not in columns:
        if chance is not None:
            return "its inclusion probabilities differ, but no column says the stratum"
        return "it has no columns stratum and stratum_pixels, or inclusion_probability"
    strata = columns["stratum"]
    if any(name is None for name in strata):
        return f"{sum(name is None for name in strata)} points have no stratum"
    names, stratum, counts = np.unique(
        [str(name) for name in strata], return_inverse=True, return_counts=True
    )
    pixels = _stratum_pixels(columns, stratum, counts, points.path)
    if isinstance(pixels, str):
        return pixels
    _check_counts(columns, names.tolist(), stratum, counts, points.path)
    prints = set(columns.get("map_fingerprint", [None])) - {None}
    if len(prints) > 1:
        raise LabelError(
            f"{points.path} holds points of {len(prints)} maps; pass the points of one map at a "
            "time"
        )
    return Design(
        points.path,
        tuple(names.tolist()),
        pixels,
        stratum.astype(np.intp),
        columns.get("map_class"),
        str(next(iter(prints))) if prints else None,
    )


def find_difference(design: Design, frame: Frame, fingerprint: str, classes: ClassTable) -> str:
    """Say by what a map differs from the one whose pixels were drawn; empty if it is that one.

    Without a fingerprint in the file, the map has to have as many pixels as the strata.
    """
    total = int(frame.pixels.sum())
    if abs(design.pixels.sum() - total) <= _SAME * total and design.fingerprint in (
        None, fingerprint,
    ):  # fmt: skip
        return ""
    return _difference(design, frame, classes)


def check_unmoved(design: Design, predicted: NDArray[np.uint8], classes: ClassTable) -> None:
    """Refuse points of which some do not lie on a pixel of the class they were drawn from.

    Raises
    ------
    LabelError
        The message counts them.
    """
    if design.map_class is None:
        return
    ids = [find_class(str(value), classes) for value in design.map_class]
    moved = sum(i is not None and i != p for i, p in zip(ids, predicted.tolist(), strict=True))
    if moved:
        raise LabelError(
            f"{moved} of {len(ids)} points of {design.path} do not lie on a pixel of their "
            "map_class: were they moved? Use the file as cafe sample wrote it, and fill in only "
            "the reference"
        )


def _joined(points: PointFeatures) -> dict[str, list[AttributeValue]]:
    """Return the columns of the table of a blind sample, in the order of the points."""
    if "id" not in points.columns or (table := read_table(points.path, DESIGN)) is None:
        return {}
    rows = {number: row for row, number in enumerate(table.get("id", []))}
    lost = [str(number) for number in points.columns["id"] if number not in rows]
    if lost:
        raise LabelError(
            f"{points.path}: {len(lost)} points have an id that its table {DESIGN!r} lacks: "
            f"{list_some(lost)}; restore the ids that cafe sample wrote"
        )
    order = [rows[number] for number in points.columns["id"]]
    return {name: [column[row] for row in order] for name, column in table.items() if name != "id"}


def _full_names(columns: dict[str, list[AttributeValue]]) -> dict[str, list[AttributeValue]]:
    """Return columns by their names, of which Shapefiles keep ten characters."""
    short = {name[:_SHORT]: name for name in _COLUMNS}
    return {short.get(name, name): values for name, values in columns.items()}


def _stratum_pixels(
    columns: Mapping[str, Sequence[AttributeValue]],
    stratum: NDArray[np.intp],
    counts: NDArray[np.intp],
    path: str,
) -> NDArray[np.float64] | str:
    """Return the pixels of each stratum; a text if no column tells them."""
    if "stratum_pixels" in columns:
        given, of = columns["stratum_pixels"], np.ones(len(counts))
    elif "inclusion_probability" in columns:
        given, of = columns["inclusion_probability"], counts.astype(float)
    else:
        return "it has no column stratum_pixels or inclusion_probability"
    numbers = np.array([v if isinstance(v, int | float) else np.nan for v in given], float)
    first = np.array([numbers[stratum == h][0] for h in range(len(counts))])
    if not (numbers > 0).all() or (numbers != first[stratum]).any():
        raise LabelError(
            f"{path}: stratum_pixels, or inclusion_probability, has to be one positive number for "
            "all points of a stratum; restore the columns that cafe sample wrote"
        )
    return first if "stratum_pixels" in columns else of / first


def _check_counts(
    columns: Mapping[str, Sequence[AttributeValue]],
    names: Sequence[str],
    stratum: NDArray[np.intp],
    counts: NDArray[np.intp],
    path: str,
) -> None:
    """Refuse more points than were drawn: points of another origin are among them."""
    drawn = columns.get("stratum_sampled")
    if drawn is None:
        return
    for h, (name, count) in enumerate(zip(names, counts.tolist(), strict=True)):
        most = drawn[int(np.flatnonzero(stratum == h)[0])]
        if isinstance(most, int) and count > most:
            raise LabelError(
                f"{path} has {count} points in stratum {name}, of which {most} were drawn: points "
                "were added or duplicated; remove them"
            )


def _members(name: str, classes: ClassTable) -> list[int]:
    """Return the classes that make up a stratum; none if its name does not tell."""
    parts = [name] if find_class(name, classes) is not None else name.split("+")
    found = [find_class(part, classes) for part in parts]
    return [i for i in found if i is not None] if None not in found else []


def _difference(design: Design, frame: Frame, classes: ClassTable) -> str:
    """Say by which stratum a map differs most from the one that was sampled."""
    gaps = []
    for name, pixels in zip(design.names, design.pixels.tolist(), strict=True):
        if members := _members(name, classes):
            here = int(frame.pixels[members].sum())
            gaps.append((abs(here - pixels), name, pixels, here))
    gap, name, pixels, here = max(gaps, default=(0, "", 0, 0))
    if not gap:
        total = int(frame.pixels.sum())
        if abs(design.pixels.sum() - total) > _SAME * total:
            return f"its strata have {design.pixels.sum():,.0f} pixels, the map {total:,}"
        return "the classes lie on other pixels"
    return f"stratum {name} had {pixels:,.0f} pixels, this map has {here:,}"
