"""``cafe areas``: measure the area of each class of a map."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cafe_cli.cli.options import PATH, NamesCommand, config_options, overwrite_option, read_config
from cafe_cli.redaction import redact_all

if TYPE_CHECKING:
    from cafe_cli.evaluation.areas import Areas
    from cafe_cli.evaluation.zones import Zone


@click.command(cls=NamesCommand)
@click.argument("maps", metavar="MAP")
@config_options
@click.option("--zones", help="Vector file of polygons: measure inside each of them.")
@click.option("--zone-name", help="Attribute that names the zones.")
@click.option("-o", "--output", type=PATH, help="Table to write: .csv or .json.")
@overwrite_option
@click.option("--json", "as_json", is_flag=True, help="Print the results as JSON to stdout.")
def areas(
    maps: str, config_path: Path | None, assignments: tuple[str, ...], zones: str | None,
    zone_name: str | None, output: Path | None, overwrite: bool, as_json: bool,
) -> None:  # fmt: skip
    """Measure the area of each class of a MAP, or of each class in each zone.

    MAP is a file, folder, quoted glob or @list.txt, read as one map. Pixels on the edge of a zone
    count with the share that lies inside. The class table is the map's, or that of the config.

    \b
    cafe areas map.tif
    cafe areas map.tif --zones parcels.gpkg --zone-name parcel -o parcels.csv
    """
    config = read_config(config_path, assignments)
    _check_usage(zones, zone_name, output)
    from cafe_cli.cli.console import progress_bar, say
    from cafe_cli.evaluation.areas import measure_areas
    from cafe_cli.evaluation.zones import measure_zones
    from cafe_cli.scenes.discovery import expand
    from cafe_cli.system.atomic_write import check_outputs, write_text
    from cafe_cli.system.output_group import claim_outputs

    classes = config.class_table if config.classes else None
    about: dict[str, Any] = {"classes": classes, "crs": config.crs}
    outputs = [output] if output else []
    check_outputs(outputs, [*expand(maps), *([zones] if zones else [])], overwrite)
    with claim_outputs(outputs, overwrite), progress_bar("areas") as progress:
        found: Areas | list[Zone]
        if zones is None:
            found = measure_areas(maps, **about, progress=progress)
        else:
            found = measure_zones(maps, zones, zone_name, **about, progress=progress)
        if output:
            write_text(output, _text(found, output.suffix.lower() == ".json"))
    if as_json:
        click.echo(_text(found, True))
        return
    _show(found, maps)
    if output:
        say(f"wrote {output}")


def _check_usage(zones: str | None, zone_name: str | None, output: Path | None) -> None:
    if zone_name is not None and zones is None:
        raise click.UsageError("--zone-name needs --zones")
    if output is not None and output.suffix.lower() not in (".csv", ".json"):
        raise click.UsageError(f"-o {output}: name a .csv or .json file")


def _text(found: "Areas | list[Zone]", as_json: bool) -> str:
    """Return the results as JSON or CSV."""
    from cafe_cli.evaluation.zones import zones_as_csv, zones_as_json

    if isinstance(found, list):
        if not as_json:
            return zones_as_csv(found)
        return json.dumps({"zones": redact_all(zones_as_json(found))}, indent=1)
    return json.dumps(redact_all(found.as_json()), indent=1) if as_json else found.as_csv()


def _show(found: "Areas | list[Zone]", maps: str) -> None:
    from cafe_cli.cli.console import show_areas, show_zones

    if isinstance(found, list):
        show_zones(found, maps)
    else:
        show_areas(found, maps)
