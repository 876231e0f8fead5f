"""Labels from rasters, decoded window by window."""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from rasterio.enums import Resampling

from cafe_cli.classes import NODATA, ClassTable
from cafe_cli.config.schema import LabelSettings
from cafe_cli.raster.grid import Grid
from cafe_cli.raster.mosaic_view import Member, MosaicView
from cafe_cli.raster.reader import Array, Mask
from cafe_cli.raster.skipped import Skipped
from cafe_cli.raster.window import Window
from cafe_cli.scenes.label_coding import Covered, Decoded, decode, needs_cover


class RasterLabels:
    """Label rasters on the grid of a scene. Not thread-safe.

    Where several rasters have data, the first wins, whatever the classes say about nodata values.
    With `skipped`, pixels that cannot be read have no label, and no class of unlabelled ground.
    """

    def __init__(
        self, members: Sequence[Member], grid: Grid, skipped: Skipped | None = None
    ) -> None:
        nearest = Resampling.nearest
        self._view = MosaicView(members, grid, nearest, skipped=skipped)
        # NaN is the only nodata value of this view, which replaces those that rasters declare.
        self._cover = MosaicView(members, grid, nearest, nodata=math.nan, skipped=skipped)
        self._nodata = sorted({m.nodata for m in members if m.nodata is not None})

    def read(self, window: Window, classes: ClassTable, settings: LabelSettings) -> Decoded:
        """Return the class ids of a window; see `decode`."""
        raw, valid, lost = self._view.read_or_skip(window)
        decoded = self._decode(raw, valid, window, classes, settings)
        if lost is None:
            return decoded
        return replace(decoded, ids=np.where(lost, np.uint8(NODATA), decoded.ids))

    def _decode(
        self,
        raw: Array,
        valid: Mask,
        window: Window,
        classes: ClassTable,
        settings: LabelSettings,
    ) -> Decoded:
        if not needs_cover(self._nodata, classes, settings):
            return decode(raw, valid, classes, settings)
        held, where = (raw, valid) if valid.all() else self._cover.read(window)
        covered = Covered(where, self._nodata)
        return decode(np.where(valid, raw, held), valid, classes, settings, covered)

    def close(self) -> None:
        """Close the rasters."""
        self._view.close()
        self._cover.close()
