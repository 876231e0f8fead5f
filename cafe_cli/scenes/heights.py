"""Heights on the grid of a scene: in metres, above the ground, with a mask.

The height of a pixel does not depend on the window that is read: the ground is estimated once for
the scene, and voids are filled from the heights around them, inside the window or not.
"""

import math
from collections.abc import Sequence
from contextlib import ExitStack
from functools import cached_property

import numpy as np
from rasterio.enums import Resampling
from rasterio.fill import fillnodata

from cafe_cli.config.schema import HeightSettings
from cafe_cli.errors import ConfigError
from cafe_cli.raster.grid import Grid
from cafe_cli.raster.mosaic_view import Member, MosaicView
from cafe_cli.raster.reader import Mask
from cafe_cli.raster.skipping import either
from cafe_cli.raster.storage import RasterReader
from cafe_cli.raster.warp import in_memory_raster, open_warped, read_warped
from cafe_cli.raster.window import Window
from cafe_cli.scenes.height_pixels import HeightPixels, Values, height_view, read_in_metres
from cafe_cli.scenes.height_rasters import HeightRasters, terrain_settings
from cafe_cli.scenes.scene_ground import GroundSurface, SceneGround
from cafe_cli.scenes.valley_floor import UNKNOWN, height_above

_MOST_MARGIN = 1024  # pixels around a window


class HeightReader:
    """Reads heights on the grid of a scene. Not to be shared between threads.

    Parameters
    ----------
    rasters : HeightRasters
    grid : Grid
        Grid of the scene.
    ground : SceneGround, optional
        If None, it is computed when first needed.

    Raises
    ------
    GridError
        Only some of the rasters have a CRS.
    """

    def __init__(
        self,
        rasters: HeightRasters,
        grid: Grid,
        ground: SceneGround | None = None,
    ) -> None:
        self._stack, self._rasters, self._grid, self._given = ExitStack(), rasters, grid, ground
        self._surface = self._view(rasters.surface, rasters.settings)
        self._terrain = None
        if rasters.ground == "dtm":
            self._terrain = self._view(rasters.terrain, terrain_settings(rasters.settings))
        self._margin = fill_margin(rasters.settings.fill, grid)

    def read(self, window: Window) -> tuple[Values, Mask]:
        """Read heights (height, width) in metres, 0 where not valid, and where they are valid.

        Raises
        ------
        InputError
            There are undeclared voids, or a file is damaged.
        """
        pixels = self.read_or_skip(window)
        return pixels.height, pixels.valid

    def read_or_skip(self, window: Window) -> HeightPixels:
        """Read heights; say also which could not be read. They are not filled from others."""
        pixels, ground = self._above_ground(window)
        above_floor = self._above_floor(window, ground)
        if not self._margin or pixels.valid.all():
            return pixels._replace(above_floor=above_floor)
        around = window.expand(self._margin)
        found, _ = self._above_ground(around)
        inside = window.slices(around)
        filled, known = _fill(found.height, found.valid, self._margin)
        height, valid = filled[inside], known[inside]
        if pixels.skipped is not None:
            valid = valid & ~pixels.skipped
            height = np.where(valid, height, np.float32(0))
        return HeightPixels(height, valid, pixels.skipped, above_floor)

    def close(self) -> None:
        """Close the rasters."""
        self._stack.close()

    def _above_ground(self, window: Window) -> tuple[HeightPixels, HeightPixels | None]:
        """Read heights, and the ground that was subtracted; None if none was."""
        path = self._rasters.surface[0].path
        pixels = read_in_metres(self._surface, self._rasters, window, path)
        height, valid, lost, ground = pixels.height, pixels.valid, pixels.skipped, None
        if self._rasters.ground != "none":
            ground = self._read_ground(window)
            height = height - ground.height
            valid &= ground.valid
            lost = either(lost, ground.skipped)
        known = height if valid.all() else np.where(valid, height, np.float32(0))
        return HeightPixels(known, valid, lost), ground

    def _above_floor(self, window: Window, ground: HeightPixels | None) -> Values | None:
        """Return the height of the ground above the floor of its valley; None if nobody asks."""
        if not self._rasters.settings.valley_radius:
            return None
        if ground is None:
            return np.full((window.height, window.width), UNKNOWN, np.float32)
        floor, near = read_warped(self._floor, window)
        known = near & ground.valid
        return height_above(np.where(known, floor[0], np.float32(np.nan)), ground.height)

    def _read_ground(self, window: Window) -> HeightPixels:
        if self._terrain is not None:
            name = self._rasters.terrain[0].path
            return read_in_metres(self._terrain, self._rasters, window, name, terrain=True)
        values, valid = read_warped(self._estimate, window)
        return HeightPixels(values[0], valid)

    @cached_property
    def _ground(self) -> SceneGround:
        return self._given or SceneGround.of(self._rasters, self._grid)

    @cached_property
    def _estimate(self) -> RasterReader:
        return self._open(self._ground.estimate)

    @cached_property
    def _floor(self) -> RasterReader:
        return self._open(self._ground.floor)

    def _open(self, ground: GroundSurface | None) -> RasterReader:
        if ground is None:
            raise ValueError("the ground that was given is that of other height settings")
        source = self._stack.enter_context(in_memory_raster(ground.surface, ground.grid))
        return self._stack.enter_context(open_warped(source, self._grid, Resampling.bilinear))

    def _view(self, members: Sequence[Member], settings: HeightSettings) -> MosaicView:
        view = height_view(
            members, self._grid, Resampling.bilinear, settings, self._rasters.skipped
        )
        self._stack.callback(view.close)
        return view


def fill_margin(fill: float, grid: Grid) -> int:
    """Return the pixels around a window from which voids up to `fill` metres are filled.

    Raises
    ------
    ConfigError
        They are so many that memory and time of a window would not be bounded.
    """
    margin = math.ceil(fill / grid.gsd)
    if margin > _MOST_MARGIN:
        raise ConfigError(
            f"height.fill = {fill:g} m is {margin:,} pixels of {grid.gsd:.3g} m, which would be "
            f"read around every window; at most {_MOST_MARGIN:,} are: set it to "
            f"{_MOST_MARGIN * grid.gsd:.3g} m or less, or resample the scene with tile.gsd"
        )
    return margin


def _fill(height: Values, valid: Mask, reach: int) -> tuple[Values, Mask]:
    """Fill voids up to `reach` pixels from the nearest height by inverse distance weighting.

    Heights farther away have no influence, so it is enough to read `reach` pixels around a window.
    """
    if not valid.any():
        return height, valid
    marked = np.where(valid, height, np.float32(np.nan))
    filled = fillnodata(marked, valid.astype(np.uint8), max_search_distance=reach)
    known = np.isfinite(filled)
    return np.where(known, filled, np.float32(0)), known
