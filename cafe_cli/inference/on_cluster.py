"""Prediction on a cluster: strips are tasks, and this process keeps the journal of each map.

The map is the same to the byte as that of one process: strips depend on nothing but scene, models
and settings, and this process alone decides which files belong to a map.
"""

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from uuid import uuid4

from cafe_cli.cluster.checks import check_folder
from cafe_cli.cluster.cluster import Cluster
from cafe_cli.cluster.job import Outcome, Shared, Task
from cafe_cli.config.schema import PredictSettings
from cafe_cli.errors import ConfigError
from cafe_cli.inference.ensemble import Ensemble
from cafe_cli.inference.exchange import Exchange, exchange_at
from cafe_cli.inference.job import ComputeOptions, PredictInput, SceneJob
from cafe_cli.inference.on_workers import (
    PartDone,
    Place,
    WorkerJob,
    look_around,
    prepare_scene,
    run_strips,
)
from cafe_cli.inference.plan import PredictPlan
from cafe_cli.inference.predictor import MeterCallback, Predictor, strips_left
from cafe_cli.inference.scene_input import SceneInput
from cafe_cli.inference.strip_store import StripStore, strips_folder
from cafe_cli.inference.throughput import Meter
from cafe_cli.inference.tiling import Strip, divide_among
from cafe_cli.model.onnx_file import threads
from cafe_cli.system.open_files import allow_more
from cafe_cli.system.threads import cores

log = logging.getLogger("cafe")

_ASSEMBLERS = 16  # maps that are assembled at a time, at most
_FILES = 32  # files that an open scene takes, at most: locks and a journal
_TICK = 0.5  # seconds


@dataclass
class _SceneRun:
    """A scene of which tasks are with the cluster."""

    job: SceneJob
    plan: PredictPlan
    meter: Meter
    store: StripStore
    strips: list[Strip]
    shared: Shared
    exchange: Exchange
    held: ExitStack
    open: int = 0  # tasks without outcome
    is_issued: bool = False  # whether all tasks were given to the cluster


class ClusterPredictor:
    """Predicts scenes on the workers of a cluster.

    Parameters
    ----------
    cluster : Cluster
        Entered already.
    models, settings, compute
        See `cafe_cli.inference.predict.predict`.
    scratch : str, optional
        Folder or URL for the strips that workers write; beside the map if None.

    Raises
    ------
    CafeError
        Workers differ from each other, or lack a model.
    """

    def __init__(
        self,
        cluster: Cluster,
        models: Sequence[Path],
        settings: PredictSettings,
        compute: ComputeOptions,
        scratch: str | None,
    ) -> None:
        self._cluster, self._scratch = cluster, scratch
        ensemble = Ensemble.load(models)
        if compute.device == "auto" and ensemble.is_onnx:
            compute = replace(compute, device="cpu")
        paths = tuple(path.absolute() for path in models)
        hashes = tuple(digest for _, digest in ensemble.hashes)
        place = common_place(cluster.ask(look_around, paths, hashes, compute.device))
        if settings.engine == "auto" and not place.versions["onnxruntime"]:
            settings = settings.model_copy(update={"engine": "torch"})
        hosts = [fact.host for fact in cluster.facts.values()]
        peers = max(map(hosts.count, hosts))
        self._job = WorkerJob(paths, hashes, settings, compute, peers, threads())
        self._predictor = Predictor(models, settings, compute, [place.device])
        self._workers = len(hosts)
        self._run = uuid4().hex[:12]
        # GDAL copies large rasters in processes of their own: threads are enough.
        self._assemblers = ThreadPoolExecutor(min(cores(), _ASSEMBLERS))
        self._assembling = set[Future[None]]()
        self._open, self._most_open = 0, max(allow_more() // _FILES, 2)
        self._is_shared = False  # whether workers are known to see what they shall write to

    def run(self, jobs: Sequence[SceneJob], progress: MeterCallback) -> None:
        """Predict scenes; what becomes of each is written to its job.

        Parameters
        ----------
        jobs : sequence of SceneJob
        progress : callable
            Called with the meter of a scene after each of its tasks.

        Raises
        ------
        CafeError
            The scheduler is lost.
        """
        with ExitStack() as stack:
            stack.callback(self._assemblers.shutdown, wait=True, cancel_futures=True)
            for outcome in self._cluster.run(self._tasks(jobs, stack)):
                self._take(outcome, progress)
            while self._assembling:  # with a timeout, so that Ctrl-C interrupts it
                wait(self._assembling, timeout=_TICK)
                self._look_at_assembled()
        found = self._cluster.incidents
        if found.retried or found.copied or found.reconnected:
            log.info(
                "made good on the way: %d tasks ran again, %d were run twice because they took "
                "long, the scheduler was lost %d times",
                found.retried, found.copied, found.reconnected,
            )  # fmt: skip

    def _tasks(self, jobs: Sequence[SceneJob], stack: ExitStack) -> Iterator[Task | None]:
        """Yield the tasks of all scenes; a scene is planned when its turn has come.

        None if so many scenes are open that others have to end first.
        """
        for number, job in enumerate(jobs):
            while self._open >= self._most_open:
                self._look_at_assembled()
                yield None
            scene = None
            with job.errors():
                scene = self._begin(number, job)
            if scene is None:
                continue
            stack.push(scene.held)
            self._open += 1
            for index, group in enumerate(divide_among(scene.strips, self._workers)):
                if job.error:
                    break
                scene.open += 1
                name = f"strips-{number}-{index}"
                arguments = (self._job, group, scene.exchange)
                yield Task(name, run_strips, arguments, scene.shared, scene)
            scene.is_issued = True
            self._end_if_done(scene)

    def _begin(self, number: int, job: SceneJob) -> _SceneRun | None:
        """Plan a scene and open its store; None if it is complete already."""
        predictor = self._predictor
        job.outputs.check([*map(str, self._job.models), *job.source.paths])
        scene_input = SceneInput.of(_absolute(job.source), predictor.ensemble)
        plan = predictor.plan(scene_input, job.outputs)
        meter = Meter(plan.window_count, job.name)
        if predictor.is_complete(plan, meter):
            job.meter = meter
            return None
        if plan.engine == "onnx":
            predictor.ensemble.export()
        with ExitStack() as held:
            store = held.enter_context(predictor.open_store(plan))
            folder = strips_folder(plan.outputs.labels)
            exchange = exchange_at(self._scratch, folder, f"{self._run}-{number}")
            held.callback(exchange.clear)
            self._check_shared(exchange)
            left = strips_left(plan, store, meter)
            shared = Shared(f"scene-{number}", prepare_scene, (self._job, plan))
            return _SceneRun(job, plan, meter, store, left, shared, exchange, held.pop_all())

    def _check_shared(self, exchange: Exchange) -> None:
        """Check once that all workers see the folder to which they shall write.

        Raises
        ------
        OutputError
            One does not.
        """
        if self._is_shared or (folder := exchange.folder) is None:
            return
        check_folder(
            self._cluster, folder,
            "write to a folder that all machines share, or name one, or s3://bucket/prefix, with "
            "--scratch",
        )  # fmt: skip
        self._is_shared = True

    def _take(self, outcome: Outcome, progress: MeterCallback) -> None:
        """Take the strips of a task into the map of their scene."""
        scene: _SceneRun = outcome.task.owner
        scene.open -= 1
        if scene.job.error is None:
            with scene.job.errors():
                part: PartDone = outcome.result()
                for strip, keep in part.strips:
                    scene.store.accept(strip, scene.exchange, keep)
                scene.meter.add(part.windows, part.run, part.pixels)
                for stage, seconds in part.seconds.items():
                    scene.meter.seconds[stage] += seconds
                if part.skipped and scene.plan.inspection.skipped:
                    scene.plan.inspection.skipped.merge(part.skipped)
                progress(scene.meter)
        self._end_if_done(scene)

    def _end_if_done(self, scene: _SceneRun) -> None:
        """Begin to assemble the map of a scene once all of its tasks have ended."""
        if scene.open or not scene.is_issued:
            return
        self._cluster.release(scene.shared)
        self._assembling.add(self._assemblers.submit(self._assemble, scene))

    def _assemble(self, scene: _SceneRun) -> None:
        """Assemble the map of a scene in a thread, or keep its strips where a task has failed."""
        job = scene.job
        with job.errors(), scene.held:
            if job.error is not None:
                raise job.error  # the store keeps the strips
            self._predictor.complete(scene.plan, scene.store, scene.meter)
        if job.error is None:
            job.meter = scene.meter

    def _look_at_assembled(self) -> None:
        """Forget maps that are complete; raise what should not have happened to one."""
        for future in [future for future in self._assembling if future.done()]:
            self._assembling.remove(future)
            self._open -= 1
            future.result()


def _absolute(source: PredictInput) -> PredictInput:
    """Return inputs by names that do not depend on the working folder."""

    def absolute(names: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(os.path.abspath(n) if os.path.exists(n) else n for n in names)

    return replace(
        source,
        optical=absolute(source.optical),
        elevation=absolute(source.elevation),
        dtm=absolute(source.dtm),
        aoi=source.aoi and absolute((source.aoi,))[0],
    )


def common_place(places: Mapping[str, Place]) -> Place:
    """Return where all workers compute.

    Raises
    ------
    ConfigError
        They differ in the kind of their devices or in libraries: a map has to come from one kind.
    """
    (first, place), *others = places.items()
    for worker, other in others:
        if other.device != place.device:
            raise ConfigError(
                f"the worker {first} computes on {place.device}, {worker} on {other.device}, and a "
                "map has to come from one kind: choose --device cpu, or the workers"
            )
        for library, found in place.versions.items():
            if other.versions[library] != found:
                raise ConfigError(
                    f"the worker {first} has {library} {found or '(none)'}, {worker} "
                    f"{other.versions[library] or '(none)'}, and a map has to come from one "
                    "version: install the same on all machines"
                )
    return place
