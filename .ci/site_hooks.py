"""What mkdocs does beyond its configuration: the page of commands is made from the program.

mkdocs-click would do it too, but it knows neither the groups of options nor the examples of the
help, and with click 8.3 and later it prints `Sentinel.UNSET` for every option without a default.
"""

from typing import Any

import click

from cafe_cli.cli.main import cli

WIDTH = 88  # characters of a line of the help; more do not fit the page


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """Put the help of every command in place of ``{{ commands }}``."""
    if page.file.src_uri != "commands.md":
        return markdown
    return markdown.replace("{{ commands }}", "\n".join(map(section, cli.list_commands(top()))))


def top() -> click.Context:
    """Return the context of ``cafe`` itself."""
    size = {"terminal_width": WIDTH, "max_content_width": WIDTH}
    return click.Context(cli, info_name="cafe", **{**cli.context_settings, **size})


def section(name: str) -> str:
    """Return the section of one command: its name as an anchor, and what ``--help`` prints."""
    command = cli.commands[name]
    context = click.Context(
        command, top(), name, terminal_width=WIDTH, help_option_names=["-h", "--help"]
    )
    return f"## cafe {name} {{ #{name} }}\n\n```text\n{command.get_help(context)}\n```\n"
