import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cafe_cli.raster.window import Window
from cafe_cli.splits.tiling import clamped_offsets, scoring_windows, training_windows

LENGTHS = st.integers(1, 120)
SIZES = st.integers(1, 40)
STRIDES = SIZES.flatmap(lambda size: st.tuples(st.just(size), st.integers(1, size)))
PLACES = st.integers(0, 100)
FREE = st.lists(st.builds(Window, PLACES, PLACES, st.integers(1, 30), st.integers(1, 30)))


@given(LENGTHS, STRIDES)
def test_clamped_tiles_cover_a_length_and_stay_inside(length, size_stride):
    size, stride = size_stride
    starts = clamped_offsets(length, size, stride)
    assert starts == sorted(set(starts))
    assert starts[0] == 0
    assert max(b - a for a, b in zip(starts, [*starts[1:], starts[-1]], strict=True)) <= stride
    assert starts[-1] + size == max(length, size)


@given(PLACES, PLACES, LENGTHS, LENGTHS, STRIDES, FREE)
def test_training_tiles_keep_off_what_is_kept_free(left, top, width, height, size_stride, free):
    size, stride = size_stride
    extent = Window(left, top, width, height)
    tiles = list(training_windows(extent, size, stride, free))
    taken = np.zeros((300, 300), bool)
    for window in free:
        taken[window.slices()] = True
    for tile in tiles:
        assert not taken[tile.slices()].any()
    # None is left out without need.
    rows, cols = (clamped_offsets(n, size, stride) for n in (height, width))
    every = {(top + row, left + col) for row in rows for col in cols}
    for row, col in every - {(t.row, t.col) for t in tiles}:
        assert taken[Window(col, row, size, size).slices()].any()


@pytest.mark.slow
@given(PLACES, PLACES, LENGTHS, LENGTHS, SIZES)
def test_every_pixel_of_a_block_is_scored_once(col, row, width, height, size):
    block = Window(col, row, width, height)
    seen = np.zeros((height, width), int)
    for tile, scored in scoring_windows(block, size):
        assert tile.intersection(scored) == scored
        assert block.intersection(scored) == scored
        assert (tile.width, tile.height) == (size, size)
        if width >= size:
            assert col <= tile.col <= col + width - size
        if height >= size:
            assert row <= tile.row <= row + height - size
        seen[scored.slices(block)] += 1
    assert (seen == 1).all()
