"""``cafe info``: describe files and folders."""

import json

import click

from cafe_cli.cli.help import CafeCommand, complete_files, option, option_group
from cafe_cli.redaction import redact_all

EXAMPLES = {
    "a raster": "cafe info sample_data/town_dsm.tif",
    "a model: its classes, bands, pixel size and scores": "cafe info run/best.safetensors",
    "everything, for scripts": "cafe info map.tif --json",
}


@click.command(cls=CafeCommand, examples=EXAMPLES)
@click.argument("names", metavar="NAME...", nargs=-1, required=True, shell_complete=complete_files)
@option_group(
    "Outputs",
    option("--json", "as_json", is_flag=True,
           help="Print JSON to stdout, one object per name, with all details."),
)  # fmt: skip
def info(names: tuple[str, ...], as_json: bool) -> None:
    """Describe a raster, vector file, model, tile set or run.

    Reads headers and metadata only. Use -v before the command (cafe -v info NAME) for all details.
    """
    from cafe_cli.cli.report import print_facts
    from cafe_cli.info import describe

    for position, name in enumerate(names):
        facts = redact_all(describe(name))
        if as_json:
            click.echo(json.dumps(facts, indent=1))
            continue
        if position:
            click.echo()
        print_facts(facts)
