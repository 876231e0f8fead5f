"""Models made ready, and the scenes that they are run over, one after the other."""

import hashlib
import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from cafe_cli import __version__
from cafe_cli.config.provenance import read_beside, save_beside
from cafe_cli.config.schema import PredictSettings
from cafe_cli.errors import OutputError
from cafe_cli.inference.blending import window_weights
from cafe_cli.inference.ensemble import Engine, Ensemble, choose_engine
from cafe_cli.inference.forward import BatchedForward, blank_patch
from cafe_cli.inference.job import ComputeOptions, PredictInput, PredictOutput
from cafe_cli.inference.pipeline import Inference, ProductPlanes
from cafe_cli.inference.scene_input import SceneInput
from cafe_cli.inference.strip_store import StripStore, remove_leftovers, strips_folder
from cafe_cli.inference.throughput import Meter
from cafe_cli.inference.tiling import Strip, WindowGrid, divide
from cafe_cli.inference.window_reader import WindowReader
from cafe_cli.model.device import choose_all
from cafe_cli.raster.grid import Grid
from cafe_cli.raster.window import Window
from cafe_cli.system.atomic_write import check_outputs, stamps
from cafe_cli.system.threads import cores
from cafe_cli.vector.area_of_interest import Area

log = logging.getLogger("cafe")

ProgressCallback = Callable[[Meter], None]

_PROCESS = 600_000_000  # bytes that torch and GDAL take to begin with


@dataclass(frozen=True)
class PredictPlan:
    """What there is to do for a scene.

    Attributes
    ----------
    scene_input : Subject
    grid : Grid
    block : (int, int)
        Width and height of what the image is stored in.
    area : Area
    windows : Slide
    strips : list of Strip
    engine : {"torch", "onnx"}
    """

    scene_input: SceneInput
    grid: Grid
    block: tuple[int, int]
    area: Area
    windows: WindowGrid
    strips: list[Strip]
    engine: Engine

    @property
    def window_count(self) -> int:
        """How many windows there are, empty ones among them."""
        return sum(strip.window_count for strip in self.strips)

    @property
    def target(self) -> Grid:
        """Grid of the outputs."""
        return self.grid.at(self.area.extent)

    def placed(self, extent: Window) -> Window:
        """Count from the upper left pixel of the outputs, instead of that of the scene."""
        return extent.relative_to(self.area.extent)


class Predictor:
    """Models made ready, for one scene after the other.

    Parameters
    ----------
    models : sequence of Path
    settings : PredictSettings
    compute : Compute
    """

    def __init__(
        self, models: Sequence[Path], settings: PredictSettings, compute: ComputeOptions
    ) -> None:
        self.settings = settings
        self.devices = choose_all(compute.device)
        self.ensemble = Ensemble.load(models)
        self._jobs = compute.jobs or cores()
        self._ready: tuple[Engine, WindowGrid, list[BatchedForward]] | None = None

    def plan(self, scene_input: SceneInput) -> PredictPlan:
        """Look at a scene and divide the work; errors as `predict` has them."""
        card = self.ensemble.card
        grid, block, area = scene_input.look(card)
        windows = self.ensemble.window_grid(self.settings, grid.extent)
        strips = divide(grid.extent, area.extent, windows, len(card.class_table))
        count = sum(strip.window_count for strip in strips)
        engine = choose_engine(self.settings.engine, self.devices, count)
        return PredictPlan(scene_input, grid, block, area, windows, strips, engine)

    def run(
        self,
        source: PredictInput,
        outputs: PredictOutput,
        progress: ProgressCallback,
        name: str = "",
    ) -> Meter:
        """Predict a scene."""
        plan = self.plan(SceneInput.of(source, self.ensemble))
        meter = Meter(plan.window_count, name)
        made_of = self._made_of(plan)
        known = _digest({**made_of, "options": dict(outputs.options)})
        if outputs.resume and _is_complete(outputs, known):
            log.info("%s is complete", outputs.labels)
            remove_leftovers(outputs.labels)
            meter.resume(meter.total)
            return meter
        if outputs.resume and not outputs.overwrite and _is_another(outputs):
            raise OutputError(
                f"{outputs.labels} exists and was made of other inputs or with other settings; "
                "pass --overwrite to make it again"
            )
        inputs = [*map(str, self.ensemble.paths), *source.paths]
        # What a run that is resumed has named already may be replaced: the strips know.
        check_outputs([*outputs.paths.values()], inputs, outputs.overwrite or outputs.resume)
        products = outputs.products(self.ensemble.card.class_table)
        tags = {"CAFE_MODEL": self.ensemble.names, "CAFE_VERSION": __version__}
        with StripStore(products, plan.target, made_of, outputs, tags) as store:
            left = [strip for strip in plan.strips if plan.placed(strip.extent) not in store.done]
            meter.resume(meter.total - sum(strip.window_count for strip in left))

            def write(extent: Window, planes: ProductPlanes) -> None:
                store.write(plan.placed(extent), planes)

            if left:
                inference = self._inference(plan, frozenset(outputs.paths), meter, progress)
                inference.run(left, self.forwards(plan), write)
            store.finish()
            # Before the strips go: if the process is killed here, a run that resumes writes it.
            save_beside(outputs.labels, self._described(plan) | {"made_of": known})
        meter.written += 1
        if not meter.run and len(left) == len(plan.strips):
            log.warning("%s holds no pixel that could be labelled", outputs.labels)
        return meter

    def forwards(self, plan: PredictPlan) -> list[BatchedForward]:
        """Return the networks on every device; they stay there for the next scene."""
        if self._ready is None or self._ready[:2] != (plan.engine, plan.windows):
            ready = self.ensemble.prepare
            made = [ready(self.settings, plan.windows, d, plan.engine) for d in self.devices]
            self._ready = plan.engine, plan.windows, made
        return self._ready[2]

    def estimate(self, plan: PredictPlan) -> dict[str, float]:
        """Return the seconds that a scene takes, without reading it, and the bytes of memory."""
        forward = self.forwards(plan)[0]
        batch = [
            blank_patch(len(self.ensemble.card.band_names), plan.windows.size)
        ] * forward.batch_size
        forward(batch)  # the first time is no measure
        start = time.perf_counter()
        forward(batch).sum().item()
        each = (time.perf_counter() - start) / len(batch) / len(self.devices)
        window, classes = plan.windows.size, len(self.ensemble.card.class_table)
        width = max(strip.extent.width for strip in plan.strips) + 2 * window
        memory = _PROCESS + self.ensemble.parameters * 8 + width * window * (4 * classes + 44)
        return {"seconds": float(f"{each * plan.window_count:.2g}"), "memory": memory}

    def _inference(
        self, plan: PredictPlan, products: frozenset[str], meter: Meter, progress: ProgressCallback
    ) -> Inference:
        jobs = max(self._jobs // len(self.devices), 1)
        opener = plan.scene_input.with_ground().open
        reader = WindowReader(opener, plan.block, plan.windows, jobs, plan.area.touches)
        weights = window_weights(plan.windows.size, self.settings.blend, plan.windows.overlap)
        classes = len(self.ensemble.card.class_table)
        return Inference(
            reader, plan.area, plan.windows, weights, classes, products, meter, progress
        )

    def _made_of(self, plan: PredictPlan) -> dict[str, object]:
        """Return everything that the result depends on, by names that a person understands."""
        source = plan.scene_input.source
        files = {f"input {n}": _shown(*stamp) for n, stamp in stamps(source.paths).items()}
        drawn = ("aoi", "bbox", "bbox_crs")  # the area says it
        return {
            "cafe": __version__,
            "device": self.devices[0].type,
            "engine": plan.engine,
            **self.ensemble.fingerprint(),
            **files,
            **{k: v for k, v in asdict(source).items() if k not in drawn},
            "height": plan.scene_input.height.model_dump(),
            "area": plan.area.key,
            "window": plan.windows.size,
            "overlap": plan.windows.overlap,
            **{k: getattr(self.settings, k) for k in ("blend", "tta", "scales")},
        }

    def _described(self, plan: PredictPlan) -> dict[str, object]:
        sliding = {"window": plan.windows.size, "overlap": plan.windows.overlap}
        settings = {**self.settings.model_dump(), **sliding, "engine": plan.engine}
        models = [str(path) for path in self.ensemble.paths]
        return {"models": models, "source": vars(plan.scene_input.source), "predict": settings}


def _is_complete(outputs: PredictOutput, made_of: str) -> bool:
    """Whether the outputs are there, made of the same things with the same settings."""
    if strips_folder(outputs.labels).exists():  # a run has been killed before it was through
        return False
    if not all(path.exists() for path in outputs.paths.values()):
        return False
    return bool(read_beside(outputs.labels).get("made_of") == made_of)


def _is_another(outputs: PredictOutput) -> bool:
    """Whether there is a map that no interrupted run has left."""
    return outputs.labels.exists() and not strips_folder(outputs.labels).exists()


def _shown(size: int, changed: int) -> str:
    """Say what a file was like: bytes, and the time it was changed in ns."""
    second, rest = divmod(changed, 10**9)
    return f"{size} bytes of {datetime.fromtimestamp(second, UTC):%Y-%m-%d %H:%M:%S}.{rest:09}"


def _digest(made_of: Mapping[str, object]) -> str:
    return hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()
