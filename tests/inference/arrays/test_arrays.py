"""Both libraries compute the same."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from cafe_cli.inference.arrays.numpy import NumpyArrays
from cafe_cli.inference.arrays.torch import TorchArrays
from cafe_cli.inference.blending import Blender, window_weights
from cafe_cli.scenes.scene import Patch
from tests.support.pretended_gpu import PretendedGpu

NUMPY, TORCH = NumpyArrays(), TorchArrays(torch.device("cpu"))
NUMPY_PATCH = Patch(
    np.ones((3, 8, 8), np.uint16), np.ones((8, 8), bool), np.ones((2, 8, 8), np.float32),
    np.ones((8, 8), bool),
)  # fmt: skip
FLOATS = st.floats(-1e3, 1e3, width=32)


def noise(*shape, seed=0):
    return np.random.default_rng(seed).random(shape, np.float32)


def test_batches():
    valid = noise(32, 32) < 0.9
    patch = Patch((noise(3, 32, 32) * 255).astype(np.uint8), valid, noise(2, 32, 32), ~valid)
    one, other = NUMPY.batch([patch, patch], 3), TORCH.batch([patch, patch], 3)
    for a, b in zip(one, other, strict=True):
        assert np.array_equal(a, b.float().numpy())
    assert [x.dtype for x in one] == [np.float32, bool, np.float32, bool]


def test_batches_for_a_gpu_travel_in_one_copy_from_memory_that_is_used_again(monkeypatch):
    gpu = PretendedGpu(monkeypatch)
    arrays, found = TorchArrays(gpu), []
    valid = noise(32, 32) < 0.9
    sequence = [  # number of patches: of later batches, less than before
        [
            Patch(
                (noise(3, 32, 32, seed=i) * 255).astype(np.uint8), valid, noise(2, 32, 32), ~valid
            )
            for i in range(count)
        ]
        for count in (3, 2, 1, 3, 1)
    ]
    found = [arrays.batch(patches, 3) for patches in sequence]
    for batch, patches in zip(found, sequence, strict=True):
        wanted = TORCH.batch(patches, 3)
        assert all(map(torch.equal, batch, wanted))
        assert [x.dtype for x in batch] == [x.dtype for x in wanted]
    assert gpu.log.count("copy") == len(sequence)
    assert gpu.log.count("pinned") == 2
    # What is filled for the third time was copied before; the first two were not.
    assert gpu.log.count("wait") == len(sequence) - 2


def test_memory_for_batches_follows_their_shape_and_can_be_freed(monkeypatch):
    gpu = PretendedGpu(monkeypatch)
    emptied = []
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: emptied.append(True))
    arrays, patch = TorchArrays(gpu), NUMPY_PATCH
    for size in (4, 4, 2, 2):
        assert len(arrays.batch([patch], size).optical) == size
    assert gpu.log.count("pinned") == 4
    arrays.free()
    arrays.batch([patch], 2)
    assert gpu.log.count("pinned") == 6
    assert emptied == [True]


@pytest.mark.parametrize("turns", [-3, -1, 0, 1, 2, 3])
def test_symmetries(turns):
    x = noise(2, 3, 8, 8)
    assert np.array_equal(NUMPY.turn(x, turns), TORCH.turn(torch.from_numpy(x), turns))
    assert np.array_equal(NUMPY.mirror(x), TORCH.mirror(torch.from_numpy(x)))


@pytest.mark.parametrize(("size", "side"), [(64, 96), (64, 32), (96, 64), (64, 64), (32, 160)])
def test_resampling(size, side):
    x = noise(2, 3, size, size)
    found, wanted = NUMPY.resize(x, side), TORCH.resize(torch.from_numpy(x), side)
    assert found.shape == wanted.shape == (2, 3, side, side)
    assert found.dtype == np.float32
    assert np.abs(found - wanted.numpy()).max() < 1e-5


@given(arrays(np.float32, array_shapes(min_dims=3, max_dims=3, max_side=9), elements=FLOATS))
def test_the_best_class(scores):
    labels, best = NUMPY.best(scores)
    wanted, highest = TORCH.best(torch.from_numpy(scores))
    assert np.array_equal(labels, wanted)
    assert np.array_equal(best, highest)


def test_ties_go_to_the_lowest_class_and_256_classes_fit():
    labels, _ = NUMPY.best(np.ones((5, 2, 2), np.float32))
    assert not labels.any()
    many = np.zeros((255, 1, 1), np.float32)
    many[254] = 1
    assert NUMPY.best(many)[0].item() == 254


@given(arrays(np.float32, 20, elements=st.floats(0, 1, width=32)))
def test_per_cent(shares):
    found = NUMPY.percent(shares).astype(np.uint8)
    assert np.array_equal(found, TORCH.percent(torch.from_numpy(shares)).to(torch.uint8))


@pytest.mark.parametrize("odd", [np.nan, np.inf, -np.inf, None])
def test_numbers_that_are_none_are_told_and_written_in_silence(odd):
    x = noise(2, 4, 4)
    if odd is not None:
        x[1, 2, 3] = odd
    planes = np.zeros((4, 4), np.uint8)
    for library, scores in ((NUMPY, x), (TORCH, torch.from_numpy(x))):
        _, best = library.best(scores)
        finite = library.all_finite(best)
        fetched = library.fetch({}, finite)
        fetched.wait()
        # The lowest number never is the best.
        assert fetched.is_finite() == (odd is None or odd == -np.inf)
        assert library.fetch({}, None).is_finite()
    planes[...] = NUMPY.percent(NUMPY.best(x)[1])  # warnings are errors in tests


@given(st.integers(0, 99), st.sampled_from(["hann", "gaussian", "crop"]))
def test_blending(seed, blend):
    weights = window_weights(32, blend, 8)
    windows = noise(4, 3, 32, 32, seed=seed)
    blenders = [Blender(3, 80, weights, 24, library) for library in (NUMPY, TORCH)]
    for row in range(2):
        for col in range(2):
            scores = windows[2 * row + col]
            found = []
            for blender in blenders:
                given = scores if blender.arrays is NUMPY else torch.from_numpy(scores)
                blender.move_to(col * 24)
                blender.add(given)
                found.append(np.asarray(blender.means(slice(0, 24), slice(0, 24))))
                blender.save_overlap(slice(0, 24))
            assert np.allclose(*found, rtol=1e-6, atol=1e-7)
