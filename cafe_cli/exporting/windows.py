"""Windows to compare an exported file with the network on: of a scene, or drawn."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

from cafe_cli.model.distribution import Percentiles, PixelDistribution
from cafe_cli.raster.window import Window, spread
from cafe_cli.scenes.scene import Patch, Scene
from cafe_cli.scenes.valley_floor import HIGHEST

_CELL = 16  # pixels along each side of what is drawn as one thing
_RANKS = np.array([0.001, 0.01, 0.25, 0.5, 0.75, 0.99, 0.999])
"""The ranks of the values of `Percentiles`."""
_VALID = 0.95  # share of the pixels that have an image, and of those that have a height


def scene_windows(scene: Scene, extent: Window, side: int, across: int) -> Iterator[Patch]:
    """Read up to across x across windows, spread over a part of a scene.

    Parameters
    ----------
    scene : Scene
    extent : Window
        The part.
    side : int
        Pixels along each side of a window; what lies beyond the scene is not valid.
    across : int
    """
    for place in spread(extent.width, extent.height, side, across):
        yield scene.read(Window(extent.col + place.col, extent.row + place.row, side, side))


def drawn_windows(
    known: PixelDistribution, dtype: str, side: int, count: int, planes: int
) -> Iterator[Patch]:
    """Draw windows with the colours and heights that a model was trained on; always the same.

    They show squares of `_CELL` pixels and noise, whose values have the percentiles of the training
    data. A twentieth of the pixels has no image, and as many have no height.

    Parameters
    ----------
    known : PixelDistribution
    dtype : str
        Data type of the image.
    side : int
        Pixels along each side.
    count : int
    planes : int
        Of the heights; ground is as often on a floor as 10 m above it.
    """
    random = np.random.default_rng(0)

    def draw(values: Percentiles) -> NDArray[np.float32]:
        """Draw values that go up and down with the brightness of the things in the window."""
        ranks = ndtr(0.8 * things + 0.6 * _field(random, side))
        found = np.interp(ranks, _RANKS, [*values.model_dump().values()])
        return np.asarray(found, np.float32)

    for _ in range(count):
        things = _field(random, side)
        image = np.stack([draw(band) for band in known.bands])
        if np.dtype(dtype).kind in "iu":
            image = np.rint(image).clip(np.iinfo(dtype).min, np.iinfo(dtype).max)
        valid, known_height = (_field(random, side) < ndtri(_VALID) for _ in range(2))
        heights = np.zeros((planes, side, side), np.float32)
        if known.heights:
            heights[0] = draw(known.heights)
            heights[1:] = HIGHEST * ndtr(_field(random, side))
        yield Patch(image.astype(dtype), valid, np.where(known_height, heights, 0), known_height)


def _field(random: np.random.Generator, side: int) -> NDArray[np.float64]:
    """Draw squares with noise on them, (side, side), of mean 0 and variance 1."""
    cells = random.standard_normal((-(-side // _CELL), -(-side // _CELL)))
    squares = np.kron(cells, np.ones((_CELL, _CELL)))[:side, :side]
    return np.asarray(0.8 * squares + 0.6 * random.standard_normal((side, side)))
