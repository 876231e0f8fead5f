"""The parts `train` and `compile`: `cafe train` beside the bare step, and what makes a step faster.

The bare step is forward, loss, backward and AdamW on one batch that stays on the device, step after
step without a wait between. `step of cafe` adds what training does besides: the average of the
weights, and the check that losses are numbers. `cafe train` is everything.
"""

import gc
from collections.abc import Callable
from typing import Any

import torch

from benchmarks.gpu.part import Part
from benchmarks.gpu.scenes import settings
from benchmarks.gpu.timing import peaks, reset_peak, seconds_each, synchronize
from cafe_cli.config.load import load_config
from cafe_cli.config.schema import Config
from cafe_cli.model.inputs import Sample
from cafe_cli.tilesets.tileset import TileSet, load_tileset
from cafe_cli.training.batch_size import blank
from cafe_cli.training.build import build_network, build_optimizer
from cafe_cli.training.distributed.processes import launch, plan, precision_of
from cafe_cli.training.history import read_history
from cafe_cli.training.step import LossModule, Step, compile_encoders
from cafe_cli.training.train import train as cafe_train


def train(part: Part) -> None:
    tileset = load_tileset(part.work / "tiles")
    for batch in part.sizes.batches:
        if part.has_time(f"batch {batch}", 20):
            record_batch(part, tileset, batch)
    for batch in fixed(part):
        if part.has_time(f"float32, batch {batch}", 10):
            config = changed(part, batch_size=batch, precision="32-true")
            record_step(part, "bare step", bare_step(part, tileset, config), config)


def compile(part: Part) -> None:  # noqa: A001 - the name of the part
    """Time the bare step with compiled encoders; the first step compiles, for a minute or so."""
    tileset = load_tileset(part.work / "tiles")
    for batch in fixed(part):
        if part.has_time(f"compiled, batch {batch}", 5):
            config = changed(part, batch_size=batch)
            record_step(part, "bare step", bare_step(part, tileset, config), config)
            config = changed(part, batch_size=batch, compile=part.on_gpu)
            record_step(part, "bare step", bare_step(part, tileset, config), config)


def fixed(part: Part) -> list[int]:
    return [batch for batch in part.sizes.batches if isinstance(batch, int)]


def changed(part: Part, **train: Any) -> Config:
    """Return the config of the tile set with other settings of ``[train]``."""
    config = settings(part)
    return config.model_copy(update={"train": config.train.model_copy(update=train)})


def record_batch(part: Part, tileset: TileSet, batch: int | str) -> None:
    """Train with a batch size, and compare with the steps without data."""
    config = changed(part, batch_size=batch)
    output = part.work / f"run_{batch}"
    reset_peak(part.device)
    cafe_train(part.work / "tiles", output, config, device=part.device, overwrite=True)
    found = peaks(part.device)
    # What fits for "auto" is in the config of the run.
    size = load_config(output / "config.toml").train.batch_size
    epoch = read_history(output / "history.csv")[-1]
    config = changed(part, batch_size=size)
    bare = record_step(part, "bare step", bare_step(part, tileset, config), config)
    record_step(part, "step of cafe", whole_step(part, tileset, config), config)
    part.record(
        "cafe train", batch=size, asked=batch, crops_per_second=epoch.crops_per_second,
        of_bare_step=round((epoch.crops_per_second or 0) / bare, 3), data_wait=epoch.data_wait,
        **found,
    )  # fmt: skip


def record_step(part: Part, what: str, run: Callable[[], object], config: Config) -> float:
    """Time a step; return crops per second."""
    reset_peak(part.device)
    size = int(config.train.batch_size)
    speed = size / seconds_each(run, part.device, part.sizes.seconds)
    mixed = type(precision_of(config.train, torch.device(part.device))).__name__ != "Precision"
    part.record(
        what, batch=size, precision="bf16" if mixed else "float32", compiled=config.train.compile,
        crops_per_second=round(speed, 2), **peaks(part.device),
    )  # fmt: skip
    del run
    gc.collect()  # the network before the next
    return speed


def a_batch(part: Part, tileset: TileSet, config: Config) -> Sample:
    """Return a batch of zeros with labels of all classes, on the device."""
    size = int(config.train.batch_size)
    sample = blank(tileset, config, size, torch.device(part.device))
    rows = torch.arange(sample.labels.shape[1], device=sample.labels.device)
    labels = (rows % len(tileset.classes))[None, :, None].expand(sample.labels.shape)
    return Sample(sample.inputs, labels.contiguous())


def bare_step(part: Part, tileset: TileSet, config: Config) -> Callable[[], None]:
    device = torch.device(part.device)
    if part.on_gpu:
        torch.backends.cudnn.benchmark = True  # as in training
    network = build_network(tileset, config).to(device).to(memory_format=torch.channels_last)
    if config.train.compile:
        compile_encoders(network)
    precision = precision_of(config.train, device)
    losses = LossModule(network.train(), config.train, precision.forward_context())
    optimizer = build_optimizer(network, config.train)
    batch = a_batch(part, tileset, config)

    def step() -> None:
        optimizer.zero_grad()
        losses(batch)["total"].backward()
        optimizer.step()

    return step


def whole_step(part: Part, tileset: TileSet, config: Config) -> Callable[[], object]:
    """Return the step of `cafe train` on one batch that stays on the device."""
    team = launch(plan(part.device, config.train), config.train)
    step = Step(build_network(tileset, config), config.train, team, total=10_000)
    step.begin_epoch(0)
    batch = a_batch(part, tileset, config)
    synchronize(part.device)
    return lambda: step(batch, 0)
