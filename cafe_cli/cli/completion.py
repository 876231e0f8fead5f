"""``cafe completion``: the script with which a shell completes commands, options and files."""

import click
from click.shell_completion import get_completion_class

from cafe_cli.cli.help import CafeCommand

SHELLS = ("bash", "zsh", "fish")
EXAMPLES = {
    "bash: add this line to ~/.bashrc": 'eval "$(cafe completion bash)"',
    "zsh: add this line to ~/.zshrc": 'eval "$(cafe completion zsh)"',
    "fish: run this once":
        "cafe completion fish > ~/.config/fish/completions/cafe.fish",
}  # fmt: skip


@click.command(cls=CafeCommand, examples=EXAMPLES)
@click.argument("shell", type=click.Choice(SHELLS))
def completion(shell: str) -> None:
    """Print a script for tab completion in bash, zsh or fish.

    With the script, the Tab key completes commands, options, their choices and file names. bash
    has to be version 4.4 or newer.
    """
    group = click.get_current_context().find_root().command
    found = get_completion_class(shell)
    if found is None:
        raise AssertionError(f"click does not know {shell}")
    click.echo(found(group, {}, "cafe", "_CAFE_COMPLETE").source())
