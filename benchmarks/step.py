"""Time the bare training step and forward pass of CaFE on random tensors, variant beside variant.

One JSON line per variant: median seconds, and the ratio to the first variant of its kind. On a GPU
float32 beside bf16, each with and without torch.compile, and the most memory that is in use; on a
CPU float32, and compiled with ``--compile`` too. `cafe predict` compiles nothing, nor is it here.
"""

import argparse
import gc
import json
import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import product

import torch
from torch import Tensor

from cafe_cli.model.architecture import Architecture
from cafe_cli.model.cafe import CaFE
from cafe_cli.training.losses import training_loss
from cafe_cli.training.step import compile_encoders


def main() -> None:
    options = parse()
    device = torch.device(options.device)
    shape = (options.batch_size, options.size, options.size)
    valid = torch.ones(shape, dtype=torch.bool, device=device)
    optical = torch.rand(shape[0], 3, *shape[1:], device=device) * 255
    height = torch.rand(shape[0], 1, *shape[1:], device=device) * 10
    labels = torch.randint(6, shape, device=device)
    inputs = (optical, valid, height, valid)
    on_gpu = device.type == "cuda"
    torch.backends.cudnn.benchmark = on_gpu  # as in training
    precisions = [torch.float32, torch.bfloat16] if on_gpu else [torch.float32]
    compiled = [False, True] if on_gpu or options.compile else [False]
    first: dict[str, float] = {}
    for how in product(("none", "labels", "distill"), compiled, precisions):
        for what, run in runs(options.encoder, inputs, labels, *how):
            gc.collect()  # the networks before it
            seconds = measure(run, options.repeats, device)
            row = dict(zip(("guidance", "compiled", "precision"), how, strict=True))
            row |= {"what": what, "precision": str(how[-1]).removeprefix("torch.")}
            row |= {"encoder": options.encoder, "shape": shape, "seconds": round(seconds, 4)}
            row["ratio"] = round(seconds / first.setdefault(what, seconds), 3)
            row["crops_per_second"] = round(shape[0] / seconds, 2)
            if on_gpu:
                row["peak_mb"] = round(torch.cuda.max_memory_allocated() / 1e6)
            print(json.dumps(row), flush=True)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--encoder", default="resnet50")
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--compile", action="store_true", help="on a CPU as well")
    return parser.parse_args()


def runs(
    encoder: str,
    inputs: tuple[Tensor, ...],
    labels: Tensor,
    guidance: str,
    compiled: bool,
    precision: torch.dtype,
) -> Iterator[tuple[str, Callable[[], None]]]:
    """Yield what is timed of a variant; inference is the same whatever the guidance."""
    device = labels.device
    model = CaFE(Architecture(6, 3, optical_encoder=encoder, guidance=guidance))
    model.to(device).to(memory_format=torch.channels_last)
    if compiled:
        compile_encoders(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    mixed = partial(torch.autocast, device.type, precision, enabled=precision != torch.float32)
    yield "train", partial(step, model.train(), optimizer, inputs, labels, mixed)
    if guidance == "none" and not compiled:
        yield "forward", partial(forward, model.eval(), inputs, mixed)


def step(model, optimizer, inputs, labels, mixed) -> None:
    with mixed():
        outputs = model.training_outputs(*inputs, labels)
    training_loss(outputs, labels)["total"].backward()
    optimizer.step()
    optimizer.zero_grad()


def forward(model, inputs, mixed) -> None:
    with torch.inference_mode(), mixed():
        model(*inputs)


def measure(run: Callable[[], None], repeats: int, device: torch.device) -> float:
    """Return the median duration after two runs that do not count, nor do their peaks."""
    durations = []
    for index in range(repeats + 2):
        if index == 2 and device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        start = time.perf_counter()
        run()
        if device.type == "cuda":
            torch.cuda.synchronize()
        if index >= 2:
            durations.append(time.perf_counter() - start)
    return statistics.median(durations)


if __name__ == "__main__":
    main()
