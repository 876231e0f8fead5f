"""Choose devices by name, and query their memory and bf16 support."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch

from cafe_cli.errors import ConfigError

_USED_SHARE = 0.6  # share of the free memory of a GPU
_MOST_WINDOWS = 16
_NAMES = "use auto, cpu, cuda, cuda:N, a list of them, or all"


def choose_device(name: str) -> torch.device:
    """Return the device that ``auto``, ``cpu``, ``cuda`` or ``cuda:N`` names.

    Raises
    ------
    ConfigError
        The name is unknown, or there is no such GPU.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"unknown device {name!r}: {_NAMES}") from error
    if device.type == "cpu":
        return torch.device("cpu")  # cpu:1 is the same device
    if device.type != "cuda":
        raise ConfigError(f"device {name!r} is not supported: {_NAMES}")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if (device.index or 0) >= count:
        raise ConfigError(f"there is no device {name!r}: {count} GPU(s) found; use --device auto")
    return device


def choose_devices(names: str) -> list[torch.device]:
    """Return the devices that a list such as ``cuda:0,cuda:1``, or ``all`` (all GPUs), names.

    Raises
    ------
    ConfigError
        As `choose_device`; or ``all`` without a GPU.
    """
    if names != "all":
        return [choose_device(name.strip()) for name in names.split(",")]
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if not count:
        raise ConfigError("--device all: no GPU found; use --device auto")
    return [torch.device("cuda", index) for index in range(count)]


def windows_that_fit(device: torch.device, run_one: Callable[[], object]) -> int:
    """Return how many windows fit into the free memory of a GPU, given the peak memory of one."""
    run_one()  # in the first run, libraries allocate memory that they keep
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    run_one()
    each = max(torch.cuda.max_memory_allocated(device) - before, 1)
    free, _ = torch.cuda.mem_get_info(device.index)  # older torch requires the index
    return max(min(int(_USED_SHARE * free / each), _MOST_WINDOWS), 1)


def has_native_bf16(device: torch.device) -> bool:
    """Whether a device is a GPU with native bf16 arithmetic (Ampere or later).

    Earlier GPUs emulate it, slower than float32, and torch reports it as supported.
    """
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)


def device_context(device: torch.device) -> AbstractContextManager[object]:
    """Return a context that makes a GPU the current device of this thread; for a CPU a no-op."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()
