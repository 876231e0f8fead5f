"""Provenance: the settings of an output, in a TOML file next to it."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tomli_w

from cafe_cli import __version__
from cafe_cli.errors import InputError
from cafe_cli.redaction import redact_all
from cafe_cli.system.atomic_write import write_text
from cafe_cli.system.untrusted import parse_toml, read_text

log = logging.getLogger("cafe")

_LARGEST = 64_000_000  # bytes; the names of many orthophotos are among the settings


def settings_path(output: Path) -> Path:
    """Return the file with the settings of an output, ``OUTPUT.toml``."""
    return output.with_name(f"{output.name}.toml")


def dump_settings(values: Mapping[str, Any]) -> str:
    """Return the settings of an output as TOML, without passwords, tokens and what is None."""
    made = redact_all({"cafe_version": __version__, **values})
    return tomli_w.dumps(_without_none(made))


def save_beside(output: Path, values: Mapping[str, Any]) -> None:
    """Write the settings of an output to `settings_path`."""
    write_text(settings_path(output), dump_settings(values))


def read_beside(output: Path) -> dict[str, Any]:
    """Read the settings that `save_beside` wrote; empty if there is no file.

    A file that cannot be read counts as absent, with a warning.
    """
    path = settings_path(output)
    try:
        return parse_toml(read_text(path, _LARGEST))
    except FileNotFoundError:
        return {}
    except (InputError, OSError, ValueError) as error:
        log.warning("%s is damaged and is not used: %s", path, error)
        return {}


def _without_none(values: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: _without_none(value) if isinstance(value, Mapping) else value
        for key, value in values.items()
        if value is not None
    }
