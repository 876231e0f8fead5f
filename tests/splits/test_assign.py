import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cafe_cli.raster.window import Window
from cafe_cli.splits.assign import Block, assign_blocks, divide_into_blocks

LENGTHS = st.integers(1, 120)
SIZES = st.integers(1, 40)
COUNTS = st.integers(1, 4).flatmap(
    lambda classes: st.lists(
        st.lists(st.sampled_from([0, 0, 1, 7, 100]), min_size=classes, max_size=classes),
        min_size=0,
        max_size=12,
    )
)


def blocks_of(counts) -> list[Block]:
    return [Block("a", Window(i, 0, 1, 1), np.array(row)) for i, row in enumerate(counts)]


@given(LENGTHS, LENGTHS, SIZES)
def test_divide_partitions_into_near_squares(width, height, side):
    seen = np.zeros((height, width), int)
    for block in divide_into_blocks(width, height, side):
        seen[block.slices()] += 1
        assert min(side, width) <= block.width <= 2 * side
        assert min(side, height) <= block.height <= 2 * side
    assert (seen == 1).all()


SHARES = st.sampled_from(
    [(1.0,), (0.8, 0.2), (0.05, 0.95), (0.7, 0.2, 0.1), (0.8, 0.0, 0.2), (0.0, 0.5, 0.5), [0.2] * 5]
)


@settings(max_examples=40)
@given(COUNTS, SHARES, st.integers(0, 3))
def test_every_block_goes_to_one_part_and_no_part_goes_empty(counts, shares, seed):
    blocks = blocks_of(counts)
    parts = assign_blocks(blocks, shares, seed)
    assert parts == assign_blocks(blocks, shares, seed)
    assert len(parts) == len(counts)
    labelled = [p for p, row in zip(parts, counts, strict=True) if any(row)]
    takers = [p for p, share in enumerate(shares) if share > 0]
    assert set(labelled) == set(takers[: len(labelled)])
    assert all(p == 0 for p, row in zip(parts, counts, strict=True) if not any(row))


@settings(max_examples=20)
@given(
    st.lists(st.tuples(*[st.sampled_from([0, 0, 1, 50])] * 4).filter(any), min_size=3, max_size=7),
    st.sampled_from([(0.8, 0.2), (0.6, 0.3, 0.1)]),
)
def test_as_many_classes_as_can_be_occur_in_every_part(counts, shares):
    """Compared with every possible assignment of the blocks."""
    there = np.array(counts) > 0
    enough = there.sum(axis=0) >= len(shares)

    def lacking(parts):
        of_part = np.array(parts)[:, None] == np.arange(len(shares))
        return int((~(of_part.T @ there)[:, enough]).sum())

    every = itertools.product(range(len(shares)), repeat=len(counts))
    filled = (parts for parts in every if len(set(parts)) == len(shares))
    assert lacking(assign_blocks(blocks_of(counts), shares, seed=0)) <= min(map(lacking, filled))


@given(st.sampled_from([(0.8, 0.2), (0.5, 0.3, 0.2), (0.25,) * 4]), st.integers(1, 3))
@settings(max_examples=10)
def test_blocks_that_are_alike_meet_the_shares(shares, seed):
    parts = assign_blocks(blocks_of([[30, 5]] * 60), shares, seed)
    assert [parts.count(p) for p in range(len(shares))] == pytest.approx([60 * s for s in shares])


@settings(max_examples=6)
@given(st.integers(2, 5), st.integers(0, 100))
def test_folds_share_every_class_alike(folds, seed):
    random = np.random.default_rng(seed)
    counts = random.integers(0, 100, (60, 4)) * (random.random((60, 4)) < 0.4)
    parts = np.array(assign_blocks(blocks_of(counts), [1 / folds] * folds, seed))
    assert set(parts.tolist()) == set(range(folds))
    shares = np.array([counts[parts == p].sum(axis=0) for p in range(folds)]) / counts.sum(axis=0)
    assert abs(shares - 1 / folds).max() < 0.1


@settings(max_examples=20)
@given(st.lists(st.sampled_from([1, 50, 300]), min_size=6, max_size=12), st.data())
def test_a_rare_class_in_as_many_blocks_as_parts_is_in_each(common, data):
    """Even if giving all of it to one part would be closer to the shares."""
    places = data.draw(st.permutations(range(len(common))))[:3]
    counts = [[n, 20 * (i in places)] for i, n in enumerate(common)]
    parts = assign_blocks(blocks_of(counts), (0.7, 0.2, 0.1), seed=0)
    assert {parts[i] for i in places} == {0, 1, 2}


def test_a_rare_class_among_many_blocks_is_in_every_part():
    counts = np.full((2000, 2), [100, 0])
    counts[[5, 700, 1900], 1] = 1
    parts = np.array(assign_blocks(blocks_of(counts), (0.9, 0.05, 0.05), seed=0))
    assert set(parts[[5, 700, 1900]].tolist()) == {0, 1, 2}
    assert np.bincount(parts) / 2000 == pytest.approx([0.9, 0.05, 0.05], abs=1e-3)


def test_nothing_is_assigned_where_there_is_nothing():
    assert assign_blocks([], (0.8, 0.2), seed=0) == []
    assert assign_blocks(blocks_of([[0], [0]]), (0.8, 0.2), seed=0) == [0, 0]
    assert assign_blocks(blocks_of([[5], [5]]), (1.0, 0.0), seed=0) == [0, 0]


def test_the_seed_changes_the_parts():
    blocks = blocks_of([[5]] * 20)
    assert len({tuple(assign_blocks(blocks, (0.8, 0.2), seed)) for seed in range(5)}) > 1


def test_the_share_counts_labels_not_blocks():
    parts = assign_blocks(blocks_of([[1000], *[[10]] * 100]), (0.5, 0.5), seed=0)
    assert parts[1:] == [1 - parts[0]] * 100


@pytest.mark.parametrize("seed", range(3))
def test_every_class_gets_its_share(seed):
    random = np.random.default_rng(seed)
    counts = random.integers(0, 100, (60, 6)) * (random.random((60, 6)) < 0.3)
    parts = np.array(assign_blocks(blocks_of(counts), (0.7, 0.2, 0.1), seed))
    shares = np.array([counts[parts == p].sum(axis=0) for p in range(3)]) / counts.sum(axis=0)
    assert abs(shares - [[0.7], [0.2], [0.1]]).max() < 0.05
