"""What pydantic found wrong with a config, in words for whoever wrote it."""

import re
import types
import typing
from collections.abc import Iterable, Iterator
from typing import Any

from pydantic import BaseModel, ValidationError

from cafe_cli.config.schema import Config
from cafe_cli.text import did_you_mean

_ALTERNATIVE = re.compile(r"(literal|constrained-\w+|int|float|str)(\[.*\])?$")


def explain(error: ValidationError) -> str:
    """Return what is wrong in a line: every key, with the nearest right name or value."""
    parts: list[str] = []
    items = error.errors()
    # What is wrong within a list leaves it too short as well.
    items = [i for i in items if i["type"] != "too_short" or len(items) == 1]
    for item in items:
        # pydantic names the alternatives of "auto" or a number as if they were keys.
        path = [str(p) for p in item["loc"] if not _ALTERNATIVE.match(str(p))]
        where = ".".join(path) or "config"
        if item["type"] == "extra_forbidden":
            known = list(_fields_at(path[:-1]))
            hint = did_you_mean(path[-1], known) or f"known: {', '.join(known)}"
            parts.append(f"unknown key {where!r}, {hint}")
        elif item["type"] == "missing":
            parts.append(f"{where!r} is missing")
        else:
            message = item["msg"].removeprefix("Value error, ")
            given = "" if item["type"] == "value_error" else f" (got {item['input']!r})"
            said = f"{where}: {message[0].lower()}{message[1:]}{given}"
            if parts and parts[-1].startswith(f"{where}: ") and parts[-1].endswith(given):
                more = message.removeprefix("Input should be ")
                said = f"{parts.pop().removesuffix(given)}, or {more}{given}"
            parts.append(said)
    return "; ".join(parts)


def _fields_at(path: Iterable[str]) -> Iterable[str]:
    """Names of the fields of the section at `path`."""
    model: type[BaseModel] = Config
    for key in path:
        if key in model.model_fields:
            model = next(_models_in(model.model_fields[key].annotation), model)
    return model.model_fields


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and not isinstance(annotation, types.GenericAlias):
        if issubclass(annotation, BaseModel):
            yield annotation
        return
    for part in typing.get_args(annotation):
        yield from _models_in(part)
