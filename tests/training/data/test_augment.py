import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cafe_cli.config.schema import AugmentSettings
from cafe_cli.scenes.valley_floor import HIGHEST, UNKNOWN
from cafe_cli.tilesets.cache import HEIGHT_VALID, OPTICAL_VALID, PackedTiles
from cafe_cli.training.data import light
from cafe_cli.training.data.augment import Augmentation, apply, stack
from cafe_cli.training.data.crop import read_crop

SIZE = 48
CPU = torch.device("cpu")
LOW, SPAN = np.zeros(3, np.float32), np.array([100, 200, 300], np.float32)
STILL = AugmentSettings.off() | {"flips": True, "turns": True}
UNTURNED = {"flips": False, "turns": False}
FIELDS = {
    "scale": {"corner", "extent"}, "brightness": {"gain", "offset"}, "grey": {"saturation"},
    "color_jitter": {"gain", "offset"}, "shadow": {"darkness"}, "jpeg": {"compression"},
    "height_tilt": {"slope"}, "height_jitter": {"height_offset"}, "height_dropout": {"void"},
    "height_voids": {"void", "void_level"}, "optical_dropout": {"optical_dropped"},
    "height_stretch": {"stretch"}, "ground_error": {"height_offset"},
    "class_light": {"class_gain", "class_offset"},
}  # fmt: skip
"""The parameters that a setting changes, where they have another name."""
CHOICES = ("flips", "turns", "class_light_of")
STRENGTHS = [name for name in AugmentSettings.model_fields if name not in CHOICES]
CLASSES = ("ground", "water", "roof")


def painted(dtype=torch.uint16, size=SIZE) -> PackedTiles[torch.Tensor]:
    """Return a batch of one in which every array tells the number of its pixel, if it can."""
    number = torch.arange(size * size).reshape(1, size, size)
    known = number % 5 != 0
    return PackedTiles(
        torch.stack([number // size, number % size, number % 251], dim=1).to(dtype),
        (number % 7 != 0) * OPTICAL_VALID + (known * HEIGHT_VALID).to(torch.uint8),
        torch.where(known, number + 1, 0).to(torch.float32)[:, None],
        (number % 254).to(torch.uint8),
    )


def augmentation(crop=None, low=LOW, span=SPAN, **settings) -> Augmentation:
    """Return the augmentation of tiles of 0.5 m, everything off that is not asked for."""
    side = min(crop or SIZE, SIZE)
    drawn_by = AugmentSettings(**{**STILL, **settings})
    return Augmentation(drawn_by, SIZE, side, 0.5, low, span, CLASSES)


def drawn(seed: int, **settings):
    """Return the change of one tile."""
    return augmentation(**settings).sample(np.random.default_rng(seed))


def blank(side, dtype, planes=2):
    """Return memory for one sample."""
    shapes = PackedTiles((3, side, side), (side, side), (planes, side, side), (side, side))
    kinds = (dtype, torch.uint8, torch.float32, torch.uint8)
    pairs = zip(shapes, kinds, strict=True)
    return PackedTiles(*(torch.zeros(shape, dtype=kind).numpy() for shape, kind in pairs))


def augmented(seed: int, dtype=torch.uint16, planes=None, **settings):
    """Return the only item of a batch."""
    own = augmentation(**settings)
    change = own.sample(np.random.default_rng(seed))
    tile = PackedTiles(*(v[0].numpy() for v in (planes or painted(dtype))))
    into = blank(own.side, dtype, len(tile.height))
    read_crop(tile, change.corner.tolist(), int(change.extent), into)
    batch = PackedTiles(*(torch.from_numpy(v)[None] for v in into))
    return PackedTiles(*(values[0] for values in apply(batch, stack([change], CPU))))


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
    assert planes.optical.dtype == torch.float32
    assert planes.labels.shape == (min(crop or SIZE, SIZE),) * 2
    seen = ((planes.flags & OPTICAL_VALID) > 0).numpy()  # other pixels are 0
    number = where(planes)[seen]
    assert (number % 7 != 0).all()
    assert np.array_equal(planes.labels[seen], number % 254)
    assert np.array_equal(planes.optical[2].round()[seen], number % 251)
    assert np.array_equal(((planes.flags & HEIGHT_VALID) > 0)[seen], number % 5 != 0)
    assert np.array_equal(planes.height[0, seen], np.where(number % 5 != 0, number + 1, 0))
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


def test_what_is_off_changes_nothing():
    before, after = painted(), augmented(3, **UNTURNED)
    seen = (before.flags[0] & OPTICAL_VALID) > 0
    assert torch.equal(after.labels, before.labels[0])
    assert torch.equal(after.flags, before.flags[0])
    assert torch.equal(after.height, before.height[0])
    assert np.allclose(after.optical[:, seen], before.optical[0].float()[:, seen], atol=0.05)


@pytest.mark.parametrize("name", STRENGTHS)
def test_each_strength_changes_its_own_part(name):
    value = 1 if name.endswith(("dropout", "voids", "error")) or name == "grey" else None
    settings = {name: value or AugmentSettings.model_fields[name].default or 0.5}
    still = augmented(0, planes=town(), **UNTURNED)
    changed = [augmented(seed, planes=town(), **UNTURNED, **settings) for seed in range(8)]
    image = any(not torch.allclose(c.optical, still.optical, atol=0.05) for c in changed)
    relief = any(not torch.allclose(c.height, still.height, atol=1e-3) for c in changed)
    labels = any(not torch.equal(c.labels, still.labels) for c in changed)
    of_heights = name.startswith(("height", "ground", "valley"))
    assert (image, relief) == ((True, True) if name == "scale" else (not of_heights, of_heights))
    assert labels == (name == "scale")
    for c in changed:
        assert all(torch.isfinite(values.float()).all() for values in c)
        assert not c.height[:, (c.flags & HEIGHT_VALID) == 0].any()
        assert (c.optical >= 0).all()
        assert (c.optical <= torch.from_numpy(SPAN)[:, None, None]).all()


def town(seed=1) -> PackedTiles[torch.Tensor]:
    """Return a batch of one: noise of all values, a house above a valley, everything valid."""
    random = np.random.default_rng(seed)
    optical = random.integers(20, 90, (1, 3, SIZE, SIZE)).astype(np.uint16)
    height = np.zeros((1, 2, SIZE, SIZE), np.float32)
    height[:, 0, 10:30, 15:40] = 6
    height[:, 1] = np.linspace(0, 8, SIZE)
    labels = (height[:, 0] > 0).astype(np.uint8)
    flags = np.full_like(labels, OPTICAL_VALID | HEIGHT_VALID)
    return PackedTiles(*map(torch.from_numpy, (optical, flags, height, labels)))


def test_light_is_drawn_as_the_settings_say():
    changes = [drawn(seed, color_jitter=0.2, height_jitter=0.5) for seed in range(400)]
    gains = torch.stack([change.gain for change in changes]) - 1
    offsets = torch.stack([change.offset for change in changes]) * 5
    for values in (gains, offsets):  # evenly between -0.2 and 0.2
        assert 0.19 < values.abs().max() <= 0.2 + 1e-6
        assert abs(values.mean()) < 0.02
        assert abs(values.std() - 0.2 / 3**0.5) < 0.01
    assert len(set(changes[0].gain.tolist())) == 3  # each band has its own
    common = drawn(0, brightness=0.3).gain
    assert len(set(common.tolist())) == 1
    lifts = torch.stack([change.height_offset for change in changes])
    assert abs(lifts.mean()) < 0.1
    assert abs(lifts.std() - 0.5) < 0.06


def test_heights_are_stretched_by_a_factor_and_lie_on_a_plane():
    flat = town()._replace(height=torch.ones(1, 1, SIZE, SIZE))
    stretched = [augmented(s, planes=flat, height_stretch=0.6).height[0] for s in range(99)]
    factors = np.array([float(h[0, 0]) for h in stretched])
    assert np.exp(-0.6) <= factors.min() < 0.6 < 1.7 < factors.max() <= np.exp(0.6)
    degrees = []
    for seed in range(99):
        height = augmented(seed, planes=flat, **UNTURNED, height_tilt=5).height[0].numpy()
        down, right = np.gradient(height, 0.5)
        assert np.ptp(down) < 1e-4
        assert height.mean() == pytest.approx(1, abs=1e-4)
        degrees.append(np.degrees(np.arctan(np.hypot(down[0, 0], right[0, 0]))))
    assert 4 < max(degrees) <= 5.001
    assert 55 < sum(d < 1e-3 for d in degrees) < 85  # seven tiles in ten stay level


def test_colours_turn_about_grey_and_fade():
    image = torch.rand(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    whole_turn = light.tint(image, torch.ones(2), torch.tensor([2 * np.pi, 0.0]))
    assert torch.allclose(whole_turn, image, atol=1e-5)
    third = light.tint(image, torch.ones(2), torch.full((2,), 2 * np.pi / 3))
    assert torch.allclose(third[:, :3], image[:, :3].roll(1, dims=1), atol=1e-5)  # red is green
    assert torch.allclose(third[:, 3], image[:, 3], atol=1e-5)
    grey = light.tint(image, torch.zeros(2), torch.zeros(2))
    assert torch.allclose(grey, image.mean(dim=1, keepdim=True).expand(-1, 4, -1, -1), atol=1e-6)


def test_classes_get_colours_of_their_own():
    """Each its own, with the borders in between; what has no label keeps its colours."""
    image = torch.full((1, 3, SIZE, SIZE), 0.5)
    labels = torch.zeros(1, SIZE, SIZE, dtype=torch.uint8)
    labels[:, :, 16:32], labels[:, :, 32:] = 1, 255
    gain = torch.ones(1, 3, 3)
    offset = torch.zeros_like(gain)
    gain[0, 0], offset[0, 1] = torch.tensor([1.2, 1.0, 0.8]), torch.tensor([0.0, 0.1, 0.2])
    painted = light.repaint(image, labels, gain, offset)[0]
    for column, expected in ((4, (0.6, 0.5, 0.4)), (24, (0.5, 0.6, 0.7)), (44, (0.5, 0.5, 0.5))):
        assert painted[:, 9, column].tolist() == pytest.approx(expected, abs=1e-6)
    assert (painted[2].diff(dim=1).abs() < 0.1).all()  # of 0.3 in all: no edge is sharp


def test_half_of_the_classes_get_colours_of_their_own():
    changes = [drawn(seed, class_light=0.5) for seed in range(400)]
    gains = torch.stack([change.class_gain for change in changes])
    offsets = torch.stack([change.class_offset for change in changes])
    assert gains.shape == (400, len(CLASSES) + 1, 3)
    assert (gains[:, -1] == 1).all()
    assert not offsets[:, -1].any()
    changed = (gains[:, :-1] != 1).all(dim=2)
    assert changed.float().mean() == pytest.approx(0.5, abs=0.03)
    assert torch.equal(changed, (offsets[:, :-1] != 0).all(dim=2))
    assert 0.7 < gains.log().abs().max() <= 0.75 + 1e-6
    assert 0.1 < offsets.abs().max() <= 0.115 + 1e-6


def test_only_the_named_classes_get_colours_of_their_own():
    every = [drawn(seed, class_light=0.5) for seed in range(100)]
    named = [drawn(seed, class_light=0.5, class_light_of=("water",)) for seed in range(100)]
    for one, all_of_them in zip(named, every, strict=True):
        for values, others, nothing in (
            (one.class_gain, all_of_them.class_gain, 1),
            (one.class_offset, all_of_them.class_offset, 0),
        ):
            assert torch.equal(values[1], others[1])  # the same numbers are drawn
            rest = torch.cat([values[:1], values[2:]])
            assert (rest == nothing).all()
    changed = sum(bool((one.class_gain[1] != 1).all()) for one in named)
    assert 35 < changed < 65


def test_compression_keeps_what_its_table_keeps():
    random = torch.Generator().manual_seed(0)
    image = torch.rand(2, 3, 20, 17, generator=random)
    assert torch.equal(light.compress(image, torch.zeros(2)), image)
    lossy = light.compress(image, torch.tensor([0.0, 2.0]))
    assert torch.allclose(lossy[0], image[0], atol=1e-3)
    assert 0.02 < (lossy[1, :, :16, :16] - image[1, :, :16, :16]).std() < 0.4
    assert torch.equal(lossy[1, :, 16:], image[1, :, 16:])  # no whole block
    flat = torch.full((1, 1, 8, 8), 128 / 255)
    assert torch.allclose(light.compress(flat, torch.ones(1)), flat, atol=1e-4)


def test_augmentation_leaves_the_source_alone():
    planes = painted()
    before = [values.clone() for values in planes]
    own = Augmentation(AugmentSettings(), SIZE, SIZE, 0.5, LOW, SPAN, CLASSES)
    for seed in range(4):
        apply(planes, stack([own.sample(np.random.default_rng(seed))], CPU))
    assert all(torch.equal(a, b) for a, b in zip(before, planes, strict=True))


def test_switching_one_change_off_leaves_the_others():
    defaults = AugmentSettings().model_dump() | UNTURNED
    together = drawn(5, **defaults)
    for name in STRENGTHS:
        without = drawn(5, **{**defaults, name: 1 if name == "scale" else 0})
        fields = [
            f
            for f in together._fields
            if not torch.equal(getattr(together, f), getattr(without, f))
        ]
        allowed = {
            "scale": {"corner", "extent"},
            "brightness": {"gain", "offset"},
            "color_jitter": {"gain", "offset"},
            "grey": {"saturation"},
            "shadow": {"darkness"},
            "jpeg": {"compression"},
            "height_tilt": {"slope"},
            "height_jitter": {"height_offset"},
            "height_voids": {"void", "void_level"},
            "height_dropout": {"void"},
            "optical_dropout": {"optical_dropped"},
            "height_stretch": {"stretch"},
            "ground_error": {"height_offset"},
        }
        assert set(fields) <= allowed.get(name, {name})


@given(st.integers(1, 6), st.integers(0, 2**32))
def test_each_item_of_a_batch_changes_as_if_alone(count, seed):
    planes = PackedTiles(*(values.expand(count, *values.shape[1:]) for values in town()))
    # Without JPEG, in which the last bit of a sum decides over a step of its table.
    own = Augmentation(AugmentSettings(jpeg=0), SIZE, SIZE, 0.5, LOW, SPAN, CLASSES)
    changes = [own.sample(np.random.default_rng(seed + i)) for i in range(count)]
    together = apply(planes, stack(changes, CPU))
    for number, change in enumerate(changes):
        alone = apply(town(), stack([change], CPU))
        for many, one in zip(together, alone, strict=True):
            assert torch.allclose(many[number].float(), one[0].float(), atol=0.01)


def test_heights_are_missing_in_rectangles_or_blobs():
    kinds = {"none": 0, "rectangle": 0, "blobs": 0}
    for seed in range(200):
        after = augmented(seed, planes=town(), **UNTURNED, height_voids=0.5)
        lost = (after.flags & HEIGHT_VALID) == 0
        assert (after.flags & OPTICAL_VALID).all()
        assert not after.height[:, lost].any()
        assert torch.equal(after.height[:, ~lost], town().height[0][:, ~lost])
        rows, columns = lost.any(dim=1), lost.any(dim=0)
        box = bool(lost[rows][:, columns].all())
        kinds["none" if not lost.any() else "rectangle" if box else "blobs"] += 1
    assert min(kinds.values()) > 30


def test_a_tile_loses_one_stream_at_most():
    seen = {"heights": 0, "image": 0, "both": 0}
    for seed in range(200):
        after = augmented(seed, planes=town(), height_dropout=0.3, optical_dropout=0.3)
        heights, image = (bool((after.flags & bit).any()) for bit in (HEIGHT_VALID, OPTICAL_VALID))
        assert heights or image
        assert heights or not after.height.any()
        assert image or not after.optical.any()
        seen["both" if heights and image else "heights" if heights else "image"] += 1
    assert min(seen.values()) > 35


def test_heights_above_a_valley_floor_are_stretched_as_heights_are_or_hidden():
    above = town().height[0, 1]
    hidden = 0
    for seed in range(60):
        settings = {"height_stretch": 0.6, "valley_dropout": 0.3}
        factor = drawn(seed, **UNTURNED, **settings).stretch
        after = augmented(seed, planes=town(), **UNTURNED, **settings).height[1]
        if (after == UNKNOWN).all():
            hidden += 1
        else:
            assert torch.allclose(after, (above * factor).clamp(max=HIGHEST))
    assert 8 < hidden < 30
    unknown = town()
    unknown.height[:, 1] = UNKNOWN
    assert (augmented(0, planes=unknown, height_stretch=0.6).height[1] == UNKNOWN).all()


def test_scale_resamples_and_keeps_metres():
    extents = [int(drawn(seed, crop=32, scale=1.5).extent) for seed in range(300)]
    assert (min(extents), max(extents)) == (21, 48)
    tile, into = PackedTiles(*(v[0].numpy() for v in town())), blank(24, torch.uint16)
    read_crop(tile, (0, 0), SIZE, into)  # two by two pixels become one
    assert np.array_equal(into.labels, tile.labels[1::2, 1::2])
    assert into.height[0, :4].max() == 0
    assert into.height[0, 8:12, 10:18] == pytest.approx(6)
    means = tile.optical.reshape(3, 24, 2, 24, 2).mean(axis=(2, 4))
    # The filter of the resampling reaches beyond the two pixels.
    assert abs(into.optical[:, 2:-2, 2:-2].mean() - means[:, 2:-2, 2:-2].mean()) < 1
    assert into.optical.std() < tile.optical.std()


def test_heights_beside_voids_are_not_mixed_with_them():
    tile = PackedTiles(*(v[0].numpy().copy() for v in town()))
    tile.height[...] = 100
    tile.flags[:, 20:], tile.height[:, :, 20:] = OPTICAL_VALID, 0
    into = blank(70, torch.uint16)
    read_crop(tile, (0, 0), SIZE, into)
    known = (into.flags & HEIGHT_VALID) > 0
    assert into.height[:, known] == pytest.approx(100)


def test_a_crop_larger_than_its_tile_goes_on_mirrored():
    tile, into = PackedTiles(*(v[0].numpy() for v in town())), blank(60, torch.uint16)
    read_crop(tile, (-7, -5), 60, into)
    assert np.array_equal(into.labels[7:55, 5:53], tile.labels)
    assert np.array_equal(into.labels[:7], into.labels[13:6:-1])
    assert np.array_equal(into.optical[:, :, 53:], into.optical[:, :, 52:45:-1])
