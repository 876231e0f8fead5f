"""Layout of the help: options in groups, examples below them, commands in sections.

click writes one list of options per command. These classes are what it takes to write several:
cloup does it too, but asks for click 8.5 and doubles the time that a completion takes to start.
"""

import re
import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypeAlias

import click
from click.shell_completion import CompletionItem
from click.types import OptionHelpExtra

Decorator: TypeAlias = Callable[[Callable[..., Any]], Callable[..., Any]]
GroupTitle: TypeAlias = Literal[
    "Inputs",
    "Outputs",
    "Area and grid",
    "Heights",
    "Labels",
    "Tiles",
    "Windows",
    "Method",
    "Model",
    "Training",
    "Scores",
    "Points",
    "Polygons",
    "Compute",
    "Cluster",
    "Other options",
]

_OTHERS: GroupTitle = "Other options"
_EXAMPLE_WIDTH = 76  # characters; fits a terminal of 80 columns
_MOST_FLAGS = 30  # characters in the column of the flags
_GAP = 2  # blanks before and behind it
_NO_BREAK = "\N{NO-BREAK SPACE}"


class CafeOption(click.Option):
    """An option that belongs to a group of the help, and whose default is always shown.

    A default in words (``show_default="one per core"``) stands without the parentheses of click.
    """

    group: GroupTitle = _OTHERS

    def get_help_extra(self, ctx: click.Context) -> OptionHelpExtra:
        """Return what the help says in brackets: the default, and whether it is required."""
        extra = super().get_help_extra(ctx)
        if isinstance(self.show_default, str):
            extra["default"] = self.show_default
        extra.pop("range", None)  # in the notation x>=1; errors say it in words
        return extra


class CafeCommand(click.Command):
    """A command whose help lists options by group, and ends with examples.

    Parameters
    ----------
    examples : mapping
        What an example does: its command line. Long lines are broken before an option.
    """

    def __init__(
        self, *arguments: Any, examples: Mapping[str, str] | None = None, **attributes: Any
    ) -> None:
        super().__init__(*arguments, **attributes)
        self.examples = dict(examples or {})

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options, a section per group, in the order of their first options."""
        groups: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None and isinstance(parameter, click.Option):
                groups.setdefault(getattr(parameter, "group", _OTHERS), []).append(record)
        others = groups.pop(_OTHERS)  # --help at least
        _write_groups(formatter, {**groups, _OTHERS: others})

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the examples, each below what it does."""
        if not self.examples:
            return
        with formatter.section("Examples"):
            for what, line in self.examples.items():
                formatter.write_text("\n".join(["\b", f"# {what}", *break_command(line)]))


class CafeGroup(click.Group):
    """A group of commands whose help lists them by section, in the order of the work."""

    def __init__(self, *arguments: Any, **attributes: Any) -> None:
        super().__init__(*arguments, **attributes)
        self.sections: dict[str, tuple[click.Command, ...]] = {}

    def add_section(self, title: str, *commands: click.Command) -> None:
        """Add commands, to be listed under a title."""
        self.sections[title] = commands
        for command in commands:
            self.add_command(command)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of the commands in the order of the help."""
        return [command.name or "" for found in self.sections.values() for command in found]

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write a line per command, whose help begins with a sentence that fits."""
        width = max(map(len, self.list_commands(ctx)))
        for title, commands in self.sections.items():
            with formatter.section(title):
                rows = [((c.name or "").ljust(width), c.get_short_help_str(100)) for c in commands]
                formatter.write_dl(rows)


def option(*flags: str, **attributes: Any) -> Decorator:
    """Add an option, as `click.option` does; the help shows its default."""
    return click.option(*flags, cls=CafeOption, **{"show_default": True, **attributes})


def option_group(title: GroupTitle, *decorators: Decorator) -> Decorator:
    """Return a decorator that adds options to a group of the help, in this order."""

    def add(command: Callable[..., Any]) -> Callable[..., Any]:
        before = _parameters_of(command)
        for decorator in reversed(decorators):
            command = decorator(command)
        for parameter in _parameters_of(command)[len(before) :]:
            if isinstance(parameter, CafeOption):
                parameter.group = title
        return command

    return add


def complete_files(ctx: click.Context, parameter: click.Parameter, begun: str) -> Sequence[Any]:
    """Let the shell complete a file name, for values that may also be patterns or lists."""
    return [CompletionItem(begun, type="file")]


def _parameters_of(command: Callable[..., Any]) -> list[click.Parameter]:
    """Return the parameters that decorators have added so far, the last of them first."""
    return list(getattr(command, "__click_params__", []))


def break_command(command: str, width: int = _EXAMPLE_WIDTH) -> list[str]:
    r"""Return a command line broken before options, with ``\`` at the ends of lines."""
    first, *options = re.split(r" (?=--?[A-Za-z])", command)
    lines = [first]
    for words in options:
        if len(lines[-1]) + len(words) + 3 <= width:  # with a space before and " \" behind
            lines[-1] += f" {words}"
        else:
            lines[-1] += " \\"
            lines.append(f"  {words}")
    return lines


def _write_groups(
    formatter: click.HelpFormatter, groups: Mapping[str, Sequence[tuple[str, str]]]
) -> None:
    """Write flags and texts, a section per group; the texts of all groups begin in one column."""
    flags = [flag for rows in groups.values() for flag, _ in rows]
    column = max((len(flag) for flag in flags if len(flag) <= _MOST_FLAGS), default=0)
    for title, rows in groups.items():
        with formatter.section(title):
            width = formatter.width - column - 2 * _GAP
            formatter.write_dl([(flag.ljust(column), _wrap(t, width)) for flag, t in rows], column)


def _wrap(text: str, width: int) -> str:
    """Return text wrapped between words, as a block that click leaves alone.

    click would break words at their hyphens, and so the names of options.
    """
    text, bracket, extra = text.partition("  [")
    if len(extra) < width:  # a default stays on one line
        extra = extra.replace(" ", _NO_BREAK)
    lines = textwrap.wrap(f"{text}{bracket}{extra}", width, break_on_hyphens=False)
    return "\n".join(["\b", *(line.replace(_NO_BREAK, " ") for line in lines)])
