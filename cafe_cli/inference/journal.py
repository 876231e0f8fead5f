"""The journal of the finished strips of a map."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from cafe_cli.raster.window import Window
from cafe_cli.system import journal
from cafe_cli.system.untrusted import parse_json


class StripFile(NamedTuple):
    """A file of a strip: its size in bytes, 0 if there is none, and the CRC-32 of its content."""

    bytes: int
    crc32: int


Strips: TypeAlias = dict[Window, dict[str, StripFile]]
"""By strip: its files, by product name."""

_FORMAT = "cafe strips 2"


class Journal:
    """The list of complete strips; see `cafe_cli.system.journal.Journal`.

    Parameters
    ----------
    path : Path
    fingerprint : mapping
        Everything that the pixels depend on.
    """

    def __init__(self, path: Path, fingerprint: Mapping[str, object]) -> None:
        self._lines = journal.Journal(path, "strips", _FORMAT, fingerprint)

    def read(self) -> tuple[Strips, str]:
        """Return the listed strips, and a description of how their fingerprint differs from this.

        Raises
        ------
        OutputError
            The file cannot be read, or is not a journal of this format.
        """
        entries, changes = self._lines.read()
        return dict(filter(None, map(_parse_entry, entries))), changes

    def start(self, strips: Strips) -> None:
        """Write the journal with these strips and keep it open for `add`.

        Raises
        ------
        OutputError
            The file cannot be written; `add` raises it, too.
        """
        self._lines.start(_entry(*strip) for strip in strips.items())

    def add(self, window: Window, files: Mapping[str, StripFile]) -> None:
        """Append a strip and flush it to the disk; not to be called from two threads at once."""
        self._lines.add(_entry(window, files))

    def close(self) -> None:
        """Close the file, if `start` has opened it."""
        self._lines.close()


def read_fingerprint(path: Path) -> dict[str, Any]:
    """Return the fingerprint in the header of a journal; empty where there is none to be read."""
    try:
        with path.open("rb") as file:
            return dict(parse_json(file.readline())["made_of"])
    except (OSError, ValueError, TypeError, KeyError):
        return {}


def _entry(window: Window, files: Mapping[str, StripFile]) -> dict[str, object]:
    place = [window.col, window.row, window.width, window.height]
    return {"strip": place, "files": {name: list(file) for name, file in files.items()}}


def _parse_entry(entry: Any) -> tuple[Window, dict[str, StripFile]] | None:
    try:
        files = {str(name): StripFile(*map(int, file)) for name, file in entry["files"].items()}
        return Window(*map(int, entry["strip"])), files
    except (ValueError, TypeError, KeyError, AttributeError):
        return None
