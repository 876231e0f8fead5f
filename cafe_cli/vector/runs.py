"""What polygons enclose on a raster: runs of pixels side by side, row by row."""

import hashlib
import math
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import shapely
from numpy.typing import NDArray

from cafe_cli.raster.grid import Grid
from cafe_cli.raster.window import Window
from cafe_cli.vector.geometry import Geometries

Bounds: TypeAlias = tuple[float, float, float, float]
Runs: TypeAlias = NDArray[np.int64]
"""Pixels side by side, (N, 3): row, first column, the column after the last."""

_BAND = 256  # rows whose runs are in memory while a scene is surveyed
_CELL = 32  # pixels; side of the cells that tell which windows may hold something
_CELLS = 1_000_000  # about so many at most


@dataclass(frozen=True, eq=False)
class Limit:
    """Polygons on a scene, as edges that pass the middle of a row; each goes down.

    Pixels do not depend on the window that they are looked at in, because neither edges nor rows
    know of one. `rasterize` is for what lies on top of each other, lines and values.

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
    def of(cls, name: str, polygons: Geometries, grid: Grid) -> "Limit":
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
class Survey:
    """What there is to know about the wanted pixels of a scene; see `Area`."""

    extent: Window
    pixels: int
    digest: str
    cells: NDArray[np.bool_]


def survey(scene: Window, limits: tuple[Limit, ...]) -> Survey | None:
    """Look at every run once: where they are, how many pixels; None where there is none."""
    digest, side, pixels = hashlib.sha256(), cell_side(scene), 0
    corners: list[NDArray[np.int64]] = []
    cells = np.zeros([n // side + 2 for n in (scene.height, scene.width)], np.int32)
    for first in range(0, scene.height, _BAND):
        runs = wanted(scene, limits, first, min(first + _BAND, scene.height))
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
    return Survey(extent, pixels, digest.hexdigest(), cells.cumsum(axis=1) > 0)


def cell_side(scene: Window) -> int:
    """Return the side of a scene's cells in pixels."""
    return max(_CELL, math.isqrt(scene.width * scene.height // _CELLS))


def wanted(scene: Window, limits: tuple[Limit, ...], first: int, last: int) -> Runs:
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


def filled(runs: Runs, window: Window) -> NDArray[np.bool_]:
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
