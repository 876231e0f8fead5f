"""``cafe predict``: georeferenced maps from scenes and models, and its dry run."""

import logging
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from cafe_cli.cluster.job import ClusterOptions
from cafe_cli.config.schema import Config, PredictSettings, SceneSettings
from cafe_cli.errors import CafeError, ConfigError, OutputError, PartialFailureError
from cafe_cli.findings import Report
from cafe_cli.inference.exchange import check_scratch
from cafe_cli.inference.job import ComputeOptions, PredictInput, PredictOutput, SceneJob
from cafe_cli.inference.plan import PredictPlan
from cafe_cli.inference.predictor import MeterCallback, Predictor
from cafe_cli.inference.scene_input import SceneInput
from cafe_cli.inference.throughput import Meter
from cafe_cli.inference.tiling import Share
from cafe_cli.inference.workload import Workload
from cafe_cli.redaction import base_name, redact, stem
from cafe_cli.scenes.discovery import find_placeholder, find_scenes
from cafe_cli.scenes.inspection import SceneInspection
from cafe_cli.scenes.scene import find_scene_ground
from cafe_cli.scenes.scene_ground import SceneGround

log = logging.getLogger("cafe")


def predict(
    models: Sequence[Path],
    source: PredictInput,
    outputs: PredictOutput,
    *,
    settings: PredictSettings | None = None,
    compute: ComputeOptions | None = None,
    cluster: ClusterOptions | None = None,
    progress: MeterCallback = lambda meter: None,
) -> Meter:
    """Write the label raster of a scene.

    The networks run on overlapping windows, and the class probabilities are averaged with weights
    that decrease towards the edges of a window. Memory depends on the window and, up to a limit, on
    the width of the scene, not on its height. The result is a function of scene, models and
    settings only.

    Parameters
    ----------
    models : sequence of Path
        Model files of ``cafe train``; the probabilities of several are averaged.
    source : PredictInput
    outputs : PredictOutput
    settings : PredictSettings, optional
        Window size, overlap and test-time augmentation among others.
    compute : ComputeOptions, optional
    cluster : ClusterOptions, optional
        Workers that run the strips; the map is the same.
    progress : callable
        Called with the meter after every row of windows, or every task of a worker.

    Returns
    -------
    Meter
        Counts and times of the run.

    Raises
    ------
    ModelFileError
        A model cannot be used.
    BandError
        The number of bands differs from that of the training data.
    ConfigError
        Settings contradict each other, or models cannot be averaged.
    InputError, GridError
        See `cafe_cli.scenes.inspection.inspect_scene` and
        `cafe_cli.vector.area_of_interest.Area`.
    OutputError
        An output exists or cannot be written, or an interrupted run cannot be resumed.
    """
    settings, compute = settings or PredictSettings(), compute or ComputeOptions()
    _check_outputs(models, source, outputs)
    if cluster is not None:
        job = SceneJob(source, outputs)
        _run_on_cluster(models, [job], settings, compute, cluster, progress)
        if job.error is not None:
            raise job.error
        return job.meter or Meter()
    predictor = Predictor(models, settings, compute)
    scene_input = SceneInput.of(source, predictor.ensemble)
    return predictor.run(predictor.plan(scene_input, outputs), progress)


def predict_per_file(
    models: Sequence[Path],
    source: PredictInput,
    outputs: PredictOutput,
    *,
    settings: PredictSettings | None = None,
    compute: ComputeOptions | None = None,
    cluster: ClusterOptions | None = None,
    progress: MeterCallback = lambda meter: None,
) -> Meter:
    """Write the label raster of every orthophoto.

    Parameters
    ----------
    models : sequence of Path
        See `predict`.
    source : PredictInput
        Every orthophoto is a scene, with all surface and terrain models. Where names have
        placeholders, as in ``ortho/{id}.tif`` and ``dsm/{id}.tif``, these pair the files, and the
        maps are named by what they match. `strips` selects scenes, which are mapped as a whole.
    outputs : PredictOutput
        Folders, in which the rasters are named like the orthophotos.
    settings, compute, cluster, progress : optional
        See `predict`.

    Raises
    ------
    PartialFailureError
        Some orthophotos failed; the reasons are in the log.
    ConfigError
        Two orthophotos share a name.
    """
    settings, compute = settings or PredictSettings(), compute or ComputeOptions()
    parts = [*_split_per_file(source, outputs)]
    names = [f"{n}/{len(parts)} {stem(one.optical[0])}" for n, (one, _) in enumerate(parts, 1)]
    jobs = [SceneJob(*part, name) for part, name in zip(parts, names, strict=True)]
    total, failed = Meter(), []
    run = partial(_run_here, models, jobs, settings, compute)
    if cluster is not None:
        run = partial(_run_on_cluster, models, jobs, settings, compute, cluster)
    run(progress)
    for job in jobs:
        if job.meter is None:
            failed.append(redact(job.source.optical[0]))
            continue
        total.merge(job.meter)
        for skipped in job.meter.skipped:
            log.warning(
                "%s is incomplete, since files could not be read: %s", job.outputs.labels, skipped
            )
    if failed:
        message = f"{len(failed)} of {len(jobs)} orthophotos failed: {', '.join(failed)}"
        if (written := len(jobs) - len(failed)) == 0:
            raise CafeError(message)
        raise PartialFailureError(f"{message}; {written} maps are in {outputs.labels}")
    return total


def _run_here(
    models: Sequence[Path],
    jobs: Sequence[SceneJob],
    settings: PredictSettings,
    compute: ComputeOptions,
    progress: MeterCallback,
) -> None:
    """Predict scenes one after the other."""
    predictor = Predictor(models, settings, compute)
    for job in jobs:
        with job.errors():
            _check_outputs(models, job.source, job.outputs)
            plan = predictor.plan(SceneInput.of(job.source, predictor.ensemble), job.outputs)
            job.meter = predictor.run(plan, progress, job.name)


def _run_on_cluster(
    models: Sequence[Path],
    jobs: Sequence[SceneJob],
    settings: PredictSettings,
    compute: ComputeOptions,
    options: ClusterOptions,
    progress: MeterCallback,
) -> None:
    """Predict scenes on the workers of a cluster."""
    from cafe_cli.cluster.cluster import Cluster
    from cafe_cli.inference.on_cluster import ClusterPredictor

    check_scratch(options.scratch)
    with Cluster(options) as cluster:
        ClusterPredictor(cluster, models, settings, compute, options.scratch).run(jobs, progress)


def dry_run(
    models: Sequence[Path],
    source: PredictInput,
    outputs: PredictOutput,
    *,
    settings: PredictSettings | None = None,
    compute: ComputeOptions | None = None,
    rate: float | None = None,
    workers: int | None = None,
) -> Report:
    """Check everything that `predict` checks; estimate time, memory and bytes.

    Parameters
    ----------
    models, source, outputs, settings, compute
        See `predict`.
    rate : float, optional
        Megapixels of the map that a worker makes per second. If None, the networks run on a few
        windows here, unless torch would have to be imported for that on a CPU.
    workers : int, optional
        Workers of a cluster, among which the strips are divided.

    Returns
    -------
    Report
        Its facts hold a `cafe_cli.inference.workload.Workload` as ``workload``, if there was no
        error.
    """
    report = Report("predict")
    with report.capture_errors(str(outputs.labels)):
        _check_outputs(models, source, outputs)
    with report.capture_errors(", ".join(map(str, models))):
        predictor = Predictor(models, settings or PredictSettings(), compute or ComputeOptions())
        _dry_run_scene(report, predictor, source, outputs, rate, workers)
    return report


def dry_run_per_file(
    models: Sequence[Path],
    source: PredictInput,
    outputs: PredictOutput,
    *,
    settings: PredictSettings | None = None,
    compute: ComputeOptions | None = None,
    rate: float | None = None,
    workers: int | None = None,
) -> Iterator[Report]:
    """Check everything that `predict_per_file` checks: yield a report for every orthophoto.

    Parameters and reports are those of `dry_run`. One plan is in memory at a time.
    """
    jobs = [*_split_per_file(source, outputs)]
    predictor = Predictor(models, settings or PredictSettings(), compute or ComputeOptions())

    def check(one: PredictInput, files: PredictOutput) -> Report:
        report = Report("predict")
        with report.capture_errors(one.optical[0]):
            _check_outputs(models, one, files)
        with report.capture_errors(one.optical[0]):
            _dry_run_scene(report, predictor, one, files, rate, workers)
        return report

    return (check(one, files) for one, files in jobs)


def _check_outputs(models: Sequence[Path], source: PredictInput, outputs: PredictOutput) -> None:
    """Refuse outputs that exist or are inputs, before a model is loaded."""
    outputs.check([*map(str, models), *source.paths])


def _split_per_file(
    source: PredictInput, outputs: PredictOutput
) -> Iterator[tuple[PredictInput, PredictOutput]]:
    """Yield inputs and outputs of every orthophoto, or of every scene if names have ``{id}``."""
    named = [*_name_scenes(source)]
    stems = Counter(short for short, _ in named)
    if twice := sorted(short for short, count in stems.items() if count > 1):
        raise ConfigError(f"two orthophotos would both make {twice[0]}.tif; rename one of them")
    folders = [*map(os.path.realpath, outputs.paths.values())]
    if twice := [folder for folder in folders if folders.count(folder) > 1]:
        raise ConfigError(f"{twice[0]} is the folder of two outputs; name one for each")
    for folder in outputs.paths.values():
        if folder.exists() and not folder.is_dir():
            raise OutputError(f"{folder} is a file; with --per-file, name a folder")
    if source.strips is not None:
        named = named[Share.parse(source.strips).of([1] * len(named), "orthophotos")]
    for short, one in named:
        yield replace(one, strips=None), outputs.in_folders(f"{short}.tif")


def _name_scenes(source: PredictInput) -> Iterator[tuple[str, PredictInput]]:
    """Yield the name of every map and its rasters, which placeholders pair as in a config."""
    if find_placeholder(source.optical) is None:
        for name in source.optical:
            yield stem(name), replace(source, optical=(name,))
        return
    settings = SceneSettings(
        optical=source.optical, elevation=source.elevation or None, dtm=source.dtm or None
    )
    for scene in find_scenes(settings):
        files = {key: getattr(scene, key) for key in ("optical", "elevation", "dtm")}
        yield scene.id, replace(source, **files)


def _dry_run_scene(
    report: Report,
    predictor: Predictor,
    source: PredictInput,
    outputs: PredictOutput,
    rate: float | None,
    workers: int | None,
) -> None:
    """Report the check of the rasters of a scene, and the plan or the error that prevents one."""
    from cafe_cli.checks.scene import diagnose  # takes longer to import than all of the rest

    scene_input = SceneInput.of(source, predictor.ensemble)
    scenes = SceneSettings(
        optical=source.optical, bands=source.bands, crs=source.crs, pixel_size=source.pixel_size,
        optical_nodata=source.optical_nodata,
    )  # fmt: skip
    ground: list[SceneGround] = []  # the check of the heights estimates it, if it is small

    def estimate(inspection: SceneInspection) -> SceneGround | None:
        found = find_scene_ground(inspection)
        ground.extend([found] if found else [])
        return found

    config = Config(scenes=scenes, height=scene_input.height)
    # A part of the scene, or one that may have holes, is mapped where its files are.
    in_full = source.on_error == "fail" and not (source.aoi or source.bbox or source.strips)
    found = diagnose(scene_input.files, config, estimate, in_full)
    report.facts["scenes"] = {base_name(source.optical[0]): found.facts}
    report.add(*found.findings)
    if found.ok:
        plan = predictor.plan(scene_input, outputs)
        report.add(*predictor.check_fit(plan, ground[0] if ground else None))
        report.facts |= _describe_plan(plan, predictor, rate, workers)


def _describe_plan(
    plan: PredictPlan, predictor: Predictor, rate: float | None, workers: int | None
) -> dict[str, object]:
    """Return the facts of a dry run."""
    card, target = predictor.ensemble.card, plan.target
    depth = sum(product.count for product in plan.outputs.products(card.classes))
    alone = Workload.of(plan, depth)
    work = Workload.of(plan, depth, workers) if workers else alone
    pace = alone.pixels / 1e6 / rate / alone.windows if rate else predictor.seconds_per_window(plan)
    seconds = None if pace is None else pace * work.windows
    work = replace(work, worker_hours=None if seconds is None else seconds / 3600)
    return {
        "model": {"classes": list(card.classes.names), "bands": list(card.band_names)},
        "map": {"width": target.width, "height": target.height, "gsd": plan.inspection.grid.gsd},
        "strips": len(plan.strips),
        "windows": plan.window_count,
        "window": plan.windows.size,
        "device": ", ".join(map(str, predictor.devices)),
        "estimate": {
            **({} if seconds is None else {"seconds": float(f"{seconds:.2g}")}),
            "memory": predictor.estimate_memory(plan),
            # The strips are removed when the map is complete.
            "disk_at_most": work.strip_bytes + work.output_bytes,
        },
        "workload": work.as_json(),
    }
