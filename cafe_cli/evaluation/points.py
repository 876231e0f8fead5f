"""``cafe evaluate`` of maps at reference points, such as those of ``cafe sample``."""

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cafe_cli.classes import NODATA, ClassTable
from cafe_cli.config.schema import LabelSettings
from cafe_cli.errors import LabelError
from cafe_cli.evaluation.areas import Areas, areas_of
from cafe_cli.evaluation.design import Design, check_unmoved, find_design, find_difference
from cafe_cli.evaluation.frame import Fingerprint, survey
from cafe_cli.evaluation.land_cover_map import (
    LandCoverMap,
    class_table,
    inspect_map,
    refuse_hidden,
)
from cafe_cli.evaluation.left_out import leave_out
from cafe_cli.evaluation.point_scores import (
    PointScores,
    differences,
    score_points,
    score_sample,
)
from cafe_cli.evaluation.reference import blocks_of
from cafe_cli.evaluation.sample import REFERENCE
from cafe_cli.evaluation.stratified import Points, Strata
from cafe_cli.raster.window import Window
from cafe_cli.scenes.label_values import NONE, label_key, suggest_name, value_to_class
from cafe_cli.system.threads import ProgressCallback
from cafe_cli.text import did_you_mean, list_some
from cafe_cli.vector.features import AttributeValue
from cafe_cli.vector.layers import is_vector
from cafe_cli.vector.points import PointFeatures, holds_points, read_points

log = logging.getLogger("cafe")

_IDS = LabelSettings()


@dataclass(frozen=True)
class PointComparison:
    """The scores of maps at the same points.

    Attributes
    ----------
    maps : dict of PointScores
        By the name of the map, the first first.
    differences : dict
        How much the other maps score higher than the first; empty without a probability sample.
    """

    maps: dict[str, PointScores]
    differences: dict[str, Mapping[str, Any]]

    @property
    def first(self) -> PointScores:
        """The scores of the first map."""
        return next(iter(self.maps.values()))

    def areas(self) -> Areas:
        """Return the areas of the first map, with estimates.

        Raises
        ------
        LabelError
            The points are no probability sample.
        """
        estimates = self.first.estimates
        if estimates is None:
            raise LabelError(
                "the reference is not a probability sample, so it gives no areas: "
                f"{self.first.reason}; draw points with cafe sample, or give --areas without a "
                "reference to count pixels"
            )
        return estimates.areas()

    def as_json(self, with_kappa: bool = False) -> dict[str, Any]:
        """Return plain values: those of the first map, and ``compared``, a list of the others."""
        rows = {name: scores.as_json(with_kappa) for name, scores in self.maps.items()}
        first, *others = rows
        compared = [
            {"map": name, **rows[name], "difference": self.differences.get(name)} for name in others
        ]
        return {**rows[first], **({"compared": compared} if compared else {})}


def are_points(names: Sequence[str], labels: LabelSettings = _IDS) -> bool:
    """Whether a reference is one vector file of points."""
    return len(names) == 1 and is_vector(names[0]) and holds_points(names[0], labels.layer)


def evaluate_points(
    maps: Sequence[str],
    reference: str,
    *,
    classes: ClassTable | None = None,
    labels: LabelSettings = _IDS,
    ignored: Sequence[str] = (),
    crs: str | None = None,
    progress: ProgressCallback = lambda done, total: None,
) -> PointComparison:
    """Score maps at reference points: each has the class of the pixel that holds it.

    The class is in ``labels.attribute``, or else in the column ``reference`` or the only one.
    Points without a class are left out. If the points are a probability sample (see `find_design`)
    of one of the maps, scores and areas are estimated for the map, with intervals.

    Parameters
    ----------
    maps : sequence of str
        Each a raster of class ids, or sheets that are read as one. Several are compared with the
        first, at the points where all have a class.
    reference : str
        A vector file of points.
    classes : ClassTable, optional
        By default the table that is stored in the first map.
    labels : LabelSettings
        Which value of the attribute stands for which class.
    ignored : sequence of str
        Classes whose points are not scored; they have no part in means.
    crs : str, optional
        CRS of the rasters that have none.
    progress : callable
        Called with the number of blocks done and of all.

    Raises
    ------
    GridError
        Only maps or points have a CRS, or no point lies on a map.
    LabelError
        A value belongs to no class, no point has one, the points are a sample of none of the maps,
        or a stratum has no point with a class.
    InputError
        A file is missing, damaged or of the wrong kind.
    """
    opened = {name: inspect_map(name, crs) for name in dict.fromkeys(maps)}
    table = class_table(next(iter(opened.values())), classes)
    table, left_out = leave_out(table, ignored)
    for map_ in opened.values():
        class_table(map_, table)
    placed = {
        name: read_points(reference, map_.grid, labels.layer, name=map_.name)
        for name, map_ in opened.items()
    }
    features = next(iter(placed.values()))
    truth = _classify(features, table, labels)
    design = find_design(features)
    if isinstance(design, Design):
        _check_answers(design, truth)
    read = _read_maps(opened, placed, design, table, progress)
    shared = np.all([ids != NODATA for ids in read.predicted.values()], axis=0)
    scored = (truth != NODATA) & ~np.isin(truth, list(left_out))
    if not (scored & shared).any():
        raise LabelError(
            f"no point of {reference} has a class both of its own and in {' and '.join(opened)}: "
            "do they cover the same ground?"
        )
    if len(opened) > 1:
        scored &= shared
    return _score(read, truth, scored, design, table)


@dataclass
class _Reading:
    """Maps at the points, and what is known of the one that was sampled.

    Attributes
    ----------
    predicted : dict of ndarray of uint8, (n,)
        Class ids by map.
    mapped : dict of Areas
        Empty if the points are no probability sample.
    strata : Strata or None
        None if the points are no probability sample.
    """

    predicted: dict[str, NDArray[np.uint8]] = field(default_factory=dict)
    mapped: dict[str, Areas] = field(default_factory=dict)
    strata: Strata | None = None


def _read_maps(
    maps: Mapping[str, LandCoverMap],
    placed: Mapping[str, PointFeatures],
    design: Design | str,
    classes: ClassTable,
    progress: ProgressCallback,
) -> _Reading:
    """Read the classes at the points, and whole maps where the points are a sample of one."""
    read, unlike = _Reading(), list[str]()
    for name, map_ in maps.items():
        picker = _Picker(placed[name].pixels)
        if isinstance(design, str):
            picker.read(map_, classes, progress)
        else:
            fingerprint = Fingerprint(map_.grid)
            frame = survey(map_, classes, (picker.visit, fingerprint.visit), progress)
            read.mapped[name] = areas_of(frame, classes)
            difference = find_difference(design, frame, fingerprint.text, classes)
            if difference:
                unlike.append(f"{design.path} is not a sample of {name}: {difference}")
            elif read.strata is None:
                check_unmoved(design, picker.ids, classes)
                read.strata = design.strata(frame, classes)
        read.predicted[name] = picker.ids
    if isinstance(design, Design) and read.strata is None:
        raise LabelError(
            f"{unlike[0]}; areas and intervals hold for the map that was sampled: score that one, "
            "and others by the same points with --compare"
        )
    return read


class _Picker:
    """Takes the class ids of a map at pixels, (n, 2), from windows that are read one by one."""

    def __init__(self, pixels: NDArray[np.int64]) -> None:
        self._columns, self._rows = pixels.T
        self.ids = np.full(len(pixels), NODATA, np.uint8)

    def visit(self, window: Window, ids: NDArray[np.uint8]) -> None:
        """Take the pixels of a window."""
        here = self._inside(window)
        self.ids[here] = ids[self._rows[here] - window.row, self._columns[here] - window.col]

    def read(self, map_: LandCoverMap, classes: ClassTable, progress: ProgressCallback) -> None:
        """Read the windows of a map that hold points."""
        windows = [w for w in blocks_of(map_.members, map_.grid) if self._inside(w).any()]
        hidden = np.full(len(self.ids), NODATA, np.uint8)
        with map_.open(map_.grid, classes) as reader:
            for done, window in enumerate(windows, start=1):
                found, here = reader.read(window), self._inside(window)
                self.visit(window, found.ids)
                hidden[here] = found.hidden[
                    self._rows[here] - window.row, self._columns[here] - window.col
                ]
                progress(done, len(windows))
        counts = np.bincount(hidden, minlength=NODATA + 1)[: len(classes)].astype(np.int64)
        refuse_hidden(map_, classes, counts)

    def _inside(self, window: Window) -> NDArray[np.bool_]:
        left, top, right, bottom = window.bounds
        inside: NDArray[np.bool_] = (
            (self._columns >= left)
            & (self._columns < right)
            & (self._rows >= top)
            & (self._rows < bottom)
        )
        return inside


def _classify(
    features: PointFeatures, classes: ClassTable, labels: LabelSettings
) -> NDArray[np.uint8]:
    """Return the reference class of each point, (n,); 255 where it has none."""
    known = value_to_class(classes, labels)
    values = [label_key(value) for value in _reference_column(features, labels)]
    found = [NODATA if value == NONE else known.find(value) for value in values]
    unknown = Counter(value for value, i in zip(values, found, strict=True) if i is None)
    if unknown:
        listed = [f"{value} ({count} points)" for value, count in unknown.most_common()]
        raise LabelError(
            f"{features.path} has values that no class has: {list_some(listed)}"
            f"{suggest_name(unknown, classes)}; name them in the `values` of a class, or in "
            "labels.ignore (--ignore) if they are none"
        )
    return np.array(found, np.uint8)


def _reference_column(features: PointFeatures, labels: LabelSettings) -> list[AttributeValue]:
    columns, wanted = features.columns, labels.attribute
    if wanted is None:
        wanted = REFERENCE if REFERENCE in columns or len(columns) != 1 else next(iter(columns))
    if wanted in columns:
        return columns[wanted]
    raise LabelError(
        f"{features.path} has no attribute {wanted!r}; {did_you_mean(wanted, columns)}"
        f" it has: {', '.join(columns) or 'no attributes'}; set labels.attribute to the one that "
        "holds the class"
    )


def _check_answers(design: Design, truth: NDArray[np.uint8]) -> None:
    """Refuse strata without any answer; say which points are missing, and what is unknown."""
    answered = np.bincount(design.stratum[truth != NODATA], minlength=len(design.names))
    if empty := [n for n, count in zip(design.names, answered, strict=True) if not count]:
        raise LabelError(
            f"{design.path}: no point of {list_some(empty)} has a reference class, so nothing is "
            "known about that ground; fill in the column, or draw a sample without this stratum"
        )
    if alone := [n for n, count in zip(design.names, answered, strict=True) if count == 1]:
        log.warning(
            "%s: %s has only one point, too few for an interval; sample at least two of each",
            design.path, list_some(alone),
        )  # fmt: skip


def _score(
    read: _Reading,
    truth: NDArray[np.uint8],
    scored: NDArray[np.bool_],
    design: Design | str,
    classes: ClassTable,
) -> PointComparison:
    known = truth != NODATA
    unanswered = int((~known).sum())
    if isinstance(design, str) or read.strata is None:
        return PointComparison(
            {
                name: score_points(truth, ids, scored, classes, str(design), unanswered)
                for name, ids in read.predicted.items()
            },
            {},
        )
    points = Points(read.strata, design.stratum[known], truth[known])
    found = {
        name: score_sample(
            points, ids[known], scored[known], classes, read.mapped[name], unanswered
        )
        for name, ids in read.predicted.items()
    }
    (_, first), *others = found.values()
    return PointComparison(
        {name: scores for name, (scores, _) in found.items()},
        {
            name: differences(points, first, other, classes)
            for name, (_, other) in zip(list(found)[1:], others, strict=True)
        },
    )
