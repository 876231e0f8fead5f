"""The area of interest (AOI): the pixels of a scene inside polygons or a bounding box."""

import hashlib
import math
from dataclasses import dataclass

import numpy as np
import shapely
from numpy.typing import NDArray

from cafe_cli.errors import GridError, InputError
from cafe_cli.findings import warn_once
from cafe_cli.raster.grid import Bounds, Grid
from cafe_cli.raster.window import Window, blocks
from cafe_cli.vector.bounding_box import bbox_polygons
from cafe_cli.vector.features import read_features
from cafe_cli.vector.geometry import Geometries, single_parts, subdivide
from cafe_cli.vector.layers import find_layer, only_polygon_layer
from cafe_cli.vector.rasterize import rasterize_indices

_BLOCK = 2048  # pixels; side of the blocks rasterized at once, which bounds memory
_CELL = 32  # pixels; side of the cells that tell which windows may hold wanted pixels
_FAR = 2**40  # pixels, beyond any scene
_CELLS = 1_000_000  # upper limit of the number of cells, about


@dataclass(frozen=True, eq=False)
class _Limit:
    """A set of polygons on a scene; `bounds` encloses all of them, in pixels."""

    name: str
    bounds: Bounds
    tree: shapely.STRtree

    @classmethod
    def of(cls, name: str, polygons: Geometries) -> "_Limit":
        left, top, right, bottom = shapely.total_bounds(polygons).tolist()
        return cls(name, (left, top, right, bottom), shapely.STRtree(subdivide(polygons)[0]))

    def mask(self, window: Window) -> NDArray[np.bool_]:
        """Return which pixels of a window have their centre in a polygon, (height, width)."""
        near = self.tree.query(shapely.box(*window.bounds))
        return rasterize_indices(self.tree.geometries[near], window) >= 0


@dataclass(frozen=True, eq=False)
class _WantedPixels:
    """The result of rasterizing the limits once; see `Area`.

    In `cells`, (rows, columns), a square of `side` pixels of the window `reach` is True if it holds
    wanted pixels.
    """

    extent: Window
    pixels: int
    digest: str
    reach: Window
    side: int
    cells: NDArray[np.bool_]


class Area:
    """The area of interest: the pixels of a scene whose centres lie inside all its limits.

    Immutable, so threads may share it. A limit is a set of polygons; a pixel is inside it when any
    of the polygons holds its centre. Ground that one polygon encloses twice is outside (even-odd
    rule), as in vector labels.

    Parameters
    ----------
    scene : Window
        The whole scene.
    limits : tuple
        Without limits, all pixels are wanted.
    name : str
        Name of the scene in errors.

    Attributes
    ----------
    extent : Window
        The smallest window that holds all wanted pixels.
    pixels : int
        Number of wanted pixels, at least one.
    key : str
        ``whole``, or a hash of the wanted pixels, which does not depend on how they were given.

    Raises
    ------
    GridError
        No pixel is wanted.
    """

    def __init__(
        self, scene: Window, limits: tuple[_Limit, ...] = (), name: str = "the scene"
    ) -> None:
        self._scene = scene
        self._limits = limits
        self._wanted = _rasterize_limits(scene, limits) if limits else None
        self.extent, self.pixels, self.key = scene, scene.width * scene.height, "whole"
        if self._wanted is None:
            return
        if not self._wanted.pixels:
            raise _empty(limits, scene, name)
        if self._wanted.pixels < self.pixels:
            self.key = self._wanted.digest
        self.extent, self.pixels = self._wanted.extent, self._wanted.pixels

    @classmethod
    def whole(cls, grid: Grid) -> "Area":
        """Return the area of a whole scene."""
        return cls(grid.extent)

    @classmethod
    def within(
        cls, polygons: Geometries, grid: Grid, source: str, *, name: str = "the scene"
    ) -> "Area":
        """Return the area inside single polygons in pixel coordinates, (N,).

        In errors, `source` names the origin of the polygons and `name` the scene.

        Raises
        ------
        GridError
            No pixel of the scene lies inside.
        """
        return cls(grid.extent, (_Limit.of(source, polygons),), name)

    @classmethod
    def from_file(
        cls, path: str, grid: Grid, layer: str | None = None, *, name: str = "the scene"
    ) -> "Area":
        """Return the area inside the polygons of a vector file, in any CRS.

        Parameters
        ----------
        path : str
            A file, a URL or any name that GDAL opens as vectors.
        grid : Grid
            That of the scene.
        layer : str, optional
            May be None if only one layer may hold polygons.
        name : str
            The scene in errors.

        Raises
        ------
        InputError
            The file is missing or damaged; it has no polygons, lacks the layer, or has several.
        GridError
            Only file or scene has a CRS, there is no transformation, or no pixel lies inside.
        """
        source = find_layer(path, layer or only_polygon_layer(path))
        attribute = next(iter(source.columns), None)  # any attribute: its values are not used
        drawn = read_features(path, grid, attribute, source.name, name=name).geometries
        return cls.within(_polygons(path, drawn, name), grid, path, name=name)

    @classmethod
    def from_bbox(
        cls, bounds: Bounds, grid: Grid, crs: str | None = None, *, name: str = "the scene"
    ) -> "Area":
        """Return the area inside a bounding box.

        Parameters
        ----------
        bounds : tuple of float
            (left, bottom, right, top), x before y: longitude before latitude in any CRS.
        grid : Grid
            That of the scene.
        crs : str, optional
            CRS of the bounds, in which the edges are straight; that of the scene if None. For a
            scene without CRS, bounds are in the units of its transform, or pixels.
        name : str
            The scene in errors.

        Raises
        ------
        ConfigError
            The bounds are not a box, or the CRS is unknown.
        GridError
            The scene has no CRS but the box has, there is no transformation, or no pixel inside.
        """
        box, polygons = bbox_polygons(bounds, grid, crs, name=name)
        return cls.within(polygons, grid, box, name=name)

    def intersection(self, other: "Area", *, name: str = "the scene") -> "Area":
        """Return the intersection of two areas of one scene.

        Raises
        ------
        GridError
            The areas share no pixel.
        ValueError
            Their scenes differ in size.
        """
        if self._scene != other._scene:
            raise ValueError(f"areas of {self._scene} and of {other._scene}")
        return Area(self._scene, self._limits + other._limits, name)

    def mask(self, window: Window) -> NDArray[np.bool_]:
        """Return which pixels of a window are wanted, (height, width); none beyond the scene."""
        mask = np.zeros((window.height, window.width), bool)
        if inside := window.intersection(self.extent):
            for block in blocks(inside.width, inside.height, _BLOCK):
                part = block.shift(inside.col, inside.row)
                mask[part.slices(window)] = _inside(self._limits, part)
        return mask

    def touches(self, window: Window) -> bool:
        """Whether a window may hold wanted pixels: False is certain, True accurate to a cell."""
        inside = window.intersection(self.extent)
        if inside is None or self._wanted is None:
            return inside is not None
        place = inside.relative_to(self._wanted.reach)
        return bool(self._wanted.cells[_cells(place, self._wanted.side)].any())


def _inside(limits: tuple[_Limit, ...], window: Window) -> NDArray[np.bool_]:
    """Return which pixels of a window lie inside all limits, (height, width)."""
    inside = np.ones((window.height, window.width), bool)
    for limit in limits:
        inside &= limit.mask(window)
    return inside


def _rasterize_limits(scene: Window, limits: tuple[_Limit, ...]) -> _WantedPixels:
    """Rasterize the limits, rows by rows; record count, extent, cells, digest.

    Only the part of the scene that all limits reach is visited: a scene may be a map service that
    covers the world.
    """
    if (reach := _reach(scene, limits)) is None:
        return _WantedPixels(scene, 0, "", scene, 1, np.zeros((0, 0), bool))
    side = max(_CELL, math.isqrt(reach.width * reach.height // _CELLS))
    cells = np.zeros((-(-reach.height // side), -(-reach.width // side)), bool)
    digest, pixels, extents = hashlib.sha256(), 0, []
    height = max(_BLOCK**2 // reach.width // side, 1) * side
    for row in range(0, reach.height, height):
        part = Window(0, row, reach.width, min(height, reach.height - row))
        band = part.shift(reach.col, reach.row)
        inside = _inside(limits, band)
        runs = _runs(inside, band)
        if not len(runs):
            continue
        left, bottom, right = int(runs[:, 1].min()), int(runs[-1, 0]) + 1, int(runs[:, 2].max())
        extents.append(Window.from_bounds(left, int(runs[0, 0]), right, bottom))
        pixels += int((runs[:, 2] - runs[:, 1]).sum())
        digest.update(runs.astype("<i8").tobytes())
        starts = [np.arange(0, length, side) for length in inside.shape]
        by_rows = np.logical_or.reduceat(inside, starts[0], axis=0)
        cells[_cells(part, side)] = np.logical_or.reduceat(by_rows, starts[1], axis=1)
    extent = Window.hull(extents or [scene])
    return _WantedPixels(extent, pixels, digest.hexdigest(), reach, side, cells)


def _reach(scene: Window, limits: tuple[_Limit, ...]) -> Window | None:
    """Return the part of a scene that the boxes of all limits share, None if it is empty."""
    reach: Window | None = scene
    for limit in limits:
        left, top, right, bottom = np.clip(limit.bounds, -_FAR, _FAR)
        around = Window.from_bounds(
            math.floor(left), math.floor(top), math.ceil(right) + 1, math.ceil(bottom) + 1
        )
        reach = reach and reach.intersection(around)
    return reach


def _runs(inside: NDArray[np.bool_], window: Window) -> NDArray[np.int64]:
    """Return runs of True, (N, 3): row, first column, column after the last, in the scene.

    Their digest does not depend on how many pixels are rasterized at once, and is in the journals
    and provenance files of maps: to change it is to refuse ``--resume`` to those that exist.
    """
    edges = np.diff(np.pad(inside, ((0, 0), (1, 1))), axis=1)
    rows, columns = np.nonzero(edges)
    columns = columns + window.col
    return np.stack([rows[::2] + window.row, columns[::2], columns[1::2]], axis=1)


def _cells(window: Window, side: int) -> tuple[slice, slice]:
    """Return the cells, squares of `side` pixels, that a window intersects."""
    rows, columns = (slice(s.start // side, -(-s.stop // side)) for s in window.slices())
    return rows, columns


def _polygons(path: str, geometries: Geometries, name: str) -> Geometries:
    """Return the single polygons among geometries; warn of points and lines."""
    parts, _ = single_parts(geometries)
    areal = shapely.get_dimensions(parts) == 2
    if not areal.any():
        raise InputError(
            f"{path} has no polygon inside {name}, only {len(parts)} points and lines; draw the "
            "area as polygons"
        )
    if not areal.all():
        warn_once(
            name, f"{path}: {(~areal).sum()} points and lines enclose nothing and are left out"
        )
    polygons: Geometries = parts[areal]
    return polygons


def _empty(limits: tuple[_Limit, ...], scene: Window, name: str) -> GridError:
    """Return the error for limits that hold no pixel centre."""
    if len(limits) > 1:
        names = " and ".join(limit.name for limit in limits)
        return GridError(f"{names} have no common pixel in {name}; give one of them, or others")
    left, top, right, bottom = limits[0].bounds
    return GridError(
        f"no pixel of {name} has its centre in {limits[0].name}, which lies between columns "
        f"{left:.6g} and {right:.6g} and rows {top:.6g} and {bottom:.6g} of {scene.width} x "
        f"{scene.height}; draw a larger area"
    )
