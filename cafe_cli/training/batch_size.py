"""Steps on blank tiles: how long one takes, and how many tiles of it fit into memory."""

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

_ON_CPU = 8  # tiles; more gain nothing there
_STEPS = 8  # that an epoch should have at least: few large steps learn less than many small ones
_USED = 0.9  # of a GPU's memory: what is free is in pieces


def blank(tileset: TileSet, config: Config, tiles: int, device: torch.device) -> Sample:
    """Return tiles of the size that the network is shown, all zeros, all valid and labelled."""
    side = crop_side(config.train, tileset.size)
    shape = (tiles, side, side)
    valid = torch.ones(shape, dtype=torch.bool, device=device)
    optical = torch.zeros(tiles, len(tileset.band_names), side, side, device=device)
    height = torch.zeros(tiles, 1, side, side, device=device)
    labels = torch.zeros(shape, dtype=torch.int64, device=device)
    return Sample(Inputs(optical, valid, height, valid), labels)


def seconds_per_tile(network: CaFE, tileset: TileSet, config: Config) -> float:
    """Time two tiles through a network, which gathers gradients, and back."""
    device = network.optical_mean.device
    batch = blank(tileset, config, 2, device)
    losses = LossModule(network.to(memory_format=torch.channels_last), config.train)
    precision = precision_of(config.train, device)
    elapsed = math.inf
    for _ in range(2):  # the first time is no measure
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
    """Return what ``batch_size = "auto"`` is: a power of two for every part of a step.

    On a GPU the largest that fits, found by steps on blank tiles, but no more than leaves an epoch
    eight steps; on a CPU about 8 in all.

    Parameters
    ----------
    tileset : TileSet
    config : Config
    device : torch.device
    precision : callable
        Gives the context in which the network computes.
    processes : int
        That share a step.
    """
    parts = processes * config.train.accumulate
    if device.type == "cpu":
        return parts * max(_ON_CPU // parts, 1)
    most = max(len(tileset.of("train")) // _STEPS, 2) // parts
    # By number: unlike others, this one does not take a GPU without one for the current one.
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
    """Try a step: the first one makes room for the optimiser's state, the second one uses it."""
    try:
        network = build_network(tileset, config).to(device)
        network.to(memory_format=torch.channels_last)
        losses, moved = LossModule(network, config.train), build_optimizer(network, config.train)
        for _ in range(2):
            moved.zero_grad()
            with precision():
                total = losses(blank(tileset, config, tiles, device))["total"]
            total.backward()
            moved.step()
    except RuntimeError as error:
        if not out_of_memory(error):
            raise
        return False
    finally:
        network = losses = moved = total = None  # type: ignore[assignment]
        gc.collect()
        torch.cuda.empty_cache()
    return True
