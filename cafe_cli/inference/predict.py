"""``cafe predict``: scenes and models to georeferenced rasters, strip by strip."""

import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from cafe_cli.checks.scene import diagnose
from cafe_cli.config.schema import Config, PredictSettings, SceneSettings
from cafe_cli.errors import CafeError, ConfigError, OutputError, PartialFailureError
from cafe_cli.findings import Report
from cafe_cli.inference.job import ComputeOptions, PredictInput, PredictOutput
from cafe_cli.inference.predictor import Predictor, ProgressCallback
from cafe_cli.inference.scene_input import SceneInput
from cafe_cli.inference.throughput import Meter
from cafe_cli.system.atomic_write import check_outputs

log = logging.getLogger("cafe")


def predict(
    models: Sequence[Path],
    source: PredictInput,
    outputs: PredictOutput,
    *,
    settings: PredictSettings | None = None,
    compute: ComputeOptions | None = None,
    progress: ProgressCallback = lambda meter: None,
) -> Meter:
    """Write the label raster of a scene.

    Overlapping windows are run, and their class probabilities are averaged with weights that fall
    towards a window's rim. Memory depends on the window and on the scene's width, up to a limit,
    not on its height. The result is a function of scene, models and settings only.

    Parameters
    ----------
    models : sequence of Path
        Made by ``cafe train``; several are averaged.
    source : Source
    outputs : Outputs
    settings : PredictSettings, optional
        Size and overlap of windows, and what is averaged.
    compute : Compute, optional
    progress : callable
        Called with the meter after every row of windows.

    Returns
    -------
    Meter
        What was done, and how fast.

    Raises
    ------
    ModelFileError
        A model cannot be used.
    BandError
        Another number of bands than the model was trained on.
    ConfigError
        Settings that do not fit, models that do not belong together.
    InputError, GridError
        See `cafe_cli.scenes.scene.open_scene` and `cafe_cli.vector.area_of_interest.Area`.
    OutputError
        An output exists or cannot be written, or there is nothing that fits to be resumed.
    """
    # What may be complete already is looked at later.
    _check_outputs(models, source, outputs, outputs.overwrite or outputs.resume)
    predictor = Predictor(models, settings or PredictSettings(), compute or ComputeOptions())
    return predictor.run(source, outputs, progress)


def predict_per_file(
    models: Sequence[Path],
    source: PredictInput,
    outputs: PredictOutput,
    *,
    settings: PredictSettings | None = None,
    compute: ComputeOptions | None = None,
    progress: ProgressCallback = lambda meter: None,
) -> Meter:
    """Write the label raster of every orthophoto, one after the other; arguments as in `predict`.

    Parameters
    ----------
    outputs : Outputs
        Folders: the rasters in them are called like the orthophotos.

    Raises
    ------
    SomeFailedError
        Some of them failed; the reasons are in the log.
    ConfigError
        Two orthophotos of one name.
    """
    orders = [*_orders(source, outputs)]
    for folder in outputs.paths.values():
        folder.mkdir(parents=True, exist_ok=True)
    predictor = Predictor(models, settings or PredictSettings(), compute or ComputeOptions())
    total, failed = Meter(), []
    for number, (one, files) in enumerate(orders, start=1):
        name = one.optical[0]
        try:
            meter = predictor.run(one, files, progress, f"{number}/{len(orders)} {Path(name).stem}")
        except (CafeError, OSError) as error:
            log.error("%s", f"{error}" if name in str(error) else f"{name}: {error}")
            failed.append(name)
        else:
            total.merge(meter)
    if failed:
        kind = PartialFailureError if len(failed) < len(orders) else CafeError
        made = f"; {len(orders) - len(failed)} maps are in {outputs.labels}"
        raise kind(
            f"{len(failed)} of {len(orders)} orthophotos failed: {', '.join(failed)}"
            + (made if len(failed) < len(orders) else "")
        )
    return total


def _orders(
    source: PredictInput, outputs: PredictOutput
) -> Iterator[tuple[PredictInput, PredictOutput]]:
    """Yield what to do for every orthophoto."""
    stems = [Path(name).stem for name in source.optical]
    if twice := sorted({stem for stem in stems if stems.count(stem) > 1}):
        raise ConfigError(f"two orthophotos would both make {twice[0]}.tif; rename one of them")
    folders = [*map(os.path.realpath, outputs.paths.values())]
    if twice := [folder for folder in folders if folders.count(folder) > 1]:
        raise ConfigError(f"{twice[0]} is the folder of two outputs; name one for each")
    for folder in outputs.paths.values():
        if folder.exists() and not folder.is_dir():
            raise OutputError(f"{folder} is a file; with --per-file, name a folder")
    for name, stem in zip(source.optical, stems, strict=True):
        yield replace(source, optical=(name,)), outputs.in_folders(f"{stem}.tif")


def dry_run(
    models: Sequence[Path],
    source: PredictInput,
    outputs: PredictOutput,
    *,
    settings: PredictSettings | None = None,
    compute: ComputeOptions | None = None,
) -> Report:
    """Check everything that `predict` would, and say what it would take; arguments as there."""
    report = Report("predict")
    with report.noting(str(outputs.labels)):
        _check_outputs(models, source, outputs, outputs.overwrite or outputs.resume)
    with report.noting(", ".join(map(str, models))):
        predictor = Predictor(models, settings or PredictSettings(), compute or ComputeOptions())
        _look(report, predictor, source, outputs)
    return report


def dry_run_per_file(
    models: Sequence[Path],
    source: PredictInput,
    outputs: PredictOutput,
    *,
    settings: PredictSettings | None = None,
    compute: ComputeOptions | None = None,
) -> list[Report]:
    """Check everything that `predict_each` would, orthophoto by orthophoto."""
    orders = [*_orders(source, outputs)]
    predictor = Predictor(models, settings or PredictSettings(), compute or ComputeOptions())
    reports = []
    for one, files in orders:
        report = Report("predict")
        with report.noting(one.optical[0]):
            if files.labels.parent.exists():  # otherwise it will be made
                _check_outputs(models, one, files, outputs.overwrite or outputs.resume)
            _look(report, predictor, one, files)
        reports.append(report)
    return reports


def _look(
    report: Report, predictor: Predictor, source: PredictInput, outputs: PredictOutput
) -> None:
    """Look at a scene, and report what there is to know."""
    card = predictor.ensemble.card
    scene_input = SceneInput.of(source, predictor.ensemble)
    scenes = SceneSettings(optical=source.optical, bands=source.bands, crs=source.crs)
    found = diagnose(scene_input.files, Config(scenes=scenes, height=scene_input.height))
    report.facts["scenes"] = {Path(source.optical[0]).name: found.facts}
    report.add(*found.findings)
    if not found.ok:
        return
    plan = predictor.plan(scene_input)
    size = plan.target
    bytes_each = sum(product.count for product in outputs.products(card.class_table))
    report.facts |= {
        "model": {"classes": list(card.class_table.names), "bands": list(card.band_names)},
        "map": {"width": size.width, "height": size.height, "gsd": plan.grid.gsd},
        "windows": plan.window_count,
        "window": plan.windows.size,
        "device": ", ".join(map(str, predictor.devices)),
        "estimate": {
            **predictor.estimate(plan),
            "disk_at_most": size.width * size.height * bytes_each,
        },
    }


def _check_outputs(
    models: Sequence[Path], source: PredictInput, outputs: PredictOutput, overwrite: bool
) -> None:
    inputs = [*map(str, models), *source.paths]
    paths = [*outputs.paths.values()]
    beside = {os.path.realpath(f"{outputs.labels}.toml")}
    beside |= {os.path.realpath(f"{path}.aux.xml") for path in paths}
    for path in paths:
        if os.path.realpath(path) in beside:
            raise ConfigError(f"{path} is written beside another output; choose another name")
        if path.is_dir():
            raise OutputError(f"{path} is a folder; name a file, or pass --per-file")
    check_outputs([*outputs.paths.values()], inputs, overwrite)
