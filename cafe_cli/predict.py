"""``cafe predict``: scenes and models to georeferenced rasters, strip by strip."""

import hashlib
import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from cafe_cli import __version__
from cafe_cli.area import Area
from cafe_cli.blend import window_weights
from cafe_cli.checkpoint import ModelCard
from cafe_cli.config import (
    Config,
    HeightSettings,
    PredictSettings,
    SceneSettings,
    read_beside,
    save_beside,
)
from cafe_cli.device import choose_all
from cafe_cli.diagnosis import diagnose
from cafe_cli.ensemble import Engine, Ensemble, choose_engine
from cafe_cli.errors import BandError, CafeError, ConfigError, OutputError, SomeFailedError
from cafe_cli.feed import Feeder
from cafe_cli.files import check_outputs, stamps
from cafe_cli.forward import Forward, blank
from cafe_cli.grid import Grid
from cafe_cli.heights import Ground
from cafe_cli.inference import Inference
from cafe_cli.meter import Meter
from cafe_cli.pairing import SceneFiles
from cafe_cli.parallel import cores
from cafe_cli.report import Report
from cafe_cli.request import Compute, Outputs, Source
from cafe_cli.scene import Scene, estimate_scene_ground, open_scene
from cafe_cli.sliding import Slide, divide
from cafe_cli.strips import StripStore
from cafe_cli.windows import Window

log = logging.getLogger("cafe")

Progress = Callable[[Meter], None]

_GSD_TOLERANCE = 0.1
_PROCESS = 600_000_000  # bytes that torch and GDAL take to begin with


def predict(
    models: Sequence[Path],
    source: Source,
    outputs: Outputs,
    *,
    settings: PredictSettings | None = None,
    compute: Compute | None = None,
    progress: Progress = lambda meter: None,
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
        How windows slide, and what is averaged.
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
        See `cafe_cli.scene.open_scene` and `cafe_cli.area.Area`.
    OutputError
        An output exists or cannot be written, or there is nothing that fits to be resumed.
    """
    # What may be complete already is looked at later.
    _check_outputs(models, source, outputs, outputs.overwrite or outputs.resume)
    predictor = Predictor(models, settings or PredictSettings(), compute or Compute())
    return predictor.run(source, outputs, progress)


def predict_each(
    models: Sequence[Path],
    source: Source,
    outputs: Outputs,
    *,
    settings: PredictSettings | None = None,
    compute: Compute | None = None,
    progress: Progress = lambda meter: None,
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
    predictor = Predictor(models, settings or PredictSettings(), compute or Compute())
    total, failed = Meter(), []
    for number, (one, files) in enumerate(orders, start=1):
        name = one.optical[0]
        try:
            meter = predictor.run(one, files, progress, f"{number}/{len(orders)} {Path(name).stem}")
        except (CafeError, OSError) as error:
            log.error("%s", f"{error}" if name in str(error) else f"{name}: {error}")
            failed.append(name)
        else:
            total.join(meter)
    if failed:
        kind = SomeFailedError if len(failed) < len(orders) else CafeError
        raise kind(f"{len(failed)} of {len(orders)} orthophotos failed: {', '.join(failed)}")
    return total


def _orders(source: Source, outputs: Outputs) -> Iterator[tuple[Source, Outputs]]:
    """Yield what to do for every orthophoto."""
    stems = [Path(name).stem for name in source.optical]
    if twice := sorted({stem for stem in stems if stems.count(stem) > 1}):
        raise ConfigError(f"two orthophotos would both make {twice[0]}.tif; rename one of them")
    for folder in outputs.paths.values():
        if folder.exists() and not folder.is_dir():
            raise OutputError(f"{folder} is a file; with --per-file, name a folder")
    for name, stem in zip(source.optical, stems, strict=True):
        yield replace(source, optical=(name,)), outputs.inside(f"{stem}.tif")


class Predictor:
    """Models made ready, for one scene after the other.

    Parameters
    ----------
    models : sequence of Path
    settings : PredictSettings
    compute : Compute
    """

    def __init__(self, models: Sequence[Path], settings: PredictSettings, compute: Compute) -> None:
        self.settings = settings
        self.devices = choose_all(compute.device)
        self.ensemble = Ensemble.load(models)
        self.slide = self.ensemble.slide(settings)
        self._jobs = compute.jobs or cores()
        self._forwards: dict[Engine, list[Forward]] = {}

    def forwards(self, engine: Engine) -> list[Forward]:
        """Return the networks on every device, brought there when they are needed first."""
        if engine not in self._forwards:
            ready = self.ensemble.ready
            self._forwards[engine] = [
                ready(self.settings, self.slide, device, engine) for device in self.devices
            ]
        return self._forwards[engine]

    def engine(self, windows: int) -> Engine:
        """Return what to run so many windows with."""
        return choose_engine(self.settings.engine, self.devices, windows)

    def run(self, source: Source, outputs: Outputs, progress: Progress, name: str = "") -> Meter:
        """Predict a scene; see `predict`."""
        job = _Job.of(source, self.ensemble)
        with job.open() as scene:
            _check_scene(scene, self.ensemble.card)
            grid, block = scene.grid, scene.optical_block
        area = _area(source, grid)
        classes = self.ensemble.card.class_table
        strips = divide(grid.extent, area.extent, self.slide, len(classes))
        meter = Meter(sum(strip.windows for strip in strips), name)
        engine = self.engine(meter.total)
        made_of = self._made_of(source, job, area) | {"engine": engine}
        if outputs.resume and _is_complete(outputs, made_of):
            log.info("%s is complete", outputs.labels)
            meter.resume(meter.total)
            return meter
        self._check_outputs(source, outputs, outputs.overwrite)
        products = outputs.products(classes)
        tags = {"CAFE_MODEL": self.ensemble.names, "CAFE_VERSION": __version__}

        def placed(extent: Window) -> Window:
            """Count from the upper left pixel of the outputs."""
            here = area.extent
            return Window(extent.col - here.col, extent.row - here.row, extent.width, extent.height)

        with StripStore(products, grid.at(area.extent), made_of, outputs, tags) as store:
            left = [strip for strip in strips if placed(strip.extent) not in store.done]
            meter.resume(meter.total - sum(strip.windows for strip in left))
            if left:
                jobs = max(self._jobs // len(self.devices), 1)
                opened = job.with_ground().open
                feeder = Feeder(opened, block, self.slide, jobs, area.touches)
                weights = window_weights(self.slide.window, self.settings.blend, self.slide.overlap)
                wanted = frozenset(outputs.paths)
                inference = Inference(
                    feeder, area, self.slide, weights, len(classes), wanted, meter, progress
                )
                inference.run(
                    left,
                    self.forwards(engine),
                    lambda extent, planes: store.write(placed(extent), planes),
                )
            store.finish()
        save_beside(
            outputs.labels,
            self._described(source) | {"engine": engine, "made_of": _digest(made_of)},
        )
        return meter

    def _check_outputs(self, source: Source, outputs: Outputs, overwrite: bool) -> None:
        _check_outputs(self.ensemble.paths, source, outputs, overwrite)

    def _made_of(self, source: Source, job: "_Job", area: Area) -> dict[str, object]:
        """Return everything that the result depends on, by names that a person understands."""
        files = {f"input {name}": list(stamp) for name, stamp in stamps(source.names).items()}
        chosen = {k: v for k, v in asdict(source).items() if k not in ("aoi", "bbox", "bbox_crs")}
        slide = {"window": self.slide.window, "overlap": self.slide.overlap}
        averaged = {k: getattr(self.settings, k) for k in ("blend", "tta", "scales")}
        return {
            "cafe": __version__,
            "device": sorted({device.type for device in self.devices})[0],
            **self.ensemble.made_of(),
            **files,
            **chosen,
            "height": job.height.model_dump(),
            "area": area.key,
            **slide,
            **averaged,
        }

    def _described(self, source: Source) -> dict[str, object]:
        sliding = {"window": self.slide.window, "overlap": self.slide.overlap}
        settings = {**self.settings.model_dump(), **sliding}
        models = [str(path) for path in self.ensemble.paths]
        return {"models": models, "source": vars(source), "predict": settings}


@dataclass(frozen=True)
class _Job:
    """What it takes to open a scene, as often as there are threads."""

    files: SceneFiles
    height: HeightSettings
    bands: tuple[int, ...] | None
    crs: str | None
    gsd: float | None
    ground: Ground | None = None

    @classmethod
    def of(cls, source: Source, ensemble: Ensemble) -> "_Job":
        files = SceneFiles("scene", source.optical, *_heights_used(source, ensemble))
        gsd = ensemble.card.gsd if source.gsd == "model" else None
        return cls(files, _height_settings(source, ensemble), source.bands, source.crs, gsd)

    @contextmanager
    def open(self) -> Iterator[Scene]:
        with open_scene(
            self.files, self.height, self.bands, ground=self.ground, gsd=self.gsd, crs=self.crs
        ) as scene:
            yield scene

    def with_ground(self) -> "_Job":
        """Estimate the ground once for all threads, if it is to be estimated."""
        return replace(self, ground=estimate_scene_ground(self.files, self.height, self.crs))


def rehearse(
    models: Sequence[Path],
    source: Source,
    outputs: Outputs,
    *,
    settings: PredictSettings | None = None,
    compute: Compute | None = None,
) -> Report:
    """Check everything that `predict` would, and say what it would take; arguments as there."""
    report = Report("predict")
    with report.noting(str(outputs.labels)):
        _check_outputs(models, source, outputs, outputs.overwrite or outputs.resume)
    with report.noting(", ".join(map(str, models))):
        predictor = Predictor(models, settings or PredictSettings(), compute or Compute())
        _look(report, predictor, source, outputs)
    return report


def rehearse_each(
    models: Sequence[Path],
    source: Source,
    outputs: Outputs,
    *,
    settings: PredictSettings | None = None,
    compute: Compute | None = None,
) -> list[Report]:
    """Check everything that `predict_each` would, orthophoto by orthophoto."""
    orders = [*_orders(source, outputs)]
    predictor = Predictor(models, settings or PredictSettings(), compute or Compute())
    reports = []
    for one, files in orders:
        report = Report("predict")
        with report.noting(one.optical[0]):
            if files.labels.parent.exists():  # otherwise it will be made
                _check_outputs(models, one, files, outputs.overwrite or outputs.resume)
            _look(report, predictor, one, files)
        reports.append(report)
    return reports


def _look(report: Report, predictor: "Predictor", source: Source, outputs: Outputs) -> None:
    """Look at a scene, and report what there is to know."""
    card = predictor.ensemble.card
    job = _Job.of(source, predictor.ensemble)
    scenes = SceneSettings(optical=source.optical, bands=source.bands, crs=source.crs)
    found = diagnose(job.files, Config(scenes=scenes, height=job.height))
    report.facts["scenes"] = {job.files.id: found.facts}
    report.add(*found.findings)
    if not found.ok:
        return
    with job.open() as scene:
        _check_scene(scene, card)
        grid = scene.grid
    area = _area(source, grid)
    size = grid.at(area.extent)
    strips = divide(grid.extent, area.extent, predictor.slide, len(card.class_table))
    windows = sum(strip.windows for strip in strips)
    seconds = (
        _seconds(
            predictor.forwards(predictor.engine(windows))[0], predictor.slide, len(card.band_names)
        )
        * windows
    )
    broadest = max(strip.extent.width for strip in strips)
    report.facts |= {
        "model": {"classes": list(card.class_table.names), "bands": list(card.band_names)},
        "map": {"width": size.width, "height": size.height, "gsd": grid.gsd},
        "windows": windows,
        "window": predictor.slide.window,
        "device": ", ".join(map(str, predictor.devices)),
        "estimate": {
            "seconds": float(f"{seconds / len(predictor.devices):.2g}"),
            "memory": _memory(predictor, broadest),
            "disk_at_most": size.width * size.height * _bytes_per_pixel(outputs, card),
        },
    }


def _check_outputs(
    models: Sequence[Path], source: Source, outputs: Outputs, overwrite: bool
) -> None:
    inputs = [*map(str, models), *source.names]
    check_outputs([*outputs.paths.values()], inputs, overwrite)


def _is_complete(outputs: Outputs, made_of: Mapping[str, object]) -> bool:
    """Whether the outputs are there, made of the same things with the same settings."""
    known = read_beside(outputs.labels).get("made_of")
    return known == _digest(made_of) and all(path.exists() for path in outputs.paths.values())


def _digest(made_of: Mapping[str, object]) -> str:
    return hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()


def _area(source: Source, grid: Grid) -> Area:
    """Return what of a scene is wanted."""
    area = Area.whole(grid)
    if source.bbox is not None:
        area = Area.from_bbox(source.bbox, grid, source.bbox_crs)
    if source.aoi is None:
        return area
    inside = Area.from_file(source.aoi, grid)
    return inside if source.bbox is None else inside.intersection(area)


def _seconds(forward: Forward, slide: Slide, bands: int) -> float:
    """Measure the seconds that a window takes, without reading it."""
    batch = [blank(bands, slide.window)] * forward.batch_size
    forward(batch)  # the first time is no measure
    start = time.perf_counter()
    forward(batch).sum().item()
    return (time.perf_counter() - start) / len(batch)


def _memory(predictor: Predictor, width: int) -> int:
    """Estimate the bytes of the scores and the pixels of a band, and of the networks."""
    window, classes = predictor.slide.window, len(predictor.ensemble.card.class_table)
    scores = (classes + 1) * (width + 2 * window) * window * 4
    return round(_PROCESS + predictor.ensemble.parameters * 8 + scores + width * window * 40)


def _bytes_per_pixel(outputs: Outputs, card: ModelCard) -> int:
    return sum(product.count for product in outputs.products(card.class_table))


def _heights_used(source: Source, ensemble: Ensemble) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the surface and terrain models that the models have a use for."""
    if source.dtm and not source.elevation:
        raise ConfigError("--dtm is the ground to take heights above: give --elevation too")
    if not ensemble.has_height:
        if source.elevation:
            unused = ", ".join(source.elevation)
            log.warning("the model was trained without heights: %s will not be read", unused)
        return (), ()
    if not source.elevation:
        log.warning("the model was trained with heights and gets none: expect a poorer map")
        return (), ()
    if ensemble.height.ground == "dtm" and not source.dtm:
        log.warning(
            "the model was trained with heights above a terrain model and gets none (--dtm): the "
            "ground is estimated"
        )
    return source.elevation, source.dtm


def _height_settings(source: Source, ensemble: Ensemble) -> HeightSettings:
    """Return how heights are brought to what the model was trained on."""
    height = ensemble.height
    given = {"unit": source.height_unit, "nodata": source.height_nodata}
    changes: dict[str, object] = {k: v for k, v in given.items() if v is not None}
    if height.ground in ("dtm", "estimate"):
        changes["ground"] = "auto"
    return height.model_copy(update=changes)


def _check_scene(scene: Scene, card: ModelCard) -> None:
    wanted, given = card.band_names, scene.bands
    if len(given) != len(wanted):
        raise BandError(
            f"{scene.files.name} has {len(given)} bands, the model was trained on "
            f"{len(wanted)} ({', '.join(wanted)}); choose them with --bands"
        )
    if scene.dtype != card.dtype:
        log.warning(
            "%s is %s, the model was trained on %s: pixel values may mean something else",
            scene.files.name,
            scene.dtype,
            card.dtype,
        )
    ratio = scene.grid.gsd / card.gsd
    if abs(ratio - 1) > _GSD_TOLERANCE:
        log.warning(
            "the GSD of %s is %.3g m, the model was trained at %.3g m; --gsd model resamples",
            scene.files.name,
            scene.grid.gsd,
            card.gsd,
        )
