import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cafe_cli.raster.window import Window, blocks, cover, offsets

LENGTHS = st.integers(1, 90)
STEPS = st.integers(1, 40).flatmap(lambda size: st.tuples(st.just(size), st.integers(1, size)))
PLACES = st.integers(-20, 20)
WINDOWS = st.builds(Window, PLACES, PLACES, st.integers(1, 20), st.integers(1, 20))


def paint(window: Window) -> set[tuple[int, int]]:
    rows, columns = range(window.height), range(window.width)
    return {(window.row + r, window.col + c) for r in rows for c in columns}


@pytest.mark.parametrize(("width", "height"), [(0, 1), (1, 0), (-3, 5)])
def test_an_empty_window_is_refused(width, height):
    with pytest.raises(ValueError, match=f"{width} x {height}"):
        Window(0, 0, width, height)


@given(WINDOWS, WINDOWS)
def test_an_intersection_holds_the_common_pixels(one, other):
    common = one.intersection(other)
    assert common == other.intersection(one)
    assert (paint(common) if common else set()) == paint(one) & paint(other)


@given(WINDOWS)
def test_bounds_are_the_edges_of_the_pixels(window):
    left, top, right, bottom = window.bounds
    assert (right, bottom) == (window.right, window.bottom)
    assert paint(window) == {(r, c) for r in range(top, bottom) for c in range(left, right)}
    assert Window.from_bounds(*window.bounds) == window


def test_bounds_without_a_pixel_between_them_are_refused():
    with pytest.raises(ValueError, match="0 x 3"):
        Window.from_bounds(5, 1, 5, 4)


@given(st.lists(WINDOWS, min_size=1, max_size=4))
def test_a_hull_is_the_smallest_window_around_others(windows):
    hull = Window.hull(windows)
    rows, columns = zip(*set().union(*map(paint, windows)), strict=True)
    assert hull.bounds == (min(columns), min(rows), max(columns) + 1, max(rows) + 1)


@given(WINDOWS, PLACES, PLACES)
def test_a_shifted_window_keeps_its_size(window, columns, rows):
    shifted = window.shift(columns, rows)
    assert paint(shifted) == {(r + rows, c + columns) for r, c in paint(window)}


@given(WINDOWS, WINDOWS)
def test_a_relative_window_counts_from_the_first_pixel_of_another(window, origin):
    relative = window.relative_to(origin)
    assert relative.shift(origin.col, origin.row) == window
    assert relative.slices() == window.slices(origin)
    assert window.relative_to(window) == Window(0, 0, window.width, window.height)


@given(WINDOWS, st.integers(0, 5))
def test_an_expanded_window_has_a_rim(window, margin):
    grown = window.expand(margin)
    rows, columns = window.slices(grown)
    inside = np.zeros((grown.height, grown.width), bool)
    inside[rows, columns] = True
    assert inside.sum() == window.width * window.height
    assert (rows.start, columns.start) == (margin, margin)
    assert (grown.height, grown.width) == (rows.stop + margin, columns.stop + margin)


def test_slices_count_from_the_origin():
    assert Window(3, 5, 2, 4).slices() == (slice(5, 9), slice(3, 5))
    assert Window(3, 5, 2, 4).slices(Window(1, 2, 9, 9)) == (slice(3, 7), slice(2, 4))


@given(LENGTHS, LENGTHS, STEPS)
def test_cover_covers_every_pixel_from_multiples_of_the_step(width, height, size_step):
    size, step = size_step
    seen = np.zeros((height, width), int)
    windows = list(cover(width, height, size, step))
    for window in windows:
        assert (window.width, window.height) == (size, size)
        assert window.row % step == window.col % step == 0
        rows, columns = window.slices()
        assert seen[rows, columns].size > 0  # none lies beyond the raster
        seen[rows, columns] += 1
    assert seen.min() >= 1
    assert windows == sorted(windows, key=lambda w: (w.row, w.col))


@given(LENGTHS, LENGTHS, STEPS)
def test_a_window_keeps_its_place_when_the_raster_grows(length, more, size_step):
    short, long = (list(offsets(n, *size_step)) for n in (length, length + more))
    assert long[: len(short)] == short


@pytest.mark.parametrize(
    ("length", "expected"),
    [(1, [0]), (256, [0]), (257, [0, 192]), (448, [0, 192]), (449, [0, 192, 384])],
)
def test_the_fewest_windows_that_do(length, expected):
    assert list(offsets(length, 256, 192)) == expected


@given(LENGTHS, LENGTHS, st.integers(1, 40))
def test_blocks_divide_a_raster(width, height, size):
    seen = np.zeros((height, width), int)
    for block in blocks(width, height, size):
        assert block.intersection(Window(0, 0, width, height)) == block
        seen[block.slices()] += 1
    assert (seen == 1).all()
