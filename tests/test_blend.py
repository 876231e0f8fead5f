import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cafe_cli.blend import RowBlender, window_weights
from cafe_cli.windows import offsets

CPU = torch.device("cpu")


def blended(scores_at, classes: int, height: int, width: int, size: int, step: int, blend="hann"):
    """Run a blender over all windows; `scores_at` gives the scores of one."""
    blender = RowBlender(classes, width, window_weights(size, blend, size - step), CPU)
    parts, rows = [], offsets(height, size, step)
    for row in rows:
        for col in offsets(width, size, step):
            blender.add(col, scores_at(row, col))
        done = (height if row == rows[-1] else row + step) - row
        parts.append(blender.means(slice(0, done)).clone())
        best, score = blender.best(slice(0, done))
        assert torch.equal(score, parts[-1].max(dim=0).values)
        assert torch.equal(parts[-1].gather(0, best[None])[0], score)
        blender.advance(done)
    return torch.cat(parts, dim=-2).numpy()


def reference(scores_at, classes: int, height: int, width: int, size: int, step: int, blend="hann"):
    """Add up everything in one array that no window leaves."""
    weights = window_weights(size, blend, size - step).numpy().astype(np.float64)
    total = np.zeros((classes, height + 2 * size, width + 2 * size))
    sums = np.zeros(total.shape[1:])
    for row in offsets(height, size, step):
        for col in offsets(width, size, step):
            here = slice(row, row + size), slice(col, col + size)
            total[:, *here] += scores_at(row, col).numpy() * weights
            sums[here] += weights
    return (total / np.where(sums, sums, 1))[:, :height, :width]


BLENDS = ["hann", "gaussian", "crop"]


@pytest.mark.parametrize("blend", BLENDS)
@pytest.mark.parametrize("size", [2, 7, 32, 512, 1024])
def test_weights(size, blend):
    weights = window_weights(size, blend, size // 4)
    assert weights.shape == (size, size)
    assert weights.min() > 0
    assert weights.max() <= 1
    assert torch.allclose(weights, weights.flip(0))
    assert torch.equal(weights, weights.T)
    line = weights[size // 2, : size // 2]
    assert (line.diff() >= 0).all()
    assert blend == "crop" or (line.diff() > 0).all()


def test_half_overlapping_weights_add_up_to_one():
    line = window_weights(64).double().sum(dim=0)
    twice = line[:32] + line[32:]
    assert torch.allclose(twice, twice.mean().expand(32))


def test_cropping_leaves_one_window_to_each_pixel():
    line = window_weights(64, "crop", 32)[32]
    full = line > 0.5
    assert full[16:48].all()
    assert full.sum() == 32
    assert line[~full].max() < 1e-5


GEOMETRY = st.tuples(
    st.integers(1, 90), st.integers(1, 90), st.sampled_from([2, 8, 13, 32]), st.floats(0.25, 1)
).map(lambda g: (*g[:3], max(1, round(g[2] * g[3]))))


@settings(max_examples=60, deadline=None)
@given(GEOMETRY, st.sampled_from(BLENDS))
def test_whole_array_reference(geometry, blend):
    height, width, size, _step = geometry

    def noise(row, col):
        generator = torch.Generator().manual_seed(row * 1000 + col)
        return torch.rand(2, size, size, generator=generator)

    scores = blended(noise, 2, *geometry, blend)
    assert scores.shape == (2, height, width)
    assert np.abs(scores - reference(noise, 2, *geometry, blend)).max() < 1e-5


@settings(max_examples=60, deadline=None)
@given(GEOMETRY, st.sampled_from(BLENDS))
def test_scores_that_agree_come_back(geometry, blend):
    height, width, size, _ = geometry
    generator = torch.Generator().manual_seed(0)
    field = torch.rand(3, height + 2 * size, width + 2 * size, generator=generator)
    scores = blended(
        lambda row, col: field[:, row : row + size, col : col + size], 3, *geometry, blend
    )
    assert np.abs(scores - field[:, :height, :width].numpy()).max() < 1e-5


def test_windows_may_begin_before_the_row():
    blender = RowBlender(1, 10, window_weights(8), CPU)
    for col in (-4, 0, 4, 8):
        blender.add(col, (torch.arange(8.0) + col).expand(1, 8, 8))
    assert torch.allclose(
        blender.means(slice(0, 8))[0], torch.arange(10.0).expand(8, 10), atol=1e-5
    )


@pytest.mark.parametrize("rows", [1, 3, 4, 5, 8])
def test_advancing_moves_rows_up(rows):
    blender = RowBlender(2, 8, window_weights(8), CPU)
    scores = torch.rand(2, 8, 8)
    blender.add(0, scores)
    blender.advance(rows)
    moved = blender.means(slice(0, 8))
    assert torch.allclose(moved[:, : 8 - rows], scores[:, rows:])
    assert not moved[:, 8 - rows :].any()


def test_unseen_pixels_are_finite():
    blender = RowBlender(2, 20, window_weights(8), CPU)
    blender.add(4, torch.ones(2, 8, 8))
    labels, scores = blender.best(slice(0, 8))
    assert scores.tolist() == [[1.0 if 4 <= col < 12 else 0.0 for col in range(20)]] * 8
    assert not labels.any()


def test_memory_stays_the_same():
    blender = RowBlender(2, 20, window_weights(8), CPU)

    def held():
        return {k: (v.shape, v.data_ptr()) for k, v in vars(blender).items() if hasattr(v, "shape")}

    before = held()
    for _ in range(50):
        blender.add(0, torch.ones(2, 8, 8))
        blender.advance(4)
    assert held() == before
