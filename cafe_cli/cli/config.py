"""``cafe config``: a config with all settings, to begin with."""

import json
from pathlib import Path

import click

from cafe_cli.cli.help import CafeCommand, option, option_group
from cafe_cli.cli.options import PATH, overwrite_option
from cafe_cli.config.choices import READ_BY

EXAMPLES = {
    "a config to begin with": "cafe config -o site.toml",
    "the settings that cafe train reads": "cafe config train",
    "the JSON Schema, by which an editor completes keys and checks values":
        "cafe config --schema -o cafe.schema.json",
}  # fmt: skip


@click.command(cls=CafeCommand, examples=EXAMPLES)
@click.argument("command", type=click.Choice(list(READ_BY)), required=False, metavar="[COMMAND]")
@option_group(
    "Outputs",
    option("-o", "--output", type=PATH, metavar="FILE", show_default="stdout",
           help="File to write."),
    overwrite_option,
    option("--schema", "form", flag_value="schema", help="Print the JSON Schema for editors."),
    option("--markdown", "form", flag_value="markdown", help="Print the page of the manual."),
)  # fmt: skip
def config(command: str | None, form: str | None, output: Path | None, overwrite: bool) -> None:
    """Print a config with all settings, explained.

    The output is a config (TOML) that gives the meaning, unit, range and default of each setting,
    and loads as the defaults. With COMMAND (e.g. train), it holds what this command reads.
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
