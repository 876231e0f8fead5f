"""The confusion matrix of a land-cover map, and the scores derived from it."""

import math
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import BeforeValidator, TypeAdapter, ValidationError

from cafe_cli.classes import NODATA, ClassTable
from cafe_cli.errors import LabelError

_VALUES = NODATA + 1  # of a raster of class ids

_Score = Annotated[float, BeforeValidator(lambda value: math.nan if value is None else value)]
"""A float whose JSON form is null where it is NaN."""


class Confusion:
    """Counts how many pixels of each reference class were given each class.

    Parameters
    ----------
    classes : int
        How many classes there are; their ids run from 0.

    Attributes
    ----------
    counts : ndarray of int64, (classes, classes)
        Pixels; rows are the reference, columns the prediction.
    unpredicted : int
        Pixels whose reference is known and whose prediction is 255. They are in no score.
    """

    def __init__(self, classes: int) -> None:
        self.counts: NDArray[np.int64] = np.zeros((classes, classes), np.int64)
        self.unpredicted = 0

    @classmethod
    def of(cls, counts: NDArray[np.int64], unpredicted: int = 0) -> "Confusion":
        """Return the matrix with these counts, e.g. summed over processes."""
        confusion = cls(len(counts))
        confusion.counts += counts
        confusion.unpredicted = unpredicted
        return confusion

    def add(self, reference: NDArray[np.integer], prediction: NDArray[np.integer]) -> None:
        """Count two arrays of class ids of one shape; where the reference is 255 nothing counts.

        Raises
        ------
        LabelError
            A value that is neither a class nor 255; nothing has been counted then.
        ValueError
            The shapes differ.
        """
        if reference.shape != prediction.shape:
            raise ValueError(f"shapes differ: {reference.shape} and {prediction.shape}")
        classes = len(self.counts)
        first, second = (_check_values(a, classes).ravel() for a in (reference, prediction))
        # Every pair of values is one number: one pass counts them all.
        pairs = first.astype(np.intp) * _VALUES + second
        joint = np.bincount(pairs, minlength=_VALUES**2).reshape(_VALUES, _VALUES)
        self.counts += joint[:classes, :classes]
        self.unpredicted += int(joint[:classes, NODATA].sum())

    def __add__(self, other: "Confusion") -> "Confusion":
        """Return the counts of both together."""
        return Confusion.of(self.counts + other.counts, self.unpredicted + other.unpredicted)


@dataclass(frozen=True)
class ClassScores:
    """Scores of one class, 0 to 1; NaN where nothing can be said.

    Attributes
    ----------
    iou : float
        Intersection over union; NaN for a class that is neither in reference nor in prediction.
    f1 : float
        Harmonic mean of precision and recall; NaN like `iou`.
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
        Means over the classes with `scored` that occur in the reference or in the prediction; a
        class in neither has no score and is left out. NaN where no such class is left.
    overall_accuracy : float
        Share of right pixels, over all classes; NaN without pixels.
    pixels, unpredicted : int
        Pixels with a reference: those that have a prediction, those that have none.
    classes : dict
        Class name to its scores, in the order of the ids.
    confusion : tuple of tuples of int
        Pixels, a row per reference class.
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
    """Derive all scores from a confusion matrix.

    Raises
    ------
    ValueError
        The matrix is not one of these classes.
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


def _check_values(labels: NDArray[np.integer], classes: int) -> NDArray[np.integer]:
    """Refuse what is neither a class nor 255: it would be counted as some other pair."""
    strange = (labels < 0) | ((labels >= classes) & (labels != NODATA))
    if strange.any():
        raise LabelError(
            f"{int(strange.sum())} pixels are neither a class, 0 to {classes - 1}, nor {NODATA}: "
            f"the first has the value {int(labels[strange][0])}; check the class table"
        )
    return labels


def _ratio(part: NDArray[np.int64], whole: NDArray[np.int64]) -> NDArray[np.float64]:
    """Divide; NaN where `whole` is 0."""
    return np.divide(part, np.where(whole == 0, np.nan, whole))


def _mean(values: NDArray[np.float64]) -> float:
    """Mean of what is not NaN, NaN if nothing is."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else math.nan


def _or_none(value: float) -> float | None:
    return None if math.isnan(value) else value
