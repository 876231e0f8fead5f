"""The command line: options to settings, one library call, show what came of it.

Engines are imported inside the commands: ``cafe --help`` must not pay for torch or GDAL.
"""

import json
import logging
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cafe_cli import __version__
from cafe_cli.errors import CafeError, out_of_memory
from cafe_cli.text import percent

if TYPE_CHECKING:
    from cafe_cli.config.schema import Config
    from cafe_cli.findings import Report

PATH = click.Path(path_type=Path)
Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]

UNITS = ["auto", "metre", "foot", "us-foot", "decimetre", "centimetre"]
METHODS = ["first", "last", "majority", "confidence"]

# Threads of torch that wait for each other spin for about a microsecond and then sleep; left to
# itself, OpenMP spins on, and where another process wants the same cores a step takes many times
# as long. Read when torch is loaded.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
_OUT_OF_MEMORY = (
    "out of memory; lower the batch size or the window (train.crop in training, tile.size)"
)


def main() -> None:
    """Run `cafe`; every expected failure is one line on stderr and an exit code."""
    try:
        code = cli.main(prog_name="cafe", standalone_mode=False)
    except click.Abort:
        code = _fail("interrupted", 130)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        code = error.exit_code
    except click.ClickException as error:
        code = _fail(_one_line(error), error.exit_code)
    except CafeError as error:
        code = _fail(str(error), error.exit_code)
    except OSError as error:
        code = _fail(f"{error.strerror or error}: {error.filename or ''}".rstrip(": "), 1)
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        code = _fail(_OUT_OF_MEMORY, 1)
    sys.exit(code)


def _one_line(error: click.ClickException) -> str:
    """Return what click prints in three lines."""
    message, context = error.format_message().rstrip("."), getattr(error, "ctx", None)
    return f"{message}; see {context.command_path} --help" if context else message


def _fail(message: str, code: int) -> int:
    from cafe_cli.cli.console import show_error

    if logging.getLogger("cafe").isEnabledFor(logging.DEBUG):
        traceback.print_exc()
    show_error(message)
    return code


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="cafe")
@click.option("-v", "--verbose", count=True, help="Say more; with tracebacks.")
@click.option("-q", "--quiet", count=True, help="Say nothing but errors.")
def cli(verbose: int, quiet: int) -> None:
    """Land-cover maps from orthophotos and surface models."""
    from cafe_cli.cli.console import set_up_log

    set_up_log(verbose - quiet)


def config_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that lead to a config."""
    for option in (
        click.option(
            "--set",
            "assignments",
            multiple=True,
            metavar="SECTION.KEY=VALUE",
            help="Set any key of the config.",
        ),
        click.option("-c", "--config", "config_path", type=PATH, help="Config file (TOML)."),
    ):
        command = option(command)
    return command


def output_options(what: str) -> Decorator:
    """Add --output and --overwrite."""

    def add(command: Callable[..., Any]) -> Callable[..., Any]:
        command = click.option("--overwrite", is_flag=True, help="Replace outputs that exist.")(
            command
        )
        return click.option("-o", "--output", type=PATH, required=True, help=what)(command)

    return add


device_option = click.option(
    "--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N."
)


def _bands(context: click.Context, parameter: click.Parameter, value: str | None) -> Any:
    """Parse 4,1,2."""
    if value is None:
        return None
    try:
        return tuple(int(part) for part in value.split(","))
    except ValueError as error:
        raise click.BadParameter(f"{value!r} is not a list like 4,1,2") from error


bands_option = click.option(
    "--bands", callback=_bands, metavar="B,B,...", help="Optical bands from 1, in this order."
)
crs_option = click.option("--crs", help="CRS of rasters that do not say theirs, e.g. EPSG:25832.")
jobs_option = click.option(
    "-j", "--jobs", type=click.IntRange(min=1), help="Threads.  [default: one per core]"
)
dry_option = click.option(
    "--dry-run", is_flag=True, help="Check the inputs and say what would be done; write nothing."
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON to stdout.")


def _scales(context: click.Context, parameter: click.Parameter, value: str | None) -> Any:
    """Parse 0.75,1,1.25."""
    if value is None:
        return None
    try:
        return tuple(float(part) for part in value.split(","))
    except ValueError as error:
        raise click.BadParameter(f"{value!r} is not a list like 0.75,1,1.25") from error


def bbox_option(what: str) -> Decorator:
    """Add --bbox."""
    return click.option("--bbox", type=float, nargs=4, metavar="LEFT BOTTOM RIGHT TOP", help=what)


unit_option = click.option("--height-unit", type=click.Choice(UNITS), help="Unit of the heights.")
nodata_option = click.option(
    "--height-nodata", type=float, help="Value that marks voids, instead of the raster's nodata."
)


def scene_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that name scenes and say what their rasters hold."""
    several = "{id} in the name makes scenes, * and repetition join files"
    options = [
        click.option("--optical", multiple=True, help=f"Orthophoto; {several}."),
        click.option("--elevation", multiple=True, help="Surface model; named like --optical."),
        click.option("--dtm", multiple=True, help="Terrain model to take heights above."),
        click.option("--labels", multiple=True, help="Labels: raster or vectors."),
        bands_option,
        crs_option,
        unit_option,
        nodata_option,
        click.option("--ground", type=click.Choice(["auto", "dtm", "estimate", "none"])),
        click.option("--size", type=int, help="Side of a tile in pixels."),
        click.option("--overlap", type=int, help="Overlap of training tiles in pixels."),
    ]
    for option in reversed(options):
        command = option(command)
    return command


def _scene_keys(options: dict[str, Any]) -> dict[str, Any]:
    """Return the keys of the config that `scene_options` stand for."""
    streams = ("optical", "elevation", "dtm", "labels")
    return {
        **{f"scenes.{name}": _absolute(options[name]) for name in streams},
        "scenes.bands": options["bands"],
        "scenes.crs": options["crs"],
        "height.unit": options["height_unit"],
        "height.nodata": options["height_nodata"],
        "height.ground": options["ground"],
        "tile.size": options["size"],
        "tile.overlap": options["overlap"],
    }


@cli.command()
@config_options
@scene_options
@click.option("--virtual", is_flag=True, help="Copy no pixels: tiles are windows into the rasters.")
@jobs_option
@dry_option
@output_options("Folder of the tile set.")
def tile(
    config_path: Path | None, assignments: tuple[str, ...], output: Path, overwrite: bool,
    virtual: bool, jobs: int | None, dry_run: bool, **options: Any,
) -> None:  # fmt: skip
    """Cut scenes into a training set, split by ground.

    A config declares scenes and classes; options lie over it.
    """
    from cafe_cli.cli.console import progress_bar
    from cafe_cli.tilesets.make import tile as run

    config = _config(config_path, assignments, _scene_keys(options))
    if dry_run:
        _check(config, output, overwrite, jobs, False)
        return
    with progress_bar("tile") as progress:
        tileset = run(config, output, overwrite, progress, virtual=virtual, jobs=jobs)
    _show_tileset(output, tileset)


@cli.command()
@config_options
@scene_options
@jobs_option
@json_option
def check(
    config_path: Path | None, assignments: tuple[str, ...], jobs: int | None, as_json: bool,
    **options: Any,
) -> None:  # fmt: skip
    """Look at scenes before any work is done, and at the tiles they would make.

    Grids, overlap, registration, heights, voids, masks, bands, labels and splits. The exit code
    is 1 if something is wrong.
    """
    config = _config(config_path, assignments, _scene_keys(options))
    _check(config, None, False, jobs, as_json)


def _check(
    config: "Config", output: Path | None, overwrite: bool, jobs: int | None, as_json: bool
) -> None:
    from cafe_cli.checks.check import check as run
    from cafe_cli.cli.console import progress_bar

    with progress_bar("check") as progress:
        report = run(config, output, overwrite, progress, jobs=jobs)
    _show_report(report, as_json)


def _show_report(report: "Report", as_json: bool = False) -> None:
    """Show what a check found; its verdict is the exit code."""
    if as_json:
        click.echo(json.dumps(report.as_json(), indent=1))
        _exit_with([report])
    else:
        _show_reports([report])


def _show_reports(reports: "Sequence[Report]") -> None:
    from cafe_cli.cli.console import show_report

    for report in reports:
        show_report(report)
    _exit_with(reports)


def _exit_with(reports: "Sequence[Report]") -> None:
    if not all(report.ok for report in reports):
        click.get_current_context().exit(CafeError.exit_code)


@cli.command()
@click.argument("tileset", type=PATH)
@config_options
@output_options("Folder of the run.")
@click.option("--resume", is_flag=True, help="Go on from the last checkpoint in the folder.")
@click.option("--epochs", type=int)
@click.option("--batch-size", help="Tiles per step, on all devices together; auto: what fits.")
@click.option("--accumulate", type=int, help="Parts of a step, one after the other: less memory.")
@click.option("--learning-rate", type=float)
@click.option("--encoder", help="Encoder of both streams (segmentation-models-pytorch names).")
@click.option("--weights", help="imagenet, none, or a local weights file.")
@click.option("--guidance", type=click.Choice(["none", "labels", "distill"]))
@click.option("--freeze-epochs", type=int, help="Epochs before the encoders train, too.")
@click.option("--patience", type=int, help="End after so many epochs without a better mean IoU.")
@click.option("--time-limit", help="End after such a time: 90s, 30m, 1h30m.")
@click.option("--devices", type=int, help="Number of GPUs (or CPU processes) on each node.")
@click.option(
    "--num-nodes", type=int, help="Number of nodes; torchrun and srun tell by themselves."
)
@click.option("--precision", type=click.Choice(["auto", "32-true", "bf16-mixed"]))
@click.option("--seed", type=int)
@device_option
@dry_option
def train(
    tileset: Path, config_path: Path | None, assignments: tuple[str, ...], output: Path,
    overwrite: bool, resume: bool, device: str, dry_run: bool, **options: Any,
) -> None:  # fmt: skip
    """Train CaFE on a tile set."""
    from cafe_cli.cli.console import say, show_scores, training_display
    from cafe_cli.evaluation.metrics import Scores
    from cafe_cli.training.report.run import BEST
    from cafe_cli.training.train import TrainCallbacks, rehearse
    from cafe_cli.training.train import train as run

    run_keys = (
        "epochs", "batch_size", "accumulate", "learning_rate", "freeze_epochs", "patience",
        "time_limit", "devices", "num_nodes", "precision", "seed",
    )  # fmt: skip
    keys = {
        **{f"train.{key}": options[key] for key in run_keys},
        "model.optical_encoder": options["encoder"],
        "model.weights": options["weights"],
        "model.guidance": options["guidance"],
    }
    if resume and overwrite:
        raise click.UsageError("--resume goes on with a run, --overwrite replaces it: choose one")
    if resume and config_path is None and (saved := output / "config.toml").exists():
        config_path = saved
    config = _config(config_path, assignments, keys)
    if dry_run:
        _show_report(
            rehearse(tileset, output, config, device=device, resume=resume, overwrite=overwrite)
        )
        return
    with _first_speaks(), training_display() as (on_step, on_epoch):
        card = run(
            tileset, output, config, device=device, resume=resume, overwrite=overwrite,
            report=TrainCallbacks(on_step, on_epoch),
        )  # fmt: skip
        if card.scores:
            show_scores(Scores.from_json(card.scores), f"validation tiles, epoch {card.epoch}")
        say(f"wrote {output / BEST}")


@contextmanager
def _first_speaks() -> Iterator[None]:
    """Let only the first process of a training run speak of what happens to all of them."""
    from cafe_cli.cli.console import set_up_log
    from cafe_cli.training.distributed.processes import is_first

    if is_first():
        yield
        return
    set_up_log(-1)
    try:
        yield
    except CafeError as error:
        sys.exit(error.exit_code)


@cli.command()
@click.argument("models", type=PATH, nargs=-1)
@click.option("--model", "more", type=PATH, multiple=True, help="Model; several are averaged.")
@click.option("--optical", required=True, multiple=True, help="Orthophoto; several are joined.")
@click.option("--elevation", multiple=True, help="Surface model.")
@click.option("--dtm", multiple=True, help="Terrain model to take heights above.")
@output_options("Label raster (COG); a folder with --per-file.")
@click.option("--resume", is_flag=True, help="Go on with what an interrupted run has left.")
@click.option("--per-file", is_flag=True, help="A map for each orthophoto instead of one for all.")
@click.option("--confidence", type=PATH, help="Second output: probability in per cent (COG).")
@click.option("--probabilities", type=PATH, help="Output: probability of every class in per cent.")
@click.option("--quality", type=PATH, help="Output: 0 image and heights, 1 image only.")
@click.option("--aoi", help="Vector file: predict only within its polygons.")
@bbox_option("Predict only within, in the CRS of the orthophoto.")
@click.option("--bbox-crs", help="CRS of --bbox, e.g. EPSG:4326.")
@bands_option
@crs_option
@unit_option
@nodata_option
@click.option(
    "--gsd", type=click.Choice(["own", "model"]), default="own", show_default=True,
    help="Grid of the map: the orthophoto's own, or resampled to the model's GSD.",
)  # fmt: skip
@click.option("--window", help="Side of the window in pixels.  [default: auto, to suit the scene]")
@click.option("--overlap", help="Overlap of windows in pixels.  [default: auto, 128]")
@click.option(
    "--blend",
    type=click.Choice(["hann", "gaussian", "crop"]),
    help="Weights of a window.  [default: hann]",
)
@click.option(
    "--tta",
    type=click.Choice(["none", "flips", "d4"]),
    help="Average over flips, or all symmetries.",
)
@click.option(
    "--scales", callback=_scales, metavar="S,S,...", help="Average over scales, e.g. 0.75,1,1.25."
)
@click.option("--batch-size", help="Windows at a time.  [default: auto]")
@click.option(
    "--engine",
    type=click.Choice(["auto", "torch", "onnx"]),
    help="Runs the network.  [default: auto]",
)
@click.option(
    "--co", "creation", multiple=True, metavar="KEY=VALUE", help="COG creation option; repeat it."
)
@click.option(
    "--device", default="auto", show_default=True, help="auto, cpu, cuda, a list of cuda:N, or all."
)
@jobs_option
@dry_option
def predict(
    models: tuple[Path, ...], more: tuple[Path, ...], output: Path, overwrite: bool, resume: bool,
    per_file: bool, creation: tuple[str, ...], device: str, jobs: int | None, dry_run: bool,
    **options: Any,
) -> None:  # fmt: skip
    """Write the land-cover map of a scene.

    MODELS are averaged if there are several. Rasters are files, folders, quoted globs, @list.txt or
    any name GDAL opens.
    """
    from cafe_cli.cli.console import inference_display, show_meter
    from cafe_cli.config.load import parse_config
    from cafe_cli.inference.job import ComputeOptions, PredictInput, PredictOutput
    from cafe_cli.inference.predict import dry_run as check_run
    from cafe_cli.inference.predict import dry_run_per_file, predict_per_file
    from cafe_cli.inference.predict import predict as run
    from cafe_cli.scenes.discovery import expand_inputs

    if not (models := (*models, *more)):
        raise click.UsageError("Missing argument 'MODEL'")
    sliding = ("window", "overlap", "blend", "tta", "scales", "batch_size", "engine")
    given = {k: v for k in sliding if (v := options.pop(k)) is not None}
    settings = parse_config({"predict": given}, "options").predict
    extra = {k: options.pop(k) for k in ("confidence", "probabilities", "quality")}
    made = dict(map(_key_value, creation))
    outputs = PredictOutput(output, **extra, options=made, overwrite=overwrite, resume=resume)
    for stream in ("optical", "elevation", "dtm"):
        options[stream] = tuple(expand_inputs(options[stream]))
    source, compute = PredictInput(**options), ComputeOptions(device, jobs)
    if dry_run:
        each = dry_run_per_file if per_file else check_run
        found = each(models, source, outputs, settings=settings, compute=compute)
        _show_reports(found if isinstance(found, list) else [found])
        return
    with inference_display() as progress:
        call = predict_per_file if per_file else run
        meter = call(models, source, outputs, settings=settings, compute=compute, progress=progress)
    show_meter(meter, outputs.paths.values())


@cli.command()
@click.argument("inputs", nargs=-1, required=True)
@output_options("Label raster (COG).")
@click.option("--method", type=click.Choice(METHODS), default="majority", show_default=True)
@click.option(
    "--confidence", "confidences", multiple=True,
    help="Confidence rasters in the order of the inputs: a file (repeated), a glob or @list.",
)  # fmt: skip
@click.option("--confidence-output", type=PATH, help="Second output: confidence of the labels.")
@click.option("--like", help="Raster whose CRS and pixels the map takes, instead of the first's.")
@click.option("--resolution", type=float, help="Side of a pixel in units of the CRS.")
@bbox_option("Extent in the CRS of the map.  [default: all inputs]")
@dry_option
def mosaic(
    inputs: tuple[str, ...], output: Path, overwrite: bool, method: str,
    confidences: tuple[str, ...], confidence_output: Path | None, like: str | None,
    resolution: float | None, bbox: tuple[float, float, float, float] | None, dry_run: bool,
) -> None:  # fmt: skip
    """Join label rasters into one map.

    INPUTS are files, folders, quoted globs, @list.txt or any name GDAL opens. The map has the
    pixel grid of the first, or of --like, and reaches around all of them.
    """
    from cafe_cli.cli.console import progress_bar, say
    from cafe_cli.mosaic.grid import TargetGrid
    from cafe_cli.mosaic.mosaic import dry_run as rehearse
    from cafe_cli.mosaic.mosaic import mosaic as run
    from cafe_cli.mosaic.plan import Confidences
    from cafe_cli.scenes.discovery import expand_inputs

    files = expand_inputs(inputs)
    surer = Confidences(tuple(expand_inputs(confidences)), confidence_output)
    if confidence_output and not confidences:
        raise click.UsageError("--confidence-output needs --confidence")
    given = surer if confidences else None
    target = TargetGrid(like, resolution, bbox)
    if dry_run:
        _show_report(rehearse(
            files, output, method=method, confidences=given, target=target, overwrite=overwrite,
        ))  # fmt: skip
        return
    with progress_bar("mosaic") as progress:
        run(
            files, output, method=method, confidences=given, target=target, overwrite=overwrite,
            progress=progress,
        )  # fmt: skip
    say(f"joined {len(files)} rasters into {output}")


@cli.command()
@click.argument("prediction")
@click.argument("reference")
@config_options
@click.option("--ignore", type=int, multiple=True, help="Reference value that is no class.")
@click.option("--json", "as_json", is_flag=True, help="Print the scores as JSON to stdout.")
@click.option("--min-miou", type=float, help="Exit with 1 if mean IoU is lower.")
def evaluate(
    prediction: str, reference: str, config_path: Path | None, assignments: tuple[str, ...],
    ignore: tuple[int, ...], as_json: bool, min_miou: float | None,
) -> None:  # fmt: skip
    """Score a PREDICTION against REFERENCE labels, whose grid may be another.

    The class table is the prediction's, or that of the config.
    """
    from cafe_cli.cli.console import progress_bar, show_scores
    from cafe_cli.evaluation.evaluate import evaluate as run

    config = _config(config_path, assignments, {})
    labels = config.labels.model_copy(update={"ignore": (*config.labels.ignore, *ignore)})
    classes = config.class_table if config.classes else None
    with progress_bar("evaluate") as progress:
        scores = run(prediction, reference, classes=classes, labels=labels, progress=progress)
    if as_json:
        click.echo(json.dumps(scores.as_json(), indent=1))
    else:
        show_scores(scores, f"{prediction} against {reference}")
    if min_miou is not None and not scores.miou >= min_miou:
        raise CafeError(f"mean IoU {scores.miou:.4f} is below --min-miou {min_miou}")


@cli.command()
@click.option(
    "-c", "--config", "config_path", type=PATH, default=Path("configs/sample.toml"),
    show_default=True, help="Config that names the sample data.",
)  # fmt: skip
@click.option("-o", "--output", type=PATH, default=Path("demo"), show_default=True)
@click.option("--overwrite", is_flag=True, help="Replace outputs that exist.")
@device_option
def demo(config_path: Path, output: Path, overwrite: bool, device: str) -> None:
    """Tile, train, predict, mosaic and evaluate on the sample data, and draw the result."""
    from cafe_cli.cli.console import say, show_scores, training_display
    from cafe_cli.demo import demo as run
    from cafe_cli.training.train import TrainCallbacks

    with training_display() as (on_step, on_epoch):
        scores = run(
            config_path, output, device=device, overwrite=overwrite,
            report=TrainCallbacks(on_step, on_epoch), say=say,
        )  # fmt: skip
    show_scores(scores, "map of the town against its true labels")
    say(f"wrote {output / 'demo.png'}: look at it")


def _key_value(text: str) -> tuple[str, str]:
    """Split KEY=VALUE, as GDAL's creation options are written."""
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise click.BadParameter(f"--co {text!r} is not like COMPRESS=ZSTD")
    return key.upper(), value


def _absolute(names: Sequence[str]) -> tuple[str, ...] | str | None:
    """Make the names of an option independent of the folder of the config; one stays a string."""
    from cafe_cli.scenes.discovery import expand
    from cafe_cli.system.atomic_write import is_remote

    def absolute(name: str) -> str:
        return name if is_remote(name) else str(Path(name).absolute())

    # Names in a list are those of the command line, too.
    listed = [n for name in names for n in (expand(name) if name.startswith("@") else [name])]
    found = tuple(map(absolute, listed))
    return found[0] if len(found) == 1 else found or None


def _config(path: Path | None, assignments: Sequence[str], keys: dict[str, Any]) -> "Config":
    from cafe_cli.config.load import load_config, parse_assignment

    given = {key: value for key, value in keys.items() if value is not None}
    return load_config(path, {**dict(map(parse_assignment, assignments)), **given})


def _show_tileset(output: Path, tileset: Any) -> None:
    from cafe_cli.cli.console import say

    for split, counts in tileset.pixels.items():
        if tiles := tileset.of(split):
            total = max(sum(counts.values()), 1)
            shares = ", ".join(f"{name} {percent(n / total, 1)}" for name, n in counts.items())
            say(f"{split}: {len(tiles)} tiles: {shares}")
    say(f"wrote {output}")
