from contextlib import nullcontext

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cafe_cli.tilesets.tileset import load_tileset
from cafe_cli.training import batch_size
from cafe_cli.training.batch_size import _fits, blank, find_batch_size, power_of_two
from cafe_cli.training.step import LossModule
from tests.support.engines import settings

pytest_plugins = ["tests.support.fixtures"]

CPU = torch.device("cpu")


@given(st.integers(0, 300), st.integers(0, 300))
def test_power_of_two(room, most):
    tried = []
    size = power_of_two(lambda size: tried.append(size) or size <= room, most)
    assert size == max([1, *(2**k for k in range(1, 9) if 2**k <= min(room, most))])
    assert all(one <= max(most, 1) for one in tried)


@pytest.mark.parametrize(("accumulate", "world", "size"), [(1, 1, 8), (3, 1, 6), (2, 8, 16)])
def test_batch_size_of_a_cpu(tileset, accumulate, world, size):
    config = settings(train__accumulate=accumulate)
    assert find_batch_size(load_tileset(tileset), config, CPU, nullcontext, world) == size


@pytest.mark.parametrize(("room", "size"), [(1, 1), (2, 2), (50, 2)])
def test_batch_size_of_a_gpu(tileset, monkeypatch, room, size):
    """No more than leaves an epoch eight steps: of six tiles, two."""
    fractions = []

    def limit(share, device):
        assert device is None  # what torch takes for the current GPU; not a device without a number
        fractions.append(share)

    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", limit)
    monkeypatch.setattr(batch_size, "_fits", lambda *args: args[-1] <= room)
    gpu = torch.device("cuda")
    assert find_batch_size(load_tileset(tileset), settings(), gpu, nullcontext) == size
    assert fractions == [0.9, 1.0]


@pytest.mark.slow
def test_steps_that_fit_or_do_not(tileset, monkeypatch):
    info, config = load_tileset(tileset), settings()
    assert _fits(info, config, CPU, nullcontext, 2)

    def fails(message):
        def forward(*args):
            raise RuntimeError(message)

        monkeypatch.setattr(LossModule, "forward", forward)

    fails("CUDA out of memory. Tried to allocate 2 GiB")
    assert not _fits(info, config, CPU, nullcontext, 2)
    fails("mat1 and mat2 shapes cannot be multiplied")
    with pytest.raises(RuntimeError, match="mat1"):
        _fits(info, config, CPU, nullcontext, 2)


def test_blank_tiles(tileset):
    sample = blank(load_tileset(tileset), settings(train__crop=48), 3, CPU)
    assert sample.inputs.optical.shape == (3, 3, 48, 48)
    assert sample.labels.shape == (3, 48, 48)
