"""``cafe evaluate``: a land-cover map against reference labels, block by block."""

import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from rasterio.enums import Resampling
from rasterio.io import DatasetReader
from rasterio.vrt import WarpedVRT

from cafe_cli.classes import NODATA, ClassTable
from cafe_cli.config.schema import LabelSettings
from cafe_cli.errors import BandError, InputError, LabelError
from cafe_cli.evaluation.metrics import Confusion, Scores, compute_scores
from cafe_cli.raster.grid import Grid, check_overlap
from cafe_cli.raster.reader import image_bands, open_raster, read_valid, read_window
from cafe_cli.raster.warp import open_warped, read_warped
from cafe_cli.raster.window import Window, blocks
from cafe_cli.raster.writer import read_classes
from cafe_cli.scenes.label_coding import decode

log = logging.getLogger("cafe")

_BLOCK = 1024  # pixels along each side of what is in memory at a time
_LISTED = 8  # values named in a message
_IDS = LabelSettings()
_TOO_MANY = 1000  # values without a class after which the rest is not worth counting


def evaluate(
    prediction: str,
    reference: str,
    *,
    classes: ClassTable | None = None,
    labels: LabelSettings = _IDS,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Scores:
    """Score a prediction against reference labels.

    Every labelled pixel of the reference counts once; the prediction is brought onto its grid by
    nearest neighbour. Where the prediction does not reach or has no class, the pixel counts as
    unpredicted.

    Parameters
    ----------
    prediction, reference : str
        Rasters: class ids, and whatever `labels` describes. Grids and CRS may differ.
    classes : ClassTable, optional
        Also says which values of the reference mean which class; that of the prediction if None.
    labels : LabelSettings
        How the reference codes the classes.
    progress : callable
        Called with blocks done and in total.

    Raises
    ------
    GridError
        No overlap, or a CRS on one side only.
    LabelError
        Values without a class on either side, differing class names, no class table, or no pixel
        that is both labelled and predicted.
    InputError
        A file that is missing, damaged or of the wrong kind.
    """
    with open_raster(prediction) as predicted, open_raster(reference) as truth:
        _check_prediction(predicted)
        table = _class_table(predicted, classes)
        bands = _reference_bands(truth, labels)
        check_overlap(prediction, Grid.of(predicted), reference, Grid.of(truth))
        with open_warped(predicted, Grid.of(truth), Resampling.nearest) as view:
            tally = _count(_Pair(prediction, view, truth, bands, table, labels), progress)
    _check_values(tally, reference, labels)
    _check_counts(tally.confusion, prediction, reference)
    return compute_scores(tally.confusion, table)


@dataclass(frozen=True)
class _Pair:
    """Prediction and reference on the reference's grid."""

    name: str  # of the prediction, for messages
    prediction: WarpedVRT
    reference: DatasetReader
    bands: tuple[int, ...]
    classes: ClassTable
    labels: LabelSettings


@dataclass
class _Tally:
    """What has been counted so far; `odd` as `unknown_values` of `Decoded`."""

    confusion: Confusion
    odd: Counter[int | str] = field(default_factory=Counter)


def _count(pair: _Pair, progress: Callable[[int, int], None]) -> _Tally:
    tally = _Tally(Confusion(len(pair.classes)))
    todo = list(blocks(pair.reference.width, pair.reference.height, _BLOCK))
    for done, window in enumerate(todo, start=1):
        raw = read_window(pair.reference, window, pair.bands)
        valid = read_valid(pair.reference, window, pair.bands)
        decoded = decode(raw, valid, pair.classes, pair.labels)
        tally.odd.update(decoded.unknown_values)
        tally.confusion.add(decoded.ids, _read_prediction(pair, window))
        progress(done, len(todo))
        if pair.labels.encoding == "ids" and len(tally.odd) > _TOO_MANY:
            break  # not labels at all, and an error in any case
    return tally


def _read_prediction(pair: _Pair, window: Window) -> NDArray[np.uint8]:
    values, valid = read_warped(pair.prediction, window)
    ids = np.where(valid, values[0], np.uint8(NODATA))
    unknown = ids[(ids >= len(pair.classes)) & (ids != NODATA)]
    if unknown.size:
        raise LabelError(
            f"{pair.name} holds the value {unknown[0]}, but its classes are 0 to "
            f"{len(pair.classes) - 1}; is it a map made with this class table?"
        )
    return ids


def _check_prediction(predicted: DatasetReader) -> None:
    if predicted.count != 1:
        raise BandError(
            f"{predicted.name} has {predicted.count} bands, a land-cover map has one; "
            "give the map first and the reference second"
        )
    if predicted.dtypes[0] != "uint8":
        raise InputError(
            f"{predicted.name} is {predicted.dtypes[0]}, a land-cover map is uint8; "
            "give the map first and the reference second"
        )


def _class_table(predicted: DatasetReader, given: ClassTable | None) -> ClassTable:
    stored = read_classes(predicted)
    table = given or stored
    if table is None:
        raise LabelError(
            f"{predicted.name} does not say what its values mean (it was not written by cafe); "
            "pass a config with [[classes]]"
        )
    if stored is not None and stored.names != table.names:
        raise LabelError(
            f"{predicted.name} has the classes {', '.join(stored.names)}, "
            f"the config has {', '.join(table.names)}; correct [[classes]]"
        )
    return table


def _reference_bands(truth: DatasetReader, labels: LabelSettings) -> tuple[int, ...]:
    """Return the bands to decode; the red of a picture must not pass for class ids."""
    bands = image_bands(truth, None)
    if labels.encoding == "ids" and len(bands) != 1:
        raise LabelError(
            f"{truth.name} has {len(bands)} bands, labels given as ids have one; "
            "if they are given as colours, set labels.encoding to 'colors'"
        )
    return bands


def _check_values(tally: _Tally, reference: str, labels: LabelSettings) -> None:
    """Refuse values without a class; colours have been given the nearest class."""
    if not tally.odd:
        return
    if labels.encoding == "colors":
        count = tally.odd.total()
        log.warning("%s: %d pixels took the class of the nearest colour", reference, count)
        return
    listed = [f"{value} ({count} pixels)" for value, count in tally.odd.most_common(_LISTED)]
    if len(tally.odd) > _LISTED:
        listed.append("and more")
    raise LabelError(
        f"{reference} holds values that no class has: {', '.join(listed)}; name them in the "
        "`values` of a class, or in labels.ignore (--ignore) if they are none"
    )


def _check_counts(confusion: Confusion, prediction: str, reference: str) -> None:
    """Refuse to score nothing."""
    if confusion.counts.any():
        return
    if confusion.unpredicted:
        raise LabelError(
            f"{prediction} has no class on any of the {confusion.unpredicted} labelled pixels of "
            f"{reference}; do they cover the same ground?"
        )
    raise LabelError(
        f"{reference} has no labelled pixel: all are nodata or in labels.ignore (--ignore)"
    )
