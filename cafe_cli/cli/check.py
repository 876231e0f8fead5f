"""``cafe check``: inspect scenes, and the tiles that they would make."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cafe_cli.cli.options import (
    SCENE_OPTIONS,
    RasterCommand,
    add_options,
    config_options,
    jobs_option,
    read_config,
    take_overrides,
)

if TYPE_CHECKING:
    from cafe_cli.config.schema import Config


@click.command(cls=RasterCommand)
@config_options
@add_options(SCENE_OPTIONS)
@jobs_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON to stdout.")
def check(
    config_path: Path | None, assignments: tuple[str, ...], jobs: int | None, as_json: bool,
    **options: Any,
) -> None:  # fmt: skip
    """Look at scenes before any work is done, and at the tiles they would make.

    Grids, overlap, registration, heights, voids, masks, bands, labels and splits. The exit code
    is 1 if something is wrong.
    """
    config = read_config(config_path, assignments, take_overrides(SCENE_OPTIONS, options))
    check_scenes(config, jobs=jobs, as_json=as_json)


def check_scenes(
    config: "Config", output: Path | None = None, overwrite: bool = False, *,
    jobs: int | None = None, as_json: bool = False,
) -> None:  # fmt: skip
    """Check the scenes of a config, and the output if there is to be one; print the report."""
    from cafe_cli.checks.check import check as run
    from cafe_cli.cli.console import progress_bar
    from cafe_cli.cli.report import print_reports

    with progress_bar("check") as progress:
        report = run(config, output, overwrite, progress, jobs=jobs)
    print_reports([report], as_json)
