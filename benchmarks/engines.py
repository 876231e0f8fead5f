"""Measure what runs the network on a CPU, side by side: seconds, memory, scores on unseen ground.

    OMP_NUM_THREADS=1 python benchmarks/engines.py MODEL OUT --sites SITE... --calibrate SITE

A SITE is a folder with ortho.tif, dsm.tif and labels.tif. Every variant runs in a process of its
own; the processes take turns, window by window, so that other load on the machine affects all of
them alike. Leaves in OUT the windows, the networks and results.jsonl, and prints a table: CPU
seconds per megapixel (the least of all windows) over those of the first variant, memory, mean IoU
of every site, and the share of pixels with the labels of the first variant.

Variants whose packages are missing are left out. OpenVINO: `pip install openvino`; its execution
provider comes with another build of ONNX Runtime, which is read from the folder ORT_OPENVINO
(`pip install --no-deps --target FOLDER onnxruntime-openvino`).
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Run = Callable[[dict[str, NDArray[Any]]], NDArray[np.float32]]
"""Logits or probabilities (1, K, size, size) of the inputs of a window."""

VARIANTS = {
    "onnx": "what cafe does with ONNX Runtime: axes fixed, no memory pattern",
    "onnx free axes": "the same graph without fixing its axes",
    "onnx, no graph optimisation": "ORT_DISABLE_ALL",
    "onnx, basic optimisation": "ORT_ENABLE_BASIC",
    "onnx, extended optimisation": "ORT_ENABLE_EXTENDED",
    "onnx, no arena": "memory from malloc",
    "onnx, memory pattern": "one allocation for all buffers",
    "onnx int8 dynamic": "weights int8, ranges of activations found while it runs",
    "onnx int8 static": "QDQ per channel, ranges from windows of --calibrate",
    "onnx int8 static, encoders": "the same for the convolutions of the encoders only",
    "onnx, OpenVINO provider": "onnxruntime-openvino",
    "openvino": "the package openvino reads the ONNX file, float32",
    "openvino bf16": "the same, in bf16",
    "openvino int8": "the same with the file of int8 static",
    "torch": "what cafe does with torch: folded, channels last",
    "torch bf16": "the same under autocast",
    "torch compiled": "the same through torch.compile, inductor with frozen weights",
}
PACKAGE = {"openvino": "openvino", "onnx": "onnxruntime", "torch": "torch"}


def main() -> None:
    options = arguments()
    if options.worker:
        work(options)
        return
    prepare(options)
    workers, built = {}, {}
    for name in filter(is_available, options.variants):
        worker = start(name, options)
        if told := answer(worker):
            workers[name], built[name] = worker, told
        else:
            print(f"the variant {name!r} cannot be built: see above", file=sys.stderr)
    names = list(workers)
    rows: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    for _ in range(options.rounds):
        for index in range(len(windows(options.out))):
            for name, worker in workers.items():
                rows[name].append(ask(worker, f"run {index}"))
    found = []
    for name, worker in workers.items():
        found.append(
            {"variant": name, "size": options.size, "threads": options.threads, **built[name]}
            | summary(rows[name], rows[names[0]], options)
            | ask(worker, "end")
        )
        with (options.out / "results.jsonl").open("a") as file:
            print(json.dumps(found[-1]), file=file)
        worker.wait()
    print_table(found)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--sites", type=Path, nargs="+", required=True)
    parser.add_argument("--calibrate", type=Path, required=True, help="site of the training")
    parser.add_argument("--size", type=int, default=1024, help="side of a window in pixels")
    parser.add_argument("--windows", type=int, default=4, help="at most, per site")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--worker", choices=VARIANTS, help=argparse.SUPPRESS)
    return parser.parse_args()


def is_available(name: str) -> bool:
    if "provider" in name:
        return "ORT_OPENVINO" in os.environ
    return find_spec(PACKAGE[name.split()[0].strip(",")]) is not None


# --- Windows and networks -------------------------------------------------------------------------


def prepare(options: argparse.Namespace) -> None:
    """Write the windows and the networks that the variants read."""
    options.out.mkdir(parents=True, exist_ok=True)
    from cafe_cli.model import model_file
    from cafe_cli.model.onnx_export import export_onnx

    network, card = model_file.load(options.model)
    for old in options.out.glob("window_*.npz"):
        old.unlink()
    number = 0
    for site in options.sites:
        for values in cut(site, card, options.size, options.windows):
            np.savez(options.out / f"window_{number:03}_{site.name}.npz", **values)
            number += 1
    graph = options.out / "model.onnx"
    graph.write_bytes(export_onnx(network, card, softmax=False))
    made = options.out / "int8_encoders.onnx"
    current = made.exists() and made.stat().st_mtime > options.model.stat().st_mtime
    if any("int8" in name for name in options.variants) and not current:
        feeds = [feed(w) for w in cut(options.calibrate, card, 512, 16)]
        quantise(graph, options.out, feeds)


def cut(site: Path, card: Any, size: int, most: int) -> Iterator[dict[str, NDArray[Any]]]:
    """Yield windows of a site that are spread over it, padded with what is not valid."""
    from cafe_cli.config.schema import LabelSettings
    from cafe_cli.raster.window import Window
    from cafe_cli.scenes.discovery import SceneFiles
    from cafe_cli.scenes.inspection import inspect_scene
    from cafe_cli.scenes.scene import find_scene_ground, open_scene

    names = (str(site / name) for name in ("ortho.tif", "dsm.tif", "labels.tif"))
    ortho, dsm, labels = names
    settings = LabelSettings()
    files = SceneFiles(site.name, (ortho,), (dsm,), (), (labels,))
    inspection = inspect_scene(files, card.height, labels=settings)
    with open_scene(inspection, find_scene_ground(inspection)) as scene:
        grid = scene.grid
        places = [
            (col, row)
            for row in range(0, max(grid.height - size // 2, 1), size)
            for col in range(0, max(grid.width - size // 2, 1), size)
        ]
        for col, row in places[:: -(-len(places) // most)]:
            window = Window(col, row, min(size, grid.width - col), min(size, grid.height - row))
            patch = scene.read(window)
            ids = scene.read_labels(window, card.classes, settings).ids
            yield {
                "optical": padded(patch.optical.astype(np.float32), size, 0)[None],
                "optical_valid": padded(patch.optical_valid, size, False)[None],
                "height": padded(patch.height, size, 0)[None, None],
                "height_valid": padded(patch.height_valid, size, False)[None],
                "labels": padded(ids, size, 255),
            }


def padded(values: NDArray[Any], size: int, fill: float) -> NDArray[Any]:
    *bands, rows, columns = values.shape
    full = np.full((*bands, size, size), fill, values.dtype)
    full[..., :rows, :columns] = values
    return full


def windows(folder: Path) -> list[Path]:
    return sorted(folder.glob("window_*.npz"))


def feed(values: Any) -> dict[str, NDArray[Any]]:
    return {name: values[name] for name in values if name != "labels"}


def quantise(graph: Path, folder: Path, feeds: Sequence[dict[str, NDArray[Any]]]) -> None:
    """Write the int8 networks: dynamic, static, and static for the encoders."""
    import onnx
    from onnxruntime.quantization import (
        CalibrationDataReader,
        QuantFormat,
        QuantType,
        quantize_dynamic,
        quantize_static,
    )
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.left = iter(feeds)

        def get_next(self) -> dict[str, NDArray[Any]] | None:
            return next(self.left, None)

    whole = folder / "preprocessed.onnx"
    quant_pre_process(graph, whole, skip_symbolic_shape=True)
    quantize_dynamic(whole, folder / "int8_dynamic.onnx", per_channel=True)
    nodes = onnx.load(whole).graph.node
    outside = [n.name for n in nodes if n.op_type == "Conv" and "encoder" not in n.name]
    for name, more in {
        "int8_static": {},
        "int8_encoders": {"op_types_to_quantize": ["Conv"], "nodes_to_exclude": outside},
    }.items():
        quantize_static(
            whole, folder / f"{name}.onnx", Reader(), quant_format=QuantFormat.QDQ,
            per_channel=True, activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8, **more,
        )  # fmt: skip


# --- Turns ----------------------------------------------------------------------------------------


def start(name: str, options: argparse.Namespace) -> subprocess.Popen[str]:
    command = [sys.executable, "-W", "ignore", __file__, *sys.argv[1:], "--worker", name]
    paths = [os.environ["ORT_OPENVINO"]] if "provider" in name else []
    paths += [path for path in [os.environ.get("PYTHONPATH")] if path]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    environment["OMP_NUM_THREADS"] = str(options.threads)
    return subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    )


def ask(worker: subprocess.Popen[str], words: str) -> dict[str, Any]:
    print(words, file=worker.stdin, flush=True)
    return answer(worker)


def answer(worker: subprocess.Popen[str]) -> dict[str, Any]:
    """Return what a worker says next, in JSON; nothing if it has ended."""
    lines = iter(worker.stdout or ())
    line = next((line for line in lines if line.startswith("{")), "{}")
    result: dict[str, Any] = json.loads(line)
    return result


def summary(
    own: list[dict[str, Any]], first: list[dict[str, Any]], options: argparse.Namespace
) -> dict[str, Any]:
    """Return ratios and scores of a variant from the answers of its windows."""
    megapixels = options.size**2 / 1e6
    least, reference = (min(turn["cpu"] for turn in turns) for turns in (own, first))
    paths = windows(options.out)
    scores = {}
    for site in options.sites:
        of_site = [i for i, path in enumerate(paths) if path.stem.split("_", 2)[2] == site.name]
        confusion = np.sum([own[i]["confusion"] for i in of_site], axis=0)
        scores[site.name] = round(mean_iou(confusion), 4)
    return {
        "cpu_seconds_per_mpx": round(least / megapixels, 3),
        "ratio": round(least / reference, 3),
        "median_ratio": round(
            float(np.median([a["cpu"] / b["cpu"] for a, b in zip(own, first, strict=True)])), 3
        ),
        "miou": scores,
        "same_labels": round(float(np.mean([turn["same"] for turn in own])), 5),
    }


def mean_iou(confusion: NDArray[np.int64]) -> float:
    """Return the mean IoU over the classes that the labels show; rows are labels."""
    both = np.diag(confusion)
    union = confusion.sum(axis=0) + confusion.sum(axis=1) - both
    shown = confusion.sum(axis=1) > 0
    return float((both[shown] / union[shown]).mean())


def print_table(found: list[dict[str, Any]]) -> None:
    sites = list(found[0]["miou"])
    print("| variant | CPU | MB | as the first |", *(f"mIoU {site} |" for site in sites))
    print("|---|---|---|---|" + "---|" * len(sites))
    for row in found:
        scores = " | ".join(f"{row['miou'][site]:.4f}" for site in sites)
        print(
            f"| {row['variant']} | {row['ratio']:.2f} | {row['peak_mb']} "
            f"| {row['same_labels']:.3%} | {scores} |"
        )


# --- Worker process of a variant ------------------------------------------------------------------


def work(options: argparse.Namespace) -> None:
    """Build a variant, and run it on a window for every line on stdin."""
    name, folder = options.worker, options.out
    begun = time.process_time()
    run = build(name, folder, options)
    with np.load(windows(folder)[0]) as values:
        run(feed(values))
    say(build_cpu_seconds=round(time.process_time() - begun, 2))
    for line in sys.stdin:
        if line.strip() == "end":
            say(peak_mb=resident("VmHWM"))
            return
        path = windows(folder)[int(line.split()[1])]
        with np.load(path) as stored:
            values = {key: stored[key] for key in stored}
        cpu = time.process_time()
        scores = run(feed(values))
        cpu = time.process_time() - cpu
        found = scores[0].argmax(axis=0).astype(np.uint8)
        first = path.with_suffix(".npy")
        if name == options.variants[0]:
            np.save(first, found)
        confusion = count(values["labels"], found, scores.shape[1])
        valid = values["optical_valid"][0]
        same = float((np.load(first) == found)[valid].mean())
        say(cpu=round(cpu, 4), confusion=confusion.tolist(), same=same)


def build(name: str, folder: Path, options: argparse.Namespace) -> Run:
    if name.startswith("torch"):
        return build_torch(name, options.model, options.threads)
    files = {"dynamic": "int8_dynamic", "static, encoders": "int8_encoders", "int8": "int8_static"}
    file = next((f for part, f in files.items() if part in name), "model")
    path = folder / f"{file}.onnx"
    if name.startswith("openvino"):
        return build_openvino(name, path, options)
    return build_onnx(name, path, options)


def build_onnx(name: str, path: Path, options: argparse.Namespace) -> Run:
    import onnxruntime

    from cafe_cli.model.onnx_file import AXES, open_session

    shape = (1, options.size, options.size)
    if name == "onnx":
        session = open_session(path, path, shape)
        return lambda inputs: session.run(None, inputs)[0]
    chosen = onnxruntime.SessionOptions()
    chosen.log_severity_level = 3
    chosen.intra_op_num_threads, chosen.inter_op_num_threads = options.threads, 1
    chosen.enable_mem_pattern = "memory pattern" in name
    chosen.enable_cpu_mem_arena = "no arena" not in name
    chosen.add_session_config_entry("session.force_spinning_stop", "1")
    levels = onnxruntime.GraphOptimizationLevel
    for words, level in {
        "no graph": levels.ORT_DISABLE_ALL,
        "basic": levels.ORT_ENABLE_BASIC,
        "extended": levels.ORT_ENABLE_EXTENDED,
    }.items():
        if words in name:
            chosen.graph_optimization_level = level
    if "free axes" not in name:
        for axis, length in zip(AXES, shape, strict=True):
            chosen.add_free_dimension_override_by_name(axis, length)
    providers: list[Any] = ["CPUExecutionProvider"]
    if "provider" in name:
        asked = {"device_type": "CPU", "num_of_threads": str(options.threads), "precision": "FP32"}
        providers = [("OpenVINOExecutionProvider", asked)]
    session = onnxruntime.InferenceSession(str(path), chosen, providers=providers)
    return lambda inputs: session.run(None, inputs)[0]


def build_openvino(name: str, path: Path, options: argparse.Namespace) -> Run:
    import openvino

    core = openvino.Core()
    model = core.read_model(path)
    side = options.size
    model.reshape({
        given: [1, given.partial_shape[1], side, side] if len(given.partial_shape) == 4
        else [1, side, side]
        for given in model.inputs
    })  # fmt: skip
    settings = {
        "INFERENCE_NUM_THREADS": options.threads,
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "bf16" if "bf16" in name else "f32",
    }
    request = core.compile_model(model, "CPU", settings).create_infer_request()
    return lambda inputs: request.infer(inputs)[0]


def build_torch(name: str, path: Path, threads: int) -> Run:
    import torch

    from cafe_cli.inference.engines.torch import prepare_network
    from cafe_cli.model import model_file
    from cafe_cli.system.malloc import keep_memory

    keep_memory()
    torch.set_num_threads(threads)
    network: Any = prepare_network(model_file.load(path)[0], torch.device("cpu"))
    if "compiled" in name:
        import torch._inductor.config as inductor

        inductor.freezing = True
        network = torch.compile(network)

    def run(inputs: dict[str, NDArray[Any]]) -> NDArray[np.float32]:
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled="bf16" in name):
            values: NDArray[np.float32] = network(
                *(torch.from_numpy(inputs[key]) for key in inputs)
            ).numpy()
        return values

    return run


def count(labels: NDArray[np.uint8], found: NDArray[np.uint8], classes: int) -> NDArray[np.int64]:
    known = labels < classes
    pairs = labels[known].astype(np.int64) * classes + found[known]
    return np.bincount(pairs, minlength=classes**2).reshape(classes, classes)


def resident(field: str) -> int:
    """Return VmRSS or VmHWM in MB."""
    line = next(s for s in Path("/proc/self/status").read_text().splitlines() if field in s)
    return int(line.split()[1]) // 1024


def say(**values: Any) -> None:
    print(json.dumps(values), flush=True)


if __name__ == "__main__":
    main()
