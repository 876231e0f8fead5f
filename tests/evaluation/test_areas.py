"""The area of each class, by pixels and on the ground."""

import csv
import io
import json
import math

import numpy as np
import pytest
import rasterio
from affine import Affine
from rasterio.crs import CRS
from rasterio.warp import transform

from cafe_cli.errors import InputError, LabelError
from cafe_cli.evaluation import reference
from cafe_cli.evaluation.areas import measure_areas
from cafe_cli.raster.grid import Grid
from cafe_cli.raster.window import Window
from tests.support.elsewhere import run_elsewhere
from tests.support.rasters import TABLE, grid, write

IDS = np.random.default_rng(0).choice(
    np.array([0, 1, 255], np.uint8), (300, 200), p=[0.6, 0.3, 0.1]
)


@pytest.mark.parametrize("block", [64, 100, 1024])
def test_areas_are_pixels_times_their_size(tmp_path, monkeypatch, block):
    monkeypatch.setattr(reference, "_BLOCK", block)
    path = write(tmp_path / "map.tif", IDS, grid(200, 300, pixel=0.5))
    found = measure_areas(str(path), classes=TABLE)
    counts = [int((i == IDS).sum()) for i in range(3)]
    assert [row.pixels for row in found.classes.values()] == counts
    assert [row.square_metres for row in found.classes.values()] == [n / 4 for n in counts]
    assert [row.hectares for row in found.classes.values()] == [n / 40_000 for n in counts]
    assert sum(row.share for row in found.classes.values()) == pytest.approx(1)
    assert found.unclassified == int((IDS == 255).sum())


def test_other_processes_measure_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr(reference, "_BLOCK", 64)
    where = Grid(CRS.from_epsg(4326), Affine(0.001, 0, 13, 0, -0.001, 51), 200, 300)
    path = write(tmp_path / "map.tif", IDS, where)
    here = measure_areas(str(path), classes=TABLE)
    assert measure_areas(str(path), classes=TABLE, run=run_elsewhere) == here


@pytest.mark.parametrize(
    ("epsg", "left", "top", "metres"),
    [
        (25832, 500_000, 5_500_000, 1.0),
        (2225, 6_500_000, 2_000_000, 1200 / 3937),
        (2263, 980_000, 200_000, 1200 / 3937),
        (31370, 150_000, 170_000, 1.0),
    ],
)
def test_units_of_the_crs(tmp_path, epsg, left, top, metres):
    where = grid(200, 300, pixel=3, left=left, top=top, crs=CRS.from_epsg(epsg))
    found = measure_areas(str(write(tmp_path / "map.tif", IDS, where)), classes=TABLE)
    ground = found.classes[TABLE.names[0]]
    assert ground.square_metres == pytest.approx(ground.pixels * (3 * metres) ** 2, rel=0.002)


@pytest.mark.parametrize("latitude", [0, 20, -45, 60])
def test_web_mercator_is_measured_on_the_ground(tmp_path, latitude):
    (x,), (y,) = transform(CRS.from_epsg(4326), CRS.from_epsg(3857), [7.0], [float(latitude)])
    where = grid(200, 300, pixel=2, left=x, top=y, crs=CRS.from_epsg(3857))
    found = measure_areas(str(write(tmp_path / "map.tif", IDS, where)), classes=TABLE)
    ground = found.classes[TABLE.names[0]]
    expected = ground.pixels * (2 * math.cos(math.radians(latitude))) ** 2
    assert ground.square_metres == pytest.approx(expected, rel=0.01)


def ellipsoidal_area(lower, upper, width):
    """Area in m² between two latitudes of WGS 84, `width` degrees wide."""
    a, f = 6_378_137.0, 1 / 298.257223563
    e = math.sqrt(f * (2 - f))

    def zone(latitude):
        s = math.sin(math.radians(latitude))
        return s / (1 - (e * s) ** 2) + math.log((1 + e * s) / (1 - e * s)) / (2 * e)

    return math.radians(width) * (a * a * (1 - e * e)) / 2 * (zone(upper) - zone(lower))


@pytest.mark.parametrize("bottom", [0, 35, -55, 50])
def test_degrees_are_measured_where_they_are(tmp_path, bottom):
    """The upper and the lower half lie 15 degrees apart: one factor for all would be far off."""
    values = np.zeros((300, 200), np.uint8)
    values[:150] = 1
    cell = 0.1
    where = Grid(CRS.from_epsg(4326), Affine(cell, 0, 7, 0, -cell, bottom + 30), 200, 300)
    found = measure_areas(str(write(tmp_path / "map.tif", values, where)), classes=TABLE)
    for name, low in zip(TABLE.names, (bottom, bottom + 15), strict=False):
        expected = ellipsoidal_area(low, low + 15, 20)
        assert found.classes[name].square_metres == pytest.approx(expected, rel=0.013)


def test_sheets_that_overlap_count_once(tmp_path):
    where = grid(200, 300)
    for name, part in (("a", Window(0, 0, 120, 300)), ("b", Window(80, 0, 120, 300))):
        write(tmp_path / f"{name}.tif", IDS[part.slices()], where.at(part))
    found = measure_areas(str(tmp_path), classes=TABLE)
    assert found.classes[TABLE.names[1]].pixels == int((IDS == 1).sum())
    assert found.unclassified == int((IDS == 255).sum())


@pytest.mark.parametrize("place", [Affine.identity(), Affine(0.2, 0, 5, 0, -0.2, 9)])
def test_without_a_crs_there_are_pixels_only(tmp_path, place):
    where = Grid(None, place, 200, 300)
    found = measure_areas(str(write(tmp_path / "map.tif", IDS, where)), classes=TABLE)
    row = found.classes[TABLE.names[0]]
    assert (row.pixels, row.square_metres, row.hectares) == (int((IDS == 0).sum()), None, None)
    assert found.as_csv().splitlines()[1].startswith(f"0,{TABLE.names[0]},{row.pixels},,,")


def test_a_crs_may_be_given(tmp_path):
    where = grid(200, 300, pixel=2, crs=None)
    path = write(tmp_path / "map.tif", IDS, where)
    found = measure_areas(str(path), classes=TABLE, crs="EPSG:25832")
    assert found.classes[TABLE.names[0]].square_metres == 4 * int((IDS == 0).sum())


def test_tables(tmp_path):
    path = write(tmp_path / "map.tif", IDS, grid(200, 300, pixel=10))
    found = measure_areas(str(path), classes=TABLE)
    rows = list(csv.DictReader(io.StringIO(found.as_csv())))
    stored = json.loads(json.dumps(found.as_json(), allow_nan=False))
    assert [row["class"] for row in rows] == [*stored["classes"]] == [*TABLE.names]
    for row, values in zip(rows, stored["classes"].values(), strict=True):
        assert int(row["pixels"]) == values["pixels"]
        assert float(row["square_metres"]) == values["square_metres"] == 100 * values["pixels"]
        assert float(row["hectares"]) == values["hectares"] == values["pixels"] / 100
        assert float(row["percent"]) == pytest.approx(100 * values["share"], abs=1e-4)
    assert stored["unclassified_pixels"] == found.unclassified


def test_an_empty_map_has_no_area(tmp_path):
    path = write(tmp_path / "map.tif", np.full((9, 9), 255, np.uint8), grid(9, 9))
    found = measure_areas(str(path), classes=TABLE)
    assert [(row.pixels, row.share) for row in found.classes.values()] == [(0, 0)] * 3


def test_hidden_and_unknown_values_are_refused(tmp_path):
    where = grid(200, 300)
    path = write(tmp_path / "map.tif", IDS, where, nodata=0)
    with pytest.raises(LabelError, match=rf"nodata 0, .*: {(IDS == 0).sum():,} pixels"):
        measure_areas(str(path), classes=TABLE)
    path = write(tmp_path / "codes.tif", IDS.clip(7), where)
    with pytest.raises(LabelError, match="holds the value 7"):
        measure_areas(str(path), classes=TABLE)
    with pytest.raises(LabelError, match=r"pass a config with \[\[classes\]\]"):
        measure_areas(str(path))


def test_rasters_beside_a_map_are_left_out(tmp_path):
    where = grid(200, 300, pixel=0.5)
    (tmp_path / "maps").mkdir()
    for name, product in (("a", "quality"), ("b", "labels"), ("c", "confidence")):
        path = write(tmp_path / "maps" / f"{name}.tif", IDS if name == "b" else IDS * 0 + 1, where)
        with rasterio.open(path, "r+") as dataset:
            dataset.update_tags(CAFE_PRODUCT=product)
    found = measure_areas(str(tmp_path / "maps"), classes=TABLE)
    alone = measure_areas(str(tmp_path / "maps" / "b.tif"), classes=TABLE)
    assert found == alone
    (tmp_path / "maps" / "b.tif").unlink()
    with pytest.raises(InputError, match=r"none of .*a\.tif and 1 more is a map; name the maps"):
        measure_areas(str(tmp_path / "maps"), classes=TABLE)
