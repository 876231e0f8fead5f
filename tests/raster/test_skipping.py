"""Reading on where a file is damaged: what is skipped, and what is said of it."""

import itertools
import re

import numpy as np
import pytest
from rasterio.enums import Resampling
from scipy.ndimage import gaussian_filter

from cafe_cli.errors import InputError
from cafe_cli.raster import skipped as skipping
from cafe_cli.raster.mosaic_view import MosaicView, inspect_rasters
from cafe_cli.raster.samples import read_samples
from cafe_cli.raster.skipped import Skipped
from cafe_cli.raster.storage import blocks_behind
from cafe_cli.raster.warp import open_on_grid
from cafe_cli.raster.window import Window, blocks
from tests.support.damage import cut_off, overwrite
from tests.support.rasters import LAMBERT, around, grid, moved, noise, read

WHERE = grid(150, 100)
TILED = {"tiled": True, "blockxsize": 64, "blockysize": 32}
STRIPED = {"tiled": False, "blockysize": 8}
FORMATS = [
    {"compress": codec, **layout, "interleave": interleave}
    for codec, layout, interleave in itertools.product(
        ("deflate", "lzw", "zstd", "jpeg"), (TILED, STRIPED), ("pixel", "band")
    )
]


def smooth(count=3, where=WHERE):
    """An image that JPEG changes little."""
    return gaussian_filter(noise(count, where).astype(float), (0, 4, 4)).astype(np.uint8)


def read_parts(path, where, size, skipped, resampling=Resampling.bilinear, **options):
    """Read a raster in windows of a size; return values, valid and skipped pixels."""
    values = np.zeros((3, where.height, where.width), np.uint8)
    valid = np.zeros(values.shape[1:], bool)
    lost = valid.copy()
    view = MosaicView(inspect_rasters([path]), where, resampling, skipped=skipped, **options)
    for window in blocks(where.width, where.height, size):
        found = view.read_or_skip(window)
        here = window.slices()
        values[:, *here], valid[here] = found.values, found.valid
        lost[here] = False if found.skipped is None else found.skipped
    view.close()
    return values, valid, lost


def masked(where, *windows):
    """A mask of windows."""
    mask = np.zeros((where.height, where.width), bool)
    for window in windows:
        mask[window.slices()] = True
    return mask


@pytest.mark.parametrize("profile", FORMATS, ids=lambda p: "-".join(map(str, p.values())))
def test_a_damaged_block_is_skipped_and_nothing_else(write, profile):
    path = write("a.tif", smooth(), WHERE, **profile)
    whole = read(path)
    bad = masked(WHERE, overwrite(path, 0, 1))
    for size in (1000, 64, 37):
        skipped = Skipped()
        values, valid, lost = read_parts(path, WHERE, size, skipped)
        assert np.array_equal(lost, bad)
        assert np.array_equal(valid, ~bad)
        assert np.array_equal(values[:, valid], whole[:, valid])
        (file,) = skipped.files()
        assert (file.file, file.pixels, file.total) == (path, bad.sum(), bad.size)
        assert file.windows == 1


@pytest.mark.parametrize("profile", FORMATS, ids=lambda p: "-".join(map(str, p.values())))
def test_without_it_the_error_names_file_and_window(write, profile):
    path = write("a.tif", smooth(), WHERE, **profile)
    overwrite(path, 0, 1)
    said = rf"cannot read {path} at column 0, row 0: .* \(in a window of 150 x 100 pixels\)"
    with pytest.raises(InputError, match=said):
        read_parts(path, WHERE, 1000, None)


@pytest.mark.parametrize("profile", FORMATS, ids=lambda p: "-".join(map(str, p.values())))
def test_a_file_that_was_cut_off(write, profile):
    path = write("a.tif", smooth(), WHERE, **{**profile, "interleave": "pixel"})
    whole = read(path)
    cut_off(path, 0, 2)
    skipped = Skipped()
    values, valid, lost = read_parts(path, WHERE, 60, skipped)
    above = 2 * (32 if profile["tiled"] else 8)
    assert valid[:above].all()
    assert lost[above + 32 :].all()
    assert np.array_equal(valid, ~lost)
    assert np.array_equal(values[:, valid], whole[:, valid])
    assert skipped.files()[0].pixels == lost.sum()


@pytest.mark.parametrize("dtype", ["uint16", "int16", "float32", "float64"])
def test_of_any_data_type(write, dtype):
    path = write("a.tif", noise(1, WHERE, dtype), WHERE, compress="lzw", **TILED)
    bad = masked(WHERE, overwrite(path, 1, 2), overwrite(path, 2, 0))
    view = MosaicView(inspect_rasters([path]), WHERE, Resampling.bilinear, skipped=Skipped())
    found = view.read_or_skip(WHERE.extent)
    assert found.values.dtype == dtype
    assert np.array_equal(found.skipped, bad)


def test_voids_stay_voids(write):
    values = smooth()
    values[:, 40:50, 20:70] = 0
    path = write("a.tif", values, WHERE, compress="deflate", nodata=0, **TILED)
    void = (read(path) == 0).all(axis=0)
    bad = masked(WHERE, overwrite(path, 0, 1))
    _, valid, lost = read_parts(path, WHERE, 50, Skipped())
    assert np.array_equal(lost, bad)
    assert np.array_equal(valid, ~bad & ~void)


def test_a_damaged_mask(write):
    mask = np.ones((WHERE.height, WHERE.width), bool)
    mask[:, :9] = False
    profile = {"compress": "deflate", **TILED}
    path = write("a.tif", smooth(), WHERE, mask=mask, **profile)
    bad = masked(WHERE, overwrite(path, 1, 1, directory=2))
    skipped = Skipped()
    _, valid, lost = read_parts(path, WHERE, 50, skipped)
    assert bad.any()
    assert np.array_equal(lost, bad)
    assert np.array_equal(valid, mask & ~bad)
    assert skipped.files()[0].pixels == bad.sum()


BIG = grid(900, 500)
TARGETS = [
    moved(BIG, 0.5, 0.5),
    BIG.rescaled(0.7),
    BIG.rescaled(3.3),
    around(300_200.0, 5_199_900.0, 400.0, 0.7, LAMBERT),
]


@pytest.mark.parametrize("target", TARGETS)
def test_what_a_warped_view_skips_does_not_depend_on_the_windows(write, target):
    path = write("a.tif", smooth(3, BIG), BIG, compress="deflate", **TILED)
    good, all_valid, _ = read_parts(path, target, 1000, None)
    overwrite(path, 1, 1)
    seen = []
    for size in (1000, 64, 37):
        skipped = Skipped()
        values, valid, lost = read_parts(path, target, size, skipped)
        assert np.array_equal(values[:, valid], good[:, valid])
        assert np.array_equal(valid, all_valid & ~lost)
        seen.append((lost, skipped.files()))
    assert seen[0][0].any()
    for lost, files in seen[1:]:
        assert np.array_equal(lost, seen[0][0])
        assert files == seen[0][1]
    ((_, (file,)), *_) = seen
    assert (file.pixels, file.windows, file.bounds) == (64 * 32, 1, (64, 32, 64, 32))


def test_the_error_of_a_warped_view_names_the_window_of_the_file(write):
    path = write("a.tif", smooth(), WHERE, compress="deflate", **TILED)
    overwrite(path, 1, 1)
    finer = moved(WHERE, 60, 30, 0.5, width=40, height=20)
    with pytest.raises(InputError) as caught:
        read_parts(path, finer, 1000, None)
    numbers = re.search(
        r"column (\d+), row (\d+): .* window of (\d+) x (\d+) pixels", str(caught.value)
    )
    col, row, width, height = map(int, numbers.groups())
    shown = Window(col, row, width, height)
    assert shown.intersection(Window(64, 32, 64, 32))
    assert shown.width <= 20 + 6
    assert shown.height <= 10 + 6


def test_another_file_may_have_the_pixels(write):
    one = write("one.tif", smooth(), WHERE, compress="deflate", **TILED)
    shifted = moved(WHERE, 100, 0)
    other = write("other.tif", 255 - smooth(), shifted, compress="deflate", **TILED)
    bad = overwrite(one, 1, 0), overwrite(one, 0, 2)
    skipped = Skipped()
    members = inspect_rasters([one, other])
    view = MosaicView(members, WHERE, Resampling.bilinear, skipped=skipped)
    values, valid, lost = view.read_or_skip(WHERE.extent)
    bad = masked(WHERE, *bad)
    assert np.array_equal(lost[:, :100], bad[:, :100])
    assert not lost[:, 100:].any()
    assert np.array_equal(valid, ~lost)
    filled = bad[:, 100:]
    assert filled.any()
    assert np.array_equal(values[:, :, 100:][:, filled], read(other)[:, :, :50][:, filled])
    assert [file.file for file in skipped.files()] == [one]


def test_pixels_of_samples_that_cannot_be_read_are_not_valid(write):
    path = write("a.tif", smooth(), WHERE, compress="deflate", **TILED)
    bad = masked(WHERE, overwrite(path, 1, 1))
    skipped = Skipped()
    with open_on_grid(path, WHERE, True, Resampling.nearest) as dataset:
        (sample,) = read_samples(dataset, [1], skipped=skipped)
        assert np.array_equal(sample.valid, ~bad)
        assert skipped.files() == ()
        with pytest.raises(InputError):
            list(read_samples(dataset, [1]))


@pytest.mark.parametrize("profile", [TILED, STRIPED])
@pytest.mark.parametrize("window", [Window(-5, -5, 20, 40), Window(63, 31, 2, 2), WHERE.extent])
def test_blocks_cover_a_window(write, profile, window):
    path = write("a.tif", smooth(1), WHERE, **profile)
    with open_on_grid(path, WHERE, True, Resampling.nearest) as dataset:
        found = list(blocks_behind(dataset, window, 1))
        every = list(blocks_behind(dataset, WHERE.extent, 1))
    count = np.zeros((100, 150), int)
    for block in found:
        count[block.slices()] += 1
        assert block in every
        assert block.intersection(window)
    assert count.max() == 1
    assert count[window.intersection(WHERE.extent).slices()].min() == 1


# Servers that keep one waiting


def test_a_file_that_fails_slowly_three_times_in_a_row_is_not_asked_again(monkeypatch, caplog):
    seconds = itertools.count(step=10)
    monkeypatch.setattr(skipping.time, "monotonic", lambda: next(seconds))
    asked = []

    def fail():
        asked.append(1)
        raise InputError("cannot read a.tif: timeout")

    skipped = Skipped()
    for _ in range(5):
        assert skipped.attempt("a.tif", fail) is None
    assert len(asked) == 3
    assert caplog.text.count("cannot read a.tif: timeout; it failed 3 times in a row") == 1
    assert skipped.attempt("a.tif", lambda: 1) is None
    assert skipped.attempt("b.tif", lambda: 1) == 1


def test_a_success_between_starts_the_count_anew(monkeypatch):
    seconds = itertools.count(step=10)
    monkeypatch.setattr(skipping.time, "monotonic", lambda: next(seconds))

    def fail():
        raise InputError("no")

    skipped = Skipped()
    for _ in range(5):
        assert [skipped.attempt("a", f) for f in (fail, fail, lambda: 1)] == [None, None, 1]


def test_quick_failures_do_not_count():
    def fail():
        raise InputError("no")

    skipped = Skipped()
    assert [skipped.attempt("a", fail) for _ in range(9)] == [None] * 9
    assert skipped.attempt("a", lambda: 1) == 1
