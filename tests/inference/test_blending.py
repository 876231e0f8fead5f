import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cafe_cli.inference.arrays.torch import TorchArrays
from cafe_cli.inference.blending import Blender, window_weights
from cafe_cli.raster.window import offsets

TORCH = TorchArrays(torch.device("cpu"))


def blended(scores_at, classes, height, width, size, stride, blend="hann"):
    """Run a blender over all windows; `scores_at` gives the scores of one."""
    rows, columns = offsets(height, size, stride), offsets(width, size, stride)
    weights = window_weights(size, blend, size - stride)
    blender = Blender(classes, columns[-1] + size, weights, stride, TORCH)
    out = torch.full((classes, rows[-1] + size, columns[-1] + size), -1.0)
    for row in rows:
        down = slice(0, size if row == rows[-1] else stride)
        for col in columns:
            blender.move_to(col)
            blender.add(scores_at(row, col))
            across = slice(0, size if col == columns[-1] else stride)
            means = blender.means(down, across)
            labels, best = blender.best(down, across)
            assert torch.equal(best, means.max(dim=0).values)
            assert torch.equal(means.gather(0, labels[None])[0], best)
            out[:, row : row + down.stop, col : col + across.stop] = means
            blender.save_overlap(across)
    return out[:, :height, :width].numpy()


def reference(
    scores_at, classes: int, height: int, width: int, size: int, stride: int, blend="hann"
):
    """Add up everything in one array that no window leaves."""
    weights = window_weights(size, blend, size - stride).astype(np.float64)
    total = np.zeros((classes, height + 2 * size, width + 2 * size))
    sums = np.zeros(total.shape[1:])
    for row in offsets(height, size, stride):
        for col in offsets(width, size, stride):
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
    assert np.allclose(weights, weights[::-1])
    assert np.array_equal(weights, weights.T)
    line = weights[size // 2, : size // 2]
    assert (np.diff(line) >= 0).all()
    assert blend == "crop" or (np.diff(line) > 0).all()


def test_half_overlapping_weights_add_up_to_one():
    line = window_weights(64).sum(axis=0, dtype=np.float64)
    twice = line[:32] + line[32:]
    assert np.allclose(twice, twice.mean(), rtol=1e-5)


def test_cropping_leaves_one_window_to_each_pixel():
    line = window_weights(64, "crop", 32)[32]
    full = line > 0.5
    assert full[16:48].all()
    assert full.sum() == 32
    assert line[~full].max() < 1e-5


GEOMETRY = st.tuples(
    st.integers(1, 90), st.integers(1, 90), st.sampled_from([2, 8, 13, 32]), st.floats(0.25, 1)
).map(lambda g: (*g[:3], max(1, round(g[2] * g[3]))))


@pytest.mark.slow
@settings(max_examples=30, deadline=None)
@given(GEOMETRY, st.sampled_from(BLENDS))
def test_whole_array_reference(geometry, blend):
    height, width, size, _stride = geometry

    def noise(row, col):
        generator = torch.Generator().manual_seed(row * 1000 + col)
        return torch.rand(2, size, size, generator=generator)

    scores = blended(noise, 2, *geometry, blend)
    assert scores.shape == (2, height, width)
    assert np.abs(scores - reference(noise, 2, *geometry, blend)).max() < 1e-5


@pytest.mark.slow
@settings(max_examples=30, deadline=None)
@given(GEOMETRY, st.sampled_from(BLENDS))
def test_scores_that_agree_come_back(geometry, blend):
    height, width, size, _ = geometry
    generator = torch.Generator().manual_seed(0)
    field = torch.rand(3, height + 2 * size, width + 2 * size, generator=generator)
    scores = blended(
        lambda row, col: field[:, row : row + size, col : col + size], 3, *geometry, blend
    )
    assert np.abs(scores - field[:, :height, :width].numpy()).max() < 1e-5


def test_windows_that_are_not_run_leave_nothing():
    blender = Blender(2, 20, window_weights(8), 4, TORCH)
    for col in (0, 4, 8, 12):
        blender.move_to(col)
        if col == 4:
            blender.add(torch.ones(2, 8, 8))
        labels, scores = blender.best(slice(0, 4), slice(0, 4))
        assert scores.tolist() == [[float(col in (4, 8))] * 4] * 4
        assert not labels.any()
        blender.save_overlap(slice(0, 4))
    blender.move_to(0)
    assert not blender.means(slice(0, 8), slice(0, 4)).any()
    blender.move_to(4)
    assert (blender.means(slice(0, 8), slice(0, 8))[:, :4] == 1).all()
    assert not blender.means(slice(4, 8), slice(0, 8)).any()


def test_memory_stays_the_same():
    blender = Blender(2, 20, window_weights(8), 4, TORCH)

    def held():
        kept = [*blender._above, *blender._here]
        return [(values.shape, values.data_ptr()) for values in kept]

    before = held()
    for _ in range(20):
        for col in (0, 4, 8, 12):
            blender.move_to(col)
            blender.add(torch.ones(2, 8, 8))
            blender.save_overlap(slice(0, 4))
    assert held() == before
    assert blender._above.scores.shape == (2, 4, 20)
