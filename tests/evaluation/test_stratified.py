"""Estimates from stratified samples, against a published example, and against simulation."""

import math

import numpy as np
import pytest
from sklearn import metrics

from cafe_cli.classes import ClassTable, LandClass
from cafe_cli.evaluation.stratified import (
    Points,
    Strata,
    class_areas,
    class_shares,
    estimate,
    map_statistics,
)

# Olofsson et al. 2014, doi 10.1016/j.rse.2014.02.015, section 5 and table 8: points by class of the
# map (rows) and of the reference (columns), and the pixels of 30 m of each class of the map.
CHANGES = ClassTable(
    tuple(
        LandClass(i, name)
        for i, name in enumerate(("deforestation", "gain", "stable forest", "stable non-forest"))
    )
)
MATRIX = np.array([[66, 0, 5, 4], [0, 55, 8, 12], [1, 0, 153, 11], [2, 1, 9, 313]])
PIXELS = np.array([200_000, 150_000, 3_200_000, 6_450_000])


def points_of(matrix, pixels, square_metres=None):
    """Return points and the class of the map at each; strata are the classes of the map."""
    mapped, reference = np.nonzero(matrix)
    mapped, reference = (np.repeat(a, matrix[np.nonzero(matrix)]) for a in (mapped, reference))
    names = tuple(map(str, range(len(matrix))))
    strata = Strata(names, np.array(pixels, float), square_metres)
    return Points(strata, mapped, reference.astype(np.uint8)), mapped.astype(np.uint8)


def statistics(points, predicted, classes=CHANGES):
    return map_statistics(points, predicted, np.ones(len(predicted), bool), classes)


def test_the_worked_example_of_olofsson_et_al():
    points, mapped = points_of(MATRIX, PIXELS, PIXELS * 900.0)
    found = statistics(points, mapped)
    overall = estimate(points, found.overall_accuracy)
    assert (round(overall.value, 3), round(overall.margin, 3)) == (0.947, 0.018)
    users = estimate(points, found.users_accuracy[0])
    assert (round(users.value, 2), round(users.margin, 2)) == (0.88, 0.07)
    producers = estimate(points, found.producers_accuracy[0])
    assert (round(producers.value, 2), round(producers.margin, 2)) == (0.75, 0.21)
    pixels = estimate(points, class_shares(points, CHANGES)[0]).scaled(PIXELS.sum())
    assert (round(pixels.value), round(pixels.margin)) == (235_086, 68_418)
    areas = class_areas(points, CHANGES)
    assert areas is not None
    hectares = estimate(points, areas[0]).scaled(1e-4)
    assert (round(hectares.value), round(hectares.margin)) == (21_158, 6_158)


def test_all_classes_follow_the_equations_of_the_paper():
    """Equations 2 to 11, written out for strata that are the classes of the map."""
    points, mapped = points_of(MATRIX, PIXELS)
    found = statistics(points, mapped)
    n, weights = MATRIX.sum(axis=1), PIXELS / PIXELS.sum()
    shares = weights[:, None] * MATRIX / n[:, None]
    users = np.diag(MATRIX) / n
    producers = np.diag(shares) / shares.sum(axis=0)
    total = shares.sum(axis=0) * PIXELS.sum()
    spread = PIXELS[:, None] ** 2 * (MATRIX / n[:, None]) * (1 - MATRIX / n[:, None])
    spread = spread / (n - 1)[:, None]
    for j in range(4):
        others = spread[:, j].sum() - spread[j, j]
        own = PIXELS[j] ** 2 * (1 - producers[j]) ** 2 * users[j] * (1 - users[j]) / (n[j] - 1)
        expected = math.sqrt(own + producers[j] ** 2 * others) / total[j]
        result = estimate(points, found.producers_accuracy[j])
        assert (result.value, result.standard_error) == pytest.approx((producers[j], expected))
        result = estimate(points, found.users_accuracy[j])
        assert result.value == pytest.approx(users[j])
        assert result.standard_error**2 == pytest.approx(users[j] * (1 - users[j]) / (n[j] - 1))
        result = estimate(points, class_shares(points, CHANGES)[j])
        expected = ((weights * shares[:, j] - shares[:, j] ** 2) / (n - 1)).sum()
        assert (result.value, result.standard_error**2) == pytest.approx(
            (shares[:, j].sum(), expected)
        )
    assert found.matrix == pytest.approx(shares.T)


def test_a_census_is_exact_and_gives_the_scores_of_all_pixels():
    random = np.random.default_rng(1)
    predicted = random.integers(0, 4, 400).astype(np.uint8)
    reference = np.where(random.random(400) < 0.6, predicted, random.integers(0, 4, 400))
    stratum = predicted.astype(np.intp)
    points = Points(
        Strata(tuple("abcd"), np.bincount(stratum).astype(float)),
        stratum,
        reference.astype(np.uint8),
    )
    found = statistics(points, predicted)
    assert estimate(points, found.overall_accuracy).standard_error == 0
    assert found.overall_accuracy.value == pytest.approx(
        metrics.accuracy_score(reference, predicted)
    )
    assert found.kappa.value == pytest.approx(metrics.cohen_kappa_score(reference, predicted))
    assert found.miou.value == pytest.approx(
        metrics.jaccard_score(reference, predicted, average="macro")
    )
    by_class = metrics.precision_recall_fscore_support(reference, predicted)[:3]
    for key, expected in zip(("users_accuracy", "producers_accuracy", "f1"), by_class, strict=True):
        assert [s.value for s in getattr(found, key)] == pytest.approx(expected)


@pytest.mark.parametrize("key", ["overall_accuracy", "miou", "mean_f1", "kappa"])
def test_intervals_hold_what_they_promise(key):
    """Of 400 samples, 95 % or so have an interval that holds the value of all pixels."""
    random = np.random.default_rng(7)
    classes = ClassTable(tuple(LandClass(i, name) for i, name in enumerate("abc")))
    truth = random.choice(3, 60_000, p=[0.7, 0.2, 0.1]).astype(np.uint8)
    mapped = np.where(random.random(60_000) < 0.8, truth, random.integers(0, 3, 60_000))
    mapped = mapped.astype(np.uint8)
    places = [np.flatnonzero(mapped == i) for i in range(3)]
    strata = Strata(("a", "b", "c"), np.array([len(p) for p in places], float))
    everything = Points(strata, mapped.astype(np.intp), truth)
    value = getattr(statistics(everything, mapped, classes), key).value
    inside = 0
    for _ in range(400):
        chosen = np.concatenate([random.choice(p, 100, replace=False) for p in places])
        points = Points(strata, mapped[chosen].astype(np.intp), truth[chosen])
        found = estimate(points, getattr(statistics(points, mapped[chosen], classes), key))
        inside += abs(found.value - value) <= found.margin
    assert 0.92 <= inside / 400 <= 0.985


def test_a_difference_of_maps_is_paired():
    """The variance of the difference is that of the differences at the points."""
    points, mapped = points_of(MATRIX, PIXELS)
    other = mapped.copy()
    other[::9] = 3
    first, second = statistics(points, mapped), statistics(points, other)
    found = estimate(points, second.overall_accuracy - first.overall_accuracy)
    right = (other == points.reference).astype(float) - (mapped == points.reference)
    weights = PIXELS / PIXELS.sum()
    means = [right[points.stratum == h].mean() for h in range(4)]
    spread = [right[points.stratum == h].var(ddof=1) for h in range(4)]
    assert found.value == pytest.approx(float(weights @ means))
    assert found.standard_error**2 == pytest.approx(
        float((weights**2 * spread / MATRIX.sum(axis=1)).sum())
    )
    same = estimate(points, first.miou - first.miou)
    assert (same.value, same.standard_error) == (0, 0)


def test_points_without_a_prediction_are_in_no_score():
    points, mapped = points_of(MATRIX, PIXELS)
    lacking = mapped.copy()
    lacking[points.reference != mapped] = 255
    found = statistics(points, lacking)
    assert found.overall_accuracy.value == 1
    assert found.iou[0].value == 1
    counted = points.reference == mapped
    assert map_statistics(points, mapped, counted, CHANGES).miou.value == 1


def test_what_is_undefined_is_nan():
    matrix = np.array([[5, 0, 0], [1, 4, 0], [0, 0, 0]])
    classes = ClassTable(tuple(LandClass(i, name) for i, name in enumerate("abc")))
    points, mapped = points_of(matrix, [50, 50, 0])
    found = statistics(points, mapped, classes)
    assert math.isnan(found.users_accuracy[2].value)
    assert found.miou.value == pytest.approx((found.iou[0].value + found.iou[1].value) / 2)
    alone, ids = points_of(np.array([[1, 0], [2, 3]]), [9, 9])
    two = ClassTable(classes.classes[:2])
    assert math.isnan(estimate(alone, statistics(alone, ids, two).overall_accuracy).standard_error)
    assert estimate(alone, statistics(alone, ids, two).overall_accuracy).as_json()["low"] is None
