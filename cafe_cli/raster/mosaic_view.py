"""One raster or many, read as one on a grid.

Where several have data, the first of them counts. What lies on the grid pixel by pixel is read as
it is; everything else is warped while it is read.
"""

import logging
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.enums import Resampling
from rasterio.errors import CRSError
from rasterio.io import DatasetReader

from cafe_cli.errors import BandError, ConfigError, GridError, InputError
from cafe_cli.raster.grid import Grid, check_overlap, describe_crs
from cafe_cli.raster.reader import RasterReader, may_lack_data, open_raster
from cafe_cli.raster.warp import enclosing_window, locate, open_on_grid, read_on_grid
from cafe_cli.raster.window import Window
from cafe_cli.system.open_files import Pool

log = logging.getLogger("cafe")


@dataclass(frozen=True)
class Member:
    """What is known of a raster without reading its pixels.

    `unit`, `scale` and `offset` are those of its first band, `block` and `block_rows` the width and
    the height of what is stored as a whole; `masked` says whether some pixels may be no data.
    """

    path: str
    grid: Grid
    count: int
    dtype: str
    unit: str
    block: int = 1
    scale: float = 1.0
    offset: float = 0.0
    masked: bool = False
    block_rows: int = 1

    def scaled(self, values: NDArray[Any]) -> NDArray[Any]:
        """Return stored values as what they stand for."""
        if (self.scale, self.offset) == (1, 0):
            return values
        return (values * self.scale + self.offset).astype(values.dtype, copy=False)


@dataclass(frozen=True)
class _Part:
    """A member as it lies on the grid; `box` holds all of its pixels."""

    member: Member
    box: Window
    exact: bool


def inspect_rasters(
    paths: Sequence[str], crs: CRS | None = None, reference: Grid | None = None
) -> list[Member]:
    """Look at rasters that are one stream of a scene.

    Parameters
    ----------
    paths : sequence of str
    crs : CRS, optional
        Of the rasters that do not say theirs.
    reference : Grid, optional
        That of the scene. A raster that has no place of its own but as many pixels has its grid;
        so has one with its very pixels but without a CRS.

    Raises
    ------
    InputError
        A file is missing or no raster, or units or data types differ.
    GridError
        A raster without a place.
    BandError
        The number of bands differs.
    """
    members = [_look(path, crs, reference) for path in paths]
    first = members[0]
    for other in members[1:]:
        if other.count != first.count:
            raise BandError(
                f"{other.path} has {other.count} bands, {first.path} has {first.count}: they "
                "cannot be joined"
            )
        if (other.dtype, other.unit) != (first.dtype, first.unit):
            raise InputError(
                f"{other.path} is {_kind(other)}, {first.path} is {_kind(first)}: they cannot be "
                "joined; convert one with gdal_translate"
            )
    if len(members) > 1 and (lost := [m.path for m in members if not m.grid.is_placed]):
        raise GridError(f"{lost[0]} has no georeference and cannot be joined with other rasters")
    return members


def parse_crs(text: str | None) -> CRS | None:
    """Read a CRS as a person writes it: ``EPSG:25832``, WKT, PROJ.

    Raises
    ------
    ConfigError
        It means nothing.
    """
    if text is None:
        return None
    try:
        return CRS.from_user_input(text)
    except (CRSError, ValueError) as error:
        raise ConfigError(f"{text!r} is no CRS; write it like EPSG:25832") from error


def union_grid(members: Sequence[Member]) -> Grid:
    """Return the pixel grid of the first raster, grown around all of them.

    Raises
    ------
    GridError
        A CRS on one side only, or no way from one to the other.
    """
    base = members[0].grid
    if len(members) == 1:
        return base
    return base.at(Window.hull([enclosing_window(m.path, m.grid, base) for m in members]))


def covered_share(members: Sequence[Member], reference: str, target: Grid) -> float:
    """Return the share of `target` that the members cover, at most.

    Raises
    ------
    GridError
        None of it (see `cafe_cli.raster.grid.check_overlap`).
    """
    share, failure = 0.0, None
    for member in members:
        try:
            share += check_overlap(member.path, member.grid, reference, target)
        except GridError as error:
            failure = failure or error
    if failure and not share:
        raise failure
    return min(share, 1.0)


class MosaicView:
    """Members read as one raster on a grid. Not to be shared between threads.

    Parameters
    ----------
    members : sequence of Member
    grid : Grid
    resampling : Resampling
        For what has to be warped; with ``min``, the lowest of all rasters counts.
    bands : tuple of int, optional
        From 1; all but a mask if None.
    nodata : float, optional
        Replaces that of the rasters.
    dtype : str, optional
        To read as.
    scaled : bool
        Apply the scale and the offset of each raster.
    """

    def __init__(
        self,
        members: Sequence[Member],
        grid: Grid,
        resampling: Resampling,
        *,
        bands: tuple[int, ...] | None = None,
        nodata: float | None = None,
        dtype: str | None = None,
        scaled: bool = False,
    ) -> None:
        self._grid = grid
        self._resampling = resampling
        self._bands = bands
        self._nodata = nodata
        self._dtype = dtype
        self._scaled = scaled
        self._parts = [_Part(m, *locate(m.path, m.grid, grid)) for m in members]
        self._pool = Pool[RasterReader]()

    def read(self, window: Window) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """Read values (bands, height, width), and where they are valid, (height, width).

        Raises
        ------
        InputError
            A file is truncated or damaged there.
        """
        near = [part for part in self._parts if part.box.intersection(window)]
        values, valid = self._read_part((near or self._parts)[0], window)
        for part in near[1:]:
            if valid.all() and self._resampling is not Resampling.min:
                break
            more, known = self._read_part(part, window)
            taken = known & ~valid
            if self._resampling is Resampling.min:
                taken |= known & (more < values).any(axis=0)
            values[:, taken] = more[:, taken]
            valid |= known
        return values, valid

    def close(self) -> None:
        """Close what is open."""
        self._pool.close()

    def _read_part(self, part: _Part, window: Window) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        member = part.member
        reader = self._pool.get(member.path, lambda: self._open(part))
        values, valid = read_on_grid(reader, part.box, window, self._bands, self._nodata)
        values = values.astype(self._dtype or values.dtype, copy=False)
        return member.scaled(values) if self._scaled else values, valid

    def _open(self, part: _Part) -> AbstractContextManager[RasterReader]:
        options = {"nodata": self._nodata, "dtype": self._dtype, "source": part.member.grid}
        return open_on_grid(part.member.path, self._grid, part.exact, self._resampling, **options)


def _kind(member: Member) -> str:
    return f"{member.dtype} in {member.unit}" if member.unit else member.dtype


def _look(path: str, crs: CRS | None, reference: Grid | None) -> Member:
    with open_raster(path) as dataset:
        grid = _placed(dataset, crs, reference)
        unit = (dataset.units[0] or "").strip()
        rows, block = dataset.block_shapes[0]
        if dataset.dtypes[0].startswith("complex"):
            raise InputError(f"{path} holds complex numbers, which are no image and no heights")
        stored = dataset.scales[0], dataset.offsets[0], may_lack_data(dataset)
        return Member(path, grid, dataset.count, dataset.dtypes[0], unit, block, *stored, rows)


def _placed(dataset: DatasetReader, crs: CRS | None, reference: Grid | None) -> Grid:
    """Return the grid of a raster; one that does not say it may share that of the scene."""
    grid = Grid.of(dataset)
    if grid.crs is None and not grid.transform.is_identity:
        grid = replace(grid, crs=crs)
    if grid.crs is not None or reference is None or not reference.is_placed:
        return grid
    same_size = (grid.width, grid.height) == (reference.width, reference.height)
    if grid.transform.is_identity and dataset.gcps[0]:
        raise GridError(
            f"{dataset.name} has ground control points but is not warped; run gdalwarp first"
        )
    if grid.transform.is_identity and not same_size:
        raise GridError(
            f"{dataset.name} has no georeference and {grid.width} x {grid.height} pixels; with the "
            f"{reference.width} x {reference.height} pixels of the image it would be clear where "
            "it lies; add a world file, or gdal_translate -a_ullr and -a_srs"
        )
    if grid.transform.is_identity or replace(grid, crs=reference.crs).same_pixels(reference):
        log.debug("%s is taken to lie on the pixels of the image", dataset.name)
        return reference
    if reference.crs is not None:
        raise GridError(
            f"{dataset.name} has no CRS while the image is in {describe_crs(reference.crs)}; "
            "give it with scenes.crs (--crs), or gdal_edit.py -a_srs EPSG:CODE FILE"
        )
    return grid
