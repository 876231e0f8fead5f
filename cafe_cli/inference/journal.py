"""What is done of a long piece of work: a line for each part, safe from kills and power cuts."""

import errno
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, TypeAlias

from cafe_cli.errors import OutputError
from cafe_cli.raster.window import Window
from cafe_cli.system.atomic_write import flush, replacing, saying

Strips: TypeAlias = dict[Window, dict[str, int]]
"""Sizes in bytes by product name, of the files of every strip."""

_FORMAT = "cafe strips 1"
_SHORT = 40  # characters of a value that is shown
_NAMED = 3  # changes that are named


class Journal:
    """The list of the strips that are complete, headed by what they were made of.

    Parameters
    ----------
    path : Path
    made_of : mapping
        Plain values by names for people; those of nested mappings become ``name.key``.
    """

    def __init__(self, path: Path, made_of: Mapping[str, object]) -> None:
        self._path = path
        self._made_of: dict[str, Any] = json.loads(json.dumps(_flat(made_of), default=str))
        self._file: IO[bytes] | None = None

    def read(self) -> tuple[Strips, str]:
        """Return the strips listed, and how what they were made of differs; "" if it does not.

        Lines torn by a crash are passed over.

        Raises
        ------
        OutputError
            It cannot be read, or it is no such journal.
        """
        try:
            first, *lines = self._path.read_bytes().split(b"\n")[:-1]
        except (FileNotFoundError, ValueError):  # none, or torn in its first line: nothing listed
            return {}, ""
        except OSError as error:
            raise OutputError(f"cannot read {self._path}: {error.strerror}") from error
        made_of = self._header(first)
        return dict(filter(None, map(_entry, lines))), _changes(made_of, self._made_of)

    def start(self, strips: Strips) -> None:
        """Write the journal anew with some strips, and make ready to add others.

        Raises
        ------
        OutputError
            It cannot be written; so does `add`.
        """
        header = {"format": _FORMAT, "made_of": self._made_of}
        lines = [_line(header), *(_line(_listed(*strip)) for strip in strips.items())]
        with saying(self._path):
            with replacing(self._path) as beside:
                beside.write_bytes(b"".join(lines))
                flush(beside)
            self._file = self._path.open("ab", buffering=0)

    def add(self, window: Window, sizes: Mapping[str, int]) -> None:
        """List a strip; it is on the disk when this returns. From one thread at a time."""
        if self._file is None:
            raise ValueError("the journal is not started")
        line = _line(_listed(window, sizes))
        with saying(self._path):
            if self._file.write(line) != len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()

    def _header(self, line: bytes) -> dict[str, Any]:
        try:
            header = json.loads(line)
            if header["format"] == _FORMAT:
                return dict(header["made_of"])
        except (ValueError, TypeError, KeyError):
            pass
        raise OutputError(
            f"{self._path} is damaged, or of another version of cafe: the strips beside it cannot "
            "be used; pass --overwrite without --resume to start again"
        )


def _flat(values: Mapping[str, object]) -> dict[str, object]:
    flat: dict[str, object] = {}
    for name, value in values.items():
        inner = _flat(value) if isinstance(value, Mapping) else {}
        flat |= {f"{name}.{key}": v for key, v in inner.items()} or {name: value}
    return flat


def _line(value: Mapping[str, object]) -> bytes:
    return json.dumps(value).encode() + b"\n"


def _listed(window: Window, sizes: Mapping[str, int]) -> dict[str, object]:
    return {"strip": [window.col, window.row, window.width, window.height], "bytes": sizes}


def _entry(line: bytes) -> tuple[Window, dict[str, int]] | None:
    try:
        entry = json.loads(line)
        sizes = {str(name): int(size) for name, size in entry["bytes"].items()}
        return Window(*map(int, entry["strip"])), sizes
    except (ValueError, TypeError, KeyError, AttributeError):
        return None


def _changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """Say in a line what differs, with the values where they are short."""
    changed = [name for name in {**old, **new} if old.get(name) != new.get(name)]
    said = [_change(name, old.get(name), new.get(name)) for name in changed[:_NAMED]]
    more = len(changed) - len(said)
    return "; ".join([*said, f"and {more} more"] if more else said)


def _change(name: str, old: object, new: object) -> str:
    was, now = (json.dumps(v) if v is not None else "none" for v in (old, new))
    if max(len(was), len(now)) > _SHORT:
        return f"{name} has changed"
    return f"{name} was {was}, now {now}"
