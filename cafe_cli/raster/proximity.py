"""Find rasters that are to be joined and lie too far apart for one grid.

A raster that has lost its georeference, that is in the wrong zone, or that lies beyond the date
line makes the common grid so large that nothing ever comes to an end. Surveys along a line and
islands of one survey are sparse, too, but there is never far to the next raster.
"""

from collections.abc import Sequence

import numpy as np
import shapely
from numpy.typing import NDArray

from cafe_cli.findings import Finding
from cafe_cli.raster.geodesy import to_geocentric
from cafe_cli.raster.grid import Grid
from cafe_cli.raster.warp import enclosing_window
from cafe_cli.raster.window import Window
from cafe_cli.text import list_some, percent

_FAR = 100_000.0  # metres from a raster to the next
_FAR_FROM_ORIGIN = 1_000.0  # the same where a raster lies at the origin of the coordinates
_SPARSE = 0.01  # share of the common grid that holds rasters
_MANY_PIXELS = 10**8  # of the common grid, which take minutes
_LISTED = 3  # names in a message


def find_distant(names: Sequence[str], grids: Sequence[Grid], base: Grid) -> Finding | None:
    """Return what is wrong if rasters lie far apart and fill next to nothing of a common grid.

    Parameters
    ----------
    names : sequence of str
        The rasters in the message.
    grids : sequence of Grid
        Those of the rasters.
    base : Grid
        Its pixels are those of the common grid.

    Returns
    -------
    Finding or None
        An error, or a warning if the common grid is small.

    Raises
    ------
    GridError
        Only some rasters have a CRS, or there is no transformation between two.
    """
    windows = [enclosing_window(n, g, base) for n, g in zip(names, grids, strict=True)]
    hull = Window.hull(windows)
    pixels = hull.width * hull.height
    share = sum(w.width * w.height for w in windows) / pixels
    if share >= _SPARSE:
        return None
    boxes = shapely.box(*np.array([w.bounds for w in windows], float).T)
    lost = [grid.is_at_origin for grid in grids]
    apart = _far_from_most(boxes, (_FAR_FROM_ORIGIN if any(lost) else _FAR) / base.gsd)
    if not apart.any():
        return None
    gap = base.gsd * shapely.distance(
        shapely.union_all(boxes[apart]), shapely.union_all(boxes[~apart])
    )
    others = [name for name, far in zip(names, apart, strict=True) if not far]
    wrong = [name for name, far in zip(names, apart, strict=True) if far]
    return Finding(
        "error" if pixels > _MANY_PIXELS else "warning",
        f"{list_some(wrong, _LISTED)} {'lie' if len(wrong) > 1 else 'lies'} {gap / 1000:,.0f} km "
        f"from {list_some(others, _LISTED)}: together they fill {percent(share)} of the "
        f"{hull.width} x {hull.height} pixels that enclose them; "
        + _remedy([n for n, at_origin in zip(names, lost, strict=True) if at_origin], base, boxes),
        wrong[0],
    )


def _far_from_most(boxes: NDArray[np.object_], distance: float) -> NDArray[np.bool_]:
    """Return which boxes, in pixels, are farther than a distance from the largest group."""
    west, south, east, north = shapely.bounds(boxes).T
    reach = distance / 2
    grown = shapely.box(west - reach, south - reach, east + reach, north + reach)
    groups = shapely.get_parts(shapely.union_all(grown))
    _, group = shapely.STRtree(groups).query(shapely.centroid(boxes), "within")
    apart: NDArray[np.bool_] = group != np.bincount(group).argmax()
    return apart


def _remedy(lost: Sequence[str], base: Grid, boxes: NDArray[np.object_]) -> str:
    apart = "or treat what lies apart as separate scenes or maps"
    if lost:
        return f"{lost[0]} has a corner at 0, 0: has it lost its georeference? correct it, {apart}"
    if _are_parted_by_date_line(base, boxes):
        return (
            "they lie on both sides of the date line: warp them to a CRS that it does not cut, "
            f"e.g. UTM, {apart}"
        )
    return f"check their CRS and zone, {apart}"


def _are_parted_by_date_line(base: Grid, boxes: NDArray[np.object_]) -> bool:
    """Whether the two outermost boxes are much closer on the ground than in the CRS."""
    if base.crs is None:
        return False
    west, _, east, _ = shapely.bounds(boxes).T
    outermost = boxes[[west.argmin(), east.argmax()]]
    centres = [base.transform @ (c.x, c.y) for c in shapely.centroid(outermost)]
    ground = to_geocentric(base.crs, centres)
    if ground is None:
        return False
    pixels = float(shapely.distance(*shapely.centroid(outermost)))
    return float(np.linalg.norm(ground[1] - ground[0])) < 0.1 * pixels * base.gsd
