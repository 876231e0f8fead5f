import numpy as np
import pytest

from cafe_cli.evaluation.spreading import CELLS, CellSums, choose
from cafe_cli.raster.window import Window, blocks


def sums_of(values, cell, block=None):
    height, width = values.shape
    cells = CellSums.empty(width, height, cell, 1)
    for window in blocks(width, height, block or max(width, height)):
        cells.add(window, values[window.slices()][None].astype(np.float32))
    return cells


@pytest.mark.parametrize(("height", "width"), [(64, 64), (65, 70), (30, 100), (7, 5), (129, 31)])
def test_sums_in_windows(height, width):
    values = np.random.default_rng(0).random((height, width)) < 0.3
    cells = sums_of(values, 8)
    found = cells.in_windows()[0]
    for row in range(found.shape[0]):
        for column in range(found.shape[1]):
            window = cells.window(row, column)
            assert found[row, column] == values[window.slices()].sum()


def test_windows_lie_inside():
    cells = sums_of(np.ones((70, 100)), 8)
    rows, columns = cells.in_windows()[0].shape
    last = cells.window(rows - 1, columns - 1)
    assert (last.right, last.bottom) == (100, 70)
    assert cells.window(0, 0) == Window(0, 0, 8 * CELLS, 8 * CELLS)


def test_sums_do_not_depend_on_blocks():
    values = np.random.default_rng(1).random((100, 90)) < 0.5
    whole, parts = (sums_of(values, 8, block).sums for block in (None, 16))
    assert (whole == parts).all()


@pytest.mark.parametrize("block", [3, 7, 10, 33])
def test_blocks_may_begin_inside_a_cell(block):
    values = np.random.default_rng(1).random((50, 45)) < 0.5
    whole, parts = (sums_of(values, 6, side).sums for side in (None, block))
    assert (whole == parts).all()


@pytest.mark.parametrize(("height", "width", "factor"), [(64, 64, 2), (65, 70, 3), (7, 5, 4)])
def test_coarser_cells_hold_the_same(height, width, factor):
    values = np.random.default_rng(3).random((height, width)) < 0.5
    coarse = sums_of(values, 4).coarsened(factor)
    assert coarse.cell == 4 * factor
    assert (coarse.sums == sums_of(values, 4 * factor).sums).all()


def picked(scores, count):
    """Choose among windows of 4 x 4 cells of one pixel."""
    cells = sums_of(np.ones(scores.shape), 1)
    full = cells.in_windows()[0]
    return [*choose(scores[: full.shape[0], : full.shape[1]], full, cells, count)]


def test_the_best_comes_first():
    scores = np.zeros((40, 40))
    scores[5, 5], scores[20, 20], scores[30, 2] = 0.5, 0.9, 0.1
    assert picked(scores, 10) == [(20, 20), (5, 5), (30, 2)]


def test_places_do_not_overlap():
    places = np.array(picked(np.random.default_rng(2).random((60, 60)), 100))
    assert len(places) > 50
    apart = np.abs(places[:, None] - places[None]).max(axis=2)
    assert apart[~np.eye(len(places), dtype=bool)].min() >= CELLS


def test_places_are_spread():
    """Where one corner is in doubt more than the rest, not all places lie in that corner."""
    scores = np.full((80, 80), 0.5)
    scores[:40, :40] = 0.6
    quarters = {(row // 40, column // 40) for row, column in picked(scores, 8)}
    assert quarters == {(0, 0), (0, 1), (1, 0), (1, 1)}


def test_equal_scores_are_taken_by_rows():
    assert picked(np.ones((40, 40)), 1) == [(0, 0)]


def test_windows_that_are_less_than_half_full():
    values = np.zeros((16, 16))
    values[:, :6] = 1
    cells = sums_of(values, 1)
    full = cells.in_windows()[0]
    found = [*choose(np.ones_like(full), full, cells, 50)]
    assert found
    assert all(column <= 4 for _, column in found)
