"""What the workers of a cluster do for a prediction: prepare a scene, and run groups of strips."""

import re
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NamedTuple
from uuid import uuid4

from cafe_cli.cluster.worker import describe, share_cores
from cafe_cli.config.schema import PredictSettings
from cafe_cli.errors import CafeError, InputError, ModelFileError
from cafe_cli.inference.devices import choose_devices
from cafe_cli.inference.exchange import Exchange
from cafe_cli.inference.job import ComputeOptions
from cafe_cli.inference.plan import PredictPlan
from cafe_cli.inference.predictor import Predictor
from cafe_cli.inference.strip_store import WrittenStrip, write_strip
from cafe_cli.inference.strip_writer import ProductPlanes
from cafe_cli.inference.throughput import Meter, Stage
from cafe_cli.inference.tiling import Strip
from cafe_cli.model.stored import sha256
from cafe_cli.raster.input_files import InputFiles
from cafe_cli.raster.skipped import Skipped
from cafe_cli.raster.window import Window
from cafe_cli.scenes.scene_ground import SceneGround

_LIBRARIES = ("torch", "onnxruntime", "numpy", "rasterio")

# A worker may have several threads, but it has one set of networks, which uses all of its cores.
_busy = threading.Lock()
_checked = set[str]()  # digests of plans whose inputs this worker has found


@dataclass(frozen=True)
class WorkerJob:
    """What all tasks of a run share.

    Attributes
    ----------
    models : tuple of Path
    hashes : tuple of str
        SHA-256 of the models.
    settings : PredictSettings
    compute : ComputeOptions
    peers : int
        Workers on a machine, at most.
    torch_threads : int
        Threads of torch where it runs on a CPU: those of the process that keeps the map. With
        another number, torch adds in another order, and two values in a million differ by 1 %.
    """

    models: tuple[Path, ...]
    hashes: tuple[str, ...]
    settings: PredictSettings
    compute: ComputeOptions
    peers: int
    torch_threads: int


class Place(NamedTuple):
    """Where a worker computes, and with which versions of the libraries.

    Attributes
    ----------
    device : str
        Kind: ``cpu`` or ``cuda``.
    versions : dict
        By name of the library; empty if it is not installed.
    """

    device: str
    versions: dict[str, str]


class PreparedScene(NamedTuple):
    """A scene whose files a worker has found to be those of the plan.

    Attributes
    ----------
    plan : PredictPlan
    ground : SceneGround or None
    """

    plan: PredictPlan
    ground: SceneGround | None


class PartDone(NamedTuple):
    """What a task has done.

    Attributes
    ----------
    strips : list of (WrittenStrip, bool)
        And whether a later run may use it.
    windows, run, pixels : int
        See `cafe_cli.inference.throughput.Meter`.
    seconds : dict
        Seconds by stage.
    skipped : Skipped or None
        All that the worker has skipped of the scene so far.
    """

    strips: list[tuple[WrittenStrip, bool]]
    windows: int
    run: int
    pixels: int
    seconds: dict[Stage, float]
    skipped: Skipped | None


def look_around(models: Sequence[Path], hashes: Sequence[str], device: str) -> Place:
    """Check that this worker has the models, and say where it computes.

    Raises
    ------
    ModelFileError
        A model is missing here, or it is another file.
    ConfigError
        There is no such device.
    """
    _check_models(models, hashes)
    return Place(_own_device(device).partition(":")[0], {n: _version(n) for n in _LIBRARIES})


def prepare_scene(job: WorkerJob, plan: PredictPlan) -> PreparedScene:
    """Estimate the ground of a scene, and check that it fits the models.

    Raises
    ------
    InputError
        A file is missing on this worker, or the scene does not fit.
    """
    _check_inputs(plan)
    with _busy:
        return PreparedScene(plan, _predictor(job).prepare_ground(plan))


def run_strips(
    scene: PreparedScene, job: WorkerJob, strips: Sequence[Strip], exchange: Exchange
) -> PartDone:
    """Run strips that lie directly below each other, and hand them over.

    Raises
    ------
    InputError
        A file is missing on this worker, or cannot be read.
    OutputError
        A strip cannot be written.
    """
    plan = scene.plan
    _check_inputs(plan)
    meter, mark, written = Meter(), uuid4().hex[:12], list[tuple[WrittenStrip, bool]]()
    with _busy, exchange.writing() as folder:
        predictor = _predictor(job)
        if plan.engine == "torch" or not predictor.ensemble.has_graphs:
            from cafe_cli.inference.engines.torch import set_threads

            set_threads(job.torch_threads)
        products = plan.outputs.products(predictor.ensemble.card.classes)

        def write(extent: Window, planes: ProductPlanes, keep: bool) -> None:
            place = plan.in_outputs(extent)
            files = write_strip(folder, products, plan.target, place, planes, mark)
            written.append((WrittenStrip(place, files, mark), keep))

        predictor.infer(plan, scene.ground, strips, write, meter, lambda meter: None)
    skipped = plan.inspection.skipped
    return PartDone(written, meter.windows, meter.run, meter.pixels, meter.seconds, skipped)


@lru_cache(1)
def _predictor(job: WorkerJob) -> Predictor:
    """Return the networks of a run, which stay on the device of this worker."""
    _check_models(job.models, job.hashes)
    threads = share_cores(job.peers)
    compute = ComputeOptions(job.compute.device, job.compute.jobs or threads)
    return Predictor(job.models, job.settings, compute, [_own_device(job.compute.device)])


def _own_device(names: str) -> str:
    """Return the device of this worker: workers of one machine take turns with its GPUs.

    Dask names workers by numbers or addresses, other programs as in ``SLURMCluster-1``.
    """
    devices = choose_devices("all" if names in ("auto", "cuda") and _has_gpu() else names)
    numbers = re.findall("[0-9]+", describe().name)
    return devices[int(numbers[-1] if numbers else 0) % len(devices)]


def _has_gpu() -> bool:
    return choose_devices("auto") != ["cpu"]


def _check_models(models: Sequence[Path], hashes: Sequence[str]) -> None:
    for path, digest in zip(models, hashes, strict=True):
        host = describe().host
        if not path.is_file():
            raise ModelFileError(
                f"the worker on {host} does not find {path}: all machines have to see the model "
                "under this name"
            )
        if sha256(path) != digest:
            raise ModelFileError(f"{path} is another file on the worker on {host}")


def _check_inputs(plan: PredictPlan) -> None:
    """Check once for a plan that the files behind the names of its inputs are those that it saw.

    Raises
    ------
    InputError
        One is missing or another file.
    """
    if (digest := plan.digest) in _checked:  # whether they change later is checked in the end
        return
    try:
        found = InputFiles.behind(plan.source.paths).stamps
    except CafeError as error:
        raise InputError(f"{error} (on the worker on {describe().host})") from error
    for name, stamp in plan.inputs.stamps.items():
        if found.get(name) != stamp:
            what = "does not find" if name not in found else "finds another file as"
            raise InputError(
                f"the worker on {describe().host} {what} {name}: all machines have to see the "
                "inputs under the same names"
            )
    _checked.add(digest)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""
