"""Which device computes."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch

from cafe_cli.errors import ConfigError

_USED = 0.6  # of the free memory of a GPU
_MOST = 16  # windows at a time


def choose(name: str) -> torch.device:
    """Return the device that ``auto``, ``cpu``, ``cuda`` or ``cuda:N`` names.

    Raises
    ------
    ConfigError
        A name of none, or a GPU that is not there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(
            f"unknown device {name!r}: use auto, cpu, cuda, cuda:N, a list of them, or all"
        ) from error
    if device.type == "cpu":
        return torch.device("cpu")  # there is one, whatever its number
    if device.type != "cuda":
        raise ConfigError(
            f"device {name!r} is not supported: use auto, cpu, cuda, cuda:N, a list of them, or all"
        )
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if (device.index or 0) >= count:
        raise ConfigError(f"there is no device {name!r}: {count} GPU(s) found; use --device auto")
    return device


def choose_all(names: str) -> list[torch.device]:
    """Return the devices that a list like ``cuda:0,cuda:1``, or ``all`` (GPUs), names.

    Raises
    ------
    ConfigError
        See `choose`; ``all`` without a GPU.
    """
    if names != "all":
        return [choose(name.strip()) for name in names.split(",")]
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if not count:
        raise ConfigError("--device all: no GPU found; use --device auto")
    return [torch.device("cuda", index) for index in range(count)]


def windows_that_fit(device: torch.device, run_one: Callable[[], object]) -> int:
    """Return how many windows a GPU takes at a time: what one takes, in most of what is free."""
    run_one()  # the first time, libraries take memory that they keep
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    run_one()
    each = max(torch.cuda.max_memory_allocated(device) - before, 1)
    free, _ = torch.cuda.mem_get_info(device.index)  # older torch wants a number, or nothing
    return max(min(int(_USED * free / each), _MOST), 1)


def computes_in_bf16(device: torch.device) -> bool:
    """Tell whether a device is a GPU with arithmetic of its own for bf16, as those since Ampere.

    Earlier ones imitate it, slower than float32: torch counts them among those that support it.
    """
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)


def current(device: torch.device) -> AbstractContextManager[object]:
    """Return a context in which a GPU is this thread's own; nothing for a CPU."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()
