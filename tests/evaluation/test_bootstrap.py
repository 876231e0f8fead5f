"""Intervals by a bootstrap of blocks, against simulation and against the scores themselves."""

import math

import numpy as np
import pytest

from cafe_cli.classes import ClassTable, LandClass
from cafe_cli.evaluation.bootstrap import differences, intervals
from cafe_cli.evaluation.metrics import Confusion, compute_scores

CLASSES = ClassTable((LandClass(0, "a"), LandClass(1, "b"), LandClass(2, "c", scored=False)))


def blocks_of(count, seed=0, right=(0.5, 1.0), pixels=400):
    """Return matrices of blocks, each right in a share of its pixels of its own."""
    random = np.random.default_rng(seed)
    found = []
    for share in random.uniform(*right, count):
        truth = random.integers(0, 2, pixels)
        mapped = np.where(random.random(pixels) < share, truth, 1 - truth)
        matrix = np.zeros((3, 3), np.int64)
        np.add.at(matrix, (truth, mapped), 1)
        found.append(matrix)
    return found


def test_intervals_enclose_the_scores():
    blocks = blocks_of(60)
    scores = compute_scores(Confusion.of(np.sum(blocks, axis=0)), CLASSES)
    found = intervals(blocks, 64, CLASSES)
    assert (found.blocks, found.side) == (60, 64)
    for key, (low, high) in found.overall.items():
        assert low < getattr(scores, key) < high
    for name in ("a", "b"):
        for key, (low, high) in found.classes[name].items():
            assert low < getattr(scores.classes[name], key) < high
    assert all(math.isnan(low) for low, _ in found.classes["c"].values())
    assert found.as_json()["classes"]["c"]["iou"] is None


def test_blocks_that_are_alike_inside_make_wide_intervals():
    """As wide as blocks differ, not as narrow as so many pixels on their own would be."""
    truths = []
    inside = 0
    for seed in range(120):
        found = intervals(blocks_of(80, seed), 64, CLASSES)
        low, high = found.overall["overall_accuracy"]
        inside += low <= 0.75 <= high
        truths.append(high - low)
    assert 0.88 <= inside / 120 <= 0.99
    # 80 blocks whose accuracy is uniform over a range of 0.5: a standard error of 0.5/sqrt(12*80).
    assert np.mean(truths) == pytest.approx(3.92 * 0.5 / math.sqrt(12 * 80), rel=0.1)


def test_few_blocks_give_no_interval():
    assert intervals(blocks_of(9), 64, CLASSES) is None
    assert intervals(blocks_of(10), 64, CLASSES) is not None
    few = differences(blocks_of(9), blocks_of(9, 1), CLASSES)
    assert few["miou"]["estimate"] is not None
    assert few["miou"]["low"] is None


def test_the_same_blocks_give_the_same_intervals_in_any_memory(monkeypatch):
    blocks = blocks_of(50)
    first = intervals(blocks, 64, CLASSES).as_json()
    monkeypatch.setattr("cafe_cli.evaluation.bootstrap._AT_ONCE", 700)
    assert intervals(blocks, 64, CLASSES).as_json() == first


def test_differences_are_paired():
    first = blocks_of(50)
    better = []
    for block in first:  # one more pixel in a hundred right, in every block
        moved = block.copy()
        moved[0, 0] += moved[0, 1] // 50
        moved[0, 1] -= moved[0, 1] // 50
        better.append(moved)
    found = differences(first, better, CLASSES)["overall_accuracy"]
    single = intervals(first, 64, CLASSES).overall["overall_accuracy"]
    gain = (np.trace(sum(better)) - np.trace(sum(first))) / np.sum(first)
    assert found["estimate"] == pytest.approx(gain)
    assert 0 < found["low"] < gain < found["high"]
    assert found["high"] - found["low"] < (single[1] - single[0]) / 10
    turned = differences(better, first, CLASSES)["overall_accuracy"]
    assert (turned["low"], turned["high"]) == pytest.approx((-found["high"], -found["low"]))
