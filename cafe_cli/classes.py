"""The class table: id, name and colour of the classes of a label raster."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import PlainSerializer, PlainValidator

from cafe_cli.errors import ConfigError
from cafe_cli.text import find_control_character

NODATA = 255
"""Value of label rasters where there is no label or prediction; never a class."""

_LONGEST_NAME = 200

_PALETTE = (
    "#b3b3b3", "#4daf4a", "#e41a1c", "#377eb8", "#ff7f00", "#ffff33", "#a65628", "#984ea3",
    "#f781bf", "#66c2a5", "#fc8d62", "#8da0cb", "#e78ac3", "#a6d854", "#ffd92f", "#e5c494",
)  # fmt: skip


@dataclass(frozen=True)
class LandClass:
    """One class.

    Parameters
    ----------
    id : int
        Value in all label rasters that cafe writes, 0 to 254.
    name : str
        Name in messages, tables and rasters.
    color : str
        ``#rrggbb``.
    values : tuple of int or str
        Values of the input labels that stand for this class: whole numbers, texts, ranges of
        numbers such as ``10..19``, or ``*`` for every other value. If empty, the id, unless another
        class has that value.
    scored : bool
        Whether the class counts in mean IoU and mean F1 (overall accuracy counts every class).
    """

    id: int
    name: str
    color: str = ""
    values: tuple[int | str, ...] = ()
    scored: bool = True

    def __post_init__(self) -> None:
        """Set the defaults that depend on the id, and check name and colour."""
        if len(self.name) > _LONGEST_NAME:
            raise ConfigError(
                f"class {self.id}: a name of {len(self.name):,} characters, at most "
                f"{_LONGEST_NAME} fit into tables"
            )
        if control := find_control_character(self.name):
            raise ConfigError(
                f"class {self.id}: its name holds the control character {control}: remove it"
            )
        if not self.color:
            object.__setattr__(self, "color", _PALETTE[self.id % len(_PALETTE)])
        if not re.fullmatch("#[0-9a-fA-F]{6}", self.color):
            raise ConfigError(
                f"class {self.name!r}: color {self.color!r} is not of the form #rrggbb"
            )
        object.__setattr__(self, "color", self.color.lower())

    @property
    def rgb(self) -> tuple[int, int, int]:
        """Red, green and blue, 0 to 255."""
        red, green, blue = bytes.fromhex(self.color[1:])
        return red, green, blue


@dataclass(frozen=True)
class ClassTable(Sequence[LandClass]):
    """The classes in the order of their ids: 0, 1, 2, ...

    Raises
    ------
    ConfigError
        The ids are not 0, 1, 2, ..., a name repeats, or two classes have the same label value.
    """

    classes: tuple[LandClass, ...]

    def __post_init__(self) -> None:
        """Check the invariants."""
        ids = [c.id for c in self.classes]
        if not ids or ids != list(range(len(ids))) or len(ids) > NODATA:
            raise ConfigError(
                f"class ids are {ids[:256]}: they have to run 0, 1, 2, ... up to 254 without "
                "gaps; list other codes of the label rasters in `values = [...]`"
            )
        names = [c.name for c in self.classes]
        if len(set(names)) != len(names):
            raise ConfigError(f"class names occur more than once: {names}")
        values = [v for c in self.classes for v in c.values]
        if len(set(values)) != len(values):
            twice = sorted({v for v in values if values.count(v) > 1}, key=str)
            raise ConfigError(f"label values {twice} belong to more than one class")

    def __getitem__(self, index):  # type: ignore[no-untyped-def]
        """Class (or slice of classes) by id."""
        return self.classes[index]

    def __len__(self) -> int:
        """Return the number of classes."""
        return len(self.classes)

    def __iter__(self) -> Iterator[LandClass]:
        """Iterate over the classes by id."""
        return iter(self.classes)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Names by id."""
        return tuple(c.name for c in self.classes)

    @cached_property
    def scored(self) -> NDArray[np.bool_]:
        """Whether a class counts in the means, by id: (K,) bool."""
        return np.array([c.scored for c in self.classes])

    @cached_property
    def palette(self) -> NDArray[np.uint8]:
        """Colours by id: (K, 3) uint8."""
        return np.array([c.rgb for c in self.classes], np.uint8)

    @property
    def colormap(self) -> dict[int, tuple[int, int, int, int]]:
        """Colour table as rasterio writes it, RGBA by value; nodata is transparent."""
        table = {c.id: (*c.rgb, 255) for c in self.classes}
        return {**table, NODATA: (0, 0, 0, 0)}

    def paint(self, labels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Convert labels (H, W) to colours (H, W, 3) for a picture; nodata is white."""
        table = np.full((256, 3), 255, np.uint8)
        table[: len(self)] = self.palette
        return table[labels]

    def as_json(self) -> list[dict[str, object]]:
        """Return the classes as stored in tile sets, models and rasters, without `values`."""
        return [
            {"id": c.id, "name": c.name, "color": c.color, "scored": c.scored} for c in self.classes
        ]

    @classmethod
    def from_json(cls, rows: Any) -> "ClassTable":
        """Rebuild the table that `as_json` wrote.

        Raises
        ------
        ConfigError
            The classes break a rule of the table.
        KeyError, TypeError, ValueError
            `rows` is not what `as_json` writes.
        """
        return cls(
            tuple(
                LandClass(
                    id=int(str(row["id"])),
                    name=str(row["name"]),
                    color=str(row["color"]),
                    scored=bool(row["scored"]),
                )
                for row in rows
            )
        )


def _parse(value: Any) -> ClassTable:
    """Validate a field of a pydantic model; pydantic reports a ValueError with the field's name."""
    if isinstance(value, ClassTable):
        return value
    try:
        return ClassTable.from_json(value)
    except KeyError as error:
        raise ValueError(f"a class has no {error}") from error
    except (ConfigError, TypeError) as error:
        raise ValueError(str(error)) from error


ClassTableField = Annotated[ClassTable, PlainValidator(_parse), PlainSerializer(ClassTable.as_json)]
"""A class table as a field of a pydantic model; in JSON it is what `ClassTable.as_json` returns."""
