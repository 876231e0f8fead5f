"""Attributes of regions: the area of pixels, and statistics of rasters over the regions."""

from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from rasterio.enums import Resampling

from cafe_cli.errors import BandError, InputError
from cafe_cli.raster.grid import Grid, parse_crs
from cafe_cli.raster.header import read_tags
from cafe_cli.raster.mosaic_view import Member, MosaicView, covered_share, inspect_rasters
from cafe_cli.raster.product import product_of
from cafe_cli.raster.reader import open_raster
from cafe_cli.raster.window import Window
from cafe_cli.regions.labelling import Ids

_UNKNOWN = 255  # in rasters of per cent


@dataclass(frozen=True)
class GroundRaster:
    """A raster to take statistics of, on any grid.

    Attributes
    ----------
    name : str
        Names the attributes.
    members : tuple of Member
        The sheets.
    percent : bool
        Whether the values are per cent and 255 is none.
    """

    name: str
    members: tuple[Member, ...]
    percent: bool = False


def inspect_ground_raster(
    name: str,
    paths: Sequence[str],
    map_name: str,
    grid: Grid,
    *,
    bands: int = 1,
    percent: bool = False,
    crs: str | None = None,
) -> GroundRaster:
    """Inspect a raster that lies on the ground of a map.

    Raises
    ------
    BandError
        It has another number of bands.
    GridError
        It does not overlap the map, or lacks a CRS.
    InputError
        It is missing or damaged.
    """
    paths = _of_product(name, paths)
    members = tuple(inspect_rasters(paths, parse_crs(crs), grid, stream="labels"))
    found = len(members[0].bands)
    if found != bands:
        raise BandError(
            f"{paths[0]} has {found} bands, {bands} {'is' if bands == 1 else 'are'} expected "
            f"for {name}; take a band with gdal_translate -b"
            if bands == 1
            else f"{paths[0]} has {found} bands, the map has {bands} classes; pass the raster that "
            "cafe predict --probabilities wrote with this map"
        )
    covered_share(members, map_name, grid)
    return GroundRaster(name, members, percent)


def _of_product(name: str, paths: Sequence[str]) -> Sequence[str]:
    """Leave out the rasters that cafe wrote as something else than that product, as in a folder.

    Any raster may be one to take statistics of.
    """
    if name not in ("confidence", "probabilities"):
        return paths
    kept = []
    for path in paths:
        with open_raster(path) as dataset:
            if product_of(read_tags(dataset)) in ("", name):
                kept.append(path)
    if not kept:
        more = f" and {len(paths) - 1} more" if len(paths) > 1 else ""
        raise InputError(
            f"{paths[0]}{more}: cafe did not write it as {name}; pass the right raster"
        )
    return kept


class GroundReader:
    """Reads a raster on the grid of a map, by the nearest pixel. Not thread-safe."""

    def __init__(self, raster: GroundRaster, grid: Grid) -> None:
        self._raster = raster
        self._view = MosaicView(raster.members, grid, Resampling.nearest, scaled=True)

    def read(self, window: Window) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """Read a window: values (bands, height, width), and where all bands have one.

        Raises
        ------
        InputError
            The file is damaged, or per cent above 100.
        """
        values, valid = self._view.read(window)
        valid = valid & np.isfinite(values).all(axis=0)
        if self._raster.percent:
            valid &= (values != _UNKNOWN).all(axis=0)
            above = (values > 100) & valid
            if above.any():
                raise InputError(
                    f"{self._raster.members[0].path} holds the value {values[above][0]}: a raster "
                    f"of per cent holds 0 to 100, and {_UNKNOWN} for none"
                )
        return values.astype(np.float64), valid

    def close(self) -> None:
        """Close the files."""
        self._view.close()


class RegionStatistics:
    """Mean, minimum and maximum of a raster over each region.

    Parameters
    ----------
    size : int
        Number of regions, and one for what has no class.
    """

    def __init__(self, size: int) -> None:
        self._count = np.zeros(size, np.int64)
        self._sum = np.zeros(size)
        self._low = np.full(size, np.inf)
        self._high = np.full(size, -np.inf)

    def add(
        self,
        local: Ids,
        numbers: Ids,
        values: NDArray[np.float64],
        valid: NDArray[np.bool_],
    ) -> None:
        """Add the pixels of a tile.

        Parameters
        ----------
        local : ndarray of int32, (height, width)
            Labels of the tile.
        numbers : ndarray of int32, (labels,)
            The region of each label.
        values, valid : ndarray, (height, width)
        """
        label, value, size = local[valid], values[valid], len(numbers)
        np.add.at(self._count, numbers, np.bincount(label, minlength=size))
        np.add.at(self._sum, numbers, np.bincount(label, value, size))
        low, high = np.full(size, np.inf), np.full(size, -np.inf)
        np.minimum.at(low, label, value)
        np.maximum.at(high, label, value)
        np.minimum.at(self._low, numbers, low)
        np.maximum.at(self._high, numbers, high)

    @property
    def mean(self) -> NDArray[np.float64]:
        """Mean by region, NaN where the raster has no value."""
        with np.errstate(invalid="ignore"):
            return self._sum / self._count

    @property
    def minimum(self) -> NDArray[np.float64]:
        """Minimum by region, NaN where the raster has no value."""
        return np.where(self._count > 0, self._low, np.nan)

    @property
    def maximum(self) -> NDArray[np.float64]:
        """Maximum by region, NaN where the raster has no value."""
        return np.where(self._count > 0, self._high, np.nan)


def open_all(stack: ExitStack, rasters: Sequence[GroundRaster], grid: Grid) -> list[GroundReader]:
    """Open rasters until a stack of contexts ends."""
    return [stack.enter_context(closing(GroundReader(raster, grid))) for raster in rasters]
