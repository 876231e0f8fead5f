"""The area of pixels on the ground."""

import numpy as np
from numpy.typing import NDArray

from cafe_cli.raster.geodesy import to_geocentric
from cafe_cli.raster.grid import Grid
from cafe_cli.raster.window import Window

_ROWS = 64  # rows for which a projection has one scale


def row_areas(grid: Grid, window: Window) -> NDArray[np.float64]:
    """Return the area on the ground in square metres of a pixel in each row of a window.

    In degrees it is measured on the ellipsoid, in the middle of the row; in a projection it is that
    of `Grid.gsd`, taken anew every 64 rows.
    """
    if grid.crs is not None and grid.crs.is_geographic and grid.pixel_size is None:
        rows = np.arange(window.row, window.bottom + 1)
        column = float(window.col + window.width // 2)
        corners = [grid.transform @ (c, float(row)) for c in (column, column + 1) for row in rows]
        xyz = to_geocentric(grid.crs, corners)
        if xyz is not None:
            west, east = xyz[: len(rows)], xyz[len(rows) :]
            cross = np.cross(east[1:] - west[:-1], east[:-1] - west[1:])
            areas: NDArray[np.float64] = np.linalg.norm(cross, axis=1) / 2
            return areas
    areas = np.empty(window.height)
    for start in range(0, window.height, _ROWS):
        height = min(_ROWS, window.height - start)
        strip = Window(window.col, window.row + start, window.width, height)
        areas[start : start + height] = grid.at(strip).gsd ** 2
    return areas
