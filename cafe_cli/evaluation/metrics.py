"""The confusion matrix of a land-cover map, and the scores derived from it."""

import math
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import BeforeValidator, TypeAdapter, ValidationError

from cafe_cli.classes import NODATA, ClassTable
from cafe_cli.errors import LabelError

_VALUES = NODATA + 1  # values of a raster of class ids

_Score = Annotated[float, BeforeValidator(lambda value: math.nan if value is None else value)]
"""A float whose JSON form is null if it is NaN."""


class Confusion:
    """Confusion matrix: pixels by class of the reference and class of the prediction.

    Parameters
    ----------
    classes : int
        Number of classes; their ids start at 0.

    Attributes
    ----------
    counts : ndarray of int64, (classes, classes)
        Pixels; rows are the reference, columns the prediction.
    unpredicted : int
        Labelled pixels whose prediction is 255. No score counts them.
    """

    def __init__(self, classes: int) -> None:
        self.counts: NDArray[np.int64] = np.zeros((classes, classes), np.int64)
        self.unpredicted = 0

    @classmethod
    def of(cls, counts: NDArray[np.int64], unpredicted: int = 0) -> "Confusion":
        """Return a matrix with given counts, for example summed over processes."""
        confusion = cls(len(counts))
        confusion.counts += counts
        confusion.unpredicted = unpredicted
        return confusion

    def add(self, reference: NDArray[np.integer], prediction: NDArray[np.integer]) -> None:
        """Count two arrays of class ids; pixels whose reference is 255 are left out.

        Raises
        ------
        LabelError
            A value is neither a class nor 255; nothing is counted then.
        ValueError
            The shapes differ.
        """
        if reference.shape != prediction.shape:
            raise ValueError(f"shapes differ: {reference.shape} and {prediction.shape}")
        classes = len(self.counts)
        rows, columns = (_check_ids(a, classes).ravel() for a in (reference, prediction))
        # A pair of values is one index into the flat matrix, so that one pass counts all pairs.
        pairs = rows.astype(np.intp) * _VALUES + columns
        joint = np.bincount(pairs, minlength=_VALUES**2).reshape(_VALUES, _VALUES)
        self.counts += joint[:classes, :classes]
        self.unpredicted += int(joint[:classes, NODATA].sum())

    def __add__(self, other: "Confusion") -> "Confusion":
        """Return the sum of two matrices."""
        return Confusion.of(self.counts + other.counts, self.unpredicted + other.unpredicted)


@dataclass(frozen=True)
class ClassScores:
    """Scores of one class, 0 to 1; NaN where a score is undefined.

    Attributes
    ----------
    iou : float
        Intersection over union; NaN for a class in neither reference nor prediction.
    f1 : float
        Harmonic mean of precision and recall; NaN where `iou` is.
    precision : float
        User's accuracy, 1 - commission error; NaN for a class that was never predicted.
    recall : float
        Producer's accuracy, 1 - omission error; NaN for a class that the reference lacks.
    pixels : int
        Support: pixels of the class in the reference that have a prediction.
    """

    iou: _Score
    f1: _Score
    precision: _Score
    recall: _Score
    pixels: int


@dataclass(frozen=True)
class Scores:
    """Scores of a prediction.

    Attributes
    ----------
    miou, mean_f1 : float
        Means over the classes with `LandClass.scored` that occur in the reference or the
        prediction; NaN if there is none.
    overall_accuracy : float
        Share of correctly predicted pixels, over all classes; NaN without pixels.
    pixels, unpredicted : int
        Labelled pixels with and without a prediction.
    classes : dict
        Scores by class name, in the order of the ids.
    confusion : tuple of tuples of int
        Pixels; rows are the reference, columns the prediction.
    """

    miou: _Score
    mean_f1: _Score
    overall_accuracy: _Score
    pixels: int
    unpredicted: int
    classes: dict[str, ClassScores]
    confusion: tuple[tuple[int, ...], ...]

    def as_json(self) -> dict[str, object]:
        """Return plain values, as in ``scores.json``; NaN becomes None."""
        return {
            "miou": _or_none(self.miou),
            "mean_f1": _or_none(self.mean_f1),
            "overall_accuracy": _or_none(self.overall_accuracy),
            "pixels": self.pixels,
            "unpredicted": self.unpredicted,
            "classes": {
                name: {key: _or_none(value) for key, value in vars(row).items()}
                for name, row in self.classes.items()
            },
            "confusion": [list(row) for row in self.confusion],
        }

    @classmethod
    def from_json(cls, values: object) -> "Scores":
        """Return the scores that `as_json` made these values of; None becomes NaN.

        Raises
        ------
        ValueError
            A value is missing or of the wrong type, or the matrix does not fit the classes.
        """
        try:
            found = _FROM_JSON.validate_python(values)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"])) or "scores"
            raise ValueError(f"{where}: {first['msg']}") from error
        classes = len(found.classes)
        if [len(row) for row in found.confusion] != [classes] * classes:
            raise ValueError(f"confusion: not a square matrix of {classes} classes")
        return found


_FROM_JSON = TypeAdapter(Scores)


def compute_scores(confusion: Confusion, classes: ClassTable) -> Scores:
    """Compute all scores from a confusion matrix.

    Raises
    ------
    ValueError
        The matrix has another number of classes.
    """
    counts = confusion.counts
    if counts.shape != (len(classes), len(classes)):
        raise ValueError(f"confusion matrix of shape {counts.shape} for {len(classes)} classes")
    right, reference, predicted = np.diagonal(counts), counts.sum(axis=1), counts.sum(axis=0)
    iou = _ratio(right, reference + predicted - right)
    f1 = _ratio(2 * right, reference + predicted)
    columns = [iou, f1, _ratio(right, predicted), _ratio(right, reference)]
    rows = zip(*(column.tolist() for column in columns), reference.tolist(), strict=True)
    return Scores(
        miou=_mean(iou[classes.scored]),
        mean_f1=_mean(f1[classes.scored]),
        overall_accuracy=float(_ratio(right.sum(), counts.sum())),
        pixels=int(counts.sum()),
        unpredicted=confusion.unpredicted,
        classes={name: ClassScores(*row) for name, row in zip(classes.names, rows, strict=True)},
        confusion=tuple(tuple(row) for row in counts.tolist()),
    )


def kappa(counts: NDArray[np.int64]) -> float:
    """Return Cohen's kappa of a confusion matrix; NaN where it is undefined."""
    total = float(counts.sum())
    if not total:
        return math.nan
    agreed = float(np.trace(counts)) / total
    chance = float(counts.sum(axis=0) @ counts.sum(axis=1)) / total**2
    return (agreed - chance) / (1 - chance) if chance < 1 else math.nan


def _check_ids(ids: NDArray[np.integer], classes: int) -> NDArray[np.integer]:
    """Refuse ids that are neither a class nor 255: they would count as another pair."""
    unknown = (ids < 0) | ((ids >= classes) & (ids != NODATA))
    if unknown.any():
        raise LabelError(
            f"{int(unknown.sum())} pixels are neither a class, 0 to {classes - 1}, nor {NODATA}: "
            f"the first has the value {int(ids[unknown][0])}; check the class table"
        )
    return ids


def _ratio(part: NDArray[np.int64], whole: NDArray[np.int64]) -> NDArray[np.float64]:
    """Divide; NaN where `whole` is 0."""
    return np.divide(part, np.where(whole == 0, np.nan, whole))


def _mean(values: NDArray[np.float64]) -> float:
    """Return the mean of the values that are not NaN; NaN if all are."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else math.nan


def _or_none(value: float) -> float | None:
    return None if math.isnan(value) else value
