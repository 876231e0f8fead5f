"""Where the tiles of a tile set lie: the index, and the ground that splits share."""

import logging
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np
import pyogrio.errors
import pyogrio.raw
import shapely
from numpy.typing import NDArray
from rasterio.crs import CRS

from cafe_cli.errors import OutputError
from cafe_cli.grid import Grid, unit_metres
from cafe_cli.tiles import Tile, TileSet
from cafe_cli.windows import Window

log = logging.getLogger("cafe")

Grids: TypeAlias = Mapping[str, Grid]
"""The grid of each scene, by its id."""


def _footprints(
    tiles: Sequence[Tile], grids: Grids, size: int, clip: bool
) -> tuple[NDArray[np.object_], CRS | None]:
    """Return the outlines of tiles in one CRS: that of the scenes, longitude/latitude if mixed.

    With `clip`, without what lies beyond the scene.
    """
    crss = [grid.crs for grid in grids.values()]
    same = all(c == crss[0] for c in crss)
    crs = crss[0] if same else CRS.from_epsg(4326)
    windows = [Window(t.col, t.row, size, size) for t in tiles]
    if clip:
        cut = (w.intersection(grids[t.scene].extent) for t, w in zip(tiles, windows, strict=True))
        windows = [w for w in cut if w]  # every tile holds some of its scene
    outlines = [grids[t.scene].at(w).footprint_in(crs) for t, w in zip(tiles, windows, strict=True)]
    return np.array(outlines, object), crs


def shared_ground(tiles: Sequence[Tile], grids: Grids, size: int) -> float:
    """Measure the ground, in m2, shown both by training and by other tiles, across scenes too."""
    outlines, crs = _footprints(tiles, grids, size, clip=True)
    training = np.flatnonzero([t.split == "train" for t in tiles])
    others = np.flatnonzero([t.split != "train" for t in tiles])
    pairs = shapely.STRtree(outlines[training]).query(outlines[others], "intersects")
    one, other = others[pairs[0]], training[pairs[1]]
    # Scenes of plain pixels all begin at (0, 0), which does not mean that they overlap.
    scenes = np.array([t.scene for t in tiles])
    placed = np.array([grids[t.scene].is_placed for t in tiles])
    related = (scenes[one] == scenes[other]) | (placed[one] & placed[other])
    overlaps = shapely.intersection(outlines[one], outlines[other])[related]
    square = unit_metres(crs, shapely.bounds(outlines)[:, [1, 3]].mean()) ** 2
    rounding = next(iter(grids.values())).gsd ** 2 / 100  # along a common edge
    real = overlaps[shapely.area(overlaps) * square > rounding]
    shared = float(shapely.union_all(real).area * square)
    if shared:
        log.warning(
            "training tiles show %.0f m2 of ground that other splits show too: scenes overlap; "
            "scores will flatter",
            shared,
        )
    return shared


def write_index(folder: Path, tileset: TileSet, grids: Grids) -> None:
    """Write one polygon per tile as ``index.gpkg``.

    Raises
    ------
    OutputError
        It cannot be written.
    """
    outlines, crs = _footprints(tileset.tiles, grids, tileset.size, clip=False)
    columns = {
        name: np.array([getattr(t, name) for t in tileset.tiles])
        for name in ("name", "split", "scene", "row", "col", "valid", "labelled")
    }
    path = folder / "index.gpkg"
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "'crs' was not provided")
            pyogrio.raw.write(
                str(path),
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
