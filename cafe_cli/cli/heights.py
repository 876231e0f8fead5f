"""``cafe heights``: write heights above ground as a GeoTIFF."""

from pathlib import Path
from typing import Any

import click

from cafe_cli.cli.help import option, option_group
from cafe_cli.cli.options import (
    GROUND_OPTIONS,
    RasterCommand,
    add_options,
    config_options,
    crs_option,
    dry_option,
    file_option,
    output_options,
    pixel_size_option,
    read_config,
    take_overrides,
)
from cafe_cli.text import percent

EXAMPLES = {
    "above an estimate of the ground":
        "cafe heights --elevation sample_data/town_dsm.tif -o ndsm.tif",
    "with the bands of the orthophoto, for Deepness (QGIS)":
        "cafe heights --elevation sample_data/a_dsm.tif --optical sample_data/a_ortho.tif "
        "--with-image -o bands.tif",
    "above a terrain model, on the grid of the orthophoto":
        "cafe heights --elevation dsm.tif --dtm dtm.tif --optical ortho.tif -o ndsm.tif",
}  # fmt: skip


@click.command(cls=RasterCommand, examples=EXAMPLES)
@option_group(
    "Inputs",
    file_option("--elevation", help="Surface model (DSM).", required=True, multiple=True),
    file_option("--dtm", help="Terrain model (DTM), to compute heights above it.", multiple=True),
    file_option("--optical", help="Orthophoto whose grid the output has.", multiple=True,
                show_default="the grid of the DSM"),
    crs_option,
    pixel_size_option,
    config_options,
)  # fmt: skip
@option_group(
    "Outputs",
    output_options("Heights above ground in metres (COG)."),
    option("--with-image", is_flag=True,
           help=
               "Write 8-bit bands for a model of cafe export --for deepness: those of the "
               "orthophoto, then the heights in steps of 0.25 m (255: no height)."),
    dry_option,
)  # fmt: skip
@option_group("Heights", add_options(GROUND_OPTIONS))
def heights(
    elevation: tuple[str, ...], dtm: tuple[str, ...], optical: tuple[str, ...], output: Path,
    overwrite: bool, crs: str | None, pixel_size: float | None, config_path: Path | None,
    assignments: tuple[str, ...], with_image: bool, dry_run: bool, **options: Any,
) -> None:  # fmt: skip
    """Write heights above ground (nDSM) from a surface model.

    Tiling, training and prediction use the same heights: above a terrain model, or above an
    estimate of the ground. Rasters are files, folders, quoted globs, @list.txt or any name that
    GDAL opens. The command reads [height] and the CRS from a config.
    """
    from cafe_cli.cli.console import progress_bar, say
    from cafe_cli.cli.report import print_reports
    from cafe_cli.scenes import eight_bit, height_map
    from cafe_cli.scenes.discovery import expand_inputs

    if with_image and not optical:
        raise click.UsageError("--with-image writes the bands of an orthophoto: give --optical")
    engine = eight_bit if with_image else height_map

    config = read_config(config_path, assignments, take_overrides(GROUND_OPTIONS, options))
    surface, terrain, image = (tuple(expand_inputs(n)) for n in (elevation, dtm, optical))
    source = height_map.HeightSource(
        surface, terrain, image, crs or config.crs, pixel_size or config.pixel_size
    )
    if dry_run:
        print_reports([engine.dry_run(source, output, config.height, overwrite=overwrite)])
        return
    with progress_bar("heights") as progress:
        found = engine.write_heights(
            source, output, config.height, overwrite=overwrite, progress=progress
        )
    say(
        f"wrote {output}: {found.description}, {found.lowest:.1f} to {found.highest:.1f} m, "
        f"{percent(found.void)} void"
    )
