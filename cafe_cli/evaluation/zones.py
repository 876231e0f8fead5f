"""The area of each class of a land-cover map inside polygons."""

import csv
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import repeat

import numpy as np
import shapely
from numpy.typing import NDArray

from cafe_cli.classes import NODATA, ClassTable
from cafe_cli.errors import LabelError
from cafe_cli.evaluation.areas import Areas, ClassArea
from cafe_cli.evaluation.land_cover_map import class_table, inspect_map, refuse_hidden
from cafe_cli.evaluation.reference import blocks_of
from cafe_cli.raster.grid import Grid
from cafe_cli.raster.ground_area import row_areas
from cafe_cli.raster.window import Window
from cafe_cli.system.threads import ProgressCallback
from cafe_cli.vector.features import AttributeValue, read_features
from cafe_cli.vector.geometry import Geometries, make_valid, subdivide
from cafe_cli.vector.layers import find_layer, only_polygon_layer

_ROWS = 64  # rows of one latitude, where a pixel's area depends on it
_SAME_SIZE = 1e-6  # relative difference of pixel sizes that are equal


@dataclass(frozen=True)
class Zone:
    """A polygon and the areas of the classes in it.

    Attributes
    ----------
    number : int
        Position among the polygons that touch the map, from 1, in the order of the file.
    name : int, float, str or None
        Its attribute.
    areas : Areas
        Pixels are sums of the shares of pixels inside the polygon; ``unclassified`` is what of the
        polygon has no class, outside the map too.
    """

    number: int
    name: AttributeValue
    areas: Areas


def measure_zones(
    names: str,
    zones: str,
    attribute: str | None = None,
    *,
    classes: ClassTable | None = None,
    crs: str | None = None,
    progress: ProgressCallback = lambda done, total: None,
) -> list[Zone]:
    """Measure the area of each class of a map inside each polygon of a file.

    A pixel on the edge of a polygon counts with the share of it that lies inside, which the library
    exactextract computes in single precision. Polygons may overlap. The map is read once, block by
    block.

    Parameters
    ----------
    names : str
        Raster of class ids: a file, folder, glob or @list, read as one map.
    zones : str
        Vector file in any CRS.
    attribute : str, optional
        Attribute that names the zones.
    classes : ClassTable, optional
        By default the table that is stored in the map.
    crs : str, optional
        CRS of the rasters that have none.
    progress : callable
        Called with the number of blocks done and of all.

    Raises
    ------
    LabelError
        A zone is no polygon, the layer lacks the attribute, or the map is none of classes, as in
        `measure_areas`.
    GridError
        No zone touches the map, or only one of them has a CRS.
    InputError
        A file is missing, damaged or of the wrong kind.
    """
    map_ = inspect_map(names, crs)
    table, grid = class_table(map_, classes), map_.grid
    polygons, labels = _read_zones(zones, grid, attribute, map_.name)
    pieces, zone = subdivide(polygons)
    tree, totals = shapely.STRtree(pieces), np.zeros((2, len(polygons), NODATA + 1))
    hidden = np.zeros(NODATA + 1, np.int64)
    windows = [part for block in blocks_of(map_.members, grid) for part in _even(block, grid)]
    with map_.open(grid, table) as reader:
        for done, window in enumerate(windows, start=1):
            if len(near := np.sort(tree.query(shapely.box(*window.bounds), "intersects"))):
                found = reader.read(window)
                hidden += np.bincount(found.hidden.ravel(), minlength=NODATA + 1)
                pixels = _covered(found.ids, pieces[near], window)
                np.add.at(totals[0], zone[near], pixels)
                size = float(row_areas(grid, window).mean())
                np.add.at(totals[1], zone[near], pixels * size)
            progress(done, len(windows))
    refuse_hidden(map_, table, hidden[: len(table)])
    sizes, known = shapely.area(polygons), bool(grid.crs or grid.pixel_size)
    return [
        Zone(i + 1, name, _areas(table, totals[0, i], totals[1, i], float(sizes[i]), known))
        for i, name in enumerate(labels)
    ]


def zones_as_json(zones: list[Zone]) -> list[dict[str, object]]:
    """Return plain values, a row per zone."""
    return [{"zone": z.number, "name": z.name, **z.areas.as_json()} for z in zones]


def zones_as_csv(zones: list[Zone]) -> str:
    """Return a table with a row per zone and class."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    for zone in zones:
        header, *rows = csv.reader(io.StringIO(zone.areas.as_csv()))
        if zone is zones[0]:
            writer.writerow(["zone", "name", *header])
        writer.writerows([zone.number, zone.name, *row] for row in rows)
    return text.getvalue()


def _read_zones(
    path: str, grid: Grid, attribute: str | None, name: str
) -> tuple[Geometries, list[AttributeValue]]:
    """Return valid polygons in pixel coordinates and their names."""
    source = find_layer(path, only_polygon_layer(path))
    column = attribute or next(iter(source.columns), None)
    found = read_features(path, grid, column, source.name, name=name)
    if (shapely.get_dimensions(found.geometries) != 2).any():
        raise LabelError(f"{path} holds features that are not polygons; zones must be polygons")
    names = found.values if attribute else repeat(None, len(found.values))
    return make_valid(found.geometries), [*names]


def _even(block: Window, grid: Grid) -> Iterator[Window]:
    """Divide a block into parts within which pixels have nearly one size on the ground."""
    areas = row_areas(grid, block)
    rows = block.height if np.ptp(areas) <= _SAME_SIZE * areas[0] else _ROWS
    for row in range(block.row, block.bottom, rows):
        yield Window(block.col, row, block.width, min(rows, block.bottom - row))


def _covered(ids: NDArray[np.uint8], polygons: Geometries, window: Window) -> NDArray[np.float64]:
    """Return how many pixels of each id lie inside each polygon, (polygons, 256)."""
    from exactextract import exact_extract
    from exactextract.raster import NumPyRasterSource

    # Of exactextract, y grows upwards.
    raster = NumPyRasterSource(
        ids, xmin=window.col, xmax=window.right, ymin=-window.bottom, ymax=-window.row
    )
    flipped = shapely.transform(polygons, lambda xy: xy * (1, -1))
    features = [
        {"type": "Feature", "properties": {}, "geometry": json.loads(text)}
        for text in shapely.to_geojson(flipped)
    ]
    totals = np.zeros((len(polygons), NODATA + 1))
    found = exact_extract(raster, features, ["unique", "frac", "count"])
    for row, feature in zip(totals, found, strict=True):
        values = feature["properties"]
        if values["count"]:
            row[np.asarray(values["unique"], int)] = np.asarray(values["frac"]) * values["count"]
    return totals


def _areas(
    table: ClassTable,
    pixels: NDArray[np.float64],
    metres: NDArray[np.float64],
    size: float,
    known: bool,
) -> Areas:
    """Return the areas of a zone that is `size` pixels large."""
    total = float(pixels[: len(table)].sum())
    rows = {
        land.name: ClassArea(
            land.id,
            round(float(pixels[land.id]), 3),
            float(metres[land.id]) if known else None,
            float(pixels[land.id]) / total if total else 0.0,
        )
        for land in table
    }
    return Areas(rows, round(max(size - total, 0), 3))
