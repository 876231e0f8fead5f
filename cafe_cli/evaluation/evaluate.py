"""``cafe evaluate``: the accuracy of a land-cover map against reference labels."""

import logging
from collections import Counter
from dataclasses import dataclass

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
from cafe_cli.system.threads import ProgressCallback

log = logging.getLogger("cafe")

_BLOCK = 1024  # side in pixels of the blocks that are read
_LISTED = 8  # values named in a message
_IDS = LabelSettings()
_TOO_MANY = 1000  # distinct unknown values after which the reference cannot be labels


def evaluate(
    prediction: str,
    reference: str,
    *,
    classes: ClassTable | None = None,
    labels: LabelSettings = _IDS,
    progress: ProgressCallback = lambda done, total: None,
) -> Scores:
    """Score a prediction against reference labels.

    Every labelled pixel of the reference counts once; the prediction is resampled to the grid of
    the reference by nearest neighbour. A pixel beyond the prediction, or where it is nodata, counts
    as unpredicted.

    Parameters
    ----------
    prediction, reference : str
        Rasters, of class ids and of labels as `labels` describes them. Grids and CRS may differ.
    classes : ClassTable, optional
        Also maps the values of the reference to classes; by default the table that is stored in the
        prediction.
    labels : LabelSettings
        How the reference encodes the classes.
    progress : callable
        Called with the number of blocks done and of all.

    Raises
    ------
    GridError
        The rasters do not overlap, or only one has a CRS.
    LabelError
        A value of either raster belongs to no class, the names of the classes differ, there is no
        class table, or no pixel is both labelled and predicted.
    InputError
        A file is missing, damaged or of the wrong kind.
    """
    with open_raster(prediction) as predicted, open_raster(reference) as truth:
        _check_prediction(predicted)
        table = _class_table(predicted, classes)
        bands = _reference_bands(truth, labels)
        check_overlap(prediction, Grid.of(predicted), reference, Grid.of(truth))
        with open_warped(predicted, Grid.of(truth), Resampling.nearest) as view:
            maps = _AlignedMaps(prediction, view, truth, bands, table, labels)
            confusion, unknown = _count(maps, progress)
    _check_unknown(unknown, reference, labels)
    _check_counts(confusion, prediction, reference)
    return compute_scores(confusion, table)


@dataclass(frozen=True)
class _AlignedMaps:
    """Prediction and reference on the grid of the reference."""

    name: str  # name of the prediction in messages
    prediction: WarpedVRT
    reference: DatasetReader
    bands: tuple[int, ...]  # bands of the reference
    classes: ClassTable
    labels: LabelSettings


def _count(maps: _AlignedMaps, progress: ProgressCallback) -> tuple[Confusion, Counter[int | str]]:
    """Return the confusion matrix, and the pixels of each unknown value of the reference."""
    confusion, unknown = Confusion(len(maps.classes)), Counter[int | str]()
    windows = list(blocks(maps.reference.width, maps.reference.height, _BLOCK))
    for done, window in enumerate(windows, start=1):
        raw = read_window(maps.reference, window, maps.bands)
        valid = read_valid(maps.reference, window, maps.bands)
        decoded = decode(raw, valid, maps.classes, maps.labels)
        unknown.update(decoded.unknown_values)
        confusion.add(decoded.ids, _read_prediction(maps, window))
        progress(done, len(windows))
        if maps.labels.encoding == "ids" and len(unknown) > _TOO_MANY:
            break  # an error in any case: skip the rest
    return confusion, unknown


def _read_prediction(maps: _AlignedMaps, window: Window) -> NDArray[np.uint8]:
    values, valid = read_warped(maps.prediction, window)
    ids = np.where(valid, values[0], np.uint8(NODATA))
    unknown = ids[(ids >= len(maps.classes)) & (ids != NODATA)]
    if unknown.size:
        raise LabelError(
            f"{maps.name} holds the value {unknown[0]}, but its classes are 0 to "
            f"{len(maps.classes) - 1}; is it a map made with this class table?"
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
    """Return the bands to decode; the red band of an image must not be read as class ids."""
    bands = image_bands(truth, None)
    if labels.encoding == "ids" and len(bands) != 1:
        raise LabelError(
            f"{truth.name} has {len(bands)} bands, labels given as ids have one; "
            "if they are given as colours, set labels.encoding to 'colors'"
        )
    return bands


def _check_unknown(unknown: Counter[int | str], reference: str, labels: LabelSettings) -> None:
    """Refuse values without a class; warn of colours that were mapped to the nearest class."""
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


def _check_counts(confusion: Confusion, prediction: str, reference: str) -> None:
    """Refuse maps without a pixel that is both labelled and predicted."""
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
