import pytest
import torch

from cafe_cli.model.host_memory import HostMemory
from tests.support.pretended_gpu import PretendedGpu

LAYOUT = [((2, 3, 5), torch.uint8), ((2,), torch.bool), ((7,), torch.float32), ((3,), torch.int64)]


def fill(memory):
    for number, tensor in enumerate(memory.tensors, start=1):
        tensor.copy_(torch.arange(tensor.numel()).reshape(tensor.shape) % (number + 1))


@pytest.fixture
def gpu(monkeypatch):
    return PretendedGpu(monkeypatch)


def test_tensors_are_zeros_of_their_layout():
    memory = HostMemory(LAYOUT, torch.device("cpu"))
    assert [(tuple(t.shape), t.dtype) for t in memory.tensors] == LAYOUT
    assert not any(t.any() for t in memory.tensors)


def test_tensors_do_not_overlap():
    memory = HostMemory(LAYOUT, torch.device("cpu"))
    for number, tensor in enumerate(memory.tensors):
        tensor.fill_(1)
        later = memory.tensors[number + 1 :]
        assert tensor.all()
        assert not any(other.any() for other in later)


def test_on_a_cpu_nothing_is_copied():
    memory = HostMemory(LAYOUT, torch.device("cpu"))
    memory.wait()
    assert all(a is b for a, b in zip(memory.copy(), memory.tensors, strict=True))


def test_one_copy_for_a_gpu(gpu):
    memory = HostMemory(LAYOUT, gpu)
    fill(memory)
    memory.wait()  # nothing was copied yet
    moved = memory.copy()
    assert gpu.log == ["pinned", "copy", "record"]
    assert all(map(torch.equal, moved, memory.tensors))
    assert [tensor.dtype for tensor in moved] == [kind for _, kind in LAYOUT]
    memory.wait()
    assert gpu.log[-1] == "wait"
    memory.tensors[2].fill_(9)
    assert moved[2].max() == 3  # what was sent stays


def test_tensors_begin_where_those_of_a_gpu_do(gpu):
    moved = HostMemory(LAYOUT, gpu).copy()
    first = moved[0].data_ptr()
    assert [(tensor.data_ptr() - first) % 512 for tensor in moved] == [0, 0, 0, 0]
