"""Devices by name, without torch where there is no GPU to ask it for."""

import ctypes
import os
import re
from collections.abc import Sequence

from cafe_cli.errors import ConfigError

_NAME = re.compile(r"auto|cpu(:\d+)?|cuda(:\d+)?")
_KNOWN = "use auto, cpu, cuda, cuda:N, a list of them, or all"
_DRIVERS = ("libcuda.so.1", "nvcuda.dll")
_OF_AMD = "/dev/kfd"  # torch for ROCm calls its GPUs cuda, too


def choose_devices(names: str) -> list[str]:
    """Return the devices that a list such as ``cuda:0,cuda:1``, or ``all`` (all GPUs), names.

    Raises
    ------
    ConfigError
        A name is unknown, or there is no such GPU.
    """
    listed = [name.strip() for name in names.split(",")]
    if names != "all":
        for name in listed:
            if not _NAME.fullmatch(name):
                raise ConfigError(f"unknown device {name!r}: {_KNOWN}")
    if all(name.startswith("cpu") for name in listed):
        return ["cpu"] * len(listed)
    if not has_driver():
        return _without_gpu(names, listed)
    from cafe_cli.model import device

    return [str(found) for found in device.choose_devices(names)]


def _without_gpu(names: str, listed: Sequence[str]) -> list[str]:
    if names == "all":
        raise ConfigError("--device all: no GPU found; use --device auto")
    for name in listed:
        if name.startswith("cuda"):
            raise ConfigError(f"there is no device {name!r}: 0 GPU(s) found; use --device auto")
    return ["cpu"] * len(listed)


def has_driver() -> bool:
    """Return whether a driver finds a GPU, which may be too old for torch."""
    return os.path.exists(_OF_AMD) or any(map(_finds_gpu, _DRIVERS))


def _finds_gpu(library: str) -> bool:
    try:
        driver = ctypes.CDLL(library)
    except OSError:
        return False
    count = ctypes.c_int(0)
    return (
        driver.cuInit(0) == 0
        and driver.cuDeviceGetCount(ctypes.byref(count)) == 0
        and (count.value > 0)
    )
