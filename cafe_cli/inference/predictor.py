"""Run an ensemble over scenes one after the other; its networks stay on the devices."""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from cafe_cli import __version__
from cafe_cli.config.provenance import provenance_tags, save_beside
from cafe_cli.config.schema import PredictSettings
from cafe_cli.errors import InputError
from cafe_cli.findings import Finding
from cafe_cli.inference.blending import window_weights
from cafe_cli.inference.devices import choose_devices
from cafe_cli.inference.ensemble import Engine, Ensemble, choose_engine
from cafe_cli.inference.fit import check_fit
from cafe_cli.inference.forward import BatchedForward, blank_patch
from cafe_cli.inference.job import ComputeOptions, PredictOutput
from cafe_cli.inference.pipeline import Inference
from cafe_cli.inference.plan import PredictPlan
from cafe_cli.inference.scene_input import SceneInput
from cafe_cli.inference.strip_store import StripStore, engine_of_run, remove_leftovers
from cafe_cli.inference.strip_writer import ProductPlanes
from cafe_cli.inference.throughput import Meter
from cafe_cli.inference.tiling import Share, Strip, WindowGrid, divide
from cafe_cli.inference.window_reader import WindowReader
from cafe_cli.model.stored import check_weights
from cafe_cli.raster.acquired import find_acquired
from cafe_cli.raster.input_files import InputFiles
from cafe_cli.raster.output_files import stac_path
from cafe_cli.raster.skipped import SkippedFile, files_of, skipped_settings, skipped_tag
from cafe_cli.raster.stac import item_text, require_pystac
from cafe_cli.raster.window import Window
from cafe_cli.scenes.scene import find_scene_ground, open_scene
from cafe_cli.scenes.scene_ground import SceneGround
from cafe_cli.system.atomic_write import remove, translate_os_errors, write_text
from cafe_cli.system.locks import lock_outputs
from cafe_cli.system.threads import cores

log = logging.getLogger("cafe")

MeterCallback = Callable[[Meter], None]
"""Called with the meter after every row of windows."""

WriteStrip = Callable[[Window, ProductPlanes, bool], None]
"""Called with the extent of a strip, its pixels, and whether a later run may use it."""

_PROCESS = {"torch": 600_000_000, "onnx": 200_000_000}
"""Bytes of a process that has imported the engine and GDAL."""


class Predictor:
    """An ensemble on its devices.

    Parameters
    ----------
    models : sequence of Path
    settings : PredictSettings
    compute : ComputeOptions
    devices : sequence of str, optional
        Devices to use in place of those that `compute` names here.
    """

    def __init__(
        self,
        models: Sequence[Path],
        settings: PredictSettings,
        compute: ComputeOptions,
        devices: Sequence[str] | None = None,
    ) -> None:
        self.ensemble = Ensemble.load(models)
        self.settings = self.ensemble.complete(settings)
        automatic = compute.device == "auto"
        self.devices = devices or choose_devices(
            "cpu" if automatic and self.ensemble.is_onnx else compute.device
        )
        self._jobs = compute.jobs or cores()
        self._prepared: tuple[Engine, WindowGrid, list[BatchedForward]] | None = None
        self._paces: dict[tuple[Engine, int], float | None] = {}

    def plan(self, scene_input: SceneInput, outputs: PredictOutput) -> PredictPlan:
        """Check the inputs, and what a run to resume has left; errors as in `predict`."""
        ensemble, settings = self.ensemble, self.settings
        inputs = InputFiles.behind(scene_input.source.paths)
        acquired = None
        if outputs.stac:
            require_pystac()
            acquired = find_acquired(outputs.stac.datetime, scene_input.source.optical)
        inspection, area = scene_input.inspect(ensemble)
        windows = ensemble.window_grid(settings, inspection.grid.extent)
        classes = len(ensemble.card.classes)
        strips = divide(inspection.grid.extent, area.extent, windows, classes)
        # The engine is chosen for the whole area, so that all parts have the same.
        count = sum(strip.window_count for strip in strips)
        if scene_input.source.strips is not None:
            share = Share.parse(scene_input.source.strips)
            strips = strips[share.of([strip.window_count for strip in strips], "strips")]
        asked: str = settings.engine
        if asked == "auto" and outputs.resume:
            # A model that was exported meanwhile must not keep a run from being resumed.
            asked = engine_of_run(outputs.labels) or asked
        engine = choose_engine(asked, self.devices, count, ensemble)
        fingerprint = {
            "cafe": __version__,
            "device": self.devices[0].partition(":")[0],
            "engine": engine,
            **ensemble.fingerprint,
            **scene_input.fingerprint(inputs),
            "area": area.key,
            "window": windows.size,
            "overlap": windows.overlap,
            **{name: getattr(settings, name) for name in ("blend", "tta", "scales")},
        }
        plan = PredictPlan(
            scene_input.source, outputs, inspection, area, windows, strips, engine, fingerprint,
            inputs, acquired,
        )  # fmt: skip
        plan.check_resume()
        return plan

    def run(self, plan: PredictPlan, progress: MeterCallback, name: str = "") -> Meter:
        """Write the outputs of a plan, unless a run to resume has completed them already."""
        meter = Meter(plan.window_count, name)
        if self.is_complete(plan, meter):
            return meter
        self.ensemble.check(plan.engine)
        with self.open_store(plan) as store:
            if left := strips_left(plan, store, meter):
                ground = self.prepare_ground(plan)

                def write(extent: Window, planes: ProductPlanes, keep: bool) -> None:
                    store.write(plan.in_outputs(extent), planes, keep)

                self.infer(plan, ground, left, write, meter, progress)
            self.complete(plan, store, meter)
        return meter

    def is_complete(self, plan: PredictPlan, meter: Meter) -> bool:
        """Whether a run to resume has completed the outputs; see to what belongs to them then."""
        outputs = plan.outputs
        if not outputs.resume or not plan.is_complete:
            return False
        log.info("%s is complete", outputs.labels)
        products = outputs.products(self.ensemble.card.classes)
        with lock_outputs([path for product in products for path in product.claimed]):
            remove_leftovers(outputs.labels)
            if outputs.stac:
                self._describe(plan)
        meter.resume(meter.total)
        return True

    def open_store(self, plan: PredictPlan) -> StripStore:
        """Return the strips of the outputs, to be entered; make the folders of the outputs."""
        for path in plan.outputs.paths.values():
            with translate_os_errors(path):
                path.parent.mkdir(parents=True, exist_ok=True)
        products = plan.outputs.products(self.ensemble.card.classes)
        tags = provenance_tags(plan.source.paths, self.ensemble.hashes)
        return StripStore(products, plan.target, plan.fingerprint, plan.outputs, tags)

    def complete(self, plan: PredictPlan, store: StripStore, meter: Meter) -> None:
        """Assemble the outputs from their strips, and write what belongs to them."""
        if meter.pixels:
            plan.inputs.check_unchanged()
        meter.skipped = files_of(plan.inspection.skipped)
        store.finish(skipped_tag(meter.skipped))
        # Written before the strips are removed: if the process is killed here, the resumed run
        # writes them.
        self._describe(plan)
        save_beside(plan.outputs.labels, self._provenance(plan, meter.skipped))
        meter.written += 1
        if not meter.run and meter.pixels == plan.target.width * plan.target.height:
            log.warning("%s has no valid pixel to label", plan.outputs.labels)

    def prepare_ground(self, plan: PredictPlan) -> SceneGround | None:
        """Estimate the ground of a scene if it needs that; check that the scene fits the models.

        Raises
        ------
        InputError
            It cannot be what they were trained on.
        """
        ground = find_scene_ground(plan.inspection)
        for finding in self.check_fit(plan, ground):
            if finding.level == "error":
                raise InputError(finding.message)
            log.warning("%s", finding.message)
        return ground

    def forwards(self, plan: PredictPlan) -> list[BatchedForward]:
        """Return the networks on every device; those of the previous scene if they fit."""
        if self._prepared is None or self._prepared[:2] != (plan.engine, plan.windows):
            prepare = self.ensemble.prepare
            forwards = [prepare(self.settings, plan.windows, d, plan.engine) for d in self.devices]
            self._prepared = plan.engine, plan.windows, forwards
        return self._prepared[2]

    def estimate_memory(self, plan: PredictPlan) -> int:
        """Return the bytes of memory that a run takes, about."""
        size = plan.windows.size
        width = max(strip.extent.width for strip in plan.strips) + 2 * size
        scores = width * size * (4 * len(self.ensemble.card.classes) + 44)
        # GDAL holds the compressed block, too.
        blocks = 2 * self._readers(plan) * len(self.devices) * plan.inspection.block_bytes
        return _PROCESS[plan.engine] + self.ensemble.parameters * 8 + scores + blocks

    def seconds_per_window(self, plan: PredictPlan) -> float | None:
        """Return the seconds of a window in the networks, from a few windows of zeros.

        They are measured once for a size of windows. None where that would take longer than all of
        the rest of a dry run: where torch would have to be imported on a CPU.
        """
        key = plan.engine, plan.windows.size
        if key not in self._paces:
            with_torch = plan.engine == "torch" or not self.ensemble.has_graphs
            if with_torch and set(self.devices) == {"cpu"}:
                for file in self.ensemble.files:
                    check_weights(file.path)
                self._paces[key] = None
            else:
                self._paces[key] = self._time_window(plan)
        return self._paces[key]

    def _time_window(self, plan: PredictPlan) -> float:
        forward = self.forwards(plan)[0]
        patch = blank_patch(self.ensemble.card.architecture, plan.windows.size)
        batch = [patch] * forward.batch_size
        float(forward(batch).sum())  # the first pass takes longer
        start = time.perf_counter()
        float(forward(batch).sum())
        return (time.perf_counter() - start) / len(batch) / len(self.devices)

    def _readers(self, plan: PredictPlan) -> int:
        """Return the number of threads that read for each device."""
        return plan.inspection.bound_readers(max(self._jobs // len(self.devices), 1))

    def check_fit(self, plan: PredictPlan, ground: SceneGround | None) -> list[Finding]:
        """Compare the pixels of a scene with those that the models were trained on.

        `ground` is that of `find_scene_ground`. Without it heights that need it are left out.
        """
        rasters = plan.inspection.heights
        heights = None
        if rasters is not None and (rasters.ground != "estimate" or ground is not None):
            heights = rasters.without_valleys()
        inspection = replace(plan.inspection, heights=heights)
        with open_scene(inspection, ground) as scene:
            found = check_fit(scene, plan.area, self.ensemble)
        if not plan.source.ignore_mismatch:
            return found
        return [replace(finding, level="warning") for finding in found]

    def infer(
        self,
        plan: PredictPlan,
        ground: SceneGround | None,
        strips: Sequence[Strip],
        write: WriteStrip,
        meter: Meter,
        progress: MeterCallback,
    ) -> None:
        """Run the networks over strips.

        Parameters
        ----------
        plan : PredictPlan
        ground : SceneGround or None
            From `prepare_ground`.
        strips : sequence of Strip
        write : callable
            Called from a thread with the pixels of a strip and whether a later run may use it.
        meter : Meter
        progress : callable
        """
        windows, area = plan.windows, plan.area
        opener = partial(open_scene, plan.inspection, ground)
        jobs = self._readers(plan)
        inference = Inference(
            WindowReader(opener, plan.inspection.optical_block, windows, jobs, area.touches),
            area,
            windows,
            window_weights(windows.size, self.settings.blend, windows.overlap),
            len(self.ensemble.card.classes),
            frozenset(plan.outputs.paths),
            meter,
            progress,
            self.ensemble.training_pixels,
        )
        skipped, reach = plan.inspection.skipped, plan.reach

        def decided(extent: Window, planes: ProductPlanes) -> None:
            keep = skipped is None or not skipped.affects(extent.expand(reach))
            write(extent, planes, keep)

        inference.run(strips, self.forwards(plan), decided)

    def _describe(self, plan: PredictPlan) -> None:
        """Write the STAC item of a complete map, or remove that of the map it has replaced."""
        path = stac_path(plan.outputs.labels)
        if plan.acquired is None:
            remove(path)
            return
        products = plan.outputs.products(self.ensemble.card.classes)
        model = self.ensemble.facts(plan.windows.size)
        write_text(path, item_text(products, plan.target, plan.acquired, model))

    def _provenance(self, plan: PredictPlan, skipped: Sequence[SkippedFile]) -> dict[str, object]:
        """Return the content of the TOML file written next to the labels."""
        grid = {"window": plan.windows.size, "overlap": plan.windows.overlap}
        return {
            "models": [str(path) for path in self.ensemble.paths],
            "source": vars(plan.source),
            "predict": {**self.settings.model_dump(), **grid, "engine": plan.engine},
            "made_of": plan.digest,
            **skipped_settings(skipped),
        }


def strips_left(plan: PredictPlan, store: StripStore, meter: Meter) -> list[Strip]:
    """Return the strips that are not done, and count those that are."""
    left = [s for s in plan.strips if plan.in_outputs(s.extent) not in store.done]
    meter.resume(meter.total - sum(strip.window_count for strip in left))
    if store.done and plan.inputs.unknown:
        log.warning(
            "cannot tell whether %s has changed since the interrupted run", plan.inputs.unknown[0]
        )
    return left
