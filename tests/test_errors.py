import pytest
import torch

from cafe_cli.errors import out_of_memory


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MemoryError(), True),
        (torch.cuda.OutOfMemoryError("no room"), True),
        (RuntimeError("CUDA error: out of memory"), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), True),
        (RuntimeError("a bug"), False),
    ],
    ids=str,
)
def test_out_of_memory(error, expected):
    assert out_of_memory(error) is expected
