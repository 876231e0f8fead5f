"""Reading a config from TOML and dotted keys, and writing it."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tomli_w
from pydantic import ValidationError

from cafe_cli.config.messages import explain
from cafe_cli.config.schema import Config
from cafe_cli.errors import ConfigError, InputError
from cafe_cli.redaction import redact_all
from cafe_cli.system.untrusted import parse_toml, read_text

_LARGEST = 4_000_000  # bytes of a config


def load_config(path: Path | None = None, overrides: Mapping[str, Any] | None = None) -> Config:
    """Read a config file, and check it.

    Parameters
    ----------
    path : Path, optional
        A TOML file; its ``root`` is relative to its folder. All defaults, if None.
    overrides : mapping, optional
        Values by dotted key that beat those of the file, e.g. ``{"train.epochs": 20}``.

    Raises
    ------
    ConfigError
        The file is missing or is not TOML, a key is unknown, or a value is invalid.
    """
    values = {} if path is None else _read_toml(path)
    _set_root(values, path.parent if path else Path())
    for key, value in (overrides or {}).items():
        _set(values, key.split("."), value)
    _set_root(values, Path())
    _set_files(values)
    return parse_config(values, source=str(path) if path else "options")


def parse_config(values: Mapping[str, Any], source: str) -> Config:
    """Validate plain values; errors begin with `source`, where they come from."""
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        raise ConfigError(f"{source}: {explain(error)}") from error


def parse_assignment(text: str) -> tuple[str, Any]:
    """Split ``section.key=value``; the value is parsed as TOML, or is a string if it is not."""
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"{text!r} is not of the form section.key=value, e.g. train.epochs=20")
    try:
        return key.strip(), parse_toml(f"value = {value}")["value"]
    except ValueError:
        return key.strip(), value.strip()


def dump_config(config: Config) -> str:
    """Return the config as TOML, without keys that are None, and without passwords and tokens."""
    return tomli_w.dumps(redact_all(config.model_dump(exclude_none=True)))


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return parse_toml(read_text(path, _LARGEST))
    except InputError as error:
        raise ConfigError(f"cannot read config {path}: {error}") from error
    except OSError as error:
        raise ConfigError(f"cannot read config {path}: {error.strerror}") from error
    except ValueError as error:
        raise ConfigError(f"{path} is not valid TOML: {error}") from error


def _set_root(values: dict[str, Any], folder: Path) -> None:
    """Make `root` absolute, so that a saved config means the same in any folder."""
    root = values.get("root", ".")
    if isinstance(root, str):
        values["root"] = os.path.abspath(folder / root)


def _set_files(values: dict[str, Any]) -> None:
    """Make ``labels.table`` and ``train.from_model`` absolute: both are read in other folders."""
    for section, key in (("labels", "table"), ("train", "from_model")):
        settings = values.get(section)
        if isinstance(settings, dict) and isinstance(settings.get(key), str):
            name = os.path.expanduser(settings[key])
            values[section] = {**settings, key: os.path.join(str(values["root"]), name)}


def _set(values: dict[str, Any], keys: list[str], value: Any) -> None:
    for key in keys[:-1]:
        values = values.setdefault(key, {})
        if not isinstance(values, dict):
            raise ConfigError(f"{'.'.join(keys)}: {key!r} is not a section")
    values[keys[-1]] = value
