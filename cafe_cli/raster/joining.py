"""What the rasters of one stream must have in common to be read as one: bands, data type, unit."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np

from cafe_cli.errors import BandError, InputError

if TYPE_CHECKING:
    from cafe_cli.raster.mosaic_view import Member

Stream: TypeAlias = Literal["image", "heights", "labels"]

UNIT_NAMES = {
    "m": "metre", "metre": "metre", "meter": "metre", "metres": "metre", "meters": "metre",
    "ft": "foot", "foot": "foot", "feet": "foot", "us survey foot": "us-foot",
    "us-ft": "us-foot", "ftus": "us-foot", "dm": "decimetre", "cm": "centimetre",
}  # fmt: skip
"""Units of heights by the names that rasters give them, in lower case."""


def join(members: Sequence["Member"], stream: Stream) -> list["Member"]:
    """Check that rasters can be read as one, and complete the units of heights.

    Only what is read is compared: the bands besides alpha, and of heights the unit. A raster of
    heights without a unit is taken to have that of the others.

    Raises
    ------
    BandError
        The number of bands differs.
    InputError
        Data types or units differ.
    """
    first = members[0]
    for other in members[1:]:
        _compare(first, other, stream)
    return _with_units(members) if stream == "heights" else list(members)


def common_dtype(members: Sequence["Member"]) -> str | None:
    """Return the data type to convert the values to; None if all rasters have the same."""
    dtypes = {member.dtype for member in members}
    return np.result_type(*dtypes).name if len(dtypes) > 1 else None


def _compare(first: "Member", other: "Member", stream: Stream) -> None:
    if len(other.bands) != len(first.bands):
        remedy = "; name those that all have (--bands or scenes.bands)" if stream == "image" else ""
        raise BandError(
            f"{other.path} has {len(other.bands)} bands, {first.path} has {len(first.bands)}: "
            f"they cannot be joined{remedy}"
        )
    if not _same_kind(first.dtype, other.dtype, stream):
        raise InputError(
            f"{other.path} is {other.dtype}, {first.path} is {first.dtype}: they cannot be joined; "
            "convert one with gdal_translate -ot, and -scale where the values mean something else"
        )


def _same_kind(one: str, other: str, stream: Stream) -> bool:
    """Whether a number means the same in both data types.

    A grey value does not: 255 is white in uint8 and nearly black in uint16.
    """
    if one == other:
        return True
    kinds = {np.dtype(one).kind, np.dtype(other).kind}
    if kinds == {"f"}:
        return True
    if stream == "labels":
        return kinds <= {"i", "u"}
    narrow = min(np.dtype(one).itemsize, np.dtype(other).itemsize) < 2
    return stream == "heights" and kinds <= {"i", "u", "f"} and not narrow


def _with_units(members: Sequence["Member"]) -> list["Member"]:
    """Give heights without a unit the unit of the others, and say so."""
    named = [member for member in members if member.unit]
    for other in named[1:]:
        if _unit(other) != _unit(named[0]):
            raise InputError(
                f"{other.path} is in {other.unit}, {named[0].path} in {named[0].unit}: they cannot "
                "be joined; convert one, e.g. gdal_calc.py --calc 'A*0.3048' from feet to metres"
            )
    silent = [member for member in members if not member.unit]
    if not named or not silent:
        return list(members)
    unit, source = named[0].unit, named[0].path
    return [
        member
        if member.unit
        else replace(member, unit=unit).noted(
            f"{member.path} states no unit of its heights; it is assumed to be that of {source}, "
            f"{unit}"
        )
        for member in members
    ]


def _unit(member: "Member") -> str:
    return UNIT_NAMES.get(member.unit.lower(), member.unit.lower())
