"""``cafe heights``: write heights above ground as a GeoTIFF."""

from pathlib import Path
from typing import Any

import click

from cafe_cli.cli.options import (
    SCENE_OPTIONS,
    RasterCommand,
    add_options,
    config_options,
    dry_option,
    output_options,
    read_config,
    take_overrides,
)
from cafe_cli.text import percent

HEIGHT_OPTIONS = tuple(option for option in SCENE_OPTIONS if option.key.startswith("height."))


@click.command(cls=RasterCommand)
@click.option("--elevation", required=True, multiple=True, help="Surface model.")
@click.option("--dtm", multiple=True, help="Terrain model to take heights above.")
@click.option("--optical", multiple=True, help="Orthophoto whose grid the heights take.")
@output_options("Heights in metres (COG).")
@add_options(HEIGHT_OPTIONS)
@click.option("--crs", help="CRS of rasters that do not say theirs, e.g. EPSG:25832.")
@click.option(
    "--pixel-size", type=click.FloatRange(min=0, min_open=True),
    help="Metres per pixel of rasters without georeference.",
)  # fmt: skip
@config_options
@dry_option
def heights(
    elevation: tuple[str, ...], dtm: tuple[str, ...], optical: tuple[str, ...], output: Path,
    overwrite: bool, crs: str | None, pixel_size: float | None, config_path: Path | None,
    assignments: tuple[str, ...], dry_run: bool, **options: Any,
) -> None:  # fmt: skip
    """Write the height above ground (nDSM) of a surface model.

    As tiles and maps get it: above a terrain model, or above an estimate of the ground. Rasters
    are files, folders, quoted globs, @list.txt or any name GDAL opens; of a config, [height] and
    the CRS are used.
    """
    from cafe_cli.cli.console import progress_bar, say
    from cafe_cli.cli.report import print_reports
    from cafe_cli.scenes import height_map
    from cafe_cli.scenes.discovery import expand_inputs

    config = read_config(config_path, assignments, take_overrides(HEIGHT_OPTIONS, options))
    surface, terrain, image = (tuple(expand_inputs(n)) for n in (elevation, dtm, optical))
    source = height_map.HeightSource(
        surface, terrain, image, crs or config.crs, pixel_size or config.pixel_size
    )
    if dry_run:
        print_reports([height_map.dry_run(source, output, config.height, overwrite=overwrite)])
        return
    with progress_bar("heights") as progress:
        found = height_map.write_heights(
            source, output, config.height, overwrite=overwrite, progress=progress
        )
    say(
        f"wrote {output}: {found.description}, {found.lowest:.1f} to {found.highest:.1f} m, "
        f"{percent(found.void)} void"
    )
