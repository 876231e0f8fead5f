from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from cafe_cli.checks.facts import RasterFacts
from cafe_cli.checks.rules import (
    check_grid,
    check_image,
    check_labels,
    check_storage,
    pixel_shift,
)
from cafe_cli.config.schema import LabelSettings
from cafe_cli.scenes.label_coding import LabelTally
from tests.support.findings import said
from tests.support.rasters import LAMBERT, TABLE, around, grid

X, Y = 300_000.0, 5_200_000.0
RANDOM = np.random.default_rng(0)


# Image


def test_nothing_is_said_of_a_good_image():
    assert not list(check_image(RANDOM.integers(0, 255, (3, 50), np.uint8), (1, 2, 3)))
    assert not list(check_image(RANDOM.integers(0, 60_000, (3, 50), np.uint16), (1, 2, 3)))


def test_a_band_that_shows_nothing_is_named():
    values = RANDOM.integers(0, 255, (3, 50), np.uint8)
    values[1] = 7
    assert "band 4 is 7 everywhere" in said(check_image(values, (2, 4, 1)), "warning")


@pytest.mark.parametrize(
    ("top", "bits"), [(255, 8), (256, 10), (1023, 10), (1024, 11), (2047, 11), (4095, 12)]
)
def test_sixteen_bits_that_are_not_all_used(top, bits):
    values = np.array([[0, top]], np.uint16)
    (found,) = check_image(values, (1,))
    assert found.level == "note"
    assert f"uint16 pixels that use only {bits} bits (values up to {top})" in found.message
    assert not list(check_image(np.array([[0, 4096]], np.uint16), (1,)))


def test_an_empty_image():
    assert "no valid pixel" in said(check_image(np.zeros((3, 0), np.uint8), (1, 2, 3)), "warning")


# Labels


def labels(counts, unknown=(), **settings):
    return check_labels(
        np.array(counts), LabelTally(Counter(dict(unknown))), TABLE, LabelSettings(**settings)
    )


def test_nothing_is_said_of_good_labels():
    assert not list(labels([5, 6, 7]))
    assert not list(labels([5, 0, 7], absent=("tree",)))


def test_values_without_a_class_are_listed_with_counts():
    (found,) = labels([5, 6, 7], {7: 1234, 19: 5})
    assert found.level == "error"
    assert "label values without a class: 7 (1,234 px), 19 (5 px); add" in found.message
    assert "and 2 more" in said(labels([5, 6, 7], dict.fromkeys(range(10, 20), 1)))


def test_colours_that_are_not_exact_are_noted():
    (found,) = labels([5, 6, 7], {"#fffe00": 40}, encoding="colors")
    assert found.level == "note"
    assert "#fffe00 (40 px)" in found.message


def test_classes_that_do_not_occur_are_noted():
    (found,) = labels([5, 0, 0])
    assert found.level == "note"
    assert "classes without a pixel in the sampled windows: tree, building" in found.message


def test_no_label_at_all():
    (found,) = labels([0, 0, 0])
    assert found.level == "error"
    assert "no label in any of the sampled windows" in found.message


# Grids


@pytest.mark.parametrize(
    ("left", "top", "expected"),
    [(0, 0, (0, 0)), (0.25, 0, (-0.5, 0)), (1.5, -2.0, (0, 0)), (-0.1, 0.05, (-0.2, -0.1))],
)
def test_shift_is_what_is_left_of_whole_pixels(left, top, expected):
    found = pixel_shift(grid(left=X + left, top=Y + top), grid(left=X, top=Y))
    assert found == pytest.approx(expected, abs=1e-6)


def test_grids_of_other_pixels_are_not_shifted():
    assert pixel_shift(grid(pixel=1.0), grid(pixel=0.5)) is None
    assert pixel_shift(grid(crs=LAMBERT), grid()) is None
    assert pixel_shift(around(X, Y, 5, 0.5, angle=10), around(X, Y, 5, 0.5)) is None


def test_nothing_is_said_of_a_grid_that_fits():
    assert not list(check_grid("elevation", grid(), grid()))
    assert not list(check_grid("elevation", grid(pixel=1.0), grid()))


def test_half_a_pixel_is_noted():
    (found,) = check_grid("elevation", grid(left=X + 0.25), grid(left=X))
    assert found.level == "note"
    assert "lies 0.50 columns and 0.00 rows off the pixel grid of the image" in found.message
    assert "interpolated" in found.message
    assert "nearest" in said(check_grid("labels", grid(left=X + 0.25), grid(left=X)))


@pytest.mark.parametrize(("pixel", "level"), [(2.5, "note"), (10.0, "warning")])
def test_coarse_heights(pixel, level):
    (found,) = check_grid("elevation", grid(pixel=pixel), grid(pixel=0.5))
    assert found.level == level
    assert f"pixels of {pixel:g} m are {2 * pixel:.1f} times as large" in found.message
    assert not list(check_grid("dtm", grid(pixel=pixel), grid(pixel=0.5)))


# Storage


def test_big_files_in_strips_are_noted():
    strips = RasterFacts(
        "a.tif", 12_000, 12_000, "EPSG:32632", [1.0, 1.0], 1.0, 0.0, "uint8", ["red"], None, "none",
        None, block=[1, 12_000], overviews=[],
    )  # fmt: skip
    (found,) = check_storage(strips)
    assert found.level == "note"
    assert "12000 x 12000 pixels without tiling or overviews" in found.message
    assert not list(check_storage(replace(strips, overviews=[2, 4])))
    assert not list(check_storage(replace(strips, block=[256, 256])))
    assert not list(check_storage(replace(strips, height=1000)))
