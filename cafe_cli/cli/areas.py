"""``cafe areas``: measure the area of each class of a map."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cafe_cli.cli.help import complete_files, option, option_group
from cafe_cli.cli.options import (
    PATH,
    NamesCommand,
    config_options,
    file_option,
    json_option,
    overwrite_option,
    read_config,
)
from cafe_cli.redaction import redact_all

if TYPE_CHECKING:
    from cafe_cli.evaluation.areas import Areas
    from cafe_cli.evaluation.zones import Zone


EXAMPLES = {
    "hectares of each class": "cafe areas map.tif -o areas.csv",
    "square metres of each class in each parcel":
        "cafe areas map.tif --zones parcels.gpkg --zone-name parcel -o parcels.csv",
}  # fmt: skip


@click.command(cls=NamesCommand, examples=EXAMPLES)
@click.argument("maps", metavar="MAP", shell_complete=complete_files)
@option_group(
    "Inputs",
    file_option("--zones", help="Vector file of polygons; measure inside each of them."),
    option("--zone-name", metavar="ATTRIBUTE", show_default="the number of the zone",
           help="Attribute of the zones that names them."),
    config_options,
)  # fmt: skip
@option_group(
    "Outputs",
    option("-o", "--output", type=PATH, metavar="FILE", help="Table to write: .csv or .json."),
    overwrite_option,
    json_option,
)
def areas(
    maps: str, config_path: Path | None, assignments: tuple[str, ...], zones: str | None,
    zone_name: str | None, output: Path | None, overwrite: bool, as_json: bool,
) -> None:  # fmt: skip
    """Measure the area of each class, also inside zones.

    MAP is a classified raster: a file, folder, quoted glob or @list.txt, read as one map. A pixel
    on the edge of a zone counts with the share that lies inside. Class names come from the map,
    or from the config if one is given.
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
