import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cafe_cli.classes import ClassTable, LandClass
from cafe_cli.errors import LabelError
from cafe_cli.evaluation.metrics import ClassScores, Confusion, Scores, compute_scores

LABELS = st.sampled_from([0, 1, 2, 255])


def table(*names: str, unscored: str = "") -> ClassTable:
    return ClassTable(tuple(LandClass(i, n, scored=n != unscored) for i, n in enumerate(names)))


def counted(reference: list[int], prediction: list[int], classes: int = 3) -> Confusion:
    confusion = Confusion(classes)
    confusion.add(np.array(reference, np.uint8), np.array(prediction, np.uint8))
    return confusion


def test_counts_have_a_row_per_reference_class():
    confusion = counted([0, 0, 0, 1, 1, 2], [0, 0, 1, 1, 2, 2])
    assert confusion.counts.tolist() == [[2, 1, 0], [0, 1, 1], [0, 0, 1]]
    assert confusion.counts.dtype == np.int64
    assert confusion.unpredicted == 0


def test_scores_by_hand():
    result = compute_scores(counted([0, 0, 0, 1, 1, 2], [0, 0, 1, 1, 2, 2]), table("a", "b", "c"))
    assert result.classes == {
        "a": ClassScores(iou=2 / 3, f1=4 / 5, precision=1.0, recall=2 / 3, pixels=3),
        "b": ClassScores(iou=1 / 3, f1=1 / 2, precision=1 / 2, recall=1 / 2, pixels=2),
        "c": ClassScores(iou=1 / 2, f1=2 / 3, precision=1 / 2, recall=1.0, pixels=1),
    }
    assert result.miou == pytest.approx((2 / 3 + 1 / 3 + 1 / 2) / 3)
    assert result.mean_f1 == pytest.approx((4 / 5 + 1 / 2 + 2 / 3) / 3)
    assert result.overall_accuracy == pytest.approx(4 / 6)
    assert (result.pixels, result.unpredicted) == (6, 0)
    assert result.confusion == ((2, 1, 0), (0, 1, 1), (0, 0, 1))


def test_scores_agree_with_counting_pixel_by_pixel():
    rng = np.random.default_rng(1)
    values = np.array([0, 1, 2, 3, 4, 255], np.uint8)
    reference, prediction = values[rng.integers(0, 6, (2, 37, 53))]
    confusion = Confusion(5)
    confusion.add(reference, prediction)
    result = compute_scores(confusion, table(*"abcde"))
    pairs = [
        (r, p)
        for r, p in zip(reference.ravel().tolist(), prediction.ravel().tolist(), strict=True)
        if r != 255
    ]
    seen = [(r, p) for r, p in pairs if p != 255]
    assert result.unpredicted == len(pairs) - len(seen)
    assert result.pixels == len(seen)
    assert result.overall_accuracy == pytest.approx(sum(r == p for r, p in seen) / len(seen))
    for k, row in enumerate(result.classes.values()):
        both = sum(r == k and p == k for r, p in seen)
        either = sum(r == k or p == k for r, p in seen)
        in_reference = sum(r == k for r, _ in seen)
        in_prediction = sum(p == k for _, p in seen)
        assert row.iou == pytest.approx(both / either)
        assert row.precision == pytest.approx(both / in_prediction)
        assert row.recall == pytest.approx(both / in_reference)
        assert row.f1 == pytest.approx(
            2 * row.precision * row.recall / (row.precision + row.recall)
        )
        assert row.pixels == in_reference


def test_unlabelled_pixels_do_not_count_and_unpredicted_ones_are_counted_apart():
    confusion = counted([255, 255, 0, 1, 1], [0, 255, 255, 255, 1])
    assert confusion.counts.sum() == 1
    assert confusion.unpredicted == 2
    result = compute_scores(confusion, table("a", "b", "c"))
    assert result.overall_accuracy == 1.0
    assert result.pixels == 1
    assert result.unpredicted == 2
    assert result.classes["a"].pixels == 0


def test_a_class_in_neither_has_no_score_and_is_left_out_of_the_means():
    result = compute_scores(counted([0, 0, 1], [0, 1, 1]), table("a", "b", "absent"))
    assert math.isnan(result.classes["absent"].iou)
    assert math.isnan(result.classes["absent"].f1)
    assert result.miou == pytest.approx((1 / 2 + 1 / 2) / 2)
    assert result.mean_f1 == pytest.approx((2 / 3 + 2 / 3) / 2)


def test_a_class_that_is_only_predicted_or_only_in_the_reference_scores_zero():
    result = compute_scores(counted([0, 0, 1], [0, 2, 0]), table("a", "missed", "invented"))
    missed, invented = result.classes["missed"], result.classes["invented"]
    assert (missed.iou, missed.f1, missed.recall) == (0, 0, 0)
    assert math.isnan(missed.precision)
    assert (invented.iou, invented.f1, invented.precision) == (0, 0, 0)
    assert math.isnan(invented.recall)
    assert result.miou == pytest.approx((1 / 3) / 3)


def test_an_unscored_class_counts_in_overall_accuracy_only():
    result = compute_scores(
        counted([0, 0, 1, 2, 2], [0, 0, 1, 1, 1]), table("a", "b", "clutter", unscored="clutter")
    )
    assert result.miou == pytest.approx((1 + 1 / 3) / 2)
    assert result.mean_f1 == pytest.approx((1 + 1 / 2) / 2)
    assert result.overall_accuracy == pytest.approx(3 / 5)
    assert result.classes["clutter"].iou == 0


def test_no_pixels_score_nan_without_warnings():
    with np.errstate(all="raise"):
        result = compute_scores(Confusion(2), table("a", "b"))
    assert math.isnan(result.miou)
    assert math.isnan(result.mean_f1)
    assert math.isnan(result.overall_accuracy)
    assert result.pixels == 0


def test_json_has_no_nan_and_plain_numbers():
    result = compute_scores(counted([0, 0], [0, 0], classes=2), table("a", "b"))
    stored = json.loads(json.dumps(result.as_json(), allow_nan=False))
    nothing = {"iou": None, "f1": None, "precision": None, "recall": None, "pixels": 0}
    assert stored == {
        "miou": 1.0,
        "mean_f1": 1.0,
        "overall_accuracy": 1.0,
        "pixels": 2,
        "unpredicted": 0,
        "classes": {
            "a": {"iou": 1.0, "f1": 1.0, "precision": 1.0, "recall": 1.0, "pixels": 2},
            "b": nothing,
        },
        "confusion": [[2, 0], [0, 0]],
    }


@given(st.lists(st.lists(st.tuples(LABELS, LABELS)), max_size=4))
def test_counting_in_parts_is_counting_at_once(parts):
    summed, running = Confusion(3), Confusion(3)
    for part in parts:
        reference, prediction = [r for r, _ in part], [p for _, p in part]
        summed = summed + counted(reference, prediction)
        running.add(np.array(reference, np.uint8), np.array(prediction, np.uint8))
    everything = [pair for part in parts for pair in part]
    whole = counted([r for r, _ in everything], [p for _, p in everything])
    for confusion in (summed, running):
        assert confusion.counts.tolist() == whole.counts.tolist()
        assert confusion.unpredicted == whole.unpredicted


def test_a_matrix_can_be_rebuilt_from_its_counts():
    confusion = Confusion.of(np.array([[2, 1], [0, 3]]), unpredicted=4)
    assert confusion.counts.tolist() == [[2, 1], [0, 3]]
    assert confusion.unpredicted == 4


def test_any_integer_dtype_counts_the_same():
    reference, prediction = np.array([[0, 1], [255, 1]]), np.array([[0, 1], [1, 255]], np.int16)
    confusion = Confusion(2)
    confusion.add(reference, prediction)
    assert confusion.counts.tolist() == [[1, 0], [0, 1]]
    assert confusion.unpredicted == 1


@pytest.mark.parametrize("value", [3, 254, 256, -1, 65536])
def test_values_that_are_no_class_are_refused_and_nothing_is_counted(value):
    confusion, unknown, known = Confusion(3), np.array([0, value]), np.array([0, 1])
    with pytest.raises(LabelError, match=f"1 pixels .* 0 to 2.* value {value}"):
        confusion.add(unknown, known)
    with pytest.raises(LabelError, match=str(value)):
        confusion.add(known, unknown)
    assert not confusion.counts.any()


def test_shapes_have_to_match():
    with pytest.raises(ValueError, match="shapes differ"):
        Confusion(2).add(np.zeros((2, 3), np.uint8), np.zeros((3, 2), np.uint8))
    with pytest.raises(ValueError, match="2 classes"):
        compute_scores(Confusion(3), table("a", "b"))


def test_scores_come_back_from_json():
    result = compute_scores(counted([0, 0, 1], [0, 1, 1]), table("a", "b", "absent"))
    values = json.loads(json.dumps(result.as_json(), allow_nan=False))
    found = Scores.from_json(values)
    assert json.dumps(found.as_json()) == json.dumps(result.as_json())
    assert found.classes["a"] == result.classes["a"]
    assert math.isnan(found.classes["absent"].iou)
    assert (found.confusion, found.pixels) == (result.confusion, 3)
    nothing = compute_scores(Confusion(2), table("a", "b"))
    assert math.isnan(Scores.from_json(nothing.as_json()).miou)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"miou": "good"}, "miou: Input should be a valid number"),
        ({"pixels": None}, "pixels: Input should be a valid integer"),
        ({"classes": {"a": {"iou": 1}}}, r"classes.a.f1: Field required"),
        ({"confusion": [[1, 2]]}, "confusion: not a square matrix of 2 classes"),
        ({"confusion": [[1, 2], [3]]}, "confusion: not a square matrix of 2 classes"),
    ],
)
def test_damaged_scores(changes, message):
    values = compute_scores(Confusion(2), table("a", "b")).as_json() | changes
    with pytest.raises(ValueError, match=message):
        Scores.from_json(values)


@pytest.mark.parametrize("values", [3, None, [], {}])
def test_what_is_no_scores(values):
    with pytest.raises(ValueError, match=r"^(scores|miou): "):
        Scores.from_json(values)
