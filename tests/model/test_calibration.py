import numpy as np
import pytest

from cafe_cli.model.calibration import BINS, TEMPERATURES, CalibrationSums


def drawn(temperature, count=40_000, seed=0):
    """Return logits (count, 3), and labels drawn from their softmax at a temperature."""
    random = np.random.default_rng(seed)
    logits = random.normal(0, 4, (count, 3)).astype(np.float32)
    shares = np.exp(logits / temperature)
    shares /= shares.sum(axis=1, keepdims=True)
    labels = (random.random((count, 1)) > shares.cumsum(axis=1)).sum(axis=1).clip(0, 2)
    return logits, labels


def sums_of(*batches):
    sums = CalibrationSums()
    for batch in batches:
        sums.add(*batch)
    return sums


@pytest.mark.parametrize("temperature", [0.5, 1, 2, 4])
def test_the_temperature_of_the_labels_is_found(temperature):
    found = sums_of(drawn(temperature)).fit()
    assert found.temperature == pytest.approx(temperature, rel=2 ** (1 / 8) - 0.999)
    assert found.after.error < 0.02
    if temperature == 1:
        assert found.before == found.after
    else:
        assert found.before.error > 2 * found.after.error


def test_right_and_wrong_labels_that_are_sure():
    """All right: as sure as possible; all wrong: as unsure as possible."""
    logits = np.tile(np.array([[3, 0, 0]], np.float32), (10, 1))
    assert sums_of((logits, np.zeros(10, int))).fit().temperature == TEMPERATURES[0] == 0.25
    assert sums_of((logits, np.ones(10, int))).fit().temperature == TEMPERATURES[-1] == 8


def test_expected_calibration_error_by_hand():
    """Two pixels of 0.9, one of them right, and two of 0.7, both right: (0.4 + 0.3) / 2."""
    logits = np.log(np.array([[0.9, 0.1], [0.9, 0.1], [0.7, 0.3], [0.3, 0.7]], np.float32))
    found = sums_of((logits, np.array([0, 1, 0, 1]))).fit().before
    assert found.error == pytest.approx(0.35, abs=1e-4)
    full = [number for number, share in enumerate(found.shares) if share]
    assert full == [int(0.7 * BINS), int(0.9 * BINS)]
    assert [found.accuracy[number] for number in full] == [1, 0.5]
    assert [found.confidence[number] for number in full] == pytest.approx([0.7, 0.9], abs=1e-5)
    assert [a is None for a in found.accuracy].count(True) == BINS - 2


def test_certain_pixels_are_in_the_last_bin():
    found = sums_of((np.array([[200, 0]], np.float32), np.array([0]))).fit().before
    assert (found.shares[-1], found.confidence[-1], found.error) == (1, 1, 0)


def test_sums_do_not_depend_on_the_batches():
    logits, labels = drawn(2, 999)
    whole = sums_of((logits, labels))
    parts = sums_of((logits[:300], labels[:300]), (logits[300:], labels[300:]))
    assert np.array_equal(parts.bins[..., ::2], whole.bins[..., ::2])
    assert parts.likelihood == pytest.approx(whole.likelihood)
    assert parts.fit() == whole.fit()


def test_pixels_without_numbers_do_not_count():
    logits, labels = drawn(2, 99)
    broken = np.concatenate([logits, np.full((1, 3), np.nan, np.float32)])
    assert sums_of((broken, np.append(labels, 0))).fit() == sums_of((logits, labels)).fit()
    assert sums_of((broken[-1:], np.array([0]))).fit() is None


def test_nothing_to_fit():
    assert CalibrationSums().fit() is None
    assert sums_of((np.zeros((0, 3), np.float32), np.zeros(0, int))).fit() is None
