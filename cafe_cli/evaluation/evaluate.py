"""``cafe evaluate``: the accuracy of a land-cover map against reference labels."""

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from cafe_cli.classes import ClassTable
from cafe_cli.config.schema import LabelSettings
from cafe_cli.errors import LabelError
from cafe_cli.evaluation.counting import (
    Compared,
    Comparison,
    CountSettings,
    block_side,
    compare_all,
)
from cafe_cli.evaluation.detail import DetailedScores, describe, describe_difference
from cafe_cli.evaluation.land_cover_map import (
    LandCoverMap,
    class_table,
    inspect_map,
    refuse_hidden,
)
from cafe_cli.evaluation.left_out import leave_out
from cafe_cli.evaluation.metrics import Scores
from cafe_cli.evaluation.reference import Reference, inspect_reference
from cafe_cli.scenes.discovery import expand_inputs
from cafe_cli.scenes.label_coding import explain_nodata
from cafe_cli.system.batches import Executor, run_in_threads
from cafe_cli.system.threads import ProgressCallback

log = logging.getLogger("cafe")

_LISTED = 8  # values named in a message
_IDS = LabelSettings()
_PLAIN = CountSettings()


def evaluate(
    prediction: str | Sequence[str],
    reference: str | Sequence[str],
    *,
    classes: ClassTable | None = None,
    labels: LabelSettings = _IDS,
    crs: str | None = None,
    progress: ProgressCallback = lambda done, total: None,
) -> Scores:
    """Score a prediction against reference labels.

    Every labelled pixel of the reference counts once; the prediction is resampled to the grid of
    the reference by nearest neighbour. Vector labels have the grid of the prediction. A pixel
    beyond the prediction, or where it is nodata, counts as unpredicted.

    Parameters
    ----------
    prediction : str or sequence of str
        Rasters of class ids: files, folders, globs and @lists, which are read as one map. Grids and
        CRS may differ.
    reference : str or sequence of str
        Labels as `labels` describes them, rasters or vector files, named in the same ways.
    classes : ClassTable, optional
        Also maps the values of the reference to classes; by default the table that is stored in the
        prediction.
    labels : LabelSettings
        How the reference encodes the classes.
    crs : str, optional
        CRS of the rasters that have none.
    progress : callable
        Called with the number of blocks done and of all.

    Raises
    ------
    GridError
        The files do not overlap, or only one has a CRS.
    LabelError
        A value belongs to no class, the names of the classes differ, there is no class table, the
        prediction declares a class as nodata, or no pixel is both labelled and predicted.
    InputError
        A file is missing, damaged or of the wrong kind.
    """
    found = evaluate_in_detail(
        [prediction], reference, classes=classes, labels=labels, crs=crs, progress=progress
    )
    return found.first.scores


@dataclass(frozen=True)
class RasterComparison:
    """The scores of maps against the same reference.

    Attributes
    ----------
    maps : dict of DetailedScores
        By the name of the map, the first first.
    differences : dict
        How much the other maps score higher than the first.
    """

    maps: dict[str, DetailedScores]
    differences: dict[str, Mapping[str, Any]]

    @property
    def first(self) -> DetailedScores:
        """The scores of the first map."""
        return next(iter(self.maps.values()))

    def as_json(self, with_kappa: bool = False) -> dict[str, Any]:
        """Return plain values: those of the first map, and ``compared``, a list of the others."""
        rows = {name: scores.as_json(with_kappa) for name, scores in self.maps.items()}
        first, *others = rows
        compared = [
            {"map": name, **rows[name], "difference": self.differences[name]} for name in others
        ]
        return {**rows[first], **({"compared": compared} if compared else {})}


def evaluate_in_detail(
    maps: Sequence[str | Sequence[str]],
    reference: str | Sequence[str],
    *,
    classes: ClassTable | None = None,
    labels: LabelSettings = _IDS,
    ignored: Sequence[str] = (),
    settings: CountSettings = _PLAIN,
    crs: str | None = None,
    progress: ProgressCallback = lambda done, total: None,
    run: Executor = run_in_threads,
) -> RasterComparison:
    """Score maps against reference labels, with intervals, and by groups.

    Parameters
    ----------
    maps : sequence
        Each as `evaluate` takes one. Several are compared with the first, on the pixels where all
        have a class.
    reference : str or sequence of str
        See `evaluate`.
    classes : ClassTable, optional
        Also maps the values of the references to classes; by default the table that is stored in
        the first map.
    labels : LabelSettings
        How the references encode the classes.
    ignored : sequence of str
        Classes whose reference pixels are not scored; they have no part in means.
    settings : CountSettings
        Groups by distance and height, and the blocks of the bootstrap.
    crs : str, optional
        CRS of the rasters that have none.
    progress : callable
        Called with the number of blocks done and of all.
    run : Executor
        Runs the counting; by default in this process. It does not change the scores.

    Raises
    ------
    ConfigError
        A class that is to be ignored is not in the table.
    GridError, LabelError, InputError
        See `evaluate`.
    """
    opened = {_name(one): inspect_map(one, crs) for one in maps}
    table, left_out = leave_out(class_table(next(iter(opened.values())), classes), ignored)
    for map_ in opened.values():
        class_table(map_, table)
    first = next(iter(opened.values()))
    paths = expand_inputs([reference] if isinstance(reference, str) else reference)
    truth = inspect_reference(paths, first, table, labels, crs)
    settings = replace(settings, ignored=left_out)
    run.check([*(m.path for map_ in opened.values() for m in map_.members), *paths])
    compared = [Compared(list(opened.values()), truth)]
    (found,) = compare_all(compared, table, labels, settings, progress, run)
    for map_, one in zip(opened.values(), found, strict=True):
        check_comparison(one, map_, truth, table, labels)
    if not found[0].confusion.counts.any():
        raise LabelError(_explain_nothing(truth.name, settings))
    side = settings.block or block_side(truth)
    return RasterComparison(
        {
            name: describe([one], side, table, settings)
            for name, one in zip(opened, found, strict=True)
        },
        {
            name: describe_difference([found[0]], [one], table)
            for name, one in list(zip(opened, found, strict=True))[1:]
        },
    )


def _name(names: str | Sequence[str]) -> str:
    return names if isinstance(names, str) else " ".join(names)


def _explain_nothing(reference: str, settings: CountSettings) -> str:
    if settings.erode or settings.ignored:
        return (
            f"{reference} has no labelled pixel left: all are nodata, of a class that is left out "
            f"(--ignore-class), or within {settings.erode:g} pixels of another class (--erode)"
        )
    return f"{reference} has no labelled pixel: all are nodata or in labels.ignore (--ignore)"


def check_comparison(
    found: Comparison,
    map_: LandCoverMap,
    reference: Reference,
    classes: ClassTable,
    labels: LabelSettings,
) -> None:
    """Refuse what makes scores wrong; warn of labels that may be meant otherwise.

    Raises
    ------
    LabelError
        The reference has values without a class, or no labelled pixel of it has a prediction.
    """
    _check_unknown(found.tally.unknown, reference.name, labels)
    for message in explain_nodata(found.tally, classes, labels):
        log.warning("%s: %s", reference.name, message)
    refuse_hidden(map_, classes, found.hidden)
    unpredicted = found.confusion.unpredicted
    if unpredicted and not found.confusion.counts.any():
        raise LabelError(
            f"{map_.name} has no class on any of the {unpredicted} labelled pixels of "
            f"{reference.name}; do they cover the same ground?"
        )


def _check_unknown(unknown: Counter[int | str], reference: str, labels: LabelSettings) -> None:
    if not unknown:
        return
    if labels.encoding == "colors":
        count = unknown.total()
        log.warning("%s: %d pixels took the class of the nearest colour", reference, count)
        return
    listed = [f"{value} ({count} pixels)" for value, count in unknown.most_common(_LISTED)]
    if len(unknown) > _LISTED:
        listed.append("and more")
    raise LabelError(
        f"{reference} holds values that no class has: {', '.join(listed)}; name them in the "
        "`values` of a class, or in labels.ignore (--ignore) if they are none"
    )
