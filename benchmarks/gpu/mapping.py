"""The parts `predict` and `heavy`: `cafe predict` on a large scene beside the bare forward pass.

The same prediction as `cafe predict` makes runs in this process, so that a run does not pay for
imports; one more run is the whole command. ``of_forward`` is its time over that of the bare forward
passes of its windows, on a batch that stays on the device.
"""

import resource
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks.gpu.part import Part
from benchmarks.gpu.timing import peaks, reset_peak, seconds_each
from cafe_cli.config.schema import PredictSettings
from cafe_cli.inference.forward import BatchedForward, blank_patch, transform_inputs
from cafe_cli.inference.job import ComputeOptions, PredictInput, PredictOutput
from cafe_cli.inference.plan import PredictPlan
from cafe_cli.inference.predictor import Predictor
from cafe_cli.inference.scene_input import SceneInput
from cafe_cli.system.threads import cores


@dataclass
class Prepared:
    """A predictor with its networks on the device, and the plan of the large scene."""

    predictor: Predictor
    plan: PredictPlan
    forward: BatchedForward
    seconds: float


def predict(part: Part) -> None:
    model = part.work / "model.safetensors"
    ready = prepare(part, model)
    each = record_forward(part, ready)
    for number in (1, 2, 3):  # the first chooses algorithms and fills the cache of the disk
        record_whole(part, ready, each, run=number)
    if part.has_time("the whole command", 25):
        record_command(part, model)
    for jobs in part.sizes.jobs:
        if part.has_time(f"whole, {jobs} readers", 15):
            fewer = prepare(part, model, ComputeOptions(part.device, jobs))
            record_whole(part, fewer, each, jobs=jobs)
    if part.has_time("CUDA graphs", 15):
        graphs = prepare(part, model, settings=settings_of(part, cuda_graphs=True))
        record_forward(part, graphs, cuda_graphs=True)
        record_whole(part, graphs, each, cuda_graphs=True)
    for batch in (1, 4, 16, 64):
        if part.has_time(f"forward pass, batch {batch}", 8) and part.on_gpu:
            settings = settings_of(part, batch_size=batch)
            record_forward(part, prepare(part, model, settings=settings))
    if part.has_time("whole, ground estimated", 40):
        # The heights stand for a surface model: what the estimate of its ground takes.
        record_whole(part, prepare(part, model, kind="dsm"), each, ground="estimate")


def heavy(part: Part) -> None:
    """Map with a network of many times the work."""
    ready = prepare(part, part.work / "heavy.safetensors")
    each = record_forward(part, ready, encoder=part.sizes.heavy)
    for number in (1, 2):
        record_whole(part, ready, each, encoder=part.sizes.heavy, run=number)


def settings_of(part: Part, **changes: object) -> PredictSettings:
    if part.sizes.window is not None:
        changes = {"window": part.sizes.window, "overlap": part.sizes.window // 2, **changes}
    return PredictSettings(**{"engine": "torch", **changes})


def prepare(
    part: Part,
    model: Path,
    compute: ComputeOptions | None = None,
    settings: PredictSettings | None = None,
    kind: str = "ndsm",
) -> Prepared:
    """Load a model, plan the map of the large scene, and build the networks on the device."""
    start = time.perf_counter()
    predictor = Predictor(
        [model], settings or settings_of(part), compute or ComputeOptions(part.device)
    )
    scene = part.work / "scene"
    source = PredictInput(
        (str(scene / "ortho.tif"),), (str(scene / "heights.tif"),), height_kind=kind,
        ignore_mismatch=True,
    )  # fmt: skip
    outputs = PredictOutput(
        part.work / "map.tif", confidence=part.work / "confidence.tif", overwrite=True
    )
    plan = predictor.plan(SceneInput.of(source, predictor.ensemble), outputs)
    forward = predictor.forwards(plan)[0]
    return Prepared(predictor, plan, forward, time.perf_counter() - start)


def record_forward(part: Part, ready: Prepared, **values: object) -> float:
    """Time the networks on a batch that stays on the device; return the seconds of a window."""
    forward, size = ready.forward, ready.plan.windows.size
    architecture = ready.predictor.ensemble.card.architecture
    patches = [blank_patch(architecture, size)] * forward.batch_size
    arrays = forward.arrays
    batch = arrays.batch(patches, forward.batch_size)
    inputs = transform_inputs(batch, forward.transforms[0], arrays)
    reset_peak(part.device)
    with arrays.computing(), arrays.on_device():
        each = seconds_each(lambda: forward.networks[0](*inputs), part.device, part.sizes.seconds)
    each /= forward.batch_size
    part.record(
        "forward pass", batch=forward.batch_size, window=size, ms_a_window=round(each * 1e3, 3),
        windows_mpx_per_second=round(size**2 / 1e6 / each, 1), **peaks(part.device), **values,
    )  # fmt: skip
    return each


def record_whole(part: Part, ready: Prepared, each: float, **values: object) -> None:
    """Map the scene; compare the time with that of the bare forward passes of its windows."""
    reset_peak(part.device)
    start = time.perf_counter()
    meter = ready.predictor.run(ready.plan, lambda meter: None)
    seconds = time.perf_counter() - start
    stages = {stage: round(spent, 2) for stage, spent in meter.seconds.items()}
    stages["rest"] = round(seconds - sum(meter.seconds.values()), 2)
    part.record(
        "cafe predict", batch=ready.forward.batch_size, windows=meter.run,
        seconds=round(seconds, 2), prepare_seconds=round(ready.seconds, 2),
        forward_seconds=round(each * meter.run, 2),
        of_forward=round(seconds / (each * meter.run), 3),
        mpx_per_second=round(meter.pixels / 1e6 / seconds, 1), stages=stages,
        **peaks(part.device),
        host_mb=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1000,
        **({"jobs": cores()} | values),
    )  # fmt: skip


def record_command(part: Part, model: Path) -> None:
    """Time the whole command, imports and all."""
    scene = part.work / "scene"
    words = [sys.executable, "-m", "cafe_cli", "predict", str(model), "--ignore-mismatch"]
    words += ["--optical", str(scene / "ortho.tif"), "--elevation", str(scene / "heights.tif")]
    words += ["-o", str(part.work / "map.tif"), "--overwrite", "--device", part.device]
    if part.sizes.window is not None:
        words += ["--window", str(part.sizes.window)]
    start = time.perf_counter()
    subprocess.run(words, check=True)
    seconds = time.perf_counter() - start
    mpx = part.sizes.scene**2 / 1e6
    part.record(
        "the whole command", seconds=round(seconds, 2), mpx_per_second=round(mpx / seconds, 1)
    )
