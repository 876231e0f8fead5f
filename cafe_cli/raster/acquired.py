"""When images were taken: as the user says it, or as inputs say it."""

import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

from rasterio.io import DatasetReader

from cafe_cli.errors import CafeError, ConfigError
from cafe_cli.raster.header import read_tags
from cafe_cli.raster.output_files import stac_path
from cafe_cli.raster.reader import open_raster
from cafe_cli.redaction import redact
from cafe_cli.system.untrusted import parse_json, read_text

_TAGS = (
    ("IMAGERY", "ACQUISITIONDATETIME"),
    (None, "EXIF_DateTimeOriginal"),
    ("EXIF", "EXIF_DateTimeOriginal"),
    (None, "TIFFTAG_DATETIME"),
)
"""Namespace and name of tags with a time, those that say when an image was taken first."""

_YEAR, _MONTH = re.compile(r"\d{4}"), re.compile(r"\d{4}-\d\d")
_DAY = re.compile(r"\d{4}-?\d\d-?\d\d")
_TIFF = re.compile(
    r"(\d{4})[:-](\d\d)[:-](\d\d)(?:[ T](\d\d:\d\d:\d\d)(?:\.\d+)?(Z|[+-]\d\d:?\d\d)?)?"
)
_SECOND = timedelta(seconds=1)
_LARGEST = 16_000_000  # bytes of a STAC item


class Acquired(NamedTuple):
    """First and last moment at which images were taken, in UTC; the same for one image."""

    start: datetime
    end: datetime


def parse_acquired(text: str) -> Acquired:
    """Parse a date, a time or an interval.

    These are like ``2024``, ``2024-06``, ``2024-06-01``, ``2024-06-01T10:00:00Z``, or two of them
    with ``/`` between. A year, a month or a day lasts from its first to its last second. A time
    without an offset is one in UTC.

    Raises
    ------
    ConfigError
        It is none of these, or ends before it begins.
    """
    first, slash, last = text.strip().partition("/")
    try:
        start, end = _parse(first), _parse(last) if slash else _parse(first)
    except (ValueError, OverflowError) as error:
        raise ConfigError(
            f"--datetime {text!r} is not a date: write 2024, 2024-06, 2024-06-01, "
            "2024-06-01T10:00:00Z, or two of these with / between them"
        ) from error
    if end.end < start.start:
        raise ConfigError(f"--datetime {text!r} ends before it begins")
    return Acquired(start.start, end.end)


def find_acquired(text: str | None, inputs: Sequence[str]) -> Acquired:
    """Return when the images of a map were taken: as `text` says, or if it is None, the inputs.

    Parameters
    ----------
    text : str, optional
        See `parse_acquired`.
    inputs : sequence of str
        Orthophotos, or maps; at least one. What their STAC items say counts before their tags.

    Raises
    ------
    ConfigError
        An input does not say when it was taken.
    """
    if text is not None:
        return parse_acquired(text)
    found = {name: _acquired(name) for name in inputs}
    known = [acquired for acquired in found.values() if acquired]
    if len(known) < len(found):
        unknown = next(name for name, acquired in found.items() if acquired is None)
        raise ConfigError(
            f"{redact(unknown)} has no acquisition time, which a STAC item needs: pass "
            "--datetime, e.g. --datetime 2024-06-01 or 2024-05/2024-07"
        )
    return Acquired(min(one.start for one in known), max(one.end for one in known))


def _acquired(name: str) -> Acquired | None:
    """Return when an input was taken, as the STAC item beside it says, or its tags."""
    try:
        item = parse_json(read_text(stac_path(Path(name)), _LARGEST))["properties"]
        moments = item.get("datetime") or f"{item['start_datetime']}/{item['end_datetime']}"
        return parse_acquired(moments)
    except (CafeError, OSError, ValueError, LookupError, TypeError, AttributeError):
        with open_raster(name) as dataset:  # there is mostly no item, or not one of a map
            return read_acquired(dataset)


def read_acquired(dataset: DatasetReader) -> Acquired | None:
    """Return when the image of a raster was taken, as its tags say; None if they say nothing."""
    for namespace, name in _TAGS:
        text = read_tags(dataset, namespace).get(name, "").strip()
        if found := _TIFF.fullmatch(text):
            year, month, day, clock, offset = found.groups()
            moment = f"T{clock}{offset or ''}" if clock else ""
            try:
                return parse_acquired(f"{year}-{month}-{day}{moment}")
            except ConfigError:  # e.g. 0000:00:00 00:00:00, of a clock that was never set
                continue
    return None


def _parse(text: str) -> Acquired:
    """Return the span of one date or time; ValueError for other text."""
    if _YEAR.fullmatch(text):
        return Acquired(_first(text, 1), _first(str(int(text) + 1), 1) - _SECOND)
    if _MONTH.fullmatch(text):
        year, month = int(text[:4]), int(text[5:])
        after = _first(f"{year + month // 12:04}", month % 12 + 1)
        return Acquired(_first(text[:4], month), after - _SECOND)
    found = datetime.fromisoformat(text)
    found = (found if found.tzinfo else found.replace(tzinfo=UTC)).astimezone(UTC)
    return Acquired(found, found + timedelta(days=1) - _SECOND if _DAY.fullmatch(text) else found)


def _first(year: str, month: int) -> datetime:
    return datetime(int(year), month, 1, tzinfo=UTC)
