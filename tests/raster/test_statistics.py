"""Statistics of pixel values."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cafe_cli.raster.statistics import (
    CLIP,
    BandHistogram,
    RunningMoments,
    condense,
    summarize,
)


def gathered(tiles, dtype):
    pixels = BandHistogram(len(tiles[0][0]), dtype)
    for values, valid in tiles:
        pixels.add(summarize(values, valid, dtype))
    return pixels.statistics()


def some_tiles(dtype, seed=0, count=3):
    random = np.random.default_rng(seed)
    info = np.iinfo(dtype) if np.dtype(dtype).kind in "iu" else None
    low, high = (info.min, info.max) if info else (-1000, 1000)
    shape = (2, 40, 30)
    return [
        (
            random.integers(low, high, shape, endpoint=True).astype(dtype),
            random.random((40, 30)) > 0.3,
        )
        for _ in range(count)
    ]


@given(st.sampled_from(["uint8", "int8", "uint16", "int16"]), st.integers(0, 99))
def test_integers_are_counted_exactly(dtype, seed):
    tiles = some_tiles(dtype, seed)
    found = gathered(tiles, dtype)
    pixels = np.concatenate([values[:, valid] for values, valid in tiles], axis=1).astype(float)
    if dtype != "uint8":
        low, high = np.percentile(pixels, CLIP, axis=1, method="inverted_cdf")
        assert found.low == tuple(low)
        assert found.high == tuple(high)
        pixels = pixels.clip(low[:, None], high[:, None])
    else:
        assert found.low is None
    assert found.mean == pytest.approx(pixels.mean(axis=1))
    assert found.std == pytest.approx(pixels.std(axis=1))


def test_a_glint_does_not_set_the_scale():
    values = np.full((1, 100, 100), 900, np.uint16)
    values[0, :, ::2] = 1100
    values[0, 0, :5] = 65535
    found = gathered([(values, np.ones((100, 100), bool))], "uint16")
    assert found.high == (1100,)
    assert found.std == pytest.approx((100,), abs=1)


def test_other_types_are_sampled():
    random = np.random.default_rng(0)
    tiles = [
        (random.normal(5, 2, (1, 200, 200)).astype(np.float32), np.ones((200, 200), bool))
        for _ in range(10)
    ]
    found = gathered(tiles, "float32")
    assert found.mean == pytest.approx((5,), abs=0.05)
    assert found.std == pytest.approx((2,), abs=0.05)
    assert found.low == pytest.approx((5 - 3.09 * 2,), abs=0.5)


def test_the_sample_of_very_many_tiles_stays_bounded(monkeypatch):
    monkeypatch.setattr("cafe_cli.raster.statistics._KEPT", 1000)
    pixels = BandHistogram(1, "float32")
    valid = np.ones((10, 10), bool)
    for index in range(200):
        pixels.add(summarize(np.full((1, 10, 10), index, np.float32), valid, "float32"))
    assert sum(s.size for s in pixels._samples) <= 1000
    assert pixels.statistics().mean == pytest.approx((99.5,), abs=15)


def test_the_sample_is_halved_when_it_exceeds_its_bound(monkeypatch):
    monkeypatch.setattr("cafe_cli.raster.statistics._KEPT", 1000)
    histogram = BandHistogram(1, "float32")
    valid = np.ones((10, 10), bool)

    def kept(tiles):
        for index in tiles:
            tile = np.full((1, 10, 10), index, np.float32)
            histogram.add(summarize(tile, valid, "float32"))
        return [int(sample[0, 0]) for sample in histogram._samples]

    assert kept(range(10)) == [*range(10)]
    assert kept(range(10, 11)) == [0, 2, 4, 6, 8, 10]
    assert kept(range(11, 20)) == [*range(0, 20, 2)]
    assert kept(range(20, 48)) == [*range(0, 48, 8)]


@pytest.mark.parametrize("dtype", ["uint8", "int8", "uint16", "int16", "uint32", "float32"])
def test_condensed_summaries_stand_for_the_same(dtype):
    tiles = some_tiles(dtype, count=7)
    summaries = [summarize(values, valid, dtype) for values, valid in tiles]
    total = BandHistogram(2, dtype)
    for part in (summaries[:4], summaries[4:4], summaries[4:]):
        for summary in condense(part, dtype):
            total.add(summary)
    assert total.statistics() == gathered(tiles, dtype)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_nothing_at_all(dtype):
    found = gathered([(np.zeros((2, 4, 4), dtype), np.zeros((4, 4), bool))], dtype)
    assert (found.mean, found.std) == ((0, 0), (1, 1))


def test_a_constant_channel_has_a_deviation_of_one():
    found = gathered([(np.full((1, 4, 4), 7, np.uint8), np.ones((4, 4), bool))], "uint8")
    assert (found.mean, found.std) == ((7,), (1,))


def test_moments_add_up():
    random = np.random.default_rng(0)
    values, valid = random.normal(size=(2, 20, 20)), random.random((20, 20)) > 0.5
    total = RunningMoments()
    for half in (slice(10), slice(10, None)):
        total.add(RunningMoments.of(values[:, half], valid[half]))
    found = total.statistics(2)
    assert found.mean == pytest.approx(values[:, valid].mean(axis=1))
    assert found.std == pytest.approx(values[:, valid].std(axis=1))
