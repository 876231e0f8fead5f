"""Held-out ground lies together where scattered blocks cost most of the training tiles."""

import numpy as np
import pytest

from cafe_cli.raster.window import Window
from cafe_cli.splits.assign import Block, assign_blocks, divide_into_blocks
from cafe_cli.splits.compact import ENOUGH, TrainingTiles, keep_together


def ground(sizes, side, rare=0.3, seed=3):
    """Return the extents and the blocks of scenes; the third class is in a share of the blocks."""
    random = np.random.default_rng(seed)
    extents = {str(i): Window(0, 0, *size) for i, size in enumerate(sizes)}
    blocks = []
    for name, extent in extents.items():
        for window in divide_into_blocks(extent.width, extent.height, side):
            counts = random.integers(1, window.width * window.height // 3, 3)
            counts[2] *= random.random() < rare
            blocks.append(Block(name, window, counts))
    return extents, blocks


def choose(sizes, side, shares, tiling=(32, 32), buffer=32, seed=0):
    """Return the blocks, the assignment before and after, and the training tiles."""
    extents, blocks = ground(sizes, side)
    tiles = TrainingTiles.of(
        blocks, extents, tiling, buffer, lambda name, windows: np.ones(len(windows), bool)
    )
    before = assign_blocks(blocks, shares, seed)
    return blocks, before, keep_together(blocks, before, shares, tiles, seed), tiles


def left(tiles, parts):
    return tiles.left(np.array(parts) > 0)


@pytest.mark.parametrize(
    ("sizes", "side", "shares", "tiling"),
    [
        ([(256, 256)] * 2, 64, [0.7, 0.3, 0.0], (64, 64)),
        ([(400, 400)], 64, [0.8, 0.2, 0.0], (64, 64)),
        ([(160, 160)] * 18, 64, [0.6, 0.2, 0.2], (32, 32)),
        ([(640, 480)], 128, [0.6, 0.2, 0.2], (64, 48)),
        ([(160, 160)] * 2, 32, [0.8, 0.2, 0.0], (32, 32)),
    ],
)
@pytest.mark.parametrize("seed", [0, 7])
def test_small_scenes_keep_their_training_tiles(sizes, side, shares, tiling, seed):
    blocks, before, after, tiles = choose(sizes, side, shares, tiling, seed=seed)
    assert left(tiles, before) < ENOUGH * shares[0] * tiles.total
    assert left(tiles, after) > 1.25 * left(tiles, before)
    counts = np.array([block.counts for block in blocks])
    for part in np.flatnonzero(shares):
        own = counts[np.array(after) == part]
        assert own.any(axis=0).all()
        assert own.sum() / counts.sum() == pytest.approx(shares[part], abs=0.06)
    assert choose(sizes, side, shares, tiling, seed=seed)[2] == after


@pytest.mark.parametrize(
    ("sizes", "side", "shares", "tiling", "buffer"),
    [
        ([(640, 640)] * 2, 256, [0.8, 0.2, 0.0], (128, 64), 16),
        ([(5000, 4000)], 1024, [0.8, 0.2, 0.0], (512, 384), 32),
        ([(3800, 3800)], 256, [0.95, 0.05, 0.0], (256, 192), 32),
        ([(160, 160)] * 18, 160, [0.8, 0.2, 0.0], (32, 32), 32),
        ([(400, 400)], 64, [1.0, 0.0, 0.0], (64, 64), 32),
    ],
)
def test_scattered_blocks_stay_where_they_leave_enough(sizes, side, shares, tiling, buffer):
    _, before, after, _ = choose(sizes, side, shares, tiling, buffer)
    assert after == before


def test_no_class_is_lost_for_more_tiles():
    """The rare class is in two far corners only: each part needs one of them."""
    window = {(c, r): Window(c * 32, r * 32, 32, 32) for r in range(6) for c in range(6)}
    blocks = [
        Block("a", w, np.array([1000, 20 * (place in ((0, 0), (5, 5)))]))
        for place, w in window.items()
    ]
    extents = {"a": Window(0, 0, 192, 192)}
    tiles = TrainingTiles.of(
        blocks, extents, (32, 32), 32, lambda name, windows: np.ones(len(windows), bool)
    )
    shares = [0.8, 0.2, 0.0]
    after = keep_together(blocks, assign_blocks(blocks, shares, 0), shares, tiles, 0)
    assert {after[0], after[35]} == {0, 1}


def test_tiles_that_are_not_worth_it_do_not_count():
    extents, blocks = ground([(128, 128)], 64)
    worth = np.arange(16) % 4 == 0
    tiles = TrainingTiles.of(blocks, extents, (32, 32), 0, lambda name, windows: worth)
    assert tiles.total == 4
    assert [len(near) for near in tiles.near] == [2, 0, 2, 0]
    assert tiles.left(np.array([True, True, False, False])) == 2


def test_too_few_blocks_are_left_as_they_are():
    for count in (1, 2):
        _, before, after, _ = choose([(32 * count, 32)], 32, [0.6, 0.2, 0.2])
        assert after == before
