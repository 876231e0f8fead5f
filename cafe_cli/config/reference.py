"""What each key of the config means, in one place for the template, the page and the editors."""

import inspect
import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from cafe_cli.config.schema import Config
from cafe_cli.config.types import Section, sections_in

_ABOUT = ("title", "description", "default", "examples", "unit", "unset")
"""Parts of a property's JSON Schema that say nothing about the type of the value."""


@dataclass(frozen=True)
class Key:
    """A key of the config.

    Attributes
    ----------
    name : str
        Without the section.
    text : str
        What it means.
    values : str
        Values that it takes, in words: choices, units and ranges.
    schema : mapping
        JSON Schema of these values; TOML has no null.
    default : object
        None if it has none; a list for a tuple.
    unset : str
        What holds while the key is not set, where no default value says it; else empty.
    examples : tuple
        Values as a config may have them.
    required : bool
        Whether its section needs it.
    """

    name: str
    text: str
    values: str
    schema: Mapping[str, Any]
    default: Any
    unset: str
    examples: tuple[Any, ...]
    required: bool

    @property
    def has_fixed_default(self) -> bool:
        """Whether a config that sets the default means the same as one without the key."""
        return self.default is not None and not self.unset

    @property
    def value_to_show(self) -> Any:
        """The default, or the first example where there is none, or nothing in it."""
        return self.default if self.default or not self.examples else self.examples[0]

    @property
    def in_words(self) -> str:
        """What holds while the key is not set."""
        if self.required:
            return "Required"
        return f"If not set: {self.unset}" if self.unset else f"Default: `{toml(self.default)}`"


@dataclass(frozen=True)
class SectionReference:
    """A section of the config; the one without a name holds the keys before the first section.

    Attributes
    ----------
    name : str
    text : str
        What it is about; paragraphs are separated by an empty line.
    keys : tuple of Key
    optional : bool
        Whether it is missing by default.
    repeated : bool
        Whether it may occur several times, as ``[[name]]``.
    """

    name: str
    text: str
    keys: tuple[Key, ...]
    optional: bool = False
    repeated: bool = False

    @property
    def header(self) -> str:
        """The line that begins the section in TOML."""
        return f"[[{self.name}]]" if self.repeated else f"[{self.name}]"


def read_reference(wanted: Collection[str] | None = None) -> list[SectionReference]:
    """Return the sections and keys of the config in their order.

    Parameters
    ----------
    wanted : collection of str, optional
        Sections (``train``) and keys (``scenes.crs``) to return. The keys that a section needs come
        along.
    """
    found = [section for section in _sections() if section.keys]
    if wanted is None:
        return found
    return [part for section in found if (part := _select(section, wanted)).keys]


def toml(value: Any) -> str:
    """Return a value as TOML on one line."""
    return json.dumps(value, ensure_ascii=False)


def _sections() -> Iterator[SectionReference]:
    yield SectionReference("", inspect.getdoc(Config) or "", tuple(_keys(Config)))
    for name, field in Config.model_fields.items():
        for model in sections_in(field.annotation):
            yield SectionReference(
                name,
                inspect.getdoc(model) or "",
                tuple(_keys(model)),
                optional=not isinstance(field.default, Section),
                repeated=isinstance(field.default, tuple),
            )


def _select(section: SectionReference, wanted: Collection[str]) -> SectionReference:
    """Return a section with the keys that are wanted, and those that it needs then."""
    if section.name in wanted:
        return section
    named = {key.name for key in section.keys if _path(section, key) in wanted}
    keys = tuple(key for key in section.keys if named and (key.required or key.name in named))
    return SectionReference(section.name, section.text, keys, section.optional, section.repeated)


def _path(section: SectionReference, key: Key) -> str:
    return f"{section.name}.{key.name}".lstrip(".")


def _keys(model: type[Section]) -> Iterator[Key]:
    """Yield the keys of a section, without the sections in it."""
    schema = model.model_json_schema()
    for name, field in model.model_fields.items():
        if any(sections_in(field.annotation)):
            continue
        about = schema["properties"][name]
        values = _without_null({k: v for k, v in about.items() if k not in _ABOUT})
        yield Key(
            name=name,
            text=about.get("description", ""),
            values=_describe(values, about.get("unit", "")),
            schema=values,
            default=about.get("default"),
            unset=about.get("unset", ""),
            examples=tuple(about.get("examples", ())),
            required=field.is_required(),
        )


def _without_null(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out null, which stands for a key that is not set."""
    kinds = [kind for kind in schema.get("anyOf", ()) if kind.get("type") != "null"]
    if len(kinds) == 1:
        return dict(kinds[0])
    return {**schema, "anyOf": kinds} if kinds else dict(schema)


def _describe(schema: Mapping[str, Any], unit: str) -> str:
    """Return the values that a schema allows, in words."""
    if "anyOf" in schema:
        return ", or ".join(_describe(kind, unit) for kind in schema["anyOf"])
    if choices := schema.get("enum", [schema["const"]] if "const" in schema else []):
        return ", ".join(f"`{toml(choice)}`" for choice in choices)
    match schema["type"]:
        case "boolean":
            return "`true`, `false`"
        case "array":
            items = _describe(schema["items"], unit)
            return "list of texts" if items == "text" else f"list: {items}"
        case "integer" | "number":
            return f"{unit}, {_describe_range(schema)}"
    return "text"


def _describe_range(schema: Mapping[str, Any]) -> str:
    low = _describe_limit(schema, "minimum", "above", "exclusiveMinimum")
    high = _describe_limit(schema, "maximum", "below", "exclusiveMaximum")
    if low and high:
        text = f"{low} to {high}"
    elif low:
        text = low if low.startswith("above") else f"{low} or more"
    else:
        text = "any whole number" if schema["type"] == "integer" else "any number"
    return text + (f", a multiple of {schema['multipleOf']}" if "multipleOf" in schema else "")


def _describe_limit(schema: Mapping[str, Any], closed: str, word: str, exclusive: str) -> str:
    """Return the lowest or the highest number in words, empty if there is none."""
    if exclusive in schema:
        return f"{word} {schema[exclusive]:.12g}"
    return f"{schema[closed]:.12g}" if closed in schema else ""
