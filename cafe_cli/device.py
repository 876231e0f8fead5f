"""Which device computes."""

import torch

from cafe_cli.errors import ConfigError


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
        raise ConfigError(f"unknown device {name!r}: use auto, cpu, cuda or cuda:N") from error
    if device.type == "cpu":
        return torch.device("cpu")  # there is one, whatever its number
    if device.type != "cuda":
        raise ConfigError(f"device {name!r} is not supported: use auto, cpu, cuda or cuda:N")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if (device.index or 0) >= count:
        raise ConfigError(f"there is no device {name!r}: {count} GPU(s) found; use --device auto")
    return device
