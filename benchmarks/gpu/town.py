"""The town of all scenes, drawn on all cores; imports little, since every process imports it."""

from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.tile_data import BLOCK, draw, terrain

Planes = tuple[NDArray[Any], NDArray[Any], NDArray[Any]]
"""Image (3, height, width), metres above ground and classes (height, width)."""


def draw_town(size: int, processes: int) -> Planes:
    """Draw a town of that side, block by block in so many processes."""
    places = [(col, row) for row in range(0, size, BLOCK) for col in range(0, size, BLOCK)]
    side = -(-size // BLOCK) * BLOCK
    image = np.empty((3, side, side), np.uint8)
    above, classes = np.empty((side, side), np.float32), np.empty((side, side), np.uint8)
    # Spawned: a process that is forked off one with threads may hang.
    with ProcessPoolExecutor(min(processes, len(places)), get_context("spawn")) as pool:
        for (col, row), drawn in zip(places, pool.map(draw_block, places), strict=True):
            at = slice(row, row + BLOCK), slice(col, col + BLOCK)
            image[:, *at], above[at], classes[at] = drawn
    return image[:, :size, :size], above[:size, :size], classes[:size, :size]


def draw_block(place: tuple[int, int]) -> Planes:
    image, heights, classes = draw(*place)
    return image, heights - terrain(*place), classes
