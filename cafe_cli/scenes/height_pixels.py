"""Heights of a window in metres, as the rasters have them."""

from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray
from rasterio.enums import Resampling

from cafe_cli.config.schema import HeightSettings
from cafe_cli.raster.grid import Grid
from cafe_cli.raster.mosaic_view import Member, MosaicView
from cafe_cli.raster.reader import Mask
from cafe_cli.raster.skipped import Skipped
from cafe_cli.raster.window import Window
from cafe_cli.scenes.height_rasters import HeightRasters, check_plausible

Values: TypeAlias = NDArray[np.float32]


class HeightPixels(NamedTuple):
    """Heights of a window.

    Attributes
    ----------
    height : ndarray of float32, (height, width)
        Metres.
    valid : ndarray of bool, (height, width)
    skipped : ndarray of bool, (height, width), or None
        Pixels that could not be read, none of them valid; None if all could be.
    above_floor : ndarray of float32, (height, width), or None
        Metres of the ground above the floor of its valley, `valley_floor.UNKNOWN` where that is not
        known; None unless ``height.valley_radius`` asks for it.
    """

    height: Values
    valid: Mask
    skipped: Mask | None = None
    above_floor: Values | None = None

    def planes(self) -> Values:
        """Return the heights that a network sees, (planes, height, width), 0 where not valid."""
        if self.above_floor is None:
            return self.height[None]
        return np.stack([self.height, np.where(self.valid, self.above_floor, np.float32(0))])


def height_view(
    members: Sequence[Member],
    grid: Grid,
    resampling: Resampling,
    settings: HeightSettings,
    skipped: Skipped | None,
) -> MosaicView:
    """Open rasters of heights as one, on a grid."""
    return MosaicView(
        members, grid, resampling, bands=(1,), nodata=settings.nodata, dtype="float32",
        scaled=True, skipped=skipped,
    )  # fmt: skip


def read_in_metres(
    view: MosaicView, rasters: HeightRasters, window: Window, name: str, terrain: bool = False
) -> HeightPixels:
    """Read heights in metres."""
    metres = rasters.terrain_metres if terrain else rasters.metres
    values, valid, lost = view.read_or_skip(window)
    height = values[0] if metres == 1 else values[0] * np.float32(metres)
    valid &= np.isfinite(height)
    check_plausible(name, height if valid.all() else height[valid], rasters, terrain)
    return HeightPixels(height, valid, lost)
