"""Footprints of tiles: the index of a tile set, and the ground that tiles of two splits share."""

import io
import logging
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol, TypeAlias

import numpy as np
import pyogrio.errors
import pyogrio.raw
import shapely
from numpy.typing import ArrayLike, NDArray
from rasterio.crs import CRS

from cafe_cli.errors import OutputError
from cafe_cli.raster.geodesy import unit_metres
from cafe_cli.raster.grid import Grid
from cafe_cli.raster.window import Window
from cafe_cli.splits.assign import Split
from cafe_cli.tilesets.tileset import TileSet

log = logging.getLogger("cafe")

Grids: TypeAlias = Mapping[str, Grid]
"""The grid of each scene, by its id."""


class Located(Protocol):
    """Protocol of a tile in a scene: a `Tile` or a `PlannedTile`."""

    @property
    def scene(self) -> str:
        """Id of the scene."""

    @property
    def split(self) -> Split:
        """The split that it belongs to."""

    @property
    def row(self) -> int:
        """First row of pixels in the scene."""

    @property
    def col(self) -> int:
        """First column of pixels in the scene."""


def _footprints(
    tiles: Sequence[Located], grids: Grids, size: int, clip: bool
) -> tuple[NDArray[np.object_], CRS | None]:
    """Return the outlines of tiles and their CRS: that of all scenes, or longitude and latitude.

    With `clip`, tiles are clipped to their scene.
    """
    crss = [grid.crs for grid in grids.values()]
    same = all(c == crss[0] for c in crss)
    crs = crss[0] if same else CRS.from_epsg(4326)
    windows = [Window(t.col, t.row, size, size) for t in tiles]
    if clip:
        cut = (w.intersection(grids[t.scene].extent) for t, w in zip(tiles, windows, strict=True))
        windows = [w for w in cut if w]  # no tile lies outside its scene
    outlines = [grids[t.scene].at(w).footprint_in(crs) for t, w in zip(tiles, windows, strict=True)]
    return np.array(outlines, object), crs


def overlapping_pairs(tiles: Sequence[Located], grids: Grids, size: int) -> list[tuple[int, int]]:
    """Return the pairs of tiles of different splits that show the same ground, as indices.

    Tiles of two scenes are compared, too, unless one of the scenes is not georeferenced.
    """
    if len({t.split for t in tiles}) < 2:
        return []
    outlines, crs = _footprints(tiles, grids, size, clip=True)
    return [pair for pair, _ in _shared(tiles, grids, outlines, crs)]


def shared_ground(tiles: Sequence[Located], grids: Grids, size: int) -> float:
    """Return the square metres of ground that tiles of different splits show, and warn of them."""
    if len({t.split for t in tiles}) < 2:
        return 0.0
    outlines, crs = _footprints(tiles, grids, size, clip=True)
    overlaps = [overlap for _, overlap in _shared(tiles, grids, outlines, crs)]
    parts = shapely.get_parts(shapely.union_all(overlaps))  # maybe far apart, at other scales
    shared = sum(float(part.area) * _square([part], crs) for part in parts)
    if shared:
        log.warning(
            "tiles of two splits share %.0f m² of ground, because scenes overlap: scores will be "
            "too high",
            shared,
        )
    return shared


def _shared(
    tiles: Sequence[Located], grids: Grids, outlines: NDArray[np.object_], crs: CRS | None
) -> list[tuple[tuple[int, int], shapely.Geometry]]:
    """Return the pairs of tiles of different splits that share ground, and the shared ground."""
    one, other = shapely.STRtree(outlines).query(outlines, "intersects")
    one, other = one[one < other], other[one < other]
    splits, scenes = (np.array([getattr(t, name) for t in tiles]) for name in ("split", "scene"))
    placed = np.array([grids[t.scene].is_georeferenced for t in tiles])
    related = (splits[one] != splits[other]) & (
        (scenes[one] == scenes[other]) | (placed[one] & placed[other])
    )
    one, other = one[related], other[related]
    overlaps = shapely.intersection(outlines[one], outlines[other])
    rounding = next(iter(grids.values())).gsd ** 2 / 100  # m2, of tiles with a common edge
    real = shapely.area(overlaps) * _square(outlines, crs) > rounding
    pairs = zip(one[real].tolist(), other[real].tolist(), strict=True)
    return list(zip(pairs, overlaps[real], strict=True))


def _square(outlines: ArrayLike, crs: CRS | None) -> float:
    """Return the area in square metres of a unit square of the CRS amid the outlines."""
    left, bottom, right, top = shapely.total_bounds(outlines).tolist()
    return unit_metres(crs, ((left + right) / 2, (bottom + top) / 2)) ** 2


def write_index(folder: Path, tileset: TileSet, grids: Grids) -> None:
    """Write ``index.gpkg``, a polygon per tile with its attributes.

    Raises
    ------
    OutputError
        The file cannot be written.
    """
    outlines, crs = _footprints(tileset.tiles, grids, tileset.size, clip=False)
    columns = {
        name: np.array([getattr(t, name) for t in tileset.tiles])
        for name in ("name", "split", "scene", "row", "col", "valid", "labelled")
    }
    path = folder / "index.gpkg"
    # In memory first: SQLite reports a failed write to GDAL, which closes the file without a word.
    content = io.BytesIO()
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "'crs' was not provided")
            pyogrio.raw.write(
                content,
                shapely.to_wkb(outlines),
                [v.astype(object) if v.dtype.kind == "U" else v for v in columns.values()],
                list(columns),
                driver="GPKG",
                layer="tiles",
                geometry_type="Polygon",
                crs=crs.to_wkt() if crs else None,
            )
    except (pyogrio.errors.DataSourceError, pyogrio.errors.DataLayerError) as error:
        raise OutputError(f"cannot write {path}: {error}") from error
    path.write_bytes(content.getbuffer())
