"""``cafe predict``: write the land-cover map of a scene."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from cafe_cli.cli.options import (
    PATH,
    RASTER_OPTIONS,
    ConfigOption,
    RasterCommand,
    add_options,
    bbox_option,
    dry_option,
    floats,
    jobs_option,
    on_error_option,
    output_options,
    read_config,
    stac_options,
    take_overrides,
    take_stac,
)
from cafe_cli.config.choices import TTA, Blend, Engine

WINDOW_OPTIONS = (
    ConfigOption(
        "--window", "predict.window",
        "Side of the window in pixels.  [default: auto, to suit the scene]",
    ),
    ConfigOption(
        "--overlap", "predict.overlap",
        "Overlap of windows in pixels.  [default: 128, or a quarter of a small window]",
    ),
    ConfigOption("--blend", "predict.blend", "Weights of a window.  [default: hann]", Blend),
    ConfigOption("--tta", "predict.tta", "Average over flips, or all symmetries.", TTA),
    ConfigOption(
        "--scales", "predict.scales", "Average over scales, e.g. 0.75,1,1.25.",
        metavar="S,S,...", callback=floats,
    ),
    ConfigOption("--batch-size", "predict.batch_size", "Windows at a time.  [default: auto]"),
    ConfigOption("--engine", "predict.engine", "Runs the network.  [default: auto]", Engine),
)  # fmt: skip

_STREAMS = ("optical", "elevation", "dtm")


class _PredictCommand(RasterCommand):
    def is_stray(self, ctx: click.Context, word: str) -> bool:
        """Whether a word is no model, but a file or folder that is there."""
        return os.path.isdir(word) or (os.path.isfile(word) and not _is_safetensors(word))


def _is_safetensors(path: str) -> bool:
    """Whether a file begins like safetensors: the length of a JSON object, and the object."""
    with open(path, "rb") as file:
        return file.read(9)[8:] == b"{"


@click.command(cls=_PredictCommand)
@click.argument("models", type=PATH, nargs=-1)
@click.option("--model", "more", type=PATH, multiple=True, help="Model; several are averaged.")
@click.option(
    "--optical", required=True, multiple=True,
    help="Orthophoto; several are joined. With --per-file, {id} in names pairs files.",
)  # fmt: skip
@click.option("--elevation", multiple=True, help="Surface model.")
@click.option("--dtm", multiple=True, help="Terrain model to take heights above.")
@output_options("Label raster (COG); a folder with --per-file.")
@click.option("--resume", is_flag=True, help="Go on with what an interrupted run has left.")
@click.option("--per-file", is_flag=True, help="A map for each orthophoto instead of one for all.")
@click.option("--confidence", type=PATH, help="Second output: probability in per cent (COG).")
@click.option("--probabilities", type=PATH, help="Output: probability of every class in per cent.")
@click.option(
    "--quality", type=PATH,
    help="Output: 0 image and heights, 1 image only; 2 more where values are foreign to the model.",
)  # fmt: skip
@click.option("--aoi", help="Vector file: predict only within its polygons.")
@bbox_option("Predict only within, in the CRS of the orthophoto.")
@click.option("--bbox-crs", help="CRS of --bbox, e.g. EPSG:4326.")
@add_options(RASTER_OPTIONS)
@click.option(
    "--gsd", type=click.Choice(["own", "model"]), default="own", show_default=True,
    help="Grid of the map: the orthophoto's own, or resampled to the model's GSD.",
)  # fmt: skip
@click.option(
    "--ignore-mismatch", is_flag=True,
    help="Predict even where values or heights do not fit the model.",
)  # fmt: skip
@on_error_option
@add_options(WINDOW_OPTIONS)
@click.option(
    "--co", "creation", multiple=True, metavar="KEY=VALUE", help="COG creation option; repeat it."
)
@stac_options
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
    from cafe_cli.cli.report import print_reports
    from cafe_cli.inference import predict as engine
    from cafe_cli.inference.job import ComputeOptions, PredictInput, PredictOutput
    from cafe_cli.raster.skipped import check_skipped

    if not (models := (*models, *more)):
        raise click.UsageError("Missing argument 'MODEL'")
    settings = read_config(None, (), take_overrides(WINDOW_OPTIONS, options)).predict
    others = {k: options.pop(k) for k in ("confidence", "probabilities", "quality")}
    stac = take_stac(options)
    outputs = PredictOutput(
        output, **others, stac=stac, options=dict(map(_key_value, creation)), overwrite=overwrite,
        resume=resume,
    )  # fmt: skip
    options |= _expand_names({name: options[name] for name in _STREAMS}, per_file)
    source, compute = PredictInput(**options), ComputeOptions(device, jobs)
    if dry_run:
        check = engine.dry_run_per_file if per_file else engine.dry_run
        found = check(models, source, outputs, settings=settings, compute=compute)
        print_reports(found if isinstance(found, list) else [found])
        return
    with inference_display() as progress:
        run = engine.predict_per_file if per_file else engine.predict
        meter = run(models, source, outputs, settings=settings, compute=compute, progress=progress)
    show_meter(meter, outputs.paths.values())
    check_skipped(meter.skipped, output)


def _expand_names(names: Mapping[str, Sequence[str]], per_file: bool) -> dict[str, tuple[str, ...]]:
    """Return the files that the names of each stream stand for; patterns with ``{id}`` stay."""
    from cafe_cli.scenes.discovery import expand_inputs, find_placeholder

    patterns = {stream: p for stream in names if (p := find_placeholder(names[stream]))}
    if not patterns:
        return {stream: tuple(expand_inputs(given)) for stream, given in names.items()}
    stream, pattern = next(iter(patterns.items()))
    if not per_file:
        raise click.UsageError(
            f"--{stream} {pattern!r} names a scene per match: pass --per-file for a map of each, "
            "or a pattern with * to join the files"
        )
    if "optical" not in patterns:
        raise click.UsageError(
            f"--{stream} {pattern!r} is paired with orthophotos by what its braces match: write "
            "--optical with the same braces, e.g. 'ortho/{id}.tif'"
        )
    return {stream: tuple(given) for stream, given in names.items()}


def _key_value(text: str) -> tuple[str, str]:
    """Split KEY=VALUE, as GDAL's creation options are written."""
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise click.BadParameter(f"--co {text!r} is not like COMPRESS=ZSTD")
    return key.upper(), value
