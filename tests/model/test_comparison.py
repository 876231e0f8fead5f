"""Another scaling of the values is told from other ground, and another kind of heights, too."""

import numpy as np
import pytest

from cafe_cli.config.schema import HeightSettings
from cafe_cli.model.comparison import compare_heights, compare_values, find_order
from cafe_cli.model.distribution import DistributionSampler

GROUND, FOREST = (90, 100, 110), (50, 70, 45)
NDSM, DSM = HeightSettings(kind="ndsm"), HeightSettings()


def image(colors=GROUND, contrast=0.35, seed=0):
    """Return values of 8 bits of a made-up scene, (3, 64, 64): dark shadows, some bright roofs."""
    random = np.random.default_rng(seed)
    light = np.exp(random.normal(0, contrast, (1, 64, 64)))
    noise = random.normal(0, 3, (3, 64, 64))
    return (np.reshape(colors, (3, 1, 1)) * light + noise).clip(8, 255)


def measure(values, metres=None):
    sampler, valid = DistributionSampler(), np.ones(values.shape[1:], bool)
    heights = np.zeros(valid.shape) if metres is None else metres
    sampler.add(values, valid, heights.astype("float32"), valid)
    return sampler.distribution()


def bands(values):
    return measure(values).bands


SCALINGS = {
    "8 bit": ("uint16", image()),
    "11 bit": ("uint16", image() * 8),
    "12 bit": ("uint16", image() * 16),
    "16 bit": ("uint16", image() * 257),
    "0 to 1": ("float32", image() / 255),
    "reflectance": ("uint16", (image() * 26).clip(0, 10_000)),
    "as bytes": ("uint8", image()),
}
CERTAIN = [
    ("11 bit", "16 bit"), ("16 bit", "11 bit"), ("8 bit", "11 bit"), ("12 bit", "8 bit"),
    ("0 to 1", "8 bit"), ("0 to 1", "reflectance"), ("reflectance", "as bytes"),
    ("16 bit", "0 to 1"), ("reflectance", "16 bit"), ("as bytes", "0 to 1"),
]  # fmt: skip


@pytest.mark.parametrize(("one", "other"), CERTAIN)
def test_another_scaling_is_certain(one, other):
    (dtype, found), (known_dtype, known) = SCALINGS[one], SCALINGS[other]
    mismatch = compare_values(bands(found), bands(known), (dtype, known_dtype))
    assert mismatch.certain
    assert "gdal_translate -scale 0 " in mismatch.remedy


@pytest.mark.parametrize(("one", "other"), CERTAIN)
def test_other_ground_does_not_hide_it(one, other):
    (dtype, _), (known_dtype, known) = SCALINGS[one], SCALINGS[other]
    factor = SCALINGS[one][1].max() / 255
    found = image(FOREST, seed=1) * factor
    assert compare_values(bands(found), bands(known), (dtype, known_dtype)).certain


def test_a_bit_more_is_a_doubt():
    (dtype, found), (_, known) = SCALINGS["12 bit"], SCALINGS["11 bit"]
    mismatch = compare_values(bands(found), bands(known), (dtype, dtype))
    assert not mismatch.certain
    assert "(12 bit" in mismatch.found
    assert "(11 bit)" in mismatch.known


def test_the_command_scales_full_ranges():
    known = bands(SCALINGS["11 bit"][1])
    mismatch = compare_values(bands(SCALINGS["16 bit"][1]), known, ("uint16", "uint16"))
    assert mismatch.remedy.startswith("gdal_translate -scale 0 65535 0 2047 -ot UInt16 ")


@pytest.mark.parametrize(
    ("what", "other"),
    [
        ("a forest", image(FOREST)),
        ("snow", image((240, 240, 245), 0.02)),
        ("a lake", image((25, 30, 35), 0.05)),
        ("dull light", image(contrast=0.2) * 0.6),
    ],
)
@pytest.mark.parametrize(("factor", "dtype"), [(1, "uint8"), (8, "uint16"), (1 / 255, "float32")])
def test_other_ground_is_no_other_scaling(what, other, factor, dtype):
    for one, two in ((other, image()), (image(), other)):
        mismatch = compare_values(bands(one * factor), bands(two * factor), (dtype, dtype))
        assert mismatch is None or not mismatch.certain, what


def test_standardised_values():
    values = image()
    standard = (values - values.mean()) / values.std()
    assert compare_values(bands(standard), bands(values), ("float32", "float32")).certain
    assert compare_values(bands(standard), bands(standard), ("float32", "float32")) is None


def test_one_odd_band_is_no_other_scaling():
    other = image()
    other[2] *= 0.01
    assert compare_values(bands(other), bands(image()), ("float32", "float32")) is None


@pytest.mark.parametrize("order", [(2, 1, 0), (1, 2, 0), (1, 0, 2)])
def test_an_order_shows_on_the_same_ground(order):
    colors = (140, 100, 60)
    known = bands(image(colors))
    inverse = tuple(int(i) for i in np.argsort(order))
    assert find_order(bands(image(colors, seed=1)[[*order]]), known) == inverse
    assert find_order(bands(image(colors, seed=1)), known) is None


def test_an_order_does_not_show_on_other_ground():
    assert find_order(bands(image((60, 140, 100))), bands(image((150, 70, 40), 0.2))) is None


# --- heights -----------------------------------------------------------------------------------


def houses(ground=0.0, factor=1.0, seed=0):
    """Return percentiles of heights: half of it ground, the other half 3 to 12 m high."""
    random = np.random.default_rng(seed)
    metres = np.where(random.random((64, 64)) < 0.5, 0, random.uniform(3, 12, (64, 64)))
    metres = (metres + random.normal(0, 0.05, metres.shape)) * factor + ground
    return measure(image(), metres).heights


@pytest.mark.parametrize("ground", [20, 120, 2100, -45])
def test_absolute_heights_for_heights_above_ground(ground):
    found = compare_heights(houses(ground), houses(seed=1), NDSM, "none")
    assert found.certain
    assert "--height-kind dsm" in found.remedy


def test_low_absolute_heights_are_a_doubt():
    found = compare_heights(houses(4), houses(), NDSM, "none")
    assert not found.certain
    assert found.found.startswith("3.9 to 1")


@pytest.mark.parametrize("ground", [120, 35, 900])
def test_heights_above_ground_for_absolute_ones(ground):
    settings = HeightSettings(ground="none")
    found = compare_heights(houses(), houses(ground), settings, "none")
    assert found.certain
    assert compare_heights(houses(ground + 50), houses(ground), settings, "none") is None


def test_a_terrain_model_below_heights_above_ground():
    found = compare_heights(houses(-130), houses(), DSM, "dtm")
    assert found.certain
    assert "--height-kind ndsm" in found.remedy


@pytest.mark.parametrize("factor", [100, 30])
def test_impossible_heights(factor):
    found = compare_heights(houses(factor=factor), houses(), DSM, "dtm")
    assert found.certain
    assert "--height-unit" in found.remedy


def test_decimetres_are_a_doubt_unless_a_unit_is_known():
    found, known = houses(factor=10), houses()
    assert not compare_heights(found, known, DSM, "estimate", unit_known=False).certain
    assert compare_heights(found, known, DSM, "estimate", unit_known=True) is None


@pytest.mark.parametrize("other", [houses(factor=2.5), houses(factor=0.3)])
def test_taller_and_lower_houses(other):
    for settings, ground in ((NDSM, "none"), (DSM, "estimate"), (DSM, "dtm")):
        assert compare_heights(other, houses(), settings, ground, unit_known=False) is None
