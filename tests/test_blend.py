import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cafe_cli.blend import RowBlender, hann_weights
from cafe_cli.windows import offsets

CPU = torch.device("cpu")


def blended(scores_at, classes: int, height: int, width: int, size: int, step: int):
    """Run a blender over all windows; `scores_at` gives the scores of one."""
    blender = RowBlender(classes, width, size, CPU)
    parts, rows = [], offsets(height, size, step)
    for row in rows:
        for col in offsets(width, size, step):
            blender.add(col, scores_at(row, col))
        parts.append(blender.finish((height if row == rows[-1] else row + step) - row))
    scores, seen = (torch.cat(pieces, dim=-2) for pieces in zip(*parts, strict=True))
    return scores.numpy(), seen.numpy()


def reference(scores_at, classes: int, height: int, width: int, size: int, step: int):
    """Add up everything in one array that no window leaves."""
    weights = hann_weights(size).numpy().astype(np.float64)
    total = np.zeros((classes, height + 2 * size, width + 2 * size))
    sums = np.zeros(total.shape[1:])
    for row in offsets(height, size, step):
        for col in offsets(width, size, step):
            here = slice(row, row + size), slice(col, col + size)
            total[:, *here] += scores_at(row, col).numpy() * weights
            sums[here] += weights
    return (total / np.where(sums, sums, 1))[:, :height, :width]


@pytest.mark.parametrize("size", [2, 7, 32, 512, 1024])
def test_weights(size):
    weights = hann_weights(size)
    assert weights.shape == (size, size)
    assert weights.min() > 0
    assert weights.max() <= 1
    assert torch.allclose(weights, weights.flip(0))
    assert torch.equal(weights, weights.T)
    line = weights[size // 2, : size // 2]
    assert (line.diff() > 0).all()


def test_half_overlapping_weights_add_up_to_one():
    line = hann_weights(64).double().sum(dim=0)
    twice = line[:32] + line[32:]
    assert torch.allclose(twice, twice.mean().expand(32))


GEOMETRY = st.tuples(
    st.integers(1, 90), st.integers(1, 90), st.sampled_from([2, 8, 13, 32]), st.floats(0.25, 1)
).map(lambda g: (*g[:3], max(1, round(g[2] * g[3]))))


@settings(max_examples=60, deadline=None)
@given(GEOMETRY)
def test_whole_array_reference(geometry):
    height, width, size, step = geometry

    def noise(row, col):
        generator = torch.Generator().manual_seed(row * 1000 + col)
        return torch.rand(2, size, size, generator=generator)

    scores, seen = blended(noise, 2, height, width, size, step)
    assert scores.shape == (2, height, width)
    assert seen.all()
    assert np.abs(scores - reference(noise, 2, height, width, size, step)).max() < 1e-6


@settings(max_examples=60, deadline=None)
@given(GEOMETRY)
def test_scores_that_agree_come_back(geometry):
    height, width, size, step = geometry
    generator = torch.Generator().manual_seed(0)
    field = torch.rand(3, height + 2 * size, width + 2 * size, generator=generator)
    scores, seen = blended(
        lambda row, col: field[:, row : row + size, col : col + size],
        3, height, width, size, step,
    )  # fmt: skip
    assert seen.all()
    assert np.abs(scores - field[:, :height, :width].numpy()).max() < 1e-6


def test_windows_may_begin_before_the_row():
    blender = RowBlender(1, 10, 8, CPU)
    for col in (-4, 0, 4, 8):
        blender.add(col, (torch.arange(8.0) + col).expand(1, 8, 8))
    scores, seen = blender.finish(8)
    assert seen.all()
    assert torch.allclose(scores[0], torch.arange(10.0).expand(8, 10), atol=1e-5)


def test_pieces_make_the_whole():
    whole, pieces = (RowBlender(2, 20, 8, CPU) for _ in range(2))
    scores = torch.rand(2, 8, 8)
    for blender in (whole, pieces):
        blender.add(3, scores)
    parts = [pieces.finish(n) for n in (1, 3, 4)]
    for k, together in enumerate(whole.finish(8)):
        assert torch.equal(torch.cat([p[k] for p in parts], dim=-2), together)


def test_unseen_pixels():
    blender = RowBlender(2, 20, 8, CPU)
    blender.add(4, torch.ones(2, 8, 8))
    scores, seen = blender.finish(8)
    assert seen.tolist() == [[4 <= col < 12 for col in range(20)]] * 8
    assert torch.isfinite(scores).all()
    assert not blender.finish(8)[1].any()


def test_memory_stays_the_same():
    blender = RowBlender(2, 20, 8, CPU)
    before = {k: v.shape for k, v in vars(blender).items()}
    for _ in range(50):
        blender.add(0, torch.ones(2, 8, 8))
        blender.finish(4)
    assert {k: v.shape for k, v in vars(blender).items()} == before
