"""``cafe check``: check scenes, and the tiles that they would make."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cafe_cli.cli.help import option_group
from cafe_cli.cli.options import (
    GROUND_OPTIONS,
    INPUT_OPTIONS,
    SCENE_OPTIONS,
    TILE_OPTIONS,
    RasterCommand,
    add_options,
    config_options,
    jobs_option,
    json_option,
    read_config,
    take_overrides,
)

if TYPE_CHECKING:
    from cafe_cli.config.schema import Config


EXAMPLES = {
    "the scenes of a config": "cafe check -c configs/sample.toml",
    "an orthophoto and a surface model, before a map is made":
        "cafe check --optical ortho.tif --elevation dsm.tif",
    "a report for scripts": "cafe check -c site.toml --json > check.json",
}  # fmt: skip


@click.command(cls=RasterCommand, examples=EXAMPLES)
@option_group("Inputs", config_options, add_options(INPUT_OPTIONS))
@option_group("Outputs", json_option)
@option_group("Heights", add_options(GROUND_OPTIONS))
@option_group("Tiles", add_options(TILE_OPTIONS))
@option_group("Compute", jobs_option)
def check(
    config_path: Path | None, assignments: tuple[str, ...], jobs: int | None, as_json: bool,
    **options: Any,
) -> None:  # fmt: skip
    """Check the inputs for problems before tiling.

    Checks grids, overlap, registration of heights and image, units, voids, masks, bands, labels
    and the planned split. The exit code is 1 if there is an error.
    """
    config = read_config(config_path, assignments, take_overrides(SCENE_OPTIONS, options))
    check_scenes(config, jobs=jobs, as_json=as_json)


def check_scenes(
    config: "Config", output: Path | None = None, overwrite: bool = False, *,
    jobs: int | None = None, as_json: bool = False,
) -> None:  # fmt: skip
    """Check the scenes of a config, and the output if one is named; print the report."""
    from cafe_cli.checks.check import check as run
    from cafe_cli.cli.console import progress_bar
    from cafe_cli.cli.report import print_reports

    with progress_bar("check") as progress:
        report = run(config, output, overwrite, progress, jobs=jobs)
    print_reports([report], as_json)
