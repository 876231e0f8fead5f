"""Files and texts of others: what nothing can read is refused with an error of one line.

Python and GDAL answer some of them in ways of their own: a pipe is waited for, a name with a null
byte is no `OSError`, and a deeply nested text is a `RecursionError`.
"""

import json
import os
import re
import stat
import tomllib
from pathlib import Path
from typing import Any

from cafe_cli.errors import InputError
from cafe_cli.text import file_size, find_control_character

_DESCRIPTORS = ("/dev/fd/", "/proc/self/fd/", "/dev/stdin", os.devnull)
"""What a shell has opened already, as in ``<(command)``, and what is always empty."""

_PART = r"""(?:[\w-]+|"[^"\n]*"|'[^'\n]*')"""
_LONG_KEY = re.compile(rf"^[ \t\[]*{_PART}(?:[ \t]*\.[ \t]*{_PART}){{64}}", re.MULTILINE)


def check_name(name: str) -> None:
    """Refuse a file name that cannot be passed on, or written down beside an output.

    Raises
    ------
    InputError
        The name holds a null byte or bytes that are no UTF-8; the message shows them as escapes.
    """
    if "\0" in name:
        raise InputError(f"{name!r} is not a file name: it holds a null byte")
    try:
        name.encode()
    except UnicodeEncodeError as error:
        byte = find_control_character(name[error.start])
        raise InputError(
            f"{name} has a name that is not UTF-8 (it holds the byte {byte}): rename it"
        ) from error


def check_file(name: str) -> None:
    """Refuse a local name that stands for neither a file nor a folder; it need not exist.

    Raises
    ------
    InputError
        It is a pipe, a socket or a device, or `check_name` refuses it.
    """
    check_name(name)
    try:
        mode = os.stat(name).st_mode
    except OSError:
        return
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise InputError(
            f"{name} is a pipe, a socket or a device: copy its content to a file, and name that"
        )


def read_text(path: Path | str, most: int) -> str:
    """Read a text file in UTF-8, with or without a byte order mark, of at most `most` bytes.

    Raises
    ------
    InputError
        The file is larger, or `check_file` refuses it; a pipe that a shell has opened is read.
    OSError, UnicodeDecodeError
        As `open` raises them.
    """
    if not str(path).startswith(_DESCRIPTORS):
        check_file(str(path))
    with open(path, "rb") as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise InputError(f"{path} is larger than {file_size(most)}: it cannot be the right file")
    return content.decode("utf-8-sig")


def parse_json(text: str | bytes) -> Any:
    """Parse JSON; any other text, however it is nested, raises `ValueError`."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("brackets are nested too deeply") from None


def parse_toml(text: str) -> dict[str, Any]:
    """Parse TOML; any other text, however it is nested, raises `ValueError`."""
    # tomllib takes time and memory with the square of the parts of a key.
    if long := _LONG_KEY.search(text):
        raise ValueError(f"line {text.count(chr(10), 0, long.start()) + 1} has a key of many parts")
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise ValueError("brackets are nested too deeply") from None
