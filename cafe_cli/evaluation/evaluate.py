"""``cafe evaluate``: the accuracy of a land-cover map against reference labels."""

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from cafe_cli.classes import NODATA, ClassTable
from cafe_cli.config.schema import LabelSettings
from cafe_cli.errors import LabelError
from cafe_cli.evaluation.land_cover_map import (
    LandCoverMap,
    class_table,
    inspect_map,
    refuse_hidden,
)
from cafe_cli.evaluation.metrics import Confusion, Scores, compute_scores
from cafe_cli.evaluation.reference import Reference, inspect_reference
from cafe_cli.scenes.discovery import expand_inputs
from cafe_cli.scenes.label_coding import LabelTally, explain_nodata
from cafe_cli.system.threads import ProgressCallback

log = logging.getLogger("cafe")

_LISTED = 8  # values named in a message
_IDS = LabelSettings()
_TOO_MANY = 1000  # distinct unknown values after which the reference cannot be labels


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
    map_ = inspect_map(prediction, crs)
    table = class_table(map_, classes)
    paths = expand_inputs([reference] if isinstance(reference, str) else reference)
    truth = inspect_reference(paths, map_, table, labels, crs)
    found = compare(map_, truth, table, labels, progress)
    check_comparison(found, map_, truth, table, labels)
    if not found.confusion.counts.any():
        raise LabelError(
            f"{truth.name} has no labelled pixel: all are nodata or in labels.ignore (--ignore)"
        )
    return compute_scores(found.confusion, table)


@dataclass
class Comparison:
    """What a map and a reference hold on the same pixels.

    Attributes
    ----------
    confusion : Confusion
    hidden : ndarray of int64, (K,)
        Labelled pixels per class that the map declares as nodata, see `MapWindow.hidden`.
    tally : LabelTally
        Pixels of the reference by value, or colour, that need a word.
    """

    confusion: Confusion
    hidden: NDArray[np.int64]
    tally: LabelTally = field(default_factory=LabelTally)


def compare(
    map_: LandCoverMap,
    reference: Reference,
    classes: ClassTable,
    labels: LabelSettings,
    progress: ProgressCallback = lambda done, total: None,
) -> Comparison:
    """Count the pixels of a map and a reference, block by block."""
    found = Comparison(Confusion(len(classes)), np.zeros(len(classes), np.int64))
    with (
        reference.opened() as read_labels,
        map_.open(reference.grid, classes) as reader,
    ):
        for done, window in enumerate(reference.windows, start=1):
            decoded = read_labels(window)
            found.tally.add(decoded.tally)
            if (decoded.ids != NODATA).any():
                predicted = reader.read(window)
                found.confusion.add(decoded.ids, predicted.ids)
                hidden = predicted.hidden[decoded.ids != NODATA]
                found.hidden += np.bincount(hidden, minlength=NODATA + 1)[: len(classes)]
            progress(done, len(reference.windows))
            if labels.encoding == "ids" and len(found.tally.unknown) > _TOO_MANY:
                break  # an error in any case: skip the rest
    return found


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
