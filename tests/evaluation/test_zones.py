"""Areas of classes inside polygons: pixels on an edge count with the share inside."""

import csv
import io
import json

import numpy as np
import pytest
import shapely
from pyogrio.raw import write as write_vectors
from rasterio.crs import CRS
from rasterio.warp import transform, transform_geom

from cafe_cli.errors import GridError, InputError, LabelError
from cafe_cli.evaluation import reference
from cafe_cli.evaluation.areas import measure_areas
from cafe_cli.evaluation.zones import measure_zones, zones_as_csv, zones_as_json
from tests.support.rasters import TABLE, grid, write

IDS = np.random.default_rng(0).choice(
    np.array([0, 1, 255], np.uint8), (150, 100), p=[0.6, 0.3, 0.1]
)
HERE = grid(100, 150, pixel=0.5)
CIRCLE = shapely.Point(30.3, 40.7).buffer(22)  # in pixels
STAR = shapely.Polygon([(10, 5), (90, 60), (12, 140), (50, 61), (11.5, 33.3)])


def on_ground(geometry, where=HERE):
    return shapely.transform(geometry, lambda xy: np.column_stack(where.transform * xy.T))


def write_zones(path, geometries, names=None, crs="EPSG:25832"):
    wkb = np.array([shapely.to_wkb(g) for g in geometries], object)
    fields = [np.array(names, object)] if names else []
    write_vectors(
        str(path), wkb, fields, ["parcel"] if names else [], geometry_type="Unknown", crs=crs
    )
    return str(path)


def expected(geometry):
    """Return the pixels of each id inside a geometry in pixels, each with its share inside."""
    rows, columns = np.indices(IDS.shape)
    shares = shapely.area(
        shapely.intersection(geometry, shapely.box(columns, rows, columns + 1, rows + 1))
    )
    return [float(shares[i == IDS].sum()) for i in range(3)]


@pytest.fixture
def map_(tmp_path):
    return str(write(tmp_path / "map.tif", IDS, HERE))


@pytest.mark.parametrize("block", [16, 100, 1024])
def test_pixels_on_the_edge_count_with_their_share(tmp_path, monkeypatch, map_, block):
    monkeypatch.setattr(reference, "_BLOCK", block)
    drawn = write_zones(tmp_path / "z.gpkg", [on_ground(CIRCLE), on_ground(STAR)], ["a", "b"])
    zones = measure_zones(map_, drawn, "parcel", classes=TABLE)
    assert [(z.number, z.name) for z in zones] == [(1, "a"), (2, "b")]
    for zone, geometry in zip(zones, (CIRCLE, STAR), strict=True):
        want = expected(geometry)
        rows = zone.areas.classes.values()
        assert [row.pixels for row in rows] == pytest.approx(want, rel=1e-5)
        assert [row.square_metres for row in rows] == pytest.approx([n / 4 for n in want], rel=1e-5)
        inside = sum(want)
        assert [row.share for row in rows] == pytest.approx([n / inside for n in want], abs=1e-5)
        assert zone.areas.unclassified == pytest.approx(geometry.area - inside, abs=2e-2)


def test_a_zone_around_the_map_is_the_map(tmp_path, map_):
    drawn = write_zones(tmp_path / "z.gpkg", [on_ground(shapely.box(-50, -50, 300, 300))])
    (zone,) = measure_zones(map_, drawn, classes=TABLE)
    whole = measure_areas(map_, classes=TABLE)
    assert zone.name is None
    assert [r.pixels for r in zone.areas.classes.values()] == [
        r.pixels for r in whole.classes.values()
    ]
    outside = 350 * 350 - IDS.size
    assert zone.areas.unclassified == outside + whole.unclassified


def test_other_crs_holes_and_broken_polygons(tmp_path, map_):
    ring = CIRCLE.difference(shapely.Point(30, 40).buffer(9))
    bow = shapely.Polygon([(60, 60), (90, 90), (90, 60), (60, 90)])
    there = [
        shapely.geometry.shape(transform_geom("EPSG:25832", "EPSG:4326", on_ground(g)))
        for g in (ring, shapely.make_valid(bow))
    ]
    near = measure_zones(
        map_, write_zones(tmp_path / "a.gpkg", [on_ground(ring), on_ground(bow)]), classes=TABLE
    )
    far = measure_zones(
        map_, write_zones(tmp_path / "b.geojson", there, crs="EPSG:4326"), classes=TABLE
    )
    for one, other, want in zip(near, far, (ring, shapely.make_valid(bow)), strict=True):
        pixels = [r.pixels for r in one.areas.classes.values()]
        assert pixels == pytest.approx(expected(want), rel=1e-5)
        assert [r.pixels for r in other.areas.classes.values()] == pytest.approx(pixels, rel=1e-3)


@pytest.mark.parametrize("latitude", [0, 60])
def test_web_mercator_is_measured_on_the_ground(tmp_path, latitude):
    (x,), (y,) = transform(CRS.from_epsg(4326), CRS.from_epsg(3857), [7.0], [float(latitude)])
    where = grid(100, 150, pixel=2, left=x, top=y, crs=CRS.from_epsg(3857))
    path = str(write(tmp_path / "map.tif", IDS, where))
    drawn = write_zones(
        tmp_path / "z.gpkg", [on_ground(shapely.box(-9, -9, 300, 300), where)], crs="EPSG:3857"
    )
    (zone,) = measure_zones(path, drawn, classes=TABLE)
    whole = measure_areas(path, classes=TABLE)
    for one, other in zip(zone.areas.classes.values(), whole.classes.values(), strict=True):
        assert one.square_metres == pytest.approx(other.square_metres, rel=1e-6)


def test_zones_that_are_none_are_refused(tmp_path, map_):
    away = write_zones(tmp_path / "away.gpkg", [on_ground(shapely.box(900, 900, 950, 950))])
    with pytest.raises(GridError, match="overlap"):
        measure_zones(map_, away, classes=TABLE)
    points = write_zones(tmp_path / "points.gpkg", [on_ground(shapely.Point(5, 5))])
    with pytest.raises(LabelError, match="zones must be polygons"):
        measure_zones(map_, points, classes=TABLE)
    drawn = write_zones(tmp_path / "z.gpkg", [on_ground(CIRCLE)], ["a"])
    with pytest.raises(LabelError, match="no attribute 'parcels'; did you mean 'parcel'"):
        measure_zones(map_, drawn, "parcels", classes=TABLE)
    with pytest.raises(InputError, match="missing"):
        measure_zones(map_, str(tmp_path / "missing.gpkg"), classes=TABLE)


def test_tables(tmp_path, map_):
    drawn = write_zones(
        tmp_path / "z.gpkg", [on_ground(CIRCLE), on_ground(STAR)], ['say "a", b', "c"]
    )
    zones = measure_zones(map_, drawn, "parcel", classes=TABLE)
    rows = [*csv.DictReader(io.StringIO(zones_as_csv(zones)))]
    assert len(rows) == 2 * len(TABLE)
    assert rows[0]["name"] == 'say "a", b'
    assert [row["class"] for row in rows] == [c.name for c in TABLE] * 2
    plain = json.loads(json.dumps(zones_as_json(zones)))
    assert [z["zone"] for z in plain] == [1, 2]
    assert plain[1]["classes"][TABLE.names[0]]["pixels"] == float(rows[len(TABLE)]["pixels"])
