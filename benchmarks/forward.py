"""Measure seconds and memory of CaFE's forward pass on the CPU, for several variants side by side.

Every variant of every encoder runs in a process of its own. The processes take turns, window by
window, so that other load on the machine affects all of them alike. One JSON line per variant:
median seconds per window (wall clock and CPU), the ratio to the first, the CPU seconds to build the
network,
and the peak of resident memory, absolute and above that of the process before the build.

    OMP_NUM_THREADS=1 python benchmarks/forward.py --encoder tu-regnetx_004 --size 512
    OMP_NUM_THREADS=1 python benchmarks/forward.py --width 64 --variants onnx \
        --encoder tu-regnetx_004 tu-tf_efficientnet_lite0
"""

import argparse
import json
import resource
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

VARIANTS = {
    "eager": "",
    "channels_last": "last",
    "folded": "fold",
    "folded+channels_last": "fold last",
    "folded+channels_last+allocator": "fold last allocator",
    "compiled": "fold last compile",
    "onnx": "onnx",
}


def main() -> None:
    options = arguments()
    if options.worker is not None:
        work(options, VARIANTS[options.worker].split())
        return
    variants = [name for name in options.variants if is_available(name)]
    names = [(name, encoder) for name in variants for encoder in options.encoder]
    workers = {name: start(*name) for name in names}
    ready = {name: read_answer(worker) for name, worker in workers.items()}
    turns: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    for _ in range(options.repeats):
        for name, worker in workers.items():
            turns[name].append(request(worker, "run"))
    first = 0.0
    for name, worker in workers.items():
        median = {k: statistics.median(turn[k] for turn in turns[name]) for k in turns[name][0]}
        windows = options.batch_size
        first = first or median["cpu"]
        variant, encoder = name
        row = {"variant": variant, "encoder": encoder, "size": options.size}
        row |= {"batch_size": windows, "threads": options.threads}
        row |= {"seconds": round(median["seconds"] / windows, 4)}
        row |= {"cpu_seconds": round(median["cpu"] / windows, 4)}
        row |= {"cpu_ratio": round(median["cpu"] / first, 3), "faults": median["faults"]}
        row |= ready[name] | request(worker, "end")
        print(json.dumps(row), flush=True)
        worker.wait()


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--encoder", nargs="+", default=["tu-regnetx_004"])
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--worker", choices=VARIANTS, help=argparse.SUPPRESS)
    return parser.parse_args()


def is_available(name: str) -> bool:
    from cafe_cli.inference.engines import onnx

    if "onnx" in VARIANTS[name]:
        return onnx.available()
    return "compile" not in VARIANTS[name] or shutil.which("g++") is not None


def start(name: str, encoder: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-W", "ignore", __file__, *sys.argv[1:]]
    command += ["--encoder", encoder, "--worker", name]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def request(worker: subprocess.Popen[str], command: str) -> dict[str, float]:
    print(command, file=worker.stdin, flush=True)
    return read_answer(worker)


def read_answer(worker: subprocess.Popen[str]) -> dict[str, float]:
    line = worker.stdout.readline()
    if not line:
        sys.exit(f"a variant failed: {' '.join(worker.args)}")
    return json.loads(line)


# --- Worker process of a variant ------------------------------------------------------------------


def work(options: argparse.Namespace, parts: list[str]) -> None:
    """Build a variant and run it once per line on stdin."""
    if "allocator" in parts:
        from cafe_cli.system.malloc import keep_memory

        if not keep_memory():
            sys.exit("not glibc: leave out the variant with the allocator")
    import torch

    torch.set_num_threads(options.threads)
    from cafe_cli.model.architecture import Architecture
    from cafe_cli.model.cafe import CaFE
    from cafe_cli.model.inputs import example_inputs

    torch.manual_seed(0)
    network = CaFE(
        Architecture(6, 3, optical_encoder=options.encoder[0], width=options.width)
    ).deployed()
    network.set_statistics([100.0] * 3, [50.0] * 3, [10.0], [5.0])
    shape = (options.batch_size, options.size, options.size)
    inputs = example_inputs(network, *shape)
    before, begun = resident("VmRSS"), time.process_time()
    with torch.inference_mode():
        run = build(network, shape, parts)
        for _ in range(2):
            run(*inputs)
        report(start_seconds=time.process_time() - begun)
        for line in sys.stdin:
            if line.strip() == "end":
                peak = resident("VmHWM")
                report(peak_mb=peak, above_mb=peak - before)
                return
            faults, clock, cpu = page_faults(), time.perf_counter(), time.process_time()
            run(*inputs)
            seconds, cpu = time.perf_counter() - clock, time.process_time() - cpu
            report(seconds=seconds, cpu=cpu, faults=page_faults() - faults)


def build(network, shape: tuple[int, int, int], parts: list[str]):
    import torch

    from cafe_cli.inference.engines.onnx import OnnxNetwork
    from cafe_cli.inference.engines.torch import fold_batchnorm
    from cafe_cli.model.inputs import example_inputs
    from cafe_cli.model.onnx_export import export_graph

    if "fold" in parts:
        network = fold_batchnorm(network, *example_inputs(network, 1, 64, 64))
    if "last" in parts:
        network = network.to(memory_format=torch.channels_last)
    if "compile" in parts:
        network = torch.compile(network)
    if "onnx" not in parts:
        return network
    run = OnnxNetwork(export_graph(network.deployed()), Path("network"), [shape])
    return lambda *inputs: run(*(x.float().numpy() if x.ndim == 4 else x.numpy() for x in inputs))


def page_faults() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


def resident(field: str) -> int:
    """Return VmRSS or VmHWM in MB."""
    line = next(s for s in Path("/proc/self/status").read_text().splitlines() if field in s)
    return int(line.split()[1]) // 1024


def report(**values: float) -> None:
    print(json.dumps({name: round(value, 4) for name, value in values.items()}), flush=True)


if __name__ == "__main__":
    main()
