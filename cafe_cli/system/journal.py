"""A crash-safe journal of the finished parts of an output: one JSON line per part."""

import errno
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import IO, Any

from cafe_cli.errors import OutputError
from cafe_cli.system.atomic_write import replace_atomically, translate_os_errors
from cafe_cli.system.untrusted import parse_json

_SHORT = 40  # characters of the longest value that a message shows
_NAMED = 3  # changes that a message names


class Journal:
    """The list of complete parts, after a header with the fingerprint of the run.

    Parameters
    ----------
    path : Path
    parts : str
        What is listed, in the plural, for messages.
    version : str
        Format of the entries; a journal of another is not read.
    fingerprint : mapping
        Everything that the parts depend on: plain values by readable names. Nested mappings are
        flattened to ``name.key``.
    """

    def __init__(
        self, path: Path, parts: str, version: str, fingerprint: Mapping[str, object]
    ) -> None:
        self._path, self._parts, self._version = path, parts, version
        plain = json.dumps(_flatten(fingerprint), default=str)
        self._fingerprint: dict[str, Any] = json.loads(plain)
        self._file: IO[bytes] | None = None

    def read(self) -> tuple[list[Any], str]:
        """Return the entries, and a description of how their fingerprint differs from this.

        The text is empty if nothing differs. Lines cut off by a crash are skipped.

        Raises
        ------
        OutputError
            The file cannot be read, or is not a journal of this format.
        """
        try:
            first, *lines = self._path.read_bytes().split(b"\n")[:-1]
        except (FileNotFoundError, ValueError):  # no file, or an incomplete header
            return [], ""
        except OSError as error:
            raise OutputError(f"cannot read {self._path}: {error.strerror}") from error
        changes = _changes(self._header(first), self._fingerprint)
        return [entry for line in lines if (entry := _parse(line)) is not None], changes

    def start(self, entries: Iterable[Mapping[str, object]]) -> None:
        """Write the journal with these entries and keep it open for `add`.

        Raises
        ------
        OutputError
            The file cannot be written; `add` raises it, too.
        """
        header = {"format": self._version, "made_of": self._fingerprint}
        with translate_os_errors(self._path):
            with replace_atomically(self._path) as temporary:
                temporary.write_bytes(b"".join(map(_line, [header, *entries])))
            self._file = self._path.open("ab", buffering=0)

    def add(self, entry: Mapping[str, object]) -> None:
        """Append an entry and flush it to the disk; not to be called from two threads at once."""
        if self._file is None:
            raise ValueError("the journal is not started")
        line = _line(entry)
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
            if header["format"] == self._version:
                return dict(header["made_of"])
        except (ValueError, TypeError, KeyError):
            pass
        raise OutputError(
            f"{self._path} is damaged, or of another version of cafe: the {self._parts} beside it "
            "cannot be used; pass --overwrite without --resume to start again"
        )


def _flatten(values: Mapping[str, object]) -> dict[str, object]:
    flat: dict[str, object] = {}
    for name, value in values.items():
        inner = _flatten(value) if isinstance(value, Mapping) else {}
        flat |= {f"{name}.{key}": v for key, v in inner.items()} or {name: value}
    return flat


def _line(value: Mapping[str, object]) -> bytes:
    return json.dumps(value).encode() + b"\n"


def _parse(line: bytes) -> Any:
    try:
        return parse_json(line)
    except ValueError:
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
