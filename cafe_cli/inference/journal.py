"""A crash-safe journal of the finished strips of a map: one JSON line per strip."""

import errno
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, NamedTuple, TypeAlias

from cafe_cli.errors import OutputError
from cafe_cli.raster.window import Window
from cafe_cli.system.atomic_write import replace_atomically, translate_os_errors
from cafe_cli.system.untrusted import parse_json


class StripFile(NamedTuple):
    """A file of a strip: its size in bytes, 0 if there is none, and the CRC-32 of its content."""

    bytes: int
    crc32: int


Strips: TypeAlias = dict[Window, dict[str, StripFile]]
"""By strip: its files, by product name."""

_FORMAT = "cafe strips 2"
_SHORT = 40  # characters of the longest value that a message shows
_NAMED = 3  # changes that a message names


class Journal:
    """The list of complete strips, after a header with the fingerprint of the run.

    Parameters
    ----------
    path : Path
    fingerprint : mapping
        Everything that the pixels depend on: plain values by readable names. Nested mappings are
        flattened to ``name.key``.
    """

    def __init__(self, path: Path, fingerprint: Mapping[str, object]) -> None:
        self._path = path
        plain = json.dumps(_flatten(fingerprint), default=str)
        self._fingerprint: dict[str, Any] = json.loads(plain)
        self._file: IO[bytes] | None = None

    def read(self) -> tuple[Strips, str]:
        """Return the listed strips, and a description of how their fingerprint differs from this.

        The text is empty if nothing differs. Lines cut off by a crash are skipped.

        Raises
        ------
        OutputError
            The file cannot be read, or is not a journal of this format.
        """
        try:
            first, *lines = self._path.read_bytes().split(b"\n")[:-1]
        except (FileNotFoundError, ValueError):  # no file, or an incomplete header
            return {}, ""
        except OSError as error:
            raise OutputError(f"cannot read {self._path}: {error.strerror}") from error
        changes = _changes(self._header(first), self._fingerprint)
        return dict(filter(None, map(_parse_entry, lines))), changes

    def start(self, strips: Strips) -> None:
        """Write the journal with these strips and keep it open for `add`.

        Raises
        ------
        OutputError
            The file cannot be written; `add` raises it, too.
        """
        header = {"format": _FORMAT, "made_of": self._fingerprint}
        lines = [_line(header), *(_line(_entry(*strip)) for strip in strips.items())]
        with translate_os_errors(self._path):
            with replace_atomically(self._path) as temporary:
                temporary.write_bytes(b"".join(lines))
            self._file = self._path.open("ab", buffering=0)

    def add(self, window: Window, files: Mapping[str, StripFile]) -> None:
        """Append a strip and flush it to the disk; not to be called from two threads at once."""
        if self._file is None:
            raise ValueError("the journal is not started")
        line = _line(_entry(window, files))
        with translate_os_errors(self._path):
            if self._file.write(line) != len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file, if `start` has opened it."""
        if self._file is not None:
            self._file.close()

    def _header(self, line: bytes) -> dict[str, Any]:
        try:
            header = parse_json(line)
            if header["format"] == _FORMAT:
                return dict(header["made_of"])
        except (ValueError, TypeError, KeyError):
            pass
        raise OutputError(
            f"{self._path} is damaged, or of another version of cafe: the strips beside it cannot "
            "be used; pass --overwrite without --resume to start again"
        )


def read_fingerprint(path: Path) -> dict[str, Any]:
    """Return the fingerprint in the header of a journal; empty where there is none to be read."""
    try:
        with path.open("rb") as file:
            return dict(parse_json(file.readline())["made_of"])
    except (OSError, ValueError, TypeError, KeyError):
        return {}


def _flatten(values: Mapping[str, object]) -> dict[str, object]:
    flat: dict[str, object] = {}
    for name, value in values.items():
        inner = _flatten(value) if isinstance(value, Mapping) else {}
        flat |= {f"{name}.{key}": v for key, v in inner.items()} or {name: value}
    return flat


def _line(value: Mapping[str, object]) -> bytes:
    return json.dumps(value).encode() + b"\n"


def _entry(window: Window, files: Mapping[str, StripFile]) -> dict[str, object]:
    place = [window.col, window.row, window.width, window.height]
    return {"strip": place, "files": {name: list(file) for name, file in files.items()}}


def _parse_entry(line: bytes) -> tuple[Window, dict[str, StripFile]] | None:
    try:
        entry = parse_json(line)
        files = {str(name): StripFile(*map(int, file)) for name, file in entry["files"].items()}
        return Window(*map(int, entry["strip"])), files
    except (ValueError, TypeError, KeyError, AttributeError):
        return None


def _changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """Describe in one line what differs, with the values where they are short."""
    changed = [name for name in {**old, **new} if old.get(name) != new.get(name)]
    named = [_change(name, old.get(name), new.get(name)) for name in changed[:_NAMED]]
    more = len(changed) - len(named)
    return "; ".join([*named, f"and {more} more"] if more else named)


def _change(name: str, old: object, new: object) -> str:
    was, now = (json.dumps(v) if v is not None else "none" for v in (old, new))
    if max(len(was), len(now)) > _SHORT:
        return f"{name} has changed"
    return f"{name} was {was}, now {now}"
