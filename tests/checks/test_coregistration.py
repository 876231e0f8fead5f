from pathlib import Path

import numpy as np
import pytest
import rasterio
from hypothesis import given, settings
from hypothesis import strategies as st
from rasterio.enums import Resampling
from rasterio.vrt import WarpedVRT
from scipy.ndimage import gaussian_filter, shift

from cafe_cli.checks.coregistration import (
    OffsetConsensus,
    OffsetEstimate,
    check_registration,
    combine_offsets,
    estimate_offset,
)

SAMPLES = Path(__file__).parents[2] / "sample_data"
SIZE = 256
EVERYWHERE = np.ones((SIZE, SIZE), bool)


def town(seed=0, shadow=(0, 0), count=60, roofs=(60, 80, 140, 170, 200)):
    """Return an image (3, SIZE, SIZE) and heights of houses that throw `shadow` (rows, columns)."""
    random = np.random.default_rng(seed)
    image = 100 + 5 * random.normal(size=(SIZE, SIZE))
    height = np.zeros((SIZE, SIZE))
    houses = [
        (slice(row, row + depth), slice(col, col + width))
        for row, col, depth, width in zip(
            *random.integers(0, SIZE - 30, (2, count)),
            *random.integers(8, 30, (2, count)),
            strict=True,
        )
    ]
    covered = np.zeros((SIZE, SIZE), bool)
    for house in houses:
        covered[house] = True
    length = max(abs(s) for s in shadow)
    for step in range(length):
        image[np.roll(covered, [round(s * (step + 1) / length) for s in shadow], (0, 1))] = 20
    for house in houses:
        image[house] = random.choice(roofs)
        height[house] = random.uniform(3, 12)
    image = gaussian_filter(image, 0.7) + random.normal(size=image.shape)
    return np.stack([image] * 3), gaussian_filter(height, 0.7)


def moved(height, columns, rows):
    """Return heights that lie (columns, rows) away from where they belong."""
    return shift(height, (rows, columns), order=1, mode="nearest")


@pytest.mark.parametrize(("columns", "rows"), [(3, 0), (0, -5), (-4, 2), (2.5, -1.5), (6, 6)])
def test_finds_how_far_the_heights_have_to_be_moved(columns, rows):
    image, height = town()
    found = estimate_offset(image, EVERYWHERE, moved(height, columns, rows), EVERYWHERE)
    assert found.columns == pytest.approx(-columns, abs=0.3)
    assert found.rows == pytest.approx(-rows, abs=0.3)
    assert found.clear
    assert found.shifted
    assert found.at_peak > found.at_zero + 0.2


@settings(max_examples=10)
@given(seed=st.integers(0, 1000))
def test_does_not_cry_wolf(seed):
    image, height = town(seed)
    found = estimate_offset(image, EVERYWHERE, height, EVERYWHERE)
    assert np.hypot(found.columns, found.rows) < 0.5
    assert found.clear
    assert not found.shifted


@pytest.mark.parametrize("shadow", [(-6, -6), (0, 8), (5, 0)])
def test_shadows_do_not_mislead(shadow):
    image, height = town(1, shadow, count=30, roofs=(85, 120))
    found = estimate_offset(image, EVERYWHERE, height, EVERYWHERE)
    assert np.hypot(found.columns, found.rows) < 1
    assert not found.shifted


def test_voids_are_no_edges():
    image, height = town(2)
    void = np.zeros((SIZE, SIZE), bool)
    void[:, 100:140] = void[40:60] = True
    unknown = np.roll(void, 8, 1)
    marked = np.where(unknown, -9999, moved(height, 3, 1))
    found = estimate_offset(np.where(void, 0, image), ~void, marked, ~unknown)
    assert (found.columns, found.rows) == pytest.approx((-3, -1), abs=0.3)


def test_values_of_voids_do_not_matter():
    image, height = town(2)
    known = EVERYWHERE.copy()
    known[50:90, 30:200] = False
    low, high = (
        estimate_offset(image, known, np.where(known, height, v), known) for v in (-9999, 1e6)
    )
    assert low == high


def test_units_and_offsets_of_heights_and_brightness_do_not_matter():
    image, height = town(3)
    one = estimate_offset(image, EVERYWHERE, moved(height, 2, 2), EVERYWHERE)
    two = estimate_offset(image * 40 + 7, EVERYWHERE, moved(height, 2, 2) * 3.28 + 500, EVERYWHERE)
    assert (two.columns, two.rows) == pytest.approx((one.columns, one.rows), abs=1e-3)
    assert two.at_peak == pytest.approx(one.at_peak, abs=1e-3)


def test_what_has_nothing_in_common_is_not_clear():
    found = [
        estimate_offset(town(seed)[0], EVERYWHERE, town(seed + 50)[1], EVERYWHERE)
        for seed in range(5)
    ]
    assert sum(h.clear for h in found) <= 1


def test_an_offset_beyond_the_search_is_not_clear():
    image, height = town(4)
    found = estimate_offset(image, EVERYWHERE, moved(height, 9, 0), EVERYWHERE, max_offset=5)
    assert not found.clear
    assert not found.shifted


def test_searches_as_far_as_asked():
    image, height = town(4)
    found = estimate_offset(image, EVERYWHERE, moved(height, 13, 0), EVERYWHERE, max_offset=16)
    assert (found.columns, found.rows) == pytest.approx((-13, 0), abs=0.3)


def test_takes_integers_of_any_width():
    image, height = town(5)
    wide = estimate_offset((image * 100).astype(np.uint16), EVERYWHERE, height, EVERYWHERE)
    assert wide.clear
    assert abs(wide.columns) < 0.5


@pytest.mark.parametrize("flat", [0.0, 477.13, 1e6])
def test_flat_heights_say_nothing(flat):
    image, _ = town()
    assert estimate_offset(image, EVERYWHERE, np.full((SIZE, SIZE), flat), EVERYWHERE) is None


def test_a_flat_image_says_nothing():
    flat = np.full((3, SIZE, SIZE), 80, np.uint8)
    assert estimate_offset(flat, EVERYWHERE, town()[1], EVERYWHERE) is None


def test_voids_say_nothing():
    image, height = town()
    assert estimate_offset(image, EVERYWHERE, height, ~EVERYWHERE) is None
    assert estimate_offset(image, ~EVERYWHERE, height, EVERYWHERE) is None


def test_a_window_smaller_than_the_search_says_nothing():
    image, height = town()
    known = EVERYWHERE[:30, :30]
    assert estimate_offset(image[:, :30, :30], known, height[:30, :30], known) is None


def offset(columns, rows, *, clear=True, shifted=True):
    return OffsetEstimate(columns, rows, 0.1, 0.3, clear, shifted)


def test_combines_by_the_median_and_counts_who_agrees():
    together = combine_offsets(
        [offset(3, 0), offset(3.2, 0.2), offset(2.8, -0.2), offset(-6, 5), None]
    )
    assert (together.columns, together.rows) == pytest.approx((2.9, 0.1))
    assert together.windows == 4
    assert together.agree == 0.75
    assert together.shifted == 1
    assert (together.at_zero, together.at_peak) == pytest.approx((0.1, 0.3))


def test_windows_at_zero_have_a_say():
    together = combine_offsets(
        [offset(3, 0), offset(0, 0, shifted=False), offset(0.1, 0, shifted=False)]
    )
    assert together.columns == pytest.approx(0.1)
    assert together.shifted == pytest.approx(1 / 3)


def test_unclear_windows_have_no_say():
    assert combine_offsets([None, offset(7, 7, clear=False, shifted=False)]) is None
    assert combine_offsets([]) is None


@pytest.mark.parametrize("name", ["a", "b"])
@pytest.mark.parametrize(("columns", "rows"), [(0, 0), (4, 0), (-2.5, 3.5)])
def test_sample_town(name, columns, rows):
    """Another projection, turned, half as fine, with voids and shadows: offsets to half a metre."""
    with rasterio.open(SAMPLES / f"{name}_ortho.tif") as ortho:
        image = ortho.read(window=((0, 400), (0, 400)))
        with rasterio.open(SAMPLES / f"{name}_dsm.tif") as dsm:
            place = ortho.transform @ ortho.transform.translation(-columns, -rows)
            options = {"crs": ortho.crs, "width": 400, "height": 400}
            with WarpedVRT(
                dsm, transform=place, resampling=Resampling.bilinear, add_alpha=True, **options
            ) as view:
                height, valid = view.read()
    found = estimate_offset(image, np.ones((400, 400), bool), height, valid > 0)
    assert found.clear
    assert (found.columns, found.rows) == pytest.approx((-columns, -rows), abs=1)
    assert found.shifted == (columns != 0)


# Registration


def agreement(columns=4.0, rows=-2.5, windows=9, agree=0.8, shifted=1.0):
    return OffsetConsensus(columns, rows, 0.1, 0.3, windows, agree, shifted)


def test_a_shift_is_told_with_where_to():
    (found,) = check_registration(agreement(), 8.0, -5.0, 2.36)
    assert found.level == "warning"
    assert "shifted 8.0 px to the right and 5.0 px up (2.4 m)" in found.message
    assert "correlation of edges rises from 0.10 to 0.30, alike in 7 of 9 places" in found.message
    (found,) = check_registration(agreement(-4, 2), -4, 2, None)
    assert "shifted 4.0 px to the left and 2.0 px down: the correlation" in found.message


def test_few_places_make_a_note():
    (found,) = check_registration(agreement(windows=2, agree=1.0), 4, -2.5, 2.4)
    assert found.level == "note"


@pytest.mark.parametrize(
    ("found", "metres"),
    [
        (agreement(1.0, 1.0), 3.0),
        (agreement(), 0.4),
        (agreement(agree=0.5), 2.4),
        (agreement(shifted=0.5), 2.4),
    ],
)
def test_small_or_doubtful_shifts_are_no_finding(found, metres):
    assert not list(check_registration(found, found.columns, found.rows, metres))
