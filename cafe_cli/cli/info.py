"""``cafe info``: say what files and folders are."""

import json

import click

from cafe_cli.redaction import redact_all


@click.command()
@click.argument("names", metavar="NAME...", nargs=-1, required=True)
@click.option("--json", "as_json", is_flag=True, help="Print JSON to stdout: an object per name.")
def info(names: tuple[str, ...], as_json: bool) -> None:
    """Say what a raster, map, vector file, model, tile set or run is.

    Only headers and descriptions are read. With -v (cafe -v info ...) and --json, in full.

    \b
    cafe info map.tif
    cafe info run/best.safetensors --json
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
