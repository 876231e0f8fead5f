import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cafe_cli.config.schema import TrainSettings
from cafe_cli.tilesets.cache import HEIGHT_VALID, OPTICAL_VALID, PackedTiles
from cafe_cli.training.data.augment import apply, crop_side, sample, stack

SIZE = 48
CPU = torch.device("cpu")
STD = np.array([10, 20, 30], np.float32)
STILL = {"color_jitter": 0, "height_jitter": 0, "height_dropout": 0}
UNTURNED = {"flips": False, "turns": False}


def painted(dtype=torch.uint16, size=SIZE) -> PackedTiles[torch.Tensor]:
    """Return a batch of one in which every array tells the number of its pixel, if it can."""
    number = torch.arange(size * size).reshape(1, size, size)
    known = number % 5 != 0
    return PackedTiles(
        torch.stack([number // size, number % size, number % 251], dim=1).to(dtype),
        (number % 7 != 0) * OPTICAL_VALID + (known * HEIGHT_VALID).to(torch.uint8),
        torch.where(known, number + 1, 0).to(torch.float32),
        (number % 254).to(torch.uint8),
    )


def drawn(seed: int, size=SIZE, **changes):
    """Return the change of one tile, everything off that is not asked for."""
    return sample(TrainSettings(**{**STILL, **changes}), size, STD, np.random.default_rng(seed))


def cut(planes, change, side):
    """Do the reader's part of the work."""
    row, column = change.corner.tolist()
    return PackedTiles(*(v[..., row : row + side, column : column + side] for v in planes))


def augmented(seed: int, dtype=torch.uint16, **changes):
    """Return the only item of a batch."""
    change = drawn(seed, **changes)
    side = crop_side(TrainSettings(**changes), SIZE)
    planes = apply(cut(painted(dtype), change, side), stack([change], CPU))
    return PackedTiles(*(values[0] for values in planes))


def where(planes) -> np.ndarray:
    """Return the numbers that `painted` gave to the pixels of one item."""
    return (planes.optical[0] * SIZE + planes.optical[1]).round().to(torch.int64).numpy()


@given(
    st.integers(0, 2**62),
    st.sampled_from([None, 32, 40, 64]),
    st.booleans(),
    st.booleans(),
    st.sampled_from([torch.uint8, torch.int16, torch.uint16, torch.float32]),
)
def test_everything_moves_alike(seed, crop, flips, turns, dtype):
    planes = augmented(seed, dtype, crop=crop, flips=flips, turns=turns)
    number = where(planes)
    assert planes.optical.dtype == torch.float32
    assert number.shape == (min(crop or SIZE, SIZE),) * 2
    assert np.array_equal(planes.labels, number % 254)
    assert np.array_equal(planes.optical[2], number % 251)
    assert np.array_equal((planes.flags & OPTICAL_VALID) > 0, number % 7 != 0)
    assert np.array_equal((planes.flags & HEIGHT_VALID) > 0, number % 5 != 0)
    assert np.array_equal(planes.height, np.where(number % 5 != 0, number + 1, 0))
    rows, columns = number // SIZE, number % SIZE
    for line in (rows, columns):  # a window, whole, and each of its pixels once
        assert len(np.unique(line)) == line.max() - line.min() + 1
    assert len(np.unique(number)) == number.size


@pytest.mark.parametrize(
    ("flips", "turns", "ways"), [(False, False, 1), (True, False, 2), (False, True, 4), (1, 1, 8)]
)
def test_all_orientations_occur(flips, turns, ways):
    seen = {
        augmented(seed, flips=flips, turns=turns).labels.numpy().tobytes() for seed in range(60)
    }
    square = painted().labels[0].numpy()
    quarters = [np.rot90(square, n) for n in range(4 if turns else 1)]
    allowed = [*quarters, *([q[:, ::-1] for q in quarters] if flips else [])]
    assert seen == {way.tobytes() for way in allowed}
    assert len(seen) == ways


def test_crops_reach_every_corner():
    corners = {tuple(drawn(seed, crop=40, **UNTURNED).corner.tolist()) for seed in range(900)}
    assert {(0, 0), (0, 8), (8, 0), (8, 8)} <= corners
    assert len(corners) == 81


def test_jitter():
    before, after = painted(), augmented(3, **UNTURNED, color_jitter=0.2, height_jitter=0.5)
    assert torch.equal(after.labels, before.labels[0])
    assert torch.equal(after.flags, before.flags[0])
    known = (after.flags & HEIGHT_VALID) > 0
    assert not after.height[~known].any()
    lift = (after.height - before.height[0])[known]
    assert np.ptp(lift.numpy()) < 1e-3
    assert 0 < abs(lift[0]) < 3
    gains = []
    for was, band, std in zip(before.optical[0].float(), after.optical, STD, strict=True):
        gain, offset = np.polyfit(was.ravel().numpy(), band.ravel().numpy(), 1)
        assert np.allclose(band, was * gain + offset, atol=0.01)
        assert 0 < abs(gain - 1) <= 0.2
        assert abs(offset) <= 0.2 * std + 0.01
        gains.append(round(gain, 4))
    assert len(set(gains)) == 3  # each band has its own


def test_jitter_is_drawn_as_the_settings_say():
    changes = [drawn(seed, color_jitter=0.2, height_jitter=0.5) for seed in range(400)]
    gains = torch.stack([change.gain for change in changes]) - 1
    offsets = torch.stack([change.offset for change in changes]) / torch.from_numpy(STD)
    for values in (gains, offsets):  # evenly between -0.2 and 0.2
        assert 0.19 < values.abs().max() <= 0.2
        assert abs(values.mean()) < 0.02
        assert abs(values.std() - 0.2 / 3**0.5) < 0.01
    lifts = torch.stack([change.height_offset for change in changes])
    assert abs(lifts.mean()) < 0.1
    assert abs(lifts.std() - 0.5) < 0.06


def test_jitter_leaves_the_source_alone():
    planes = painted()
    before = [values.clone() for values in planes]
    change = sample(TrainSettings(height_dropout=1), SIZE, STD, np.random.default_rng(0))
    apply(planes, stack([change], CPU))
    assert all(torch.equal(a, b) for a, b in zip(before, planes, strict=True))


def test_switching_one_change_off_leaves_the_others():
    everything = {"color_jitter": 0.2, "height_jitter": 1, "height_dropout": 1, "crop": 40}
    together = drawn(5, **everything)
    kinds = {"color_jitter": "gain", "height_jitter": "height_offset", "crop": "corner"}
    for setting, field in kinds.items():
        alone = drawn(5, **UNTURNED, **{setting: everything[setting]})
        assert torch.equal(getattr(alone, field), getattr(together, field))


@given(st.integers(1, 6), st.integers(0, 2**32))
def test_each_item_of_a_batch_changes_as_if_alone(count, seed):
    planes = PackedTiles(*(values.expand(count, *values.shape[1:]) for values in painted()))
    settings = TrainSettings(height_dropout=0.5)
    changes = [sample(settings, SIZE, STD, np.random.default_rng(seed + i)) for i in range(count)]
    together = apply(planes, stack(changes, CPU))
    for number, change in enumerate(changes):
        alone = apply(painted(), stack([change], CPU))
        pairs = zip(together, alone, strict=True)
        assert all(torch.equal(many[number], one[0]) for many, one in pairs)


def test_height_dropout_voids_a_rectangle_of_some_tiles():
    before = painted()
    known = (before.flags[0] & HEIGHT_VALID) > 0
    whole = partly = untouched = 0
    for seed in range(300):
        after = augmented(seed, **UNTURNED, height_dropout=0.5)
        left = (after.flags & HEIGHT_VALID) > 0
        lost = known & ~left
        assert torch.equal(after.flags & OPTICAL_VALID, before.flags[0] & OPTICAL_VALID)
        assert not after.height[lost].any()
        assert torch.equal(after.height[left], before.height[0][left])
        rows, columns = lost.any(dim=1), lost.any(dim=0)
        assert not left[rows][:, columns].any()
        untouched += not lost.any()
        whole += not left.any()
        partly += bool(lost.any() and left.any())
    assert 40 < whole < 110
    assert partly > 40
    assert 130 < untouched < 230
