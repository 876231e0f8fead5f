"""Measure the distribution of the pixels of a scene on some windows of it."""

from cafe_cli.model.distribution import DistributionSampler, PixelDistribution
from cafe_cli.raster.window import Window, spread
from cafe_cli.scenes.scene import Scene
from cafe_cli.vector.area_of_interest import Area

_SIDE, _COUNTS = 256, (5, 4, 3, 2)  # side of a window, and windows along each side of the scene
_MOST_DECODED = 100_000_000  # pixels of the image that are decoded for the sample: about a second


def sample(scene: Scene, area: Area, most: int = _COUNTS[0]) -> PixelDistribution | None:
    """Measure the pixels of a part of an area.

    Parameters
    ----------
    scene : Scene
    area : Area
    most : int
        Windows along each side, at most 5.

    Returns
    -------
    PixelDistribution or None
        None if no pixel of the windows is valid.

    Raises
    ------
    InputError
        A file of the scene is damaged.
    """
    sampler = DistributionSampler()
    for window in _windows(scene, area.extent, most):
        patch = scene.read(window)
        sampler.add(*patch._replace(optical_valid=patch.optical_valid & area.mask(window)))
    return sampler.distribution()


def _windows(scene: Scene, extent: Window, most: int) -> list[Window]:
    """Spread windows over an extent; fewer where large blocks have to be decoded for each."""
    width, height = scene.inspection.optical_block
    decoded = min(_SIDE + width, scene.grid.width) * min(_SIDE + height, scene.grid.height)
    fitting = (n for n in _COUNTS if n <= most and n**2 * decoded <= _MOST_DECODED)
    spreaded = spread(extent.width, extent.height, _SIDE, next(fitting, _COUNTS[-1]))
    return [window.shift(extent.col, extent.row) for window in spreaded]
