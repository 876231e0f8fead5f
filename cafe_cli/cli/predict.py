"""``cafe predict``: write the land-cover map of a scene."""

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from cafe_cli.cli.cluster_options import cluster_options_with_scratch, take_cluster
from cafe_cli.cli.help import option, option_group
from cafe_cli.cli.options import (
    CONTENT_OPTIONS,
    HEIGHT_OPTIONS,
    PATH,
    ConfigOption,
    RasterCommand,
    add_options,
    bbox_option,
    config_options,
    dry_option,
    file_option,
    floats_or_auto,
    jobs_option,
    json_option,
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
        "--window", "predict.window", "Side of the windows; auto: to suit the scene.",
        default="auto", metavar="PIXELS",
    ),
    ConfigOption(
        "--overlap", "predict.overlap", "Overlap of neighbouring windows; auto: 128, or a quarter "
        "of small windows.", default="auto", metavar="PIXELS",
    ),
    ConfigOption(
        "--blend", "predict.blend", "Weights of the pixels of overlapping windows.", Blend, "hann"
    ),
    ConfigOption(
        "--tta", "predict.tta", "Test-time augmentation: average over four flips, or over all "
        "eight symmetries (d4).", TTA, "none",
    ),
    ConfigOption(
        "--scales", "predict.scales", "Average over these scales, e.g. 0.75,1,1.25; auto: what the "
        "config of the training says, else 1.", default="auto", metavar="S,S,...",
        callback=floats_or_auto,
    ),
)  # fmt: skip
COMPUTE_OPTIONS = (
    ConfigOption(
        "--batch-size", "predict.batch_size", "Windows per batch; auto: as many as fit on a GPU, "
        "1 on a CPU.", default="auto", metavar="N",
    ),
    ConfigOption(
        "--engine", "predict.engine", "Library that runs the network; auto: ONNX Runtime on a CPU "
        "if it is installed and worth its start, else torch.", Engine, "auto",
    ),
)  # fmt: skip
PREDICT_OPTIONS = (*WINDOW_OPTIONS, *COMPUTE_OPTIONS)
# A model knows what it was trained on.
IMAGE_OPTIONS = (
    replace(CONTENT_OPTIONS[0], default="those of the model by name, else all but alpha"),
    *CONTENT_OPTIONS[1:],
)
SURFACE_OPTIONS = tuple(
    replace(declared, default="as in the training data") for declared in HEIGHT_OPTIONS
)

EXAMPLES = {
    "a map of the sample town, whose orthophoto is in four pieces":
        "cafe predict run/best.safetensors --optical 'sample_data/town_*_ortho.tif' "
        "--elevation sample_data/town_dsm.tif -o town.tif",
    "with the probability of the chosen class; continues after an interruption":
        "cafe predict run/best.safetensors --optical ortho.tif --elevation dsm.tif -o map.tif "
        "--confidence confidence.tif --resume",
    "what the maps of many orthophotos will take":
        "cafe predict run/best.safetensors --optical @orthophotos.txt --per-file -o maps "
        "--dry-run --rate 2.5",
    "a map of each orthophoto of a folder":
        "cafe predict run/best.safetensors --optical 'ortho/{id}.tif' --elevation 'dsm/{id}.tif' "
        "--per-file -o maps",
    "the third of 40 parts, in a job of an array (docs/cluster.md)":
        "cafe predict run/best.safetensors --optical ortho.tif --elevation dsm.tif --strips 3/40 "
        "-o parts/3.tif --resume",
}  # fmt: skip

_STREAMS = ("optical", "elevation", "dtm")


class _PredictCommand(RasterCommand):
    def is_stray(self, ctx: click.Context, word: str) -> bool:
        """Whether a word is no model, but a file or folder that is there."""
        return os.path.isdir(word) or (os.path.isfile(word) and not _is_model(word))


def _is_model(path: str) -> bool:
    """Whether a file is named .onnx, or begins like safetensors: with the length of an object."""
    if path.lower().endswith(".onnx"):
        return True
    with open(path, "rb") as file:
        return file.read(9)[8:] == b"{"


def _share(context: click.Context, parameter: click.Parameter, text: str | None) -> str | None:
    """Validate ``I/N`` before a model is loaded."""
    if text is None or context.resilient_parsing:
        return None
    from cafe_cli.inference.tiling import Share

    return str(Share.parse(text))


def _finite(ctx: click.Context, parameter: click.Parameter, value: float | None) -> float | None:
    if value is not None and not math.isfinite(value):
        raise click.BadParameter(f"{value} is not a rate like 2.5")
    return value


@click.command(cls=_PredictCommand, examples=EXAMPLES)
@click.argument("models", type=PATH, nargs=-1, metavar="[MODEL]...")
@option_group(
    "Inputs",
    file_option(
        "--optical", required=True, multiple=True, help="Orthophoto; several files are joined. "
        "With --per-file, {id} in the name pairs it with the other files.",
    ),
    file_option("--elevation", multiple=True, help="Surface model (DSM)."),
    file_option(
        "--dtm", multiple=True, help="Terrain model (DTM), to compute heights above ground."
    ),
    option("--model", "more", type=PATH, multiple=True, metavar="FILE",
           help="Another model; the probabilities of all are averaged. May be repeated."),
    add_options(IMAGE_OPTIONS),
    option("--ignore-mismatch", is_flag=True,
           help="Predict even if values or heights of the scene do not fit the model."),
    config_options,
)  # fmt: skip
@option_group(
    "Outputs",
    output_options("Classified raster to write (COG); with --per-file, a folder."),
    option("--resume", is_flag=True, help="Resume an interrupted run."),
    option("--per-file", is_flag=True,
           help="Write a map for each orthophoto instead of one for all."),
    option("--confidence", type=PATH, metavar="FILE",
           help="Also write the probability of the chosen class, 0-100 %."),
    option("--probabilities", type=PATH, metavar="FILE",
           help="Also write the probability of every class, 0-100 %, one band each."),
    option("--quality", type=PATH, metavar="FILE",
           help="Also write the data behind each label: 0 image and heights, 1 image only; +2 "
           "where values lie outside the training data of the model."),
    option("--co", "creation", multiple=True, metavar="KEY=VALUE",
           help="Creation option of GDAL's COG driver, e.g. COMPRESS=ZSTD; may be repeated."),
    stac_options,
    dry_option,
    option("--rate", type=click.FloatRange(min=0, min_open=True), metavar="MPX_PER_S",
           show_default="measured here", callback=_finite,
           help="With --dry-run: megapixels of the map that one worker makes per second, as "
           "cafe predict prints them at its end."),
    json_option,
)  # fmt: skip
@option_group(
    "Area and grid",
    file_option("--aoi", help="Vector file; predict only inside its polygons."),
    bbox_option("Predict only inside this box, in the CRS of the orthophoto or of --bbox-crs."),
    option("--bbox-crs", metavar="CRS", show_default="that of the orthophoto",
           help="CRS of --bbox, e.g. EPSG:4326."),
    option("--strips", callback=_share, metavar="I/N",
           help="Predict only part I of N of the scene, from 1, e.g. in a job array; cafe mosaic "
           "joins the parts. With --per-file, part I of the orthophotos."),
    option("--gsd", type=click.Choice(["own", "model"]), default="own",
           help="Pixel size of the map: the orthophoto's own, or that of the model's training."),
)  # fmt: skip
@option_group("Heights", add_options(SURFACE_OPTIONS))
@option_group("Windows", add_options(WINDOW_OPTIONS))
@option_group(
    "Compute",
    option("--device", default="auto", metavar="DEVICE",
           help="Device to compute on: auto, cpu, cuda, cuda:N, a list of these, or all."),
    add_options(COMPUTE_OPTIONS),
    jobs_option,
    on_error_option,
)  # fmt: skip
@cluster_options_with_scratch
def predict(
    models: tuple[Path, ...], more: tuple[Path, ...], output: Path, overwrite: bool, resume: bool,
    per_file: bool, creation: tuple[str, ...], device: str, jobs: int | None, dry_run: bool,
    rate: float | None, as_json: bool, config_path: Path | None, assignments: tuple[str, ...],
    **options: Any,
) -> None:  # fmt: skip
    """Predict the land-cover map of a scene.

    MODEL is a file of cafe train (best.safetensors) or cafe export (.onnx); the probabilities of
    several models are averaged. Rasters are files, folders, quoted globs, @list.txt or any name
    that GDAL opens. The command reads [predict] from a config; the model holds all other settings.
    """
    from cafe_cli.cli.console import inference_display, show_meter
    from cafe_cli.cli.workload import print_plans
    from cafe_cli.findings import Report
    from cafe_cli.inference import predict as engine
    from cafe_cli.inference.job import ComputeOptions, PredictInput, PredictOutput
    from cafe_cli.raster.skipped import check_skipped

    if not (models := (*models, *more)):
        raise click.UsageError("Missing argument 'MODEL'")
    if not dry_run and (rate or as_json):
        given = "--rate" if rate else "--json"
        raise click.UsageError(f"{given} is for --dry-run: add that, or leave it out")
    overrides = take_overrides(PREDICT_OPTIONS, options)
    settings = read_config(config_path, assignments, overrides).predict
    others = {k: options.pop(k) for k in ("confidence", "probabilities", "quality")}
    stac, cluster = take_stac(options), take_cluster(options)
    outputs = PredictOutput(
        output, **others, stac=stac, options=dict(map(_key_value, creation)), overwrite=overwrite,
        resume=resume,
    )  # fmt: skip
    options |= _expand_names({name: options[name] for name in _STREAMS}, per_file)
    source, compute = PredictInput(**options), ComputeOptions(device, jobs)
    if dry_run:
        check = engine.dry_run_per_file if per_file else engine.dry_run
        workers = cluster.workers if cluster else None
        found = check(
            models, source, outputs, settings=settings, compute=compute, rate=rate, workers=workers
        )
        print_plans([found] if isinstance(found, Report) else found, as_json, rate, workers or 1)
        return
    with inference_display() as progress:
        run = engine.predict_per_file if per_file else engine.predict
        meter = run(
            models, source, outputs, settings=settings, compute=compute, cluster=cluster,
            progress=progress,
        )  # fmt: skip
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
