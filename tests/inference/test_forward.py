import weakref

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from cafe_cli.inference.arrays.torch import TorchArrays
from cafe_cli.inference.forward import (
    TTATransform,
    transform_inputs,
    tta_transforms,
)
from cafe_cli.scenes.scene import Patch
from tests.support.engines import tiny_model, torch_forward

ARRAYS = TorchArrays(torch.device("cpu"))
SIZE = 64


def patch(seed: int = 0, dtype="uint8", valid=None) -> Patch:
    random = np.random.default_rng(seed)
    optical = random.integers(0, 200, (3, SIZE, SIZE)).astype(dtype)
    everywhere = np.ones((SIZE, SIZE), bool)
    height = random.normal(5, 3, (SIZE, SIZE)).astype(np.float32)
    return Patch(optical, everywhere if valid is None else valid, height[None], everywhere)


def pixelwise(optical, optical_valid, height, height_valid):
    return torch.cat([optical, height], dim=1) / 50


@pytest.mark.parametrize(("kind", "count"), [("none", 1), ("flips", 4), ("d4", 8)])
def test_transforms_are_different_and_can_be_inverted(kind, count):
    transforms = tta_transforms(kind)
    x = torch.arange(16.0).view(1, 1, 4, 4)
    shown = {tuple(transform.apply(x, ARRAYS).flatten().tolist()) for transform in transforms}
    assert len(transforms) == len(shown) == count
    assert all(
        torch.equal(transform.invert(transform.apply(x, ARRAYS), ARRAYS), x)
        for transform in transforms
    )


def test_scales_multiply_transforms():
    transforms = tta_transforms("flips", (0.5, 1.0))
    assert len(transforms) == 8
    assert {transform.side(64) for transform in transforms} == {32, 64}
    assert TTATransform(scale=0.75).side(512) == 384
    assert TTATransform(scale=0.1).side(64) == 32


@pytest.mark.parametrize("kind", ["none", "flips", "d4"])
def test_tta_of_a_pixelwise_network_changes_nothing(kind):
    plain = torch_forward([pixelwise], 2)([patch(0), patch(1)])
    seen = torch_forward([pixelwise], 2, tta_transforms(kind))([patch(0), patch(1)])
    assert torch.allclose(plain, seen, atol=1e-6)
    want = np.concatenate([patch(1).optical, patch(1).height[None]]) / 50
    assert torch.allclose(plain[1], torch.from_numpy(want).float().softmax(0), atol=1e-6)


def test_turned_input_gives_turned_output():
    """With all symmetries averaged, it does not matter how a scene lies."""
    network = tiny_model()
    one = patch()
    turned = Patch(*(np.rot90(a, 1, (-2, -1)).copy() for a in one))
    forward = torch_forward([network], 1, tta_transforms("d4"))
    a, b = forward([one])[0], forward([turned])[0]
    assert torch.allclose(torch.rot90(a, 1, (-2, -1)), b, atol=1e-5)
    alone = torch_forward([network], 1)
    assert not torch.allclose(
        torch.rot90(alone([one])[0], 1, (-2, -1)), alone([turned])[0], atol=1e-4
    )


def test_models_are_averaged():
    networks = [tiny_model(seed) for seed in (0, 1)]
    each = [torch_forward([network], 1)([patch()]) for network in networks]
    both = torch_forward(networks)([patch()])
    assert torch.allclose(both, (each[0] + each[1]) / 2, atol=1e-6)
    assert torch.allclose(both.sum(dim=1), torch.ones(1, SIZE, SIZE), atol=1e-5)


def test_scaling_preserves_smooth_inputs():
    ramp = np.tile(np.linspace(0, 100, SIZE, dtype=np.float32), (3, SIZE, 1))
    everywhere = np.ones((SIZE, SIZE), bool)
    one = Patch(ramp, everywhere, ramp[:1] / 10, everywhere)
    plain = torch_forward([pixelwise], 1)([one])
    scaled = torch_forward([pixelwise], 1, tta_transforms("none", (0.5, 2.0)))([one])
    assert scaled.shape == plain.shape
    assert (scaled - plain).abs().max() < 0.01


def test_scaling_ignores_pixels_that_are_not_valid():
    valid = np.ones((SIZE, SIZE), bool)
    valid[:, 32:] = False
    one = patch(dtype="float32", valid=valid)
    one.optical[:] = 80
    one.optical[:, :, 32:] = np.nan
    shown = transform_inputs(ARRAYS.batch([one], 1), TTATransform(scale=1.5), ARRAYS)
    assert shown.optical.shape == (1, 3, 96, 96)
    assert shown.optical_valid[0, :, :48].all()
    assert not shown.optical_valid[0, :, 49:].any()
    inside = shown.optical[0][:, shown.optical_valid[0]]
    assert torch.allclose(inside, torch.tensor(80.0), atol=1e-3)


@pytest.mark.parametrize("dtype", ["uint8", "int8", "uint16", "int16", "uint32", "float64"])
def test_batches_keep_the_data_type_of_pixels(dtype):
    batch = ARRAYS.batch([patch(dtype=dtype)], 3)
    assert batch.optical.shape == (3, 3, SIZE, SIZE)
    assert np.array_equal(batch.optical[0].float().numpy(), patch(dtype=dtype).optical)
    assert not batch.optical_valid[1:].any()
    assert batch.optical.element_size() <= max(np.dtype(dtype).itemsize, 4)


def test_batches_have_a_fixed_shape():
    shapes = []

    def network(optical, *_):
        shapes.append(tuple(optical.shape))
        return optical

    forward = torch_forward([network], 4)
    starts = [
        (start, len(scores)) for start, scores in forward.batches([patch(i) for i in range(6)])
    ]
    assert starts == [(0, 4), (4, 2)]
    assert set(shapes) == {(4, 3, SIZE, SIZE)}


def test_scores_do_not_depend_on_the_rest_of_the_batch():
    forward = torch_forward([tiny_model()], 3)
    alone = forward([patch(5)])[0]
    assert torch.equal(forward([patch(5), patch(1), patch(2)])[0], alone)


class Hungry:
    """A network that wants more memory than there is for so many windows."""

    def __init__(self, most: int, says: str = "CUDA out of memory. Tried to allocate") -> None:
        self.most, self.says = most, says

    def __call__(self, optical, *_):
        if len(optical) > self.most:
            raise RuntimeError(self.says)
        return F.relu(optical)


@pytest.mark.parametrize(
    "says", ["CUDA out of memory. Tried", "DefaultCPUAllocator: can't allocate memory"]
)
def test_out_of_memory_halves_the_batch_until_it_fits(caplog, says):
    patches = [patch(i) for i in range(21)]
    forward = torch_forward([Hungry(2, says)], 16)
    with caplog.at_level("WARNING", logger="cafe"):
        parts = [scores for _, scores in forward.batches(patches)]
    wanted = torch.cat([s for _, s in torch_forward([Hungry(99)], 2).batches(patches)])
    assert torch.equal(torch.cat(parts), wanted)
    assert [r.getMessage() for r in caplog.records] == [
        f"out of memory: continuing with --batch-size {size}" for size in (8, 4, 2)
    ]
    assert forward.batch_size == 2


def test_a_batch_of_odd_size_is_halved_down_to_one():
    forward = torch_forward([Hungry(1)], 7)
    found = [start for start, _ in forward.batches([patch() for _ in range(4)])]
    assert (found, forward.batch_size) == ([0, 1, 2, 3], 1)


def test_memory_that_does_not_suffice_for_one_window_is_an_error():
    for batch in (1, 4):
        forward = torch_forward([Hungry(0)], batch)
        with pytest.raises(RuntimeError, match="memory"):
            list(forward.batches([patch()]))
        assert forward.batch_size == 1


def test_memory_is_given_back_when_nothing_holds_it_any_more(monkeypatch):
    """An error holds what the failed pass had allocated, until it is handled."""
    held, freed = [], []

    class Allocated:
        pass

    def network(optical, *_):
        if len(optical) > 1:
            allocated = Allocated()
            held.append(weakref.ref(allocated))
            raise MemoryError
        return F.relu(optical)

    forward = torch_forward([network], 4)
    monkeypatch.setattr(forward.arrays, "free", lambda: freed.append(held[-1]() is None))
    assert len(list(forward.batches([patch(), patch()]))) == 2
    assert freed == [True, True]


def test_other_errors_are_not_swallowed():
    with pytest.raises(RuntimeError, match="shape"):
        list(torch_forward([Hungry(1, "shape mismatch")], 4).batches([patch(), patch()]))
