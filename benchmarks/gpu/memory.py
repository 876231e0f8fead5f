"""The part `memory`: what happens when a GPU's memory does not suffice.

torch may take only a part of the GPU, or most of it is taken, as by another process. On a CPU,
networks that refuse large batches stand in for it.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import torch

from benchmarks.gpu.mapping import Prepared, prepare, settings_of
from benchmarks.gpu.part import Part
from benchmarks.gpu.timing import limited, nearly_full, peaks, reset_peak
from benchmarks.gpu.training import changed
from cafe_cli.config.load import load_config
from cafe_cli.errors import TrainingError
from cafe_cli.inference.forward import blank_patch
from cafe_cli.training.step import LossModule
from cafe_cli.training.train import train

FITS = 6  # windows for which there is memory
TOO_MANY = 64  # windows that are asked for
LITTLE = 2_000_000_000  # bytes that training is left


def memory(part: Part) -> None:
    model = part.work / "model.safetensors"
    each = bytes_of_window(part, model) if part.on_gpu else 0
    record_batch_too_large(part, model, each)
    if part.on_gpu:
        record_auto_batch(part, model, each)
    record_training_too_large(part)
    if part.on_gpu:
        record_auto_training(part)


def bytes_of_window(part: Part, model: Path) -> int:
    """Return the memory that a forward pass of one window takes at most."""
    ready = prepare(part, model, settings=settings_of(part, batch_size=1))
    patch = blank(ready)
    ready.forward([patch])
    reset_peak(part.device)
    before = torch.cuda.memory_allocated()
    ready.forward([patch])
    each = max(torch.cuda.max_memory_allocated() - before, 1)
    part.record("a window", mb=round(each / 1e6, 1))
    return each


def blank(ready: Prepared):
    return blank_patch(ready.predictor.ensemble.card.architecture, ready.plan.windows.size)


def record_batch_too_large(part: Part, model: Path, each: int) -> None:
    """Ask `cafe predict` for batches of many times the memory; it should go on with less."""
    ready = prepare(part, model, settings=settings_of(part, batch_size=TOO_MANY))
    with limited(FITS * each) if part.on_gpu else refusing(ready, FITS):
        error, windows = "", 0
        try:
            windows = ready.predictor.run(ready.plan, lambda meter: None).run
        except (RuntimeError, MemoryError) as failure:
            error = str(failure).partition("\n")[0]
    part.record(
        "cafe predict, batch too large", asked=TOO_MANY, batch=ready.forward.batch_size,
        windows=windows, handled=not error, error=error,
    )  # fmt: skip


@contextmanager
def refusing(ready: Prepared, most: int) -> Iterator[None]:
    """Make the networks of a CPU refuse larger batches, as a GPU would."""
    network = ready.forward.networks[0]

    def refuse(*inputs: torch.Tensor) -> torch.Tensor:
        if len(inputs[0]) > most:
            raise MemoryError("out of memory")
        return network(*inputs)

    ready.forward.networks = [refuse]
    yield


def record_auto_batch(part: Part, model: Path, each: int) -> None:
    """Predict on a GPU of which others have taken most."""
    with nearly_full(4 * FITS * each):
        ready = prepare(part, model)
        windows = ready.predictor.run(ready.plan, lambda meter: None).run
        part.record(
            "cafe predict, GPU nearly full", free_windows=4 * FITS, handled=windows > 0,
            batch=ready.forward.batch_size, **peaks(part.device),
        )  # fmt: skip


def record_training_too_large(part: Part) -> None:
    """Train with batches for which there is no memory: one line that names the remedies."""
    batch = 8 * max(size for size in part.sizes.batches if isinstance(size, int))
    config, output = changed(part, batch_size=batch), part.work / "run_too_large"
    no_memory = mock.patch.object(LossModule, "forward", side_effect=MemoryError("out of memory"))
    error = ""
    with nearly_full(LITTLE) if part.on_gpu else no_memory:
        try:
            train(part.work / "tiles", output, config, device=part.device, overwrite=True)
        except TrainingError as failure:
            error = str(failure)
    part.record(
        "cafe train, batch too large", batch=batch, handled="out of memory" in error, said=error
    )


def record_auto_training(part: Part) -> None:
    """Train with the batch size that fits into little memory."""
    config, output = changed(part, batch_size="auto", epochs=1), part.work / "run_little"
    with nearly_full(4 * LITTLE):
        train(part.work / "tiles", output, config, device=part.device, overwrite=True)
        batch = load_config(output / "config.toml").train.batch_size
        part.record(
            "cafe train, GPU nearly full", free_mb=round(4 * LITTLE / 1e6), handled=True,
            batch=batch, **peaks(part.device),
        )  # fmt: skip
