"""``cafe export``: write a model as an ONNX file."""

from pathlib import Path
from typing import TYPE_CHECKING, get_args

import click

from cafe_cli.cli.help import complete_files, option, option_group
from cafe_cli.cli.options import PATH, NamesCommand, dry_option, file_option, output_options
from cafe_cli.config.choices import ExportTarget

if TYPE_CHECKING:
    from cafe_cli.exporting.export import ExportResult
    from cafe_cli.inference.job import PredictInput

EXAMPLES = {
    "for cafe predict, which then needs no torch":
        "cafe export run/best.safetensors -o model.onnx",
    "for GeoDeep, compared with the model on an orthophoto":
        "cafe export run/best.safetensors -o geodeep.onnx --for geodeep "
        "--optical sample_data/a_ortho.tif",
}  # fmt: skip


@click.command(cls=NamesCommand, examples=EXAMPLES)
@click.argument("model", type=PATH, shell_complete=complete_files)
@option_group(
    "Inputs",
    file_option("--optical", multiple=True, show_default="random windows",
                help="Orthophoto on which the file is compared with the model."),
    file_option("--elevation", multiple=True, help="Surface model (DSM) of the orthophoto."),
    file_option("--dtm", multiple=True,
                help="Terrain model (DTM), to compute heights above ground."),
)  # fmt: skip
@option_group("Outputs", output_options("ONNX file to write (.onnx)."), dry_option)
@option_group(
    "Model",
    option("--for", "target", type=click.Choice(get_args(ExportTarget)), default="cafe",
           help="Program that will run the file."),
    option("--logits", is_flag=True, help=
        "Return logits instead of probabilities, for programs of your own; cafe predict needs "
        "probabilities."),
    option("--no-heights", is_flag=True,
           help="For Deepness: the bands of the image only, without a height band."),
)  # fmt: skip
@option_group(
    "Windows",
    option("--window", type=int, metavar="PIXELS", show_default="512, or that of the training",
           help="Side of the windows of Deepness and GeoDeep."),
    option("--overlap", type=int, metavar="PIXELS", show_default="a quarter of the window",
           help="Overlap of these windows."),
)  # fmt: skip
def export(
    model: Path, output: Path, overwrite: bool, target: ExportTarget, logits: bool,
    window: int | None, overlap: int | None, no_heights: bool, optical: tuple[str, ...],
    elevation: tuple[str, ...], dtm: tuple[str, ...], dry_run: bool,
) -> None:  # fmt: skip
    """Write a model as an ONNX file.

    MODEL is a file that cafe train wrote. The ONNX file describes itself, for cafe predict without
    torch, for Deepness (QGIS) or for GeoDeep. Its labels are compared with those of the model.
    """
    from cafe_cli.cli.console import say
    from cafe_cli.cli.report import print_reports
    from cafe_cli.exporting import export as engine

    options = engine.ExportOptions(target, logits, window, overlap, not no_heights)
    scene = _scene(optical, elevation, dtm)
    if dry_run:
        print_reports([engine.dry_run(model, output, options, scene, overwrite=overwrite)])
        return
    made = engine.export(model, output, options, scene, overwrite=overwrite)
    for line in _tell(made, output, target):
        say(line)


def _scene(
    optical: tuple[str, ...], elevation: tuple[str, ...], dtm: tuple[str, ...]
) -> "PredictInput | None":
    from cafe_cli.inference.job import PredictInput
    from cafe_cli.scenes.discovery import expand_inputs

    if not optical:
        if elevation or dtm:
            raise click.UsageError("--elevation and --dtm need --optical")
        return None
    image, surface, terrain = (tuple(expand_inputs(n)) for n in (optical, elevation, dtm))
    return PredictInput(image, surface, terrain)


def _tell(made: "ExportResult", output: Path, target: ExportTarget) -> list[str]:
    """Return what to say: the file, its input, the comparison, and what is lost."""
    from cafe_cli.exporting.tools import TITLES
    from cafe_cli.scenes.eight_bit import HEIGHT_STEP
    from cafe_cli.text import percent

    tool, lines = made.tool, [f"wrote {output} for {TITLES[target]} ({made.size / 1e6:.1f} MB)"]
    if tool:
        lines.append(
            f"input: {', '.join(tool.bands)}; windows of {tool.window} pixels, "
            f"{tool.overlap_percent} % overlap"
        )
    lines.append(
        f"compared with torch on {made.windows}: {made.equal.equal:,} of "
        f"{made.equal.pixels:,} labels are equal"
    )
    if tool and tool.heights and made.kept:
        lines.append(
            f"heights in steps of {HEIGHT_STEP} m change {percent(1 - made.kept.share)} of labels"
        )
    return lines
