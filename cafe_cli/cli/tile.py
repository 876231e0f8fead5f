"""``cafe tile``: cut scenes into a tile set."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cafe_cli.cli.check import check_scenes
from cafe_cli.cli.cluster_options import cluster_options, take_cluster
from cafe_cli.cli.help import option, option_group
from cafe_cli.cli.options import (
    GROUND_OPTIONS,
    INPUT_OPTIONS,
    SCENE_OPTIONS,
    TILE_OPTIONS,
    RasterCommand,
    add_options,
    config_options,
    dry_option,
    jobs_option,
    on_error_option,
    output_options,
    read_config,
    take_overrides,
)
from cafe_cli.config.choices import OnError
from cafe_cli.text import percent

if TYPE_CHECKING:
    from cafe_cli.tilesets.tileset import TileSet


EXAMPLES = {
    "the sample data": "cafe tile -c configs/sample.toml -o tiles",
    "what would be written, and how much of it":
        "cafe tile -c configs/sample.toml -o tiles --dry-run",
    "other files with the classes and settings of a config":
        "cafe tile -c site.toml --optical 'ortho/{id}.tif' --elevation 'dsm/{id}.tif' "
        "--labels labels.gpkg -o tiles",
}  # fmt: skip


@click.command(cls=RasterCommand, examples=EXAMPLES)
@option_group("Inputs", config_options, add_options(INPUT_OPTIONS))
@option_group(
    "Outputs",
    output_options("Folder of the tile set.", "FOLDER"),
    option("--virtual", is_flag=True,
           help="Copy no pixels: tiles refer to windows of the input rasters."),
    dry_option,
)  # fmt: skip
@option_group("Heights", add_options(GROUND_OPTIONS))
@option_group("Tiles", add_options(TILE_OPTIONS))
@option_group("Compute", jobs_option, on_error_option)
@cluster_options
def tile(
    config_path: Path | None, assignments: tuple[str, ...], output: Path, overwrite: bool,
    virtual: bool, jobs: int | None, on_error: OnError, dry_run: bool, **options: Any,
) -> None:  # fmt: skip
    """Cut scenes into tiles for training and validation.

    The config declares the scenes and the classes. Training and validation tiles lie on separate
    ground.
    """
    from cafe_cli.cli.console import progress_bar
    from cafe_cli.cluster.batches import executor_on
    from cafe_cli.raster.skipped import check_skipped
    from cafe_cli.tilesets.make import tile as run

    cluster = take_cluster(options)
    config = read_config(config_path, assignments, take_overrides(SCENE_OPTIONS, options))
    if dry_run:
        check_scenes(config, output, overwrite, jobs=jobs)
        return
    with executor_on(cluster) as executor, progress_bar("tile") as progress:
        tileset = run(
            config, output, overwrite, progress, virtual=virtual, jobs=jobs, on_error=on_error,
            run=executor,
        )  # fmt: skip
    _show_tileset(output, tileset)
    check_skipped(tileset.skipped, output)


def _show_tileset(output: Path, tileset: "TileSet") -> None:
    """Print the number of tiles and the shares of the classes of each split."""
    from cafe_cli.cli.console import say

    for split, counts in tileset.pixels.items():
        if tiles := tileset.of(split):
            total = max(sum(counts.values()), 1)
            shares = ", ".join(f"{name} {percent(n / total, 1)}" for name, n in counts.items())
            say(f"{split}: {len(tiles)} tiles: {shares}")
    say(f"wrote {output}")
