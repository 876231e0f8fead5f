"""Types of values in the config, and the base of its sections."""

import types
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    WithJsonSchema,
)

from cafe_cli.text import find_control_character, parse_duration


def _without_control_characters(text: str) -> str:
    if control := find_control_character(text):
        raise ValueError(f"it holds the control character {control}: remove it")
    return text


def _without_null(text: str) -> str:
    if "\0" in text:
        raise ValueError("a file name cannot hold a null byte: remove \\0")
    return text


STRIDE = 32
"""Stride in pixels of the network's coarsest features. Windows begin at its multiples; elsewhere,
labels would differ by several per cent."""

Share = Annotated[float, Field(ge=0, le=1)]
BelowOne = Annotated[float, Field(ge=0, lt=1)]
Strength = Annotated[float, Field(ge=0, le=3)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]
Color = Annotated[str, Field(pattern="^#[0-9a-fA-F]{6}$")]
Name = Annotated[str, AfterValidator(_without_control_characters)]
Pattern = Annotated[str, AfterValidator(_without_null)]
Files = Pattern | Annotated[tuple[Pattern, ...], Field(min_length=1)]
PixelType = Annotated[str, Field(pattern="^(u?int(8|16|32|64)|float(16|32|64))$")]
"""Data types of pixels, by their names in numpy."""
Window = Annotated[int, Field(ge=1, le=16384)]
"""Side in pixels of a tile or window. The network takes about 2 kB a pixel: 0.5 TB at the limit."""
GroundSamplingDistance = Annotated[float, Field(ge=1e-4, le=1e5)]
"""Metres per pixel, between a tenth of a millimetre and the largest cells of climate models."""


def _seconds(value: object) -> object:
    """Convert a time such as ``1h30m`` to seconds; a number is in seconds already."""
    return parse_duration(value) if isinstance(value, str) else value


Duration = Annotated[
    float,
    BeforeValidator(_seconds),
    Field(gt=0),
    WithJsonSchema(
        {"anyOf": [{"type": "number", "exclusiveMinimum": 0}, {"type": "string", "minLength": 2}]}
    ),
]
"""Seconds, or a text such as ``1h30m``."""


class Section(BaseModel):
    """Base of every section: immutable, and an unknown key is an error."""

    # JSON has no NaN, which is a valid nodata value: it is written as a string.
    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="strings")


def describe(
    text: str, *, unit: str | None = None, unset: str | None = None, examples: Sequence[Any] = ()
) -> Any:
    """Describe a key of the config, for `cafe_cli.config.reference`.

    Parameters
    ----------
    text : str
        What the key means, in full sentences; names of keys and values between backticks.
    unit : str, optional
        Unit of a number.
    unset : str, optional
        What holds while the key is not set, if that is not its default value.
    examples : sequence, optional
        Values as a config may have them. Choices and switches need none.
    """
    about = {"unit": unit, "unset": unset}
    return Field(
        description=text,
        examples=list(examples) or None,
        json_schema_extra={key: value for key, value in about.items() if value is not None},
    )


def sections_in(annotation: Any) -> Iterator[type[Section]]:
    """Yield the sections in the annotation of a field: one for a section, none for a key."""
    if isinstance(annotation, type) and not isinstance(annotation, types.GenericAlias):
        if issubclass(annotation, Section):
            yield annotation
        return
    for part in get_args(annotation):
        yield from sections_in(part)
