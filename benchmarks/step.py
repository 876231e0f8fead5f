"""Time the bare training step and forward pass of CaFE on random tensors, variant beside variant.

One JSON line per variant: median seconds, and the ratio to the first variant of its kind.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from functools import partial

import torch

from cafe_cli.losses import training_loss
from cafe_cli.model import Architecture, CaFE


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--encoder", default="resnet50")
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=10)
    options = parser.parse_args()
    device = torch.device(options.device)
    shape = (options.batch_size, options.size, options.size)
    valid = torch.ones(shape, dtype=torch.bool, device=device)
    optical = torch.rand(shape[0], 3, *shape[1:], device=device) * 255
    height = torch.rand(shape[0], 1, *shape[1:], device=device) * 10
    labels = torch.randint(6, shape, device=device)
    inputs = (optical, valid, height, valid)

    precisions = [torch.float32, torch.bfloat16] if device.type == "cuda" else [torch.float32]
    first: dict[str, float] = {}
    for guidance in ("none", "labels", "distill"):
        model = CaFE(Architecture(6, 3, optical_encoder=options.encoder, guidance=guidance))
        model.to(device).to(memory_format=torch.channels_last)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
        for precision in precisions:
            mixed = partial(
                torch.autocast, device.type, precision, enabled=precision != torch.float32
            )
            runs = {"train": partial(step, model, optimizer, inputs, labels, mixed)}
            if guidance == "none":
                runs["forward"] = partial(forward, model, inputs, mixed)
            for what, run in runs.items():
                model.train(what == "train")
                seconds = measure(run, options.repeats, device)
                row = {
                    "what": what,
                    "guidance": guidance,
                    "precision": str(precision).removeprefix("torch."),
                    "encoder": options.encoder,
                    "shape": shape,
                    "seconds": round(seconds, 4),
                    "ratio": round(seconds / first.setdefault(what, seconds), 3),
                    "crops_per_second": round(shape[0] / seconds, 2),
                }
                print(json.dumps(row), flush=True)


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
    """Return the median duration after two runs that do not count."""
    durations = []
    for index in range(repeats + 2):
        start = time.perf_counter()
        run()
        if device.type == "cuda":
            torch.cuda.synchronize()
        if index >= 2:
            durations.append(time.perf_counter() - start)
    return statistics.median(durations)


if __name__ == "__main__":
    main()
