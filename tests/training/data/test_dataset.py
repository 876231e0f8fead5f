import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cafe_cli.config.schema import Config, TrainSettings
from cafe_cli.tilesets.tile_rasters import read_tile
from cafe_cli.tilesets.tileset import load_tileset
from cafe_cli.training.data.dataset import TileDataset
from cafe_cli.training.data.sampler import (
    BatchSampler,
    SampleKey,
    balance_classes,
    batches_in_order,
)
from tests.support.engines import cut, equal, write_town

pytest_plugins = ["tests.support.fixtures"]

CROPPED = Config(train=TrainSettings(crop=32))


def test_sample_depends_on_its_key_only(tileset):
    info = load_tileset(tileset)
    data, again = (TileDataset(tileset, info, "train", CROPPED) for _ in range(2))
    first = data[SampleKey(3, 77)]
    np.random.default_rng(0).random()
    torch.manual_seed(5)
    data[SampleKey(1, 78)]
    assert equal(first, data[SampleKey(3, 77)])
    assert equal(first, again[SampleKey(3, 77)])
    assert not equal(first, data[SampleKey(3, 78)])
    assert not equal(first, data[SampleKey(2, 77)])


def test_sample_shapes(tileset):
    data = TileDataset(tileset, load_tileset(tileset), "train", CROPPED)
    assert len(data) == 6
    sample = data[SampleKey(5, 2)]
    assert [(tuple(t.shape), t.dtype) for t in (*sample.inputs, sample.labels)] == [
        ((3, 32, 32), torch.float32),
        ((32, 32), torch.bool),
        ((1, 32, 32), torch.float32),
        ((32, 32), torch.bool),
        ((32, 32), torch.int64),
    ]


def test_validation_tiles_are_as_they_are(tileset):
    info = load_tileset(tileset)
    sample = TileDataset(tileset, info, "validation")[SampleKey(1, 99)]
    patch, labels = read_tile(tileset, info.of("validation")[1], info.size)
    assert np.array_equal(sample.inputs.optical, patch.optical)
    assert np.array_equal(sample.inputs.height[0], patch.height)
    assert np.array_equal(sample.labels, labels)


def test_uint16_tiles(tmp_path):
    write_town(tmp_path, "a", 64, 128, dtype="uint16")
    folder = cut(tmp_path, tmp_path / "tiles", split__validation_scenes=[], split__validation=0)
    info = load_tileset(folder)
    assert info.dtype == "uint16"
    plain = TileDataset(folder, info, "train")[SampleKey(0, 0)].inputs.optical
    patch, _ = read_tile(folder, info.of("train")[0], info.size)
    assert patch.optical.max() > 30_000
    assert np.array_equal(plain, patch.optical.astype(np.float32))
    jittered = TileDataset(folder, info, "train", CROPPED)[SampleKey(0, 0)].inputs.optical
    assert 5_000 < jittered.max() < 80_000


@given(st.integers(1, 40), st.integers(1, 12), st.integers(0, 99), st.integers(0, 9))
def test_batches_are_a_pure_function(count, size, seed, epoch):
    batches = BatchSampler(count, size, seed)
    batches.epoch = epoch
    first = list(batches)
    list(batches)
    assert list(batches) == first
    assert len(first) == len(batches) == count // min(size, count)
    assert {len(batch) for batch in first} == {min(size, count)}
    drawn = [key.tile for batch in first for key in batch]
    assert len(set(drawn)) == len(drawn)
    assert set(drawn) <= set(range(count))


@given(st.integers(1, 40), st.integers(1, 12), st.integers(0, 50))
def test_batches_resume(count, size, start):
    batches = BatchSampler(count, size, 1)
    whole = list(batches)
    batches.start = start % (len(whole) + 1)
    assert list(batches) == whole[batches.start :]


@given(st.integers(4, 40), st.integers(1, 4), st.integers(1, 4))
def test_ranks_share_each_batch(count, world, share):
    size = world * share
    whole = list(BatchSampler(count, size, 3))
    parts = [list(BatchSampler(count, size, 3, rank, world)) for rank in range(world)]
    for batch, *mine in zip(whole, *parts, strict=True):
        assert sorted(key for part in mine for key in part) == sorted(batch)
        assert max(map(len, mine)) - min(map(len, mine)) <= 1


def test_balanced_batches_draw_classes_equally_often():
    """Class 1 has a hundredth of the pixels, in one tile of 20: that is drawn half of the time."""
    counts = np.array([[100, 0, 0]] * 19 + [[81, 19, 0]])
    weights = balance_classes(counts)
    assert weights[-1] == pytest.approx((81 / 1981 + 1) / 2)
    assert weights[0] == pytest.approx(100 / 1981 / 2)
    drawn = {}
    for balance in (0.0, 0.5, 1.0):
        batches = BatchSampler(20, 4, 0, balance=balance, weights=weights)
        keys = []
        for batches.epoch in range(50):
            assert list(batches) == list(batches)
            keys += [key.tile for batch in batches for key in batch]
        drawn[balance] = keys.count(19) / len(keys)
    assert drawn[0.0] == 0.05
    assert drawn[1.0] == pytest.approx(weights[-1], abs=0.05)
    assert drawn[0.5] == pytest.approx((0.05 + weights[-1]) / 2, abs=0.05)


def test_labels_are_counted_by_tile(tileset):
    info = load_tileset(tileset)
    counts = TileDataset(tileset, info, "train").class_counts()
    assert dict(zip(info.classes.names, counts.sum(axis=0).tolist(), strict=True)) == {
        name: info.pixels["train"][name] for name in info.classes.names
    }
    labels = read_tile(tileset, info.of("train")[1], info.size)[1]
    assert counts[1].tolist() == [int((labels == c).sum()) for c in range(len(info.classes))]


def test_epochs_and_seeds_differ():
    orders = []
    for seed, epoch in [(0, 0), (0, 1), (1, 0), (1, 1)]:
        batches = BatchSampler(20, 4, seed)
        batches.epoch = epoch
        orders.append(str(list(batches)))
    assert len(set(orders)) == 4
    seeds = [key.seed for batch in BatchSampler(20, 4, 0) for key in batch]
    assert len(set(seeds)) == 20


def test_fewer_tiles_than_a_batch():
    batches = BatchSampler(3, 8, 0)
    assert len(batches) == 1
    assert sorted(key.tile for batch in batches for key in batch) == [0, 1, 2]


@given(st.integers(0, 30), st.integers(1, 8), st.integers(1, 4))
def test_validation_sees_every_tile_once(count, size, world):
    parts = [batches_in_order(count, size, rank, world) for rank in range(world)]
    drawn = [key.tile for batches in parts for batch in batches for key in batch]
    assert sorted(drawn) == list(range(count))
    assert all(0 < len(batch) <= size for batches in parts for batch in batches)


def test_distribution_of_the_tiles(tileset):
    """Every pixel of few tiles is measured, whatever the crops and the augmentation."""
    described = load_tileset(tileset)
    data = TileDataset(tileset, described, "train", CROPPED)
    found = data.distribution()
    plain = TileDataset(tileset, described, "train")
    samples = [plain[SampleKey(number, 0)] for number in range(len(plain))]
    values = np.concatenate([s.inputs[0].numpy().reshape(3, -1) for s in samples], axis=1)
    heights = np.concatenate([s.inputs[2][s.inputs[3][None]].numpy() for s in samples])
    assert [b.p50 for b in found.bands] == np.percentile(values, 50, axis=1).tolist()
    assert found.heights.p99_9 == pytest.approx(np.percentile(heights, 99.9), rel=1e-5)
    assert found.voids == 0
