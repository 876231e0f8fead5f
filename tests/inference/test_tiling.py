import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cafe_cli.config.schema import STRIDE
from cafe_cli.errors import ConfigError
from cafe_cli.inference import tiling
from cafe_cli.inference.tiling import (
    Band,
    Share,
    Strip,
    WindowGrid,
    contiguous_groups,
    default_overlap,
    divide,
    fit_window_grid,
    strips_per_task,
)
from cafe_cli.raster.window import Window, offsets


@pytest.mark.parametrize(("size", "stride"), [(500, 250), (512, 412), (512, 0), (64, 96), (48, 32)])
def test_windows_off_the_stride(size, stride):
    with pytest.raises(ConfigError, match=r"multiples of 32 .* e\.g\. --window \d+ --overlap"):
        WindowGrid(size, stride)


@st.composite
def plans(draw):
    window = draw(st.integers(1, 5))
    windows = WindowGrid(window * STRIDE, draw(st.integers(1, window)) * STRIDE)
    width, height = draw(st.integers(1, 700)), draw(st.integers(1, 700))
    col, row = draw(st.integers(0, width - 1)), draw(st.integers(0, height - 1))
    area = Window(col, row, draw(st.integers(1, width - col)), draw(st.integers(1, height - row)))
    return Window(0, 0, width, height), area, windows, draw(st.integers(1, 400_000))


@given(plans(), st.integers(1, 100_000))
def test_strips_cover_an_area_and_know_their_windows(plan, strip):
    scene, area, windows, scores = plan
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiling, "_MEMORY", scores)
        patch.setattr(tiling, "_STRIP", strip)
        strips = divide(scene, area, windows, 3)
    times = np.zeros((scene.height, scene.width), int)
    for one in strips:
        times[one.extent.slices()] += 1
        band = one.band
        columns = offsets(scene.width, windows.size, windows.stride)
        rows = offsets(scene.height, windows.size, windows.stride)
        touching = [c for c in columns if c < band.last and c + windows.size > band.first]
        assert list(band.columns) == touching
        # Every row of windows that has a part in these pixels is run, and in order.
        needed = [r for r in rows if r < one.bottom and r + windows.size > one.top]
        assert [*one.before, *one.rows] == needed
        # Nothing is final before the last window that touches it.
        ends = 0
        for row, top, bottom in one.finished():
            assert one.top <= top < bottom <= one.bottom
            assert all(r <= row or r >= bottom for r in rows)
            assert row <= top
            assert bottom <= row + windows.size
            assert not ends or top == ends
            ends = bottom
        assert ends == one.bottom
    inside = np.zeros_like(times)
    inside[area.slices()] = 1
    assert np.array_equal(times, inside)


@given(plans(), st.integers(1, 5))
def test_groups_are_strips_below_each_other(plan, most):
    scene, area, windows, _ = plan
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiling, "_STRIP", 1)
        strips = divide(scene, area, windows, 3)
    for limit in (None, most):
        groups = list(contiguous_groups(strips, limit))
        assert [strip for group in groups for strip in group] == strips
        for group in groups:
            assert len(group) <= (limit or len(group))
            pairs = itertools.pairwise(group)
            assert all(b.top == a.bottom and b.band == a.band for a, b in pairs)
    gaps = [strip for index, strip in enumerate(strips) if index != 1]
    assert [strip for group in contiguous_groups(gaps) for strip in group] == gaps


def test_memory_of_a_band_is_bounded():
    scene = Window(0, 0, 1_000_000, 1_000)
    strips = divide(scene, scene, WindowGrid(512, 256), 6)
    widest = max(strip.extent.width for strip in strips)
    assert 20 * 512 * widest <= tiling._MEMORY
    assert len(strips) < 1000


SCENES = st.tuples(st.integers(1, 20_000), st.integers(1, 20_000)).map(lambda n: Window(0, 0, *n))


@given(SCENES, st.integers(32, 1500))
def test_a_window_grid_for_a_scene(scene, trained):
    windows = fit_window_grid(scene, trained)
    assert windows.size <= max(1280, trained + 31)
    assert windows.overlap == default_overlap(windows.size)
    # No other choice from there on computes less.
    others = [
        WindowGrid(w, w - default_overlap(w))
        for w in range(windows.size, max(1280, trained) + 32, 32)
    ]
    assert windows.computed_pixels(scene) == min(other.computed_pixels(scene) for other in others)
    if min(scene.width, scene.height) > 1500:
        assert windows.size >= 768


def test_window_grids_waste_little_on_large_scenes():
    for side in (2000, 6000, 12_000, 30_000):
        scene = Window(0, 0, side, side)
        assert fit_window_grid(scene, 256).computed_pixels(scene) < 1.31 * side * side


def test_an_overlap_that_leaves_nothing():
    with pytest.raises(ConfigError, match="overlap 1280 is not below"):
        fit_window_grid(Window(0, 0, 9000, 9000), 256, 1280)


@given(st.lists(st.integers(1, 50), min_size=1, max_size=40), st.data())
def test_shares_are_contiguous_and_about_equal(sizes, data):
    count = data.draw(st.integers(1, len(sizes)))
    shares = [Share(number, count).of(sizes, "strips") for number in range(1, count + 1)]
    assert [shares[0].start, *(share.stop for share in shares)] == [
        *(share.start for share in shares),
        len(sizes),
    ]
    assert all(share.start < share.stop for share in shares)
    if max(sizes) * count < sum(sizes):  # else a part may have to take a large item
        sums = [sum(sizes[share]) for share in shares]
        assert max(abs(total - sum(sizes) / count) for total in sums) <= max(sizes)


@pytest.mark.parametrize("text", ["1/1", "2/7", " 07 / 7 ", "999999999/999999999"])
def test_parts_of_n(text):
    assert str(Share.parse(text)) == "/".join(str(int(part)) for part in text.split("/"))


@pytest.mark.parametrize(
    "text", ["", "3", "1/", "/2", "1/2/3", "-1/3", "1.0/2", "a/b", "1of2", "1/1000000000"]
)
def test_what_is_no_part(text):
    with pytest.raises(ConfigError, match="is not a part of N, counted from 1, like 2/7"):
        Share.parse(text)


@pytest.mark.parametrize("text", ["0/3", "4/3", "0/0", "1/0"])
def test_parts_that_there_are_not(text):
    with pytest.raises(ConfigError, match=f"--strips {text}: I of I/N lies between 1 and N"):
        Share.parse(text)


@pytest.mark.parametrize(
    ("strips", "rows", "workers", "expected"),
    [
        (1300, 1, 2, 16),  # long work: 6 % of the rows are run twice
        (1300, 1, 1000, 2),  # one task each of three rows, not two of two
        (16, 1, 4, 2),  # two tasks each
        (18, 40, 4, 1),  # strips of many rows share few of them
        (3, 1, 4, 1),
        (0, 1, 4, 1),
    ],
)
def test_tasks_are_as_large_as_is_soonest_done(strips, rows, workers, expected):
    band = Band(0, 64, (0,))
    work = [Strip(band, (), tuple(range(rows)), n, n + 1) for n in range(strips)]
    assert strips_per_task(work, workers) == expected
