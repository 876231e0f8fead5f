"""How a GPU is timed, filled and limited."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ctypes import CDLL, byref, c_size_t, c_uint64
from statistics import median

import torch


def is_gpu(device: torch.device | str) -> bool:
    return torch.device(device).type == "cuda"


def synchronize(device: torch.device | str) -> None:
    if is_gpu(device):
        torch.cuda.synchronize()


def reset_peak(device: torch.device | str) -> None:
    if is_gpu(device):
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def peaks(device: torch.device | str) -> dict[str, int]:
    """Return the most MB that tensors had, and that torch had taken from the GPU."""
    if not is_gpu(device):
        return {}
    used, reserved = torch.cuda.max_memory_allocated(), torch.cuda.max_memory_reserved()
    return {"used_mb": round(used / 1e6), "reserved_mb": round(reserved / 1e6)}


def seconds_each(
    run: Callable[[], object], device: torch.device | str, seconds: float, warm: int = 3
) -> float:
    """Return the seconds of a run among many that follow each other without a wait between.

    The median of three rounds; the host waits for the GPU at the end of a round only, so that this
    is what the GPU could do if it never waited for the host's other work.
    """
    for _ in range(warm):
        run()
    synchronize(device)
    start = time.perf_counter()
    run()
    synchronize(device)
    repeats = max(int(seconds / 3 / max(time.perf_counter() - start, 1e-6)), 1)
    rounds = []
    for _ in range(3):
        start = time.perf_counter()
        for _ in range(repeats):
            run()
        synchronize(device)
        rounds.append((time.perf_counter() - start) / repeats)
    return median(rounds)


@contextmanager
def nearly_full(free: int) -> Iterator[None]:
    """Take memory of the current GPU until so many bytes of it are free.

    The driver is asked for it: torch would count it as its own, and limit it as such.
    """
    torch.cuda.empty_cache()
    there, _ = torch.cuda.mem_get_info()
    driver, ballast = CDLL("libcuda.so.1"), c_uint64()
    size = c_size_t(max(there - free, 1))
    if code := driver.cuMemAlloc_v2(byref(ballast), size):
        raise RuntimeError(f"the driver gave no {size.value} bytes: CUDA error {code}")
    try:
        yield
    finally:
        driver.cuMemFree_v2(ballast)
        torch.cuda.empty_cache()


@contextmanager
def limited(more: int) -> Iterator[None]:
    """Let this process take so many bytes of a GPU more than it has."""
    torch.cuda.empty_cache()
    _, total = torch.cuda.mem_get_info()
    share = (torch.cuda.memory_reserved() + more) / total
    torch.cuda.set_per_process_memory_fraction(min(share, 1.0))
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
        torch.cuda.empty_cache()
