"""``cafe demo``: run every command on the sample data."""

from pathlib import Path

import click

from cafe_cli.cli.options import PATH, device_option, overwrite_option


@click.command()
@click.option(
    "-c", "--config", "config_path", type=PATH, show_default="the one installed with cafe",
    help="Config that names the sample data.",
)  # fmt: skip
@click.option("-o", "--output", type=PATH, default=Path("demo"), show_default=True)
@click.option(
    "--only-data", is_flag=True,
    help="Copy the sample data and their config to the output folder, and run nothing.",
)  # fmt: skip
@overwrite_option
@device_option
def demo(
    config_path: Path | None, output: Path, only_data: bool, overwrite: bool, device: str
) -> None:
    """Tile, train, predict, mosaic and evaluate on the sample data, and draw the result."""
    from cafe_cli.cli.console import say, show_scores, training_display

    if only_data:
        from cafe_cli.sample_data import SAMPLE_CONFIG, copy_sample

        copy_sample(output, overwrite=overwrite)
        say(f"wrote {output}; next: cafe tile -c {output / SAMPLE_CONFIG} -o tiles")
        return

    from cafe_cli.demo import demo as run
    from cafe_cli.training.train import TrainCallbacks

    with training_display() as (on_step, on_epoch):
        scores = run(
            config_path, output, device=device, overwrite=overwrite,
            report=TrainCallbacks(on_step, on_epoch), say=say,
        )  # fmt: skip
    show_scores(scores, "map of the town against its true labels")
    say(f"wrote {output / 'demo.png'}: look at it")
