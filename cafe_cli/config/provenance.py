"""What an output was made with, in a TOML file beside it."""

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tomli_w

from cafe_cli import __version__
from cafe_cli.system.atomic_write import write_text


def save_beside(output: Path, values: Mapping[str, Any]) -> None:
    """Write what an output was made with to ``OUTPUT.toml``; what is None is left out."""
    made = {"cafe_version": __version__, **values}
    write_text(output.with_name(f"{output.name}.toml"), tomli_w.dumps(_without_none(made)))


def read_beside(output: Path) -> dict[str, Any]:
    """Read what `save_beside` wrote; nothing where there is none, or it is damaged."""
    try:
        return tomllib.loads(output.with_name(f"{output.name}.toml").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def _without_none(values: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: _without_none(value) if isinstance(value, Mapping) else value
        for key, value in values.items()
        if value is not None
    }
