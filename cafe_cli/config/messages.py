"""Translate errors of pydantic into messages for the author of a config."""

import re
from collections.abc import Iterable, Sequence
from itertools import groupby

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from cafe_cli.config.schema import AugmentSettings, Config
from cafe_cli.config.types import Section, sections_in
from cafe_cli.text import did_you_mean, short_repr

_ALTERNATIVE = re.compile(r"(literal|constrained-\w+|int|float|str)(\[.*\])?$")


def explain(error: ValidationError) -> str:
    """Return a message with every wrong key, and the nearest valid name or value."""
    items = error.errors()
    # A list with a wrong item counts as too short as well.
    items = [item for item in items if item["type"] != "too_short" or len(items) == 1]
    grouped = groupby(items, key=lambda item: (_path(item), _input_value(item)))
    return "; ".join(_explain_key(path, given, list(same)) for (path, given), same in grouped)


def _path(item: ErrorDetails) -> tuple[str, ...]:
    """Return the path of a key, without the types that pydantic adds for alternatives."""
    return tuple(str(key) for key in item["loc"] if not _ALTERNATIVE.match(str(key)))


def _input_value(item: ErrorDetails) -> str:
    """Return the value to show; messages of our own validators (``value_error``) contain it."""
    return "" if item["type"] == "value_error" else f" (got {short_repr(item['input'])})"


def _explain_key(path: tuple[str, ...], given: str, items: list[ErrorDetails]) -> str:
    """Explain the errors of one key: one, or one for each type that it may have."""
    where = ".".join(path) or "config"
    if items[0]["type"] == "extra_forbidden":
        if path[0] == "train" and path[-1] in AugmentSettings.model_fields:
            return f"{where} is now augment.{path[-1]}"
        return f"unknown key {where!r}, {_suggest_key(path)}"
    if items[0]["type"] == "missing":
        return f"{where!r} is missing"
    first, *others = (_in_terms_of_toml(item["msg"]) for item in items)
    said = [first[0].lower() + first[1:], *(o.removeprefix("Input should be ") for o in others)]
    return f"{where}: {', or '.join(said)}{given}"


def _in_terms_of_toml(message: str) -> str:
    """Return a message without what only Python calls so."""
    plain = message.removeprefix("Value error, ")
    return plain.replace("a valid tuple", "a list in brackets").replace("a valid string", "text")


def _suggest_key(path: Sequence[str]) -> str:
    """Return the section that has the key, and the nearest key of this section."""
    *here, name = path
    known = list(_fields_at(here))
    near = did_you_mean(name, known)
    owners = [section for section in Config.model_fields if name in _fields_at([section])]
    if not owners or name in Config.model_fields:
        return near or f"known: {', '.join(known)}"
    owner = f"it belongs to {' or '.join(f'[{section}]' for section in owners)}"
    return f"{owner}; or {near}" if here and near else owner


def _fields_at(path: Iterable[str]) -> Iterable[str]:
    """Return the names of the fields of the section at `path`."""
    model: type[Section] = Config
    for key in path:
        if key in model.model_fields:
            model = next(sections_in(model.model_fields[key].annotation), model)
    return model.model_fields
