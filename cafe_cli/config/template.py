"""A config with all settings, their defaults and what they mean, to begin with.

What is not set by default is a comment: ``#key = value`` without a space, so that an editor or
``sed`` can tell it from text.
"""

import re
import textwrap
from collections.abc import Iterator

from cafe_cli import __version__
from cafe_cli.config.choices import READ_BY
from cafe_cli.config.reference import Key, SectionReference, read_reference, toml

_WIDTH = 100


def config_template(command: str | None = None) -> str:
    """Return a commented config in TOML, which loads as the defaults.

    Parameters
    ----------
    command : str, optional
        A command of `READ_BY`: only what it reads.
    """
    sections = read_reference(READ_BY[command] if command else None)
    what = f"settings that `cafe {command}` reads" if command else "all settings"
    head = _comment(
        f"cafe {__version__}: {what}, with their defaults. A line such as `#key = value` is not "
        "set; remove its `#` to set it. Every key may also be given on the command line, as in "
        "`--set train.epochs=20`."
    )
    return "\n".join([*head, *(line for section in sections for line in _lines(section))]) + "\n"


def _lines(section: SectionReference) -> Iterator[str]:
    if section.name:
        yield ""
        for paragraph in section.text.split("\n\n"):
            yield from _comment(paragraph)
        yield f"{'#' * section.optional}{section.header}"
    for key in section.keys:
        yield from _key_lines(key, section.optional)


def _key_lines(key: Key, optional: bool) -> Iterator[str]:
    """Yield what a key means, and the key with its default, or else with an example."""
    yield ""
    yield from _comment(key.text)
    value = key.default if key.has_fixed_default else key.value_to_show
    example = f". Example: {toml(key.value_to_show)}" if value != key.value_to_show else ""
    yield from _comment(f"{key.values[:1].upper()}{key.values[1:]}. {key.in_words}{example}.")
    active = key.has_fixed_default and not optional
    yield f"{'' if active else '#'}{key.name} = {toml(value)}"


def _comment(text: str) -> list[str]:
    """Return a paragraph as lines of comment; values need no backticks around their quotes."""
    plain = re.sub(r'`("[^`]*"|true|false|[\d.]+|\[[^`]*\])`', r"\1", text)
    lines = textwrap.wrap(plain, _WIDTH - 2, break_long_words=False, break_on_hyphens=False)
    return [f"# {line}" for line in lines]
