"""JSON Schema of the config, by which editors complete keys and check values.

Draft 7, without references: Taplo, which VS Code's Even Better TOML runs, shows nothing of what
stands beside a reference.
"""

from collections.abc import Sequence
from typing import Any

from cafe_cli.config.reference import Key, SectionReference, read_reference


def config_schema() -> dict[str, Any]:
    """Return the JSON Schema of a config."""
    first, *sections = read_reference()
    schema = _table("The config of cafe.", first.keys)
    schema["properties"] |= {section.name: _section(section) for section in sections}
    return {"$schema": "http://json-schema.org/draft-07/schema#", "title": "cafe", **schema}


def _section(section: SectionReference) -> dict[str, Any]:
    table = _table(section.text, section.keys)
    return {"type": "array", "items": table} if section.repeated else table


def _table(text: str, keys: Sequence[Key]) -> dict[str, Any]:
    return {
        "type": "object",
        "description": text,
        "additionalProperties": False,
        "required": [key.name for key in keys if key.required],
        "properties": {key.name: _property(key) for key in keys},
    }


def _property(key: Key) -> dict[str, Any]:
    """Return the schema of a key; editors show the description, and little else."""
    about: dict[str, Any] = {
        "description": f"{key.text}\n\n{key.values[:1].upper()}{key.values[1:]}. {key.in_words}."
    }
    if key.has_fixed_default:
        about["default"] = key.default
    if key.examples:
        about["examples"] = list(key.examples)
    return {**about, **key.schema}
