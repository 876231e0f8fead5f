"""``cafe demo``: run every command on the sample data."""

from pathlib import Path

import click

from cafe_cli.cli.help import CafeCommand, option, option_group
from cafe_cli.cli.options import PATH, device_option, overwrite_option

EXAMPLES = {
    "all steps; then look at demo/demo.png": "cafe demo",
    "without a GPU, in place of an earlier demo": "cafe demo --device cpu --overwrite",
    "the sample data alone, to try the commands one by one": "cafe demo --only-data -o sample",
}


@click.command(cls=CafeCommand, examples=EXAMPLES)
@option_group(
    "Inputs",
    option("-c", "--config", "config_path", type=PATH, metavar="FILE",
           show_default="the one installed with cafe",
           help="Config that names the sample data."),
)  # fmt: skip
@option_group(
    "Outputs",
    option("-o", "--output", type=PATH, default=Path("demo"), metavar="FOLDER",
           help="Folder of all outputs."),
    option("--only-data", is_flag=True,
           help="Copy the sample data and their config to the folder, and run nothing."),
    overwrite_option,
)  # fmt: skip
@option_group("Compute", device_option)
def demo(
    config_path: Path | None, output: Path, only_data: bool, overwrite: bool, device: str
) -> None:
    """Run all steps on the sample data and draw the map.

    Tiles two scenes, trains on them for a few minutes, then predicts, mosaics and evaluates a
    third. The sample data are installed with cafe.
    """
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
