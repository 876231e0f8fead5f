"""The page of the documentation that lists the keys of the config."""

from collections.abc import Iterator

from cafe_cli.config.choices import READ_BY
from cafe_cli.config.reference import Key, SectionReference, read_reference, toml

_HEAD = """\
# Settings

A config is a TOML file that declares scenes, classes and everything else that a run depends on.
This page lists every key; it is made from the code (`cafe config --markdown`).

```sh
cafe config -o town.toml                  # all settings with their defaults, to begin with
cafe config train                         # those that cafe train reads
cafe config --schema -o cafe.schema.json  # for editors
```

**Order.** A value on the command line (`--set train.epochs=20`, or an option such as `--epochs 20`)
wins over the config, and the config wins over the default. An unknown key is an error that names
the nearest right one. `cafe train` saves all settings of a run in `config.toml`, a config again.

**Editors.** With the schema, an editor completes keys, shows what they mean and marks wrong values.
In VS Code, install *Even Better TOML* and put `#:schema ./cafe.schema.json` on the first line of
the config; any editor that runs Taplo does the same.

**In the config that `cafe config` prints**, a line such as `#key = value` is not set. These keys
have no default, or one that follows from other settings.
"""


def config_page() -> str:
    """Return the page in Markdown."""
    return "\n".join([_HEAD, *(line for section in read_reference() for line in _lines(section))])


def _lines(section: SectionReference) -> Iterator[str]:
    yield f"## `{section.header}`" if section.name else "## Before the first section"
    yield ""
    if section.name:
        yield from (f"{' '.join(text.split())}\n" for text in section.text.split("\n\n"))
        yield f"Read by {_list_commands(section)}.\n"
    yield "| Key | Meaning | Values | Default |"
    yield "|---|---|---|---|"
    yield from map(_row, section.keys)
    yield ""


def _list_commands(section: SectionReference) -> str:
    paths = {section.name, *(f"{section.name}.{key.name}" for key in section.keys)}
    return ", ".join(f"`cafe {name}`" for name, read in READ_BY.items() if paths & set(read))


def _row(key: Key) -> str:
    default = "required" if key.required else key.unset or f"`{toml(key.default)}`"
    clear = isinstance(key.default, int | float) and not key.unset
    example = f" Example: `{toml(key.examples[0])}`." if key.examples and not clear else ""
    cells = [f"`{key.name}`", key.text + example, key.values, default]
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"
