import numpy as np
import pytest

from cafe_cli.classes import ClassTable, LandClass
from cafe_cli.evaluation.metrics import Confusion, compute_scores
from cafe_cli.pages.tables import by_class, confusion
from tests.support.rasters import TABLE

COUNTS = np.array([[6, 2, 0], [1, 3, 0], [0, 0, 0]])
SCORES = compute_scores(Confusion.of(COUNTS), TABLE)


def texts(row):
    return [cell if isinstance(cell, str) else cell.text + cell.note for cell in row]


def test_scores_with_intervals():
    limits = {"ground": {"iou": (0.5, 0.75)}, "tree": {"iou": (float("nan"),) * 2}}
    table = by_class(SCORES, TABLE, limits | {"mean": {"iou": (0.25, 0.9)}}, "points")
    ground, tree, building, mean = map(texts, table.rows)
    assert ground == ["ground", "0.667 (0.50 to 0.75)", "0.800", "0.857", "0.750", "8"]
    assert tree[1] == "0.500"
    assert building[1:] == ["-", "-", "-", "-", "0"]
    assert mean[:2] == ["mean", "0.583 (0.25 to 0.90)"]
    assert table.columns[-1] == "points"
    assert "95 %" in table.explanation
    assert "95 %" not in by_class(SCORES, TABLE).explanation


def test_a_matrix_of_counts():
    ground, tree, building, users, totals = map(texts, confusion(SCORES, TABLE).rows)
    assert ground == ["ground", "75.0 %6", "25.0 %2", "0.0 %0", "75.0 %", "8"]
    assert tree[1:3] == ["25.0 %1", "75.0 %3"]
    assert building[1:] == ["-0", "-0", "-0", "-", "0"]
    assert users == ["user's accuracy", "85.7 %", "60.0 %", "-", "75.0 %", ""]
    assert totals == ["pixels predicted", "7", "5", "0", "", "12"]


def test_a_matrix_of_estimates():
    """The points of a stratum stand for its share of the map, not for their number."""
    shares = [[0.2, 0.1, 0.0], [0.1, 0.6, 0.0], [0.0, 0.0, 0.0]]
    ground, tree, _, users, totals = map(texts, confusion(SCORES, TABLE, "points", shares).rows)
    assert ground[1:] == ["66.7 %6", "33.3 %2", "0.0 %0", "66.7 %", "8"]
    assert tree[2] == "85.7 %3"
    assert users == ["user's accuracy", "66.7 %", "85.7 %", "-", "80.0 %", ""]
    assert totals == ["points predicted", "7", "5", "0", "", "12"]


@pytest.mark.parametrize(("classes", "rows"), [(32, 34), (33, 1)])
def test_many_classes_are_a_list_of_mistakes(classes, rows):
    table = ClassTable(tuple(LandClass(i, f"class {i}") for i in range(classes)))
    counts = np.eye(classes, dtype=np.int64) * 10
    counts[3, 7] = 500
    found = confusion(compute_scores(Confusion.of(counts), table), table)
    assert len(found.rows) == rows
