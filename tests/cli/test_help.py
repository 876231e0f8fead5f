"""Help of all commands: texts, groups, defaults and examples; what a shell completes."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import click
import pytest

from cafe_cli.cli.help import CafeCommand, GroupTitle, break_command, option
from cafe_cli.cli.main import cli

pytest_plugins = ["tests.support.fixtures"]

REPOSITORY = Path(__file__).parents[2]
COMMANDS = cli.commands
WIDTHS = (80, 100)


def help_of(name: str, width: int = 100) -> list[str]:
    """Return the lines of a command's help on a terminal of so many columns."""
    parent = cli.make_context("cafe", [], terminal_width=width, resilient_parsing=True)
    context = click.Context(cli.commands[name], parent, name) if name else parent
    return context.command.get_help(context).splitlines()


def options() -> Iterator[tuple[str, click.Option]]:
    """Yield the options of all commands, with the name of the command."""
    for name, command in ("", cli), *COMMANDS.items():
        for parameter in command.get_params(click.Context(command, info_name=name)):
            if isinstance(parameter, click.Option):
                yield name, parameter


def examples(name: str) -> list[str]:
    """Return the example lines that a command's help shows, joined as a shell joins them."""
    lines = help_of(name, 80)
    shown = "\n".join(lines[lines.index("Examples:") + 1 :])
    joined = re.sub(r"\\\n\s*", "", shown).splitlines()
    return [line.strip() for line in joined if not line.strip().startswith("#")]


OPTIONS = [pytest.param(*pair, id=f"{pair[0]} {pair[1].opts[-1]}") for pair in options()]
EXAMPLES = [pytest.param(name, line, id=line) for name in COMMANDS for line in examples(name)]


@pytest.mark.parametrize(("name", "option"), OPTIONS)
def test_an_option_has_a_sentence(name, option):
    assert option.help is not None
    assert re.match(r"[A-Z0].*\.$", option.help, re.DOTALL), option.help
    if not option.is_flag and not option.count:
        assert option.make_metavar(click.Context(cli)) not in ("TEXT", "INTEGER", "FLOAT", "PATH")


@pytest.mark.parametrize(("name", "option"), OPTIONS)
def test_an_option_of_a_command_is_in_a_group(name, option):
    if name and "--help" not in option.opts:
        assert option.group in get_args(GroupTitle)
        assert option.group != "Other options"


@pytest.mark.parametrize(("name", "option"), OPTIONS)
def test_an_option_shows_its_default(name, option):
    command = COMMANDS.get(name, cli)
    context = command.make_context(name, [], resilient_parsing=True)
    value = context.params.get(option.name)  # that of a command line without the option
    _, text = option.get_help_record(context)
    if option.is_flag or option.count:
        assert not value  # so that there is nothing to show
    elif value is not None and value not in ((), {}):
        assert f"[default: {option.get_default(context)}" in text


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_has_examples(name):
    assert len(examples(name)) >= 2
    assert len(set(examples(name))) == len(examples(name))


@pytest.mark.parametrize(("name", "line"), EXAMPLES)
def test_an_example_is_a_line_of_its_command_and_is_accepted(name, line):
    words = shlex.split(line)
    if words[0] == "eval":
        words = shlex.split(words[1].removeprefix("$(").removesuffix(")"))
    words = words[: words.index(">")] if ">" in words else words
    assert words[:2] == ["cafe", name]
    COMMANDS[name].make_context(name, words[2:], parent=click.Context(cli, info_name="cafe"))


@pytest.mark.parametrize(("name", "line"), EXAMPLES)
def test_an_example_names_files_of_the_repository_that_are_there(name, line):
    for word in shlex.split(line):
        if word.startswith(("sample_data/", "configs/")):
            assert list(REPOSITORY.glob(word)), word


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", ["", *COMMANDS])
def test_help_fits_the_terminal(name, width):
    for line in help_of(name, width):
        assert len(line) <= width
        assert not line.endswith("...") or line.startswith("Usage:"), line


@pytest.mark.parametrize("width", WIDTHS)
def test_the_list_of_commands_has_whole_sentences(width):
    shown = dict(line.split(maxsplit=1) for line in help_of("", width) if line.startswith("  "))
    for name, command in COMMANDS.items():
        first = str(command.help).splitlines()[0]
        assert first.endswith(".")
        assert shown[name].strip() == first


def test_every_command_is_in_a_section_once():
    listed = [command.name for found in cli.sections.values() for command in found]
    assert sorted(map(str, listed)) == sorted(COMMANDS)


def test_commands_are_listed_in_the_order_of_the_work():
    names = [line.split()[0] for line in help_of("") if re.match(r"  [a-z]+  ", line)]
    work = ["tile", "train", "predict", "mosaic", "evaluate", "vectorize", "report", "info", "demo"]
    assert [name for name in names if name in work] == work


def test_names_of_options_are_not_broken():
    @click.command(cls=CafeCommand)
    @option("--one", help=f"{'word ' * 11}--another-option and {'word ' * 20}.")
    def command() -> None:
        pass

    for width in range(50, 101):
        context = click.Context(command, terminal_width=width)
        assert "--another-option" in command.get_help(context)


def test_a_default_in_words_stands_without_parentheses():
    @click.command(cls=CafeCommand)
    @option("--jobs", show_default="one per core", help="Threads.")
    @option("--size", default=3, help="Side.")
    @option("--fast", is_flag=True, help="Hurry.")
    def command() -> None:
        pass

    records = [p.get_help_record(click.Context(command)) for p in command.params]
    assert [record and record[1] for record in records] == [
        "Threads.  [default: one per core]", "Side.  [default: 3]", "Hurry.",
    ]  # fmt: skip


@pytest.mark.parametrize("width", [20, 40, 76])
@pytest.mark.parametrize(
    "line", ["cafe info a.tif", "cafe tile -c a.toml --optical 'a b/{id}.tif' --size -1 -o tiles"]
)
def test_a_broken_line_is_the_same_to_a_shell(line, width):
    broken = "\n".join(break_command(line, width))
    assert shlex.split(broken.replace("\\\n", "")) == shlex.split(line)


# --- completion --------------------------------------------------------------------------------


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_of_a_shell(invoke, shell):
    code, captured = invoke("completion", shell)
    assert code == 0
    assert f"_CAFE_COMPLETE={shell}_complete" in captured.out
    assert "cafe" in captured.out


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["tcsh"], "'tcsh' is not one of 'bash', 'zsh', 'fish'"),
        ([], "Choose from: bash, zsh, fish; see cafe completion --help"),
    ],
)
def test_a_shell_that_is_not_known_or_named(invoke, words, says):
    code, captured = invoke("completion", *words)
    assert code == 2
    assert says in captured.err


@pytest.fixture
def complete(tmp_path):
    """Return a function that asks a new bash what it completes at the end of a line."""
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("no bash")
    cafe = tmp_path / "bin" / "cafe"
    cafe.parent.mkdir()
    cafe.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m cafe_cli "$@"\n')
    cafe.chmod(0o755)
    found = os.pathsep.join([str(cafe.parent), os.environ["PATH"]])
    environment = {**os.environ, "PATH": found, "PYTHONPATH": str(REPOSITORY)}

    def run(line: str) -> list[str]:
        script = f"""
            eval "$(cafe completion bash)"
            COMP_WORDS=({line}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))
            function=$(complete -p cafe | sed 's/.*-F \\([^ ]*\\) .*/\\1/')
            compopt() {{ echo "files"; }}
            "$function" cafe
            printf '%s\\n' "${{COMPREPLY[@]}}"
        """
        done = subprocess.run(
            [bash, "--norc", "-c", script], capture_output=True, text=True, env=environment,
            cwd=tmp_path, timeout=120, check=True,
        )  # fmt: skip
        assert done.stderr == ""
        return done.stdout.split()

    return run


@pytest.mark.slow
@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("cafe pre", ["predict"]),
        ("cafe ch", ["check"]),
        ("cafe mosaic --me", ["--method"]),
        ("cafe mosaic --method ma", ["majority"]),
        ("cafe predict --optical or", ["files"]),
        ("cafe evaluate ma", ["files"]),
        ("cafe tile --elevation d", ["files"]),
    ],
)
def test_bash_completes(complete, line, expected):
    shown = complete(line)
    if expected == ["files"]:  # bash completes these itself, from what has been typed
        assert shown[0] == "files"
    else:
        assert shown == expected


@pytest.mark.slow
def test_completion_is_light():
    """A shell waits for it at every press of the Tab key: no engine and no library is imported."""
    script = (
        "import sys\nfrom cafe_cli.cli.main import main\ntry:\n    main()\nexcept SystemExit:\n"
        "    pass\nprint(*sorted(sys.modules), file=sys.stderr)"
    )
    environment = {
        **os.environ, "PYTHONPATH": str(REPOSITORY), "_CAFE_COMPLETE": "bash_complete",
        "COMP_WORDS": "cafe tile --gro", "COMP_CWORD": "2",
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env=environment,
        timeout=120, check=True,
    )  # fmt: skip
    assert done.stdout.split() == ["plain,--ground"]
    heavy = {"numpy", "rasterio", "torch", "pydantic", "rich", "shapely", "matplotlib"}
    assert not heavy & set(done.stderr.split())
