"""Provenance: the settings of an output in a TOML file next to it, and what it was made of."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tomli_w

from cafe_cli import __version__
from cafe_cli.errors import InputError
from cafe_cli.redaction import base_name, redact_all
from cafe_cli.system.atomic_write import write_text
from cafe_cli.system.untrusted import parse_toml, read_text
from cafe_cli.text import list_some, printable

log = logging.getLogger("cafe")

_LARGEST = 64_000_000  # bytes; the names of many orthophotos are among the settings

_NAMED = 50  # inputs in a tag; the TOML file has all


def provenance_tags(
    inputs: Sequence[str], models: Sequence[tuple[str, str]], **more: str
) -> dict[str, str]:
    """Return what an output was made of, as tags to write into it.

    Parameters
    ----------
    inputs : sequence of str
        Their names are written without folders, those beyond the first 50 as a number.
    models : sequence of (str, str)
        Name and SHA-256 of each model file.
    **more
        Other facts: ``method="first"`` becomes ``CAFE_METHOD``.
    """
    found = {
        "inputs": list_some([base_name(name) for name in inputs], _NAMED),
        "model": ", ".join(name for name, _ in models),
        "model_sha256": ", ".join(digest for _, digest in models if digest),
        "version": __version__,
        **more,
    }
    return {f"CAFE_{key.upper()}": printable(text) for key, text in found.items() if text}


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
