"""``cafe config``: a config with all settings, to begin with."""

import json
from pathlib import Path

import click

from cafe_cli.cli.options import PATH, overwrite_option
from cafe_cli.config.choices import READ_BY

_EXAMPLES = """\b
Examples:
  cafe config -o town.toml
  cafe config train
  cafe config --schema -o cafe.schema.json
"""


@click.command(epilog=_EXAMPLES)
@click.argument("command", type=click.Choice(list(READ_BY)), required=False)
@click.option(
    "--schema", "form", flag_value="schema",
    help="Print the JSON Schema, by which editors complete keys and check values.",
)  # fmt: skip
@click.option("--markdown", "form", flag_value="markdown", help="Print the page of the manual.")
@click.option("-o", "--output", type=PATH, help="File to write.  [default: stdout]")
@overwrite_option
def config(command: str | None, form: str | None, output: Path | None, overwrite: bool) -> None:
    """Print all settings, with their meaning, unit, range and default.

    The output is a config (TOML) that loads as the defaults. With COMMAND, it holds the settings
    that this command reads.
    """
    if command and form:
        raise click.UsageError(f"--{form} describes all settings: leave out {command!r}")
    text = _text(command, form)
    if output is None:
        click.echo(text, nl=False)
        return
    from cafe_cli.cli.console import say
    from cafe_cli.system.atomic_write import check_output, write_text
    from cafe_cli.system.output_group import claim_outputs

    check_output(output, overwrite)
    with claim_outputs([output], overwrite):
        write_text(output, text)
    say(f"wrote {output}")


def _text(command: str | None, form: str | None) -> str:
    if form == "schema":
        from cafe_cli.config.json_schema import config_schema

        return json.dumps(config_schema(), indent=2, ensure_ascii=False) + "\n"
    if form == "markdown":
        from cafe_cli.config.page import config_page

        return config_page()
    from cafe_cli.config.template import config_template

    return config_template(command)
