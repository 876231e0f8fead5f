"""The area of interest: which pixels of a scene are wanted."""

import hashlib
import math
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import pyogrio
import shapely
from numpy.typing import NDArray
from rasterio.crs import CRS

from cafe_cli.burning import Geometries, single_parts
from cafe_cli.errors import ConfigError, GridError, InputError
from cafe_cli.grid import GDAL_ERRORS, Grid, describe_crs
from cafe_cli.vectors import (
    _READ_ERRORS,
    _find_layer,
    _Layer,
    _surroundings,
    _to_pixels,
    read_features,
    warn_once,
)
from cafe_cli.windows import Window

Bounds: TypeAlias = tuple[float, float, float, float]
Runs: TypeAlias = NDArray[np.int64]
"""Pixels side by side, (N, 3): row, first column, the column after the last."""

_BAND = 256  # rows whose runs are in memory while a scene is surveyed
_CELL = 32  # pixels; side of the cells that tell which windows may hold something
_CELLS = 1_000_000  # about so many at most
_DEGREES = "EPSG:4326"


class Area:
    """Which pixels of a scene are wanted: those whose centres lie inside all limits.

    It never changes; threads may share it. Inside a limit is what any of its polygons encloses;
    what one polygon encloses twice is outside it, as it is with labels.

    Parameters
    ----------
    scene : Window
        All of its pixels.
    limits : tuple
        None of them: all pixels are wanted.
    name : str
        The scene in errors.

    Attributes
    ----------
    extent : Window
        The smallest one with all wanted pixels.
    pixels : int
        How many are wanted, at least one.
    key : str
        ``whole``, or else a hash of the wanted pixels: how they were drawn does not matter.

    Raises
    ------
    GridError
        No pixel is wanted.
    """

    def __init__(
        self, scene: Window, limits: "tuple[_Limit, ...]" = (), name: str = "the scene"
    ) -> None:
        found = _survey(scene, limits)
        if found is None:
            raise _nothing(limits, scene, name)
        self._scene = scene
        self._limits = limits
        self._cells = found.cells
        self.extent = found.extent
        self.pixels = found.pixels
        self.key = "whole" if found.pixels == scene.width * scene.height else found.digest

    @classmethod
    def whole(cls, grid: Grid) -> "Area":
        """Return all of a scene."""
        return cls(grid.extent)

    @classmethod
    def within(
        cls, polygons: Geometries, grid: Grid, source: str, *, name: str = "the scene"
    ) -> "Area":
        """Return what lies inside single polygons in pixel coordinates, (N,).

        In errors `source` is where they come from, `name` the scene.

        Raises
        ------
        GridError
            No pixel of the scene lies inside.
        """
        return cls(grid.extent, (_Limit.of(source, polygons, grid),), name)

    @classmethod
    def from_file(
        cls, path: str, grid: Grid, layer: str | None = None, *, name: str = "the scene"
    ) -> "Area":
        """Return what lies inside the polygons of a vector file, in any CRS.

        Parameters
        ----------
        path : str
            A file, a URL or any name that GDAL opens as vectors.
        grid : Grid
            That of the scene.
        layer : str, optional
            None where only one may hold polygons.
        name : str
            The scene in errors.

        Raises
        ------
        InputError
            The file is missing or damaged; it has no polygons, not the layer, or several.
        GridError
            A CRS on one side only, no transformation, or no pixel of the scene inside.
        """
        source = _find_layer(path, layer or _only_layer(path))
        attribute = next(iter(source.columns), None)  # any: nobody looks at it
        drawn = read_features(path, grid, attribute, source.name, name=name).geometries
        return cls.within(_polygons(path, drawn, name), grid, path, name=name)

    @classmethod
    def from_bbox(
        cls, bounds: Bounds, grid: Grid, crs: str | None = None, *, name: str = "the scene"
    ) -> "Area":
        """Return what lies inside a box.

        Parameters
        ----------
        bounds : tuple of float
            (left, bottom, right, top), x before y: longitude before latitude in any CRS.
        grid : Grid
            That of the scene.
        crs : str, optional
            In which the edges are straight; that of the scene if None. For a scene without CRS,
            bounds are in the units of its plane, or pixels.
        name : str
            The scene in errors.

        Raises
        ------
        ConfigError
            Bounds that are no box, or a CRS that is not known.
        GridError
            A CRS for a scene without one, no transformation, or no pixel of the scene inside.
        """
        box = f"bbox {_listed(bounds)}"
        _check_bounds(box, bounds)
        source = _Layer(box, "", _box_crs(box, crs, grid, name), ())
        drawn = _box_pixels(source, bounds, grid, name)
        if not shapely.intersects(drawn, shapely.box(0, 0, grid.width, grid.height)).any():
            raise _elsewhere(source, bounds, grid, name)
        return cls.within(drawn, grid, box, name=name)

    def intersection(self, other: "Area", *, name: str = "the scene") -> "Area":
        """Return what is wanted in both of two areas of one scene.

        Raises
        ------
        GridError
            They share no pixel.
        ValueError
            Their scenes differ in size.
        """
        if self._scene != other._scene:
            raise ValueError(f"areas of {self._scene} and of {other._scene}")
        return Area(self._scene, self._limits + other._limits, name)

    def mask(self, window: Window) -> NDArray[np.bool_]:
        """Return which pixels of a window are wanted, (height, width); none beyond the scene."""
        wanted = np.zeros((window.height, window.width), bool)
        inside = window.intersection(self.extent)
        if inside is not None:
            runs = _wanted(self._scene, self._limits, inside.row, inside.row + inside.height)
            wanted[inside.slices(window)] = _filled(runs, inside)
        return wanted

    def touches(self, window: Window) -> bool:
        """Whether a window may hold wanted pixels; a window without is sometimes taken for one."""
        inside = window.intersection(self.extent)
        if inside is None:
            return False
        side = _side(self._scene)
        rows, columns = (slice(s.start // side, -(-s.stop // side)) for s in inside.slices())
        return bool(self._cells[rows, columns].any())


@dataclass(frozen=True, eq=False)
class _Limit:
    """Polygons on a scene, as edges that pass the middle of a row; each goes down.

    Pixels do not depend on the window that they are looked at in, because neither edges nor rows
    know of one. `cafe_cli.burning` is for what lies on top of each other, lines and values.

    Attributes
    ----------
    name : str
    bounds : tuple of float
        Pixels: left, top, right, bottom.
    edges : ndarray of float64, (N, 4)
        Pixels: x and y of the upper end, x and y of the lower one.
    polygon : ndarray of int64, (N,)
        Whose they are.
    rows : ndarray of int64, (N, 2)
        The first row whose middle an edge passes, the row after the last.
    width : int
        That of the scene.
    """

    name: str
    bounds: Bounds
    edges: NDArray[np.float64]
    polygon: NDArray[np.int64]
    rows: NDArray[np.int64]
    width: int

    @classmethod
    def of(cls, name: str, polygons: Geometries, grid: Grid) -> "_Limit":
        """Take the edges of single polygons in pixel coordinates."""
        left, top, right, bottom = shapely.total_bounds(polygons).tolist()
        edges, polygon = _edges(polygons)
        rows = np.ceil(np.clip(edges[:, 1::2], 0, grid.height) - 0.5).astype(np.int64)
        passed = rows[:, 0] < rows[:, 1]
        bounds = left, top, right, bottom
        return cls(name, bounds, edges[passed], polygon[passed], rows[passed], grid.width)

    def runs(self, first: int, last: int) -> Runs:
        """Return the pixels inside, of the rows from `first` to before `last`."""
        near = np.flatnonzero((self.rows[:, 0] < last) & (self.rows[:, 1] > first))
        start, stop = np.clip(self.rows[near], first, last).T
        count = stop - start
        edge = np.repeat(near, count)
        row = np.arange(len(edge)) + np.repeat(start - count.cumsum() + count, count)
        x, y, end_x, end_y = self.edges[edge].T
        crossing = x + (row + 0.5 - y) * (end_x - x) / (end_y - y)
        # A centre on an edge belongs to the left, as GDAL has it.
        column = np.clip(np.floor(crossing + 0.5), 0, self.width).astype(np.int64)
        order = np.lexsort((column, self.polygon[edge], row))
        row, column = row[order], column[order]
        # A row enters a polygon as often as it leaves it.
        return _common(np.stack([row[::2], column[::2], column[1::2]], axis=1), 1)


@dataclass(frozen=True)
class _Survey:
    extent: Window
    pixels: int
    digest: str
    cells: NDArray[np.bool_]


def _survey(scene: Window, limits: tuple[_Limit, ...]) -> _Survey | None:
    """Look at every run once: where they are, how many pixels; None where there is none."""
    digest, side, pixels = hashlib.sha256(), _side(scene), 0
    corners: list[NDArray[np.int64]] = []
    cells = np.zeros([n // side + 2 for n in (scene.height, scene.width)], np.int32)
    for first in range(0, scene.height, _BAND):
        runs = _wanted(scene, limits, first, min(first + _BAND, scene.height))
        if len(runs):
            corners += [runs.min(axis=0), runs.max(axis=0)]
        row, start, stop = runs.T
        pixels += int((stop - start).sum())
        digest.update(runs.astype("<i8").tobytes())
        np.add.at(cells, (row // side, start // side), 1)
        np.add.at(cells, (row // side, (stop - 1) // side + 1), -1)
    if not corners:
        return None
    (top, left, _), (bottom, _, right) = np.min(corners, axis=0), np.max(corners, axis=0)
    extent = Window(int(left), int(top), int(right - left), int(bottom - top) + 1)
    return _Survey(extent, pixels, digest.hexdigest(), cells.cumsum(axis=1) > 0)


def _side(scene: Window) -> int:
    """Return the side of a scene's cells in pixels."""
    return max(_CELL, math.isqrt(scene.width * scene.height // _CELLS))


def _wanted(scene: Window, limits: tuple[_Limit, ...], first: int, last: int) -> Runs:
    """Return the pixels inside all limits, of the rows from `first` to before `last`."""
    if not limits:
        rows = np.arange(first, last)
        return np.stack([rows, np.zeros_like(rows), np.full_like(rows, scene.width)], axis=1)
    runs = [limit.runs(first, last) for limit in limits]
    return runs[0] if len(runs) == 1 else _common(np.concatenate(runs), len(runs))


def _common(runs: Runs, least: int) -> Runs:
    """Return the longest runs of pixels that `least` runs or more hold: in order, none touch."""
    if not len(runs):
        return runs
    row, column = np.tile(runs[:, 0], 2), runs[:, 1:].T.ravel()
    step = np.repeat([1, -1], len(runs))
    order = np.lexsort((column, row))
    row, column, held = row[order], column[order], step[order].cumsum() >= least
    settled = np.append((np.diff(row) != 0) | (np.diff(column) != 0), True)
    row, column, held = row[settled], column[settled], held[settled]
    change = np.flatnonzero(np.diff(held, prepend=False))
    start, stop = change[::2], change[1::2]
    return np.stack([row[start], column[start], column[stop]], axis=1)


def _filled(runs: Runs, window: Window) -> NDArray[np.bool_]:
    """Return a window with the pixels of runs in its rows True."""
    row = runs[:, 0] - window.row
    start, stop = np.clip(runs[:, 1:] - window.col, 0, window.width).T
    some = start < stop
    change = np.zeros((window.height, window.width + 1), np.int8)
    change[row[some], start[some]] = 1
    change[row[some], stop[some]] = -1
    return change[:, :-1].cumsum(axis=1, dtype=np.int8).astype(bool)


def _edges(polygons: Geometries) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return the edges of polygons, (N, 4), upper end first, and whose they are, (N,)."""
    rings, polygon = shapely.get_rings(polygons, return_index=True)
    xy, ring = shapely.get_coordinates(rings, return_index=True)
    first = np.flatnonzero(ring[1:] == ring[:-1])
    start, end = xy[first], xy[first + 1]
    # Neighbours go along a shared edge in opposite directions: downwards it is one and the same.
    down = (start[:, 1] < end[:, 1])[:, None]
    edges = np.where(down, np.hstack([start, end]), np.hstack([end, start]))
    return edges, polygon[ring[first]].astype(np.int64)


def _only_layer(path: str) -> str | None:
    """Return the one layer that may hold polygons; None leaves it to the reader to complain."""
    try:
        rows = pyogrio.list_layers(path).tolist()
    except _READ_ERRORS:
        return None
    drawn = {str(layer): str(kind) for layer, kind in rows if kind is not None}
    names = [n for n, kind in drawn.items() if "Point" not in kind and "Line" not in kind]
    names = names or list(drawn)
    if len(names) > 1:
        raise InputError(
            f"{path} has several layers; choose the one that holds the area: {', '.join(names)}"
        )
    return names[0] if names else None


def _polygons(path: str, geometries: Geometries, name: str) -> Geometries:
    """Return single polygons; what else there is counts for nothing."""
    parts, _ = single_parts(geometries)
    areal = shapely.get_dimensions(parts) == 2
    if not areal.any():
        raise InputError(
            f"{path} has no polygon inside {name}, only {len(parts)} points and lines; an area is "
            "drawn as polygons"
        )
    if not areal.all():
        warn_once(f"{path}: {(~areal).sum()} points and lines enclose nothing and are left out")
    polygons: Geometries = parts[areal]
    return polygons


def _check_bounds(box: str, bounds: Bounds) -> None:
    left, bottom, right, top = bounds
    if not all(map(math.isfinite, bounds)):
        raise ConfigError(f"{box} is not made of four finite numbers: left bottom right top")
    for low, lower, high, upper in (("left", left, "right", right), ("bottom", bottom, "top", top)):
        if not lower < upper:
            raise ConfigError(
                f"{box} is not left bottom right top: {low} {lower:.10g} is not below {high} "
                f"{upper:.10g}"
            )


def _box_crs(box: str, text: str | None, grid: Grid, name: str) -> CRS | None:
    if text is None:
        return grid.crs
    try:
        crs = CRS.from_user_input(text)
    except GDAL_ERRORS as error:
        raise ConfigError(
            f"{text!r} is no CRS that PROJ knows; write the one of {box} like EPSG:25832"
        ) from error
    if grid.crs is None:
        raise GridError(
            f"{name} has no CRS while {box} is in {describe_crs(crs)}; leave out the CRS and give "
            f"the bbox in the raster's own coordinates, {_listed(grid.bounds)}, or assign the "
            "right one with gdal_edit.py -a_srs EPSG:CODE FILE"
        )
    return crs


def _box_pixels(source: _Layer, bounds: Bounds, grid: Grid, name: str) -> Geometries:
    """Return a box, (N,) polygons in pixels; in another CRS its edges are bent."""
    box = np.array([shapely.box(*bounds)], object)
    around = _surroundings(grid, source.crs)
    return single_parts(_to_pixels(source, box, grid, around, name))[0]


def _elsewhere(source: _Layer, bounds: Bounds, grid: Grid, name: str) -> GridError:
    """Return the error for a box that does not overlap a scene, in the CRS of the box."""
    covered = _covered(grid, source.crs)
    extent = f", which covers {_listed(covered)}" if covered else ""
    return GridError(
        f"{source.path} does not overlap {name}{extent} in {describe_crs(source.crs)}; "
        f"{_remedy(bounds, grid, source.crs)}"
    )


def _remedy(bounds: Bounds, grid: Grid, crs: CRS | None) -> str:
    """Say what else the numbers of a box may mean, if that overlaps the scene."""
    left, bottom, right, top = bounds
    turned = bottom, left, top, right
    if _overlap(turned, _covered(grid, crs)):
        return f"x comes first: {_listed(turned)} does"
    if grid.crs is not None:
        degrees = _covered(grid, CRS.from_user_input(_DEGREES))
        for numbers in (bounds, turned):
            if _overlap(numbers, degrees):
                return f"in degrees {_listed(numbers)} does: name their CRS, {_DEGREES}"
    return "check the numbers and their CRS"


def _overlap(bounds: Bounds, others: Bounds | None) -> bool:
    return others is not None and shapely.box(*bounds).intersects(shapely.box(*others))


def _covered(grid: Grid, crs: CRS | None) -> Bounds | None:
    """Return the bounds of a scene in another CRS, None where it has no place there."""
    try:
        left, bottom, right, top = grid.footprint_in(crs).bounds
    except GDAL_ERRORS:
        return None
    return (left, bottom, right, top) if math.isfinite(left + bottom + right + top) else None


def _listed(bounds: Bounds) -> str:
    return " ".join(f"{number:.10g}" for number in bounds)


def _nothing(limits: tuple[_Limit, ...], scene: Window, name: str) -> GridError:
    """Return the error for limits that no pixel centre lies in."""
    if len(limits) > 1:
        names = " and ".join(limit.name for limit in limits)
        return GridError(f"{names} share no pixel of {name}; give one of them, or others")
    left, top, right, bottom = limits[0].bounds
    return GridError(
        f"no pixel of {name} has its centre in {limits[0].name}, which lies between columns "
        f"{left:.6g} and {right:.6g} and rows {top:.6g} and {bottom:.6g} of {scene.width} x "
        f"{scene.height}; draw a larger area"
    )
