"""Types of values in the config, and the base of its sections."""

from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from cafe_cli.text import parse_duration

Share = Annotated[float, Field(ge=0, le=1)]
BelowOne = Annotated[float, Field(ge=0, lt=1)]
Strength = Annotated[float, Field(ge=0, le=3)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]
Color = Annotated[str, Field(pattern="^#[0-9a-fA-F]{6}$")]
Files = str | Annotated[tuple[str, ...], Field(min_length=1)]


def _seconds(value: object) -> object:
    """Convert a time such as ``1h30m`` to seconds; a number is in seconds already."""
    return parse_duration(value) if isinstance(value, str) else value


Duration = Annotated[float, BeforeValidator(_seconds), Field(gt=0)]


class Section(BaseModel):
    """Base of every section: immutable, and an unknown key is an error."""

    # JSON has no NaN, which is a valid nodata value: it is written as a string.
    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="strings")
