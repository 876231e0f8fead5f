"""Trial steps on blank tiles: the time of a step, and the batch size that fits into memory."""

import gc
import logging
import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager

import torch

from cafe_cli.config.schema import Config
from cafe_cli.errors import out_of_memory
from cafe_cli.model.cafe import CaFE
from cafe_cli.model.inputs import Inputs, Sample
from cafe_cli.tilesets.tileset import TileSet
from cafe_cli.training.build import build_network, build_optimizer
from cafe_cli.training.data.augment import crop_side
from cafe_cli.training.distributed.processes import precision_of
from cafe_cli.training.step import LossModule

log = logging.getLogger("cafe")

_ON_CPU = 8  # tiles; larger batches are no faster there
_STEPS = 8  # fewest steps of an epoch: a few large steps train worse than many small ones
_USED = 0.9  # share of a GPU's memory to use: the rest is lost to fragmentation


def blank(tileset: TileSet, config: Config, tiles: int, device: torch.device) -> Sample:
    """Return a batch of zeros in the size of a crop, all valid, all labelled as class 0."""
    side = crop_side(config.train, tileset.size)
    shape = (tiles, side, side)
    valid = torch.ones(shape, dtype=torch.bool, device=device)
    optical = torch.zeros(tiles, len(tileset.band_names), side, side, device=device)
    height = torch.zeros(tiles, tileset.height.planes, side, side, device=device)
    labels = torch.zeros(shape, dtype=torch.int64, device=device)
    return Sample(Inputs(optical, valid, height, valid), labels)


def seconds_per_tile(network: CaFE, tileset: TileSet, config: Config) -> float:
    """Return the seconds per tile of a forward and backward pass; leaves gradients in `network`."""
    device = network.optical_mean.device
    batch = blank(tileset, config, 2, device)
    losses = LossModule(network.to(memory_format=torch.channels_last), config.train)
    precision = precision_of(config.train, device)
    elapsed = math.inf
    for _ in range(2):  # the first pass allocates and chooses algorithms
        start = time.perf_counter()
        with precision.forward_context():
            total = losses(batch)["total"]
        total.backward()
        if device.type == "cuda":
            torch.cuda.synchronize()
        elapsed = min(elapsed, time.perf_counter() - start)
    return elapsed / 2


def find_batch_size(
    tileset: TileSet,
    config: Config,
    device: torch.device,
    precision: Callable[[], AbstractContextManager[object]],
    processes: int = 1,
) -> int:
    """Return the batch size for ``batch_size = "auto"``: a power of two per process and part.

    On a GPU it is the largest that fits, found by trial steps on blank tiles, that still leaves
    eight steps per epoch; on a CPU it is about 8 tiles in all.

    Parameters
    ----------
    tileset : TileSet
    config : Config
    device : torch.device
    precision : callable
        Returns the autocast context of the forward pass.
    processes : int
        Number of processes that share a step.
    """
    parts = processes * config.train.accumulate
    if device.type == "cpu":
        return parts * max(_ON_CPU // parts, 1)
    most = max(len(tileset.of("train")) // _STEPS, 2) // parts
    # By index, since this function of torch rejects a device without one.
    torch.cuda.set_per_process_memory_fraction(_USED, device.index)
    try:
        return parts * power_of_two(
            lambda size: _fits(tileset, config, device, precision, size), most
        )
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, device.index)


def power_of_two(fits: Callable[[int], bool], most: int) -> int:
    """Return the largest power of two that fits and is not above `most`; 1 in any case."""
    size = 1
    while 2 * size <= most and fits(2 * size):
        size *= 2
    return size


def _fits(
    tileset: TileSet,
    config: Config,
    device: torch.device,
    precision: Callable[[], AbstractContextManager[object]],
    tiles: int,
) -> bool:
    """Tell whether two steps fit: the first allocates the optimiser's state, the second uses it."""
    try:
        network = build_network(tileset, config).to(device)
        network.to(memory_format=torch.channels_last)
        losses, optimizer = (
            LossModule(network, config.train),
            build_optimizer(network, config.train),
        )
        for _ in range(2):
            optimizer.zero_grad()
            with precision():
                total = losses(blank(tileset, config, tiles, device))["total"]
            total.backward()
            optimizer.step()
    except RuntimeError as error:
        if not out_of_memory(error):
            raise
        return False
    finally:
        network = losses = optimizer = total = None  # type: ignore[assignment]
        gc.collect()
        torch.cuda.empty_cache()
    return True
