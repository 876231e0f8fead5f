import numpy as np
import pytest
import torch
from helpers_engines import cut, write_town
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from cafe_cli import tiles
from cafe_cli.config import TrainSettings
from cafe_cli.dataset import Batches, Key, TileDataset, augment, in_order
from cafe_cli.scene import Patch

pytest_plugins = ["fixtures_engines"]

STD = np.array([10, 20, 30], np.float32)
STILL = {"color_jitter": 0, "height_jitter": 0, "height_dropout": 0}


def painted(height: int, width: int) -> tuple[Patch, np.ndarray]:
    """Every array tells the number of its pixel, as well as it can."""
    number = np.arange(height * width).reshape(height, width)
    optical = np.stack([number // width, number % width, number % 251]).astype(np.uint16)
    height_valid = number % 5 != 0
    heights = np.where(height_valid, number + 1, 0).astype(np.float32)
    return Patch(optical, number % 7 != 0, heights, height_valid), (number % 254).astype(np.uint8)


def where(patch: Patch, width: int) -> np.ndarray:
    """Return the numbers that `painted` gave to the pixels of a patch."""
    return (patch.optical[0] * width + patch.optical[1]).round().astype(int)


def augmented(seed: int, shape=(48, 48), **changes):
    patch, labels = painted(*shape)
    settings = TrainSettings(**{**STILL, **changes})
    return augment(patch, labels, settings, STD, np.random.default_rng(seed))


@given(
    st.integers(0, 2**62),
    st.sampled_from([None, 32, 40, 64]),
    st.booleans(),
    st.booleans(),
    st.sampled_from([(48, 48), (40, 56), (32, 32)]),
)
def test_everything_moves_alike(seed, crop, flips, turns, shape):
    patch, labels = augmented(seed, shape, crop=crop, flips=flips, turns=turns)
    number = where(patch, shape[1])
    assert sorted(number.shape) == sorted(min(crop or n, n) for n in shape)
    assert np.array_equal(labels, number % 254)
    assert np.array_equal(patch.optical[2], number % 251)
    assert np.array_equal(patch.optical_valid, number % 7 != 0)
    assert np.array_equal(patch.height_valid, number % 5 != 0)
    assert np.array_equal(patch.height, np.where(number % 5 != 0, number + 1, 0))
    rows, columns = number // shape[1], number % shape[1]
    for line in (rows, columns):  # a window, whole, and each of its pixels once
        assert len(np.unique(line)) == line.max() - line.min() + 1
    assert len(np.unique(number)) == number.size


@pytest.mark.parametrize(
    ("flips", "turns", "ways"), [(False, False, 1), (True, False, 2), (False, True, 4), (1, 1, 8)]
)
def test_all_orientations_occur(flips, turns, ways):
    seen = {augmented(seed, flips=flips, turns=turns)[1].tobytes() for seed in range(60)}
    assert len(seen) == ways


def test_crops_reach_every_corner():
    still = {"crop": 40, "flips": False, "turns": False}
    corners = {int(where(augmented(seed, **still)[0], 48)[0, 0]) for seed in range(500)}
    assert {0, 8, 8 * 48, 8 * 48 + 8} <= corners
    assert len(corners) == 81


def test_jitter():
    still = {"flips": False, "turns": False, "height_dropout": 0}
    still |= {"color_jitter": 0.2, "height_jitter": 0.5}
    patch, labels = painted(48, 48)
    changed, same = augmented(3, **still)
    assert np.array_equal(same, labels)
    assert np.array_equal(changed.height_valid, patch.height_valid)
    assert not changed.height[~patch.height_valid].any()
    lift = (changed.height - patch.height)[patch.height_valid]
    assert np.ptp(lift) < 1e-3
    assert 0 < abs(lift[0]) < 3
    for before, after, std in zip(patch.optical, changed.optical, STD, strict=True):
        gain, offset = np.polyfit(before.ravel(), after.ravel(), 1)
        assert np.allclose(after, before * gain + offset, atol=0.01)
        assert 0 < abs(gain - 1) <= 0.2
        assert abs(offset) <= 0.2 * std + 0.01
    gains = [np.ptp(a) / np.ptp(b) for a, b in zip(changed.optical, patch.optical, strict=True)]
    assert len({round(float(g), 4) for g in gains}) == 3  # each band has its own


def test_jitter_leaves_the_source_alone():
    patch, labels = painted(48, 48)
    before = [a.copy() for a in (*vars(patch).values(), labels)]
    augment(patch, labels, TrainSettings(), STD, np.random.default_rng(0))
    after = [*vars(patch).values(), labels]
    assert all(np.array_equal(a, b) for a, b in zip(before, after, strict=True))


def equal(one, other) -> bool:
    pairs = zip([*one.inputs, one.labels], [*other.inputs, other.labels], strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def test_sample_depends_on_its_key_only(tileset):
    info = tiles.load(tileset)
    data, again = (TileDataset(tileset, info, "train", TrainSettings(crop=32)) for _ in range(2))
    first = data[Key(3, 77)]
    np.random.default_rng(0).random()
    torch.manual_seed(5)
    data[Key(1, 78)]
    assert equal(first, data[Key(3, 77)])
    assert equal(first, again[Key(3, 77)])
    assert not equal(first, data[Key(3, 78)])
    assert not equal(first, data[Key(2, 77)])


def test_sample_shapes(tileset):
    data = TileDataset(tileset, tiles.load(tileset), "train", TrainSettings(crop=32))
    assert len(data) == 6
    (batch,) = DataLoader(data, batch_sampler=[[Key(0, 1), Key(5, 2)]])
    assert [(tuple(t.shape), t.dtype) for t in (*batch.inputs, batch.labels)] == [
        ((2, 3, 32, 32), torch.float32),
        ((2, 32, 32), torch.bool),
        ((2, 1, 32, 32), torch.float32),
        ((2, 32, 32), torch.bool),
        ((2, 32, 32), torch.int64),
    ]


def test_validation_tiles_are_as_they_are(tileset):
    info = tiles.load(tileset)
    sample = TileDataset(tileset, info, "validation")[Key(1, 99)]
    patch, labels = tiles.read_tile(tileset, info.of("validation")[1], info.size)
    assert np.array_equal(sample.inputs.optical, patch.optical)
    assert np.array_equal(sample.inputs.height[0], patch.height)
    assert np.array_equal(sample.labels, labels)


def test_uint16_tiles(tmp_path):
    write_town(tmp_path, "a", 64, 128, dtype="uint16")
    folder = cut(tmp_path, tmp_path / "tiles", split__validation_scenes=[], split__validation=0)
    info = tiles.load(folder)
    assert info.dtype == "uint16"
    plain = TileDataset(folder, info, "train")[Key(0, 0)].inputs.optical
    patch, _ = tiles.read_tile(folder, info.of("train")[0], info.size)
    assert patch.optical.max() > 30_000
    assert np.array_equal(plain, patch.optical.astype(np.float32))
    jittered = TileDataset(folder, info, "train", TrainSettings(crop=32))[Key(0, 0)].inputs.optical
    assert 5_000 < jittered.max() < 80_000


@given(st.integers(1, 40), st.integers(1, 12), st.integers(0, 99), st.integers(0, 9))
def test_batches_are_a_pure_function(count, size, seed, epoch):
    batches = Batches(count, size, seed)
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
    batches = Batches(count, size, 1)
    whole = list(batches)
    batches.start = start % (len(whole) + 1)
    assert list(batches) == whole[batches.start :]


@given(st.integers(4, 40), st.integers(1, 4), st.integers(1, 4))
def test_ranks_share_each_batch(count, world, share):
    size = world * share
    whole = list(Batches(count, size, 3))
    parts = [list(Batches(count, size, 3, rank, world)) for rank in range(world)]
    for batch, *mine in zip(whole, *parts, strict=True):
        assert sorted(key for part in mine for key in part) == sorted(batch)
        assert max(map(len, mine)) - min(map(len, mine)) <= 1


def test_epochs_and_seeds_differ():
    orders = []
    for seed, epoch in [(0, 0), (0, 1), (1, 0), (1, 1)]:
        batches = Batches(20, 4, seed)
        batches.epoch = epoch
        orders.append(str(list(batches)))
    assert len(set(orders)) == 4
    seeds = [key.seed for batch in Batches(20, 4, 0) for key in batch]
    assert len(set(seeds)) == 20


def test_fewer_tiles_than_a_batch():
    batches = Batches(3, 8, 0)
    assert len(batches) == 1
    assert sorted(key.tile for batch in batches for key in batch) == [0, 1, 2]


@given(st.integers(0, 30), st.integers(1, 8), st.integers(1, 4))
def test_validation_sees_every_tile_once(count, size, world):
    parts = [in_order(count, size, rank, world) for rank in range(world)]
    drawn = [key.tile for batches in parts for batch in batches for key in batch]
    assert sorted(drawn) == list(range(count))
    assert all(0 < len(batch) <= size for batches in parts for batch in batches)


def test_height_dropout_voids_a_rectangle_of_some_tiles():
    still = {**STILL, "flips": False, "turns": False, "height_dropout": 0.5}
    patch, labels = painted(48, 48)
    whole = partly = untouched = 0
    for seed in range(300):
        changed, same = augmented(seed, **still)
        lost = patch.height_valid & ~changed.height_valid
        assert np.array_equal(same, labels)
        assert not changed.height[lost].any()
        assert np.array_equal(
            changed.height[changed.height_valid], patch.height[changed.height_valid]
        )
        untouched += not lost.any()
        whole += not changed.height_valid.any()
        partly += bool(lost.any() and changed.height_valid.any())
    assert 40 < whole < 110
    assert partly > 40
    assert 130 < untouched < 230
