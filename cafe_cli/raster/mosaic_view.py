"""A virtual mosaic: one raster or many, read as one raster on a grid.

Where several rasters have data, the first wins. A raster whose pixels are those of the grid is read
directly; any other is warped while it is read.
"""

import logging
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.enums import ColorInterp, Resampling
from rasterio.io import DatasetReader

from cafe_cli.errors import GridError, InputError
from cafe_cli.findings import Finding
from cafe_cli.raster.grid import Grid, check_overlap, describe_crs
from cafe_cli.raster.header import read_unit
from cafe_cli.raster.image_view import ImageView, find_view
from cafe_cli.raster.joining import Stream, common_dtype, join
from cafe_cli.raster.reader import (
    declared_nodata,
    image_bands,
    may_lack_data,
    open_raster,
)
from cafe_cli.raster.skipped import Skipped
from cafe_cli.raster.skipping import Pixels, either, read_or_skip
from cafe_cli.raster.storage import RasterReader
from cafe_cli.raster.warp import enclosing_window, locate, open_on_grid
from cafe_cli.raster.window import Window
from cafe_cli.system.open_files import Pool

log = logging.getLogger("cafe")


@dataclass(frozen=True)
class Member:
    """Metadata of a raster of a mosaic, known without reading its pixels.

    Attributes
    ----------
    count : int
        Bands.
    dtype : str
        Data type that holds the values of all `bands`.
    unit, scale, offset
        Metadata of the first band.
    block_width, block_height : int
        Size of the blocks of the file in pixels.
    masked : bool
        Whether an alpha band, a mask or nodata may mark pixels as no data.
    nodata : float or None
        See `declared_nodata`.
    bands : tuple of int
        Bands that are read, from 1: those named by the user, or all but alpha.
    view : ImageView or None
        How the raster is read as an image, if not as it stands; `count`, `dtype`, `masked`,
        `nodata` and `bands` are those of the view.
    findings : tuple of Finding
        What was assumed about the raster.
    """

    path: str
    grid: Grid
    count: int
    dtype: str
    unit: str
    scale: float = 1.0
    offset: float = 0.0
    masked: bool = False
    nodata: float | None = None
    block_width: int = 1
    block_height: int = 1
    bands: tuple[int, ...] = ()
    view: ImageView | None = None
    findings: tuple[Finding, ...] = ()

    def with_pixel_size(self, metres: float | None) -> "Member":
        """Return a raster with this pixel size in metres, unless it has one of its own."""
        if self.grid.has_pixel_size:
            return self
        return replace(self, grid=replace(self.grid, pixel_size=metres))

    def noted(self, warning: str) -> "Member":
        """Return the member with one more finding."""
        return replace(self, findings=(*self.findings, Finding("warning", warning, self.path)))

    def scaled(self, values: NDArray[Any]) -> NDArray[Any]:
        """Apply scale and offset to stored values."""
        if (self.scale, self.offset) == (1, 0):
            return values
        return (values * self.scale + self.offset).astype(values.dtype, copy=False)


@dataclass(frozen=True)
class _Part:
    """A member on the grid of the mosaic.

    `box` encloses the member on that grid; if `exact`, its pixels coincide with those of the grid.
    """

    member: Member
    box: Window
    exact: bool


def inspect_rasters(
    paths: Sequence[str],
    crs: CRS | None = None,
    reference: Grid | None = None,
    *,
    stream: Stream = "image",
    bands: Sequence[int] | None = None,
    pixel_size: float | None = None,
) -> list[Member]:
    """Inspect the rasters of one stream of a scene (image, heights or labels) and compare them.

    Parameters
    ----------
    paths : sequence of str
    crs : CRS, optional
        Assumed for rasters that declare none.
    reference : Grid, optional
        Grid of the scene. It is assumed for a raster of the same size without georeference, and
        for a raster with the same pixels but no CRS.
    stream : {"image", "heights", "labels"}
        What the values are: palette indices of an image are replaced by their colours, those of
        labels are ids.
    bands : sequence of int, optional
        Bands to read, from 1; all but alpha if None.
    pixel_size : float, optional
        Metres per pixel of rasters without georeference.

    Raises
    ------
    InputError
        A file is missing or no raster, or units or data types differ.
    GridError
        A raster is not georeferenced.
    BandError
        The number of bands differs.
    """
    found = [_inspect(path, crs, reference, stream, bands) for path in paths]
    found = [member.with_pixel_size(pixel_size) for member in found]
    members = join(found, stream)
    if len(members) > 1 and (lost := [m.path for m in members if not m.grid.is_georeferenced]):
        raise GridError(f"{lost[0]} has no georeference and cannot be joined with other rasters")
    return members


def union_grid(members: Sequence[Member]) -> Grid:
    """Return the grid of the first raster, extended to enclose all of them.

    Raises
    ------
    GridError
        Only some rasters have a CRS, or there is no transformation between two.
    """
    base = members[0].grid
    if len(members) == 1:
        return base
    return base.at(Window.hull([enclosing_window(m.path, m.grid, base) for m in members]))


def covered_share(members: Sequence[Member], reference: str, target: Grid) -> float:
    """Return the sum of the shares of `target` that the members cover, at most 1.

    Raises
    ------
    GridError
        No member covers any of it (see `cafe_cli.raster.grid.check_overlap`).
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
    """Rasters read as one on a grid, by windows. Not thread-safe.

    Parameters
    ----------
    members : sequence of Member
    grid : Grid
    resampling : Resampling
        For members that have to be warped. With ``min``, the lowest value of all members is taken
        instead of that of the first.
    bands : tuple of int, optional
        From 1; those of each member if None.
    nodata : float, optional
        Replaces the nodata value of the rasters.
    dtype : str, optional
        Data type to convert to; if None, one that holds the values of all members.
    scaled : bool
        Whether to apply the scale and the offset of each raster.
    skipped : Skipped, optional
        Collects what cannot be read; if None, that is an error.
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
        skipped: Skipped | None = None,
    ) -> None:
        self._grid = grid
        self._resampling = resampling
        self._bands = bands
        self._nodata = nodata
        self._dtype = dtype or common_dtype(members)
        self._scaled = scaled
        self._skipped = skipped
        self._parts = [_Part(m, *locate(m.path, m.grid, grid)) for m in members]
        self._pool = Pool[RasterReader]()

    def read(self, window: Window) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """Read a window: values (bands, height, width) and their validity mask (height, width).

        Raises
        ------
        InputError
            A file is truncated or damaged in the window.
        """
        values, valid, _ = self.read_or_skip(window)
        return values, valid

    def read_or_skip(self, window: Window) -> Pixels:
        """Read a window; say also which pixels could be read of no raster."""
        near = [part for part in self._parts if part.box.intersection(window)]
        values, valid, lost = self._read_part((near or self._parts)[0], window)
        for part in near[1:]:
            if valid.all() and self._resampling is not Resampling.min:
                break
            others, others_valid, others_lost = self._read_part(part, window)
            taken = others_valid & ~valid
            if self._resampling is Resampling.min:
                taken |= others_valid & (others < values).any(axis=0)
            values[:, taken] = others[:, taken]
            valid |= others_valid
            lost = either(lost, others_lost)
        return Pixels(values, valid, None if lost is None else lost & ~valid)

    def close(self) -> None:
        """Close the open rasters."""
        self._pool.close()

    def _read_part(self, part: _Part, window: Window) -> Pixels:
        member = part.member
        reader = self._pool.get(member.path, lambda: self._open(part))
        bands = self._bands or member.bands or None
        values, valid, lost = read_or_skip(
            reader, part.box, window, bands, self._nodata, self._skipped
        )
        values = values.astype(self._dtype or values.dtype, copy=False)
        return Pixels(member.scaled(values) if self._scaled else values, valid, lost)

    def _open(self, part: _Part) -> AbstractContextManager[RasterReader]:
        options = {"nodata": self._nodata, "dtype": self._dtype, "source": part.member.grid}
        member = part.member
        return open_on_grid(
            member.path, self._grid, part.exact, self._resampling, view=member.view, **options
        )


def _inspect(
    path: str,
    crs: CRS | None,
    reference: Grid | None,
    stream: Stream,
    bands: Sequence[int] | None,
) -> Member:
    with open_raster(path) as dataset:
        view = find_view(dataset, bands) if stream == "image" else None
        block_height, block_width = dataset.block_shapes[0]
        member = Member(
            path,
            _find_grid(dataset, crs, reference),
            dataset.count,
            dataset.dtypes[0],
            read_unit(dataset),
            scale=dataset.scales[0],
            offset=dataset.offsets[0],
            block_width=block_width,
            block_height=block_height,
            view=view,
            findings=(view.finding(path),) if view else (),
        )
        if stream == "heights" and ColorInterp.palette in dataset.colorinterp:
            member = member.noted(
                f"{path} has a colour table; its values are read as heights: check that it is not "
                "a picture of heights"
            )
        if view is None:
            return _with_bands(member, dataset, bands)
    with open_raster(path, view) as dataset:
        return _with_bands(member, dataset, bands)


def _with_bands(member: Member, dataset: DatasetReader, bands: Sequence[int] | None) -> Member:
    """Add what is known of the bands that are read from a raster, or from its view."""
    chosen = image_bands(dataset, bands)
    dtype = _common_dtype(dataset, chosen or (1,))
    if dtype.startswith("complex"):
        raise InputError(
            f"{member.path} holds complex numbers, but images and heights are real numbers"
        )
    return replace(
        member,
        count=dataset.count,
        dtype=dtype,
        masked=may_lack_data(dataset),
        nodata=declared_nodata(dataset),
        bands=chosen,
    )


def _common_dtype(dataset: DatasetReader, bands: Iterable[int]) -> str:
    return np.result_type(*(dataset.dtypes[b - 1] for b in bands)).name


def _find_grid(dataset: DatasetReader, crs: CRS | None, reference: Grid | None) -> Grid:
    """Return the grid of a raster, completed from `crs` or `reference` where it declares none."""
    grid = Grid.of(dataset)
    if grid.crs is None and not grid.transform.is_identity:
        grid = replace(grid, crs=crs)
    if grid.crs is not None or reference is None or not reference.is_georeferenced:
        return grid
    same_size = (grid.width, grid.height) == (reference.width, reference.height)
    if grid.transform.is_identity and not same_size:
        raise GridError(
            f"{dataset.name} has no georeference and {grid.width} x {grid.height} pixels; with the "
            f"{reference.width} x {reference.height} pixels of the image it would be clear where "
            "it lies; add a world file, or gdal_translate -a_ullr and -a_srs"
        )
    if grid.transform.is_identity or replace(grid, crs=reference.crs).same_pixels(reference):
        log.debug("%s is assumed to lie on the pixel grid of the image", dataset.name)
        return reference
    if reference.crs is not None:
        raise GridError(
            f"{dataset.name} has no CRS while the image is in {describe_crs(reference.crs)}; "
            "give it with scenes.crs (--crs), or gdal_edit.py -a_srs EPSG:CODE FILE"
        )
    return grid
