"""Polygons as files: areas, attributes, formats and what is refused."""

import json
import logging
import os
import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path

import numpy as np
import pyogrio.raw
import pytest
import shapely
from affine import Affine
from rasterio.crs import CRS

from cafe_cli.classes import ClassTable, LandClass
from cafe_cli.errors import (
    BandError,
    ConfigError,
    GridError,
    InputError,
    LabelError,
    OutputError,
)
from cafe_cli.raster.grid import Grid
from cafe_cli.raster.ground_area import row_areas
from cafe_cli.raster.writer import create_cog
from cafe_cli.regions import labelling
from cafe_cli.vectorization import vectorize
from cafe_cli.vectorization.plan import VectorizeOptions
from tests.support.rasters import TABLE, UTM, grid
from tests.vectorization.test_coverage import blobs, check_coverage

_ = 255
FEET = CRS.from_epsg(2263)  # US survey feet
DEGREES = CRS.from_epsg(4326)
MERCATOR = CRS.from_epsg(3857)
MAP = np.array(
    [
        [0, 0, 0, 0, 0, 0, _, _],
        [0, 1, 1, 0, 0, 0, 0, _],
        [0, 1, 1, 0, 2, 2, 0, 0],
        [0, 1, 1, 0, 2, 0, 0, 0],
        [0, 0, 0, 0, 0, 0, 1, 1],
        [2, 2, 2, 0, 0, 0, 1, 1],
    ],
    np.uint8,
)


@pytest.fixture
def write_map(tmp_path):
    def write(values=MAP, where=None, name="map.tif", classes=TABLE):
        values = np.asarray(values, np.uint8)
        where = where or grid(values.shape[1], values.shape[0])
        with create_cog(tmp_path / name, where, True, classes) as dataset:
            dataset.write(values, 1)
        return str(tmp_path / name)

    return write


def read(path, layer=None):
    """Return polygons and columns by name."""
    meta, _fids, geometry, columns = pyogrio.raw.read(path, layer=layer)
    return shapely.from_wkb(geometry), dict(zip(meta["fields"], columns, strict=True))


def run(name, tmp_path, output="out.gpkg", overwrite=False, **options):
    path = tmp_path / output
    vectorize.vectorize(name, path, VectorizeOptions(**options), overwrite=overwrite)
    return read(path, path.stem)


def test_every_region_is_a_polygon_with_its_class_and_area(write_map, tmp_path):
    polygons, columns = run(write_map(), tmp_path, simplify=0)
    rows = sorted(zip(columns["class"], columns["name"], columns["area_m2"], strict=True))
    assert rows == [
        (0, "ground", 29 / 4), (1, "tree", 4 / 4), (1, "tree", 6 / 4),
        (2, "building", 3 / 4), (2, "building", 3 / 4),
    ]  # fmt: skip
    assert shapely.area(polygons).tolist() == columns["area_m2"].tolist()
    check_coverage(polygons)
    assert shapely.get_num_interior_rings(polygons).sum() == 2
    left, _bottom, _right, top = shapely.total_bounds(polygons)
    assert (left, top) == (300_000, 5_200_000)


@pytest.mark.parametrize("options", [{}, {"simplify": 3}, {"smooth": True}, {"min_area": 20}])
@pytest.mark.parametrize(
    "transform",
    [
        Affine(0.5, 0, 3e5, 0, -0.5, 5.2e6),
        Affine(0.5, 0, 3e5, 0, 0.5, 5.2e6),
        Affine(0.4, 0.3, 3e5, 0.3, -0.4, 5.2e6),
        Affine(0.25, 0, 3e5, 0, -1, 5.2e6),
    ],
    ids=["north up", "south up", "rotated", "long pixels"],
)
def test_a_map_is_covered_without_gaps_and_overlaps(
    write_map, tmp_path, monkeypatch, transform, options
):
    monkeypatch.setattr(labelling, "TILE", 64)
    values = blobs(size=150, classes=3)
    values[values == _] = 0
    where = Grid(UTM, transform, 150, 150)
    polygons, columns = run(write_map(values, where), tmp_path, **options)
    check_coverage(polygons)
    pixel = abs(transform.determinant)
    assert shapely.union_all(polygons).area == pytest.approx(150 * 150 * pixel)
    assert shapely.area(polygons).sum() == pytest.approx(150 * 150 * pixel)
    assert columns["area_m2"] == pytest.approx(shapely.area(polygons), abs=1e-6)
    if "min_area" in options:
        assert columns["area_m2"].min() > 15  # of 20 before borders were simplified


@pytest.mark.parametrize(
    ("crs", "pixel", "left", "top", "metres"),
    [
        (FEET, 2.0, 985_000, 210_000, (2 * 1200 / 3937) ** 2),
        (DEGREES, 1e-5, 11.5, 60.0, 1e-10 * 111_412.2404 * 55_802.2),
        (DEGREES, 1e-5, 11.5, 0.0, 1e-10 * 110_574.27 * 111_319.49),
        (MERCATOR, 1.0, 1_280_000, 8_399_738, 0.25),
    ],
)
def test_areas_are_square_metres_on_the_ground(write_map, tmp_path, crs, pixel, left, top, metres):
    where = grid(8, 6, pixel, left, top, crs)
    polygons, columns = run(write_map(where=where), tmp_path, simplify=0)
    pixels = shapely.area(polygons) / pixel**2
    assert columns["area_m2"] == pytest.approx(pixels * metres, rel=5e-3 if crs != FEET else 1e-6)


def test_degrees_are_measured_on_the_ellipsoid_row_by_row():
    where = grid(2, 90, 1.0, 10, 90, DEGREES)
    areas = row_areas(where, where.extent)
    # A degree of longitude times one of latitude on WGS 84 at 0.5, 45.5 and 89.5 degrees north.
    expected = (12_308_778_361, 8_686_446_205, 108_511_906)
    assert areas[[89, 44, 0]] == pytest.approx(expected, rel=4e-3)  # pixels are flat here


@pytest.mark.parametrize("tile", [2, 5, 1024])
def test_confidence_and_statistics_of_rasters(write_map, write, tmp_path, monkeypatch, tile):
    monkeypatch.setattr(labelling, "TILE", tile)
    where = grid()
    percent = np.arange(48).reshape(6, 8)
    percent[0, :3] = _
    confidence = write("sure.tif", percent.astype(np.uint8), where, nodata=_)
    heights = np.arange(48, dtype=np.float32).reshape(6, 8) / 2
    heights[2:4, 4:6] = -9999
    heights[5, 0] = np.nan
    surface = write("surface.tif", heights, where, nodata=-9999)
    _polygons, columns = run(
        write_map(), tmp_path, simplify=0, confidence=confidence, statistics={"z": surface}
    )
    car = columns["class"].tolist().index(1)
    inside = percent[1:4, 1:3] if columns["area_m2"][car] == 1.5 else percent[4:, 6:]
    assert columns["confidence"][car] == pytest.approx(inside.mean(), abs=0.005)
    assert columns["z_mean"][car] == pytest.approx(inside.mean() / 2)
    assert (columns["z_min"][car], columns["z_max"][car]) == (inside.min() / 2, inside.max() / 2)
    ground = columns["class"].tolist().index(0)
    own = (MAP == 0) & (percent != _)
    assert columns["confidence"][ground] == pytest.approx(percent[own].mean(), abs=0.005)
    buildings = columns["class"] == 2
    assert np.nanmin(columns["z_min"][buildings]) == 41 / 2
    assert np.isnan(columns["z_mean"][buildings]).sum() == 1


def test_rasters_beside_the_map_are_used(write_map, write, tmp_path, caplog):
    name = write_map([[0, 0, 0, 0], [0, 1, 2, 2], [0, 2, 2, 2]])
    where = grid(4, 3)
    scores = np.zeros((3, 3, 4), np.uint8)
    scores[0] = 60
    write("map_confidence.tif", np.full((3, 4), 80, np.uint8), where)
    write("map_probabilities.tif", scores, where, nodata=_)
    with caplog.at_level(logging.INFO, "cafe"):
        _polygons, columns = run(name, tmp_path, min_area=0.3, simplify=0)
    assert columns["confidence"].tolist() == [80, 80]
    assert sorted(columns["area_m2"] * 4) == [5, 7]  # without the probabilities it would be 6
    assert "confidence: from" in caplog.text


def test_a_raster_beside_the_map_of_other_pixels_is_not_used(write_map, write, tmp_path, caplog):
    write("map_confidence.tif", np.full((3, 4), 80, np.uint8), grid(4, 3))
    _polygons, columns = run(write_map(), tmp_path)
    assert "confidence" not in columns
    assert "is not used" in caplog.text


def test_statistics_of_a_raster_in_another_crs_and_resolution(write_map, write, tmp_path):
    from tests.support.rasters import LAMBERT, around

    values = np.repeat(np.arange(2, dtype=np.uint8), 20)[None].repeat(40, axis=0)
    map_ = write_map(values, around(300_000, 5_200_000, 20, 0.5))
    wide = write(
        "wide.tif", np.full((40, 40), 7, np.int16), around(300_000, 5_200_000, 80, 2, LAMBERT)
    )
    _polygons, columns = run(map_, tmp_path, statistics={"wide": wide})
    assert columns["wide_mean"].tolist() == [7, 7]


@pytest.mark.parametrize(
    ("output", "driver"),
    [("out.gpkg", "GPKG"), ("out.fgb", "FlatGeobuf"), ("out.GeoJSON", "GeoJSON")],
)
def test_formats_are_opened_by_gdal(write_map, tmp_path, output, driver):
    polygons, columns = run(write_map(), tmp_path, output)
    info = pyogrio.read_info(tmp_path / output, layer="out")
    assert (info["driver"], info["features"], len(polygons)) == (driver, 5, 5)
    assert info["geometry_type"] == "Polygon"
    assert list(columns) == ["class", "name", "area_m2"]
    assert info["crs"] == ("EPSG:4326" if driver == "GeoJSON" else "EPSG:32632")
    check_coverage(polygons)
    assert (tmp_path / "out.qml").exists() == (driver != "GPKG")
    assert (tmp_path / f"{output}.toml").exists()
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_geojson_is_rfc_7946(write_map, tmp_path):
    run(write_map(), tmp_path, "out.geojson")
    found = json.loads((tmp_path / "out.geojson").read_text())
    assert "crs" not in found
    for feature in found["features"]:
        shell, *holes = feature["geometry"]["coordinates"]
        assert shapely.LinearRing(shell).is_ccw
        assert not any(shapely.LinearRing(hole).is_ccw for hole in holes)
        assert 5 < shell[0][0] < 7
        assert 46 < shell[0][1] < 47


def test_geoparquet_says_where_its_geometry_is(write_map, tmp_path):
    pq = pytest.importorskip("pyarrow.parquet")
    vectorize.vectorize(write_map(), tmp_path / "out.parquet")
    table = pq.read_table(tmp_path / "out.parquet")
    geo = json.loads(table.schema.metadata[b"geo"])
    assert (geo["version"], geo["primary_column"]) == ("1.1.0", "geometry")
    column = geo["columns"]["geometry"]
    assert column["encoding"] == "WKB"
    assert column["crs"]["id"] == {"authority": "EPSG", "code": 32632}
    check_coverage(shapely.from_wkb(table["geometry"].to_numpy(zero_copy_only=False)))
    assert table.column_names == ["class", "name", "area_m2", "geometry"]


def test_a_geopackage_holds_the_style_that_qgis_looks_for(write_map, tmp_path):
    run(write_map(), tmp_path)
    with closing(sqlite3.connect(tmp_path / "out.gpkg")) as database:
        rows = database.execute(
            "SELECT f_table_name, f_geometry_column, useAsDefault, styleQML FROM layer_styles"
        ).fetchall()
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    ((table, column, default, qml),) = rows
    assert (table, column, default) == ("out", "geom", 1)
    assert 'attr="class"' in qml
    for land in TABLE:
        assert f'label="{land.name}"' in qml
    assert pyogrio.list_layers(tmp_path / "out.gpkg").tolist() == [
        ["out", "Polygon"], ["layer_styles", None]
    ]  # fmt: skip


QGIS = """
import sys
from qgis.core import QgsApplication, QgsVectorLayer
application = QgsApplication([], False)
application.initQgis()
layer = QgsVectorLayer(sys.argv[1], "map", "ogr")
for c in layer.renderer().categories():
    print(c.value(), c.label(), c.symbol().color().name())
"""


@pytest.mark.slow
@pytest.mark.parametrize("output", ["map.gpkg", "other.fgb"])
def test_qgis_opens_polygons_in_the_colours_and_names_of_the_classes(write_map, tmp_path, output):
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    environment |= {"QT_QPA_PLATFORM": "offscreen"}
    python = "/usr/bin/python3"
    check = [python, "-c", "import qgis.core"]
    if not Path(python).exists() or subprocess.run(check, capture_output=True).returncode:
        pytest.skip("QGIS is not installed")
    vectorize.vectorize(write_map(), tmp_path / output)  # beside a raster's style, map.qml
    said = subprocess.run(
        [python, "-c", QGIS, str(tmp_path / output)],
        env=environment,
        capture_output=True,
        text=True,
    ).stdout.splitlines()
    assert said == ["0 ground #ffffff", "1 tree #00ff00", "2 building #0000ff"]


def test_the_style_of_a_raster_stays(write_map, tmp_path, caplog):
    (tmp_path / "map.qml").write_text("<qgis><pipe><rasterrenderer/></pipe></qgis>")
    run(write_map(name="labels.tif"), tmp_path, "map.fgb")
    run(str(tmp_path / "labels.tif"), tmp_path, "map.fgb", overwrite=True)
    assert "rasterrenderer" in (tmp_path / "map.qml").read_text()
    assert "style of a raster" in caplog.text


def test_large_outputs_are_written_in_parts(write_map, tmp_path, monkeypatch):
    from cafe_cli.vectorization import assemble

    monkeypatch.setattr(assemble, "_CHUNK", 50)
    values = np.add.outer(np.arange(12), np.arange(12)) % 3
    whole, _columns = run(write_map(values), tmp_path, "a.gpkg")
    assert len(whole) == 144
    assert shapely.coverage_is_valid(whole)


def test_a_class_table_is_taken_from_the_caller(write_map, tmp_path):
    classes = ClassTable(tuple(LandClass(n, name) for n, name in enumerate("abc")))
    vectorize.vectorize(write_map(classes=None), tmp_path / "out.gpkg", classes=classes)
    assert set(read(tmp_path / "out.gpkg", "out")[1]["name"]) == {"a", "b", "c"}


def test_a_map_without_georeference(write_map, tmp_path):
    where = Grid(None, Affine.identity(), 8, 6)
    name = write_map(where=where)
    _polygons, columns = run(name, tmp_path, "a.gpkg")
    assert np.isnan(columns["area_m2"]).all()
    with pytest.raises(GridError, match="--pixel-size"):
        run(name, tmp_path, "b.gpkg", min_area=2)
    _polygons, columns = run(name, tmp_path, "b.gpkg", pixel_size=2.0, simplify=0)
    assert columns["area_m2"].sum() == (_ != MAP).sum() * 4
    with pytest.raises(ConfigError, match="no CRS"):
        run(name, tmp_path, "a.geojson")


def test_a_map_of_sheets_is_one_map(write_map, tmp_path):
    whole = grid(8, 6)
    from cafe_cli.raster.window import Window

    for number, window in enumerate((Window(0, 0, 5, 6), Window(5, 0, 3, 6))):
        write_map(MAP[window.slices()], whole.at(window), f"sheets/{number}.tif")
    polygons, columns = run(str(tmp_path / "sheets"), tmp_path, simplify=0)
    assert sorted(columns["area_m2"] * 4) == [3, 3, 4, 6, 29]
    check_coverage(polygons)


@pytest.mark.parametrize(
    ("options", "output", "error", "message"),
    [
        ({"min_area": -1}, "out.gpkg", ConfigError, "--min-area -1"),
        ({"simplify": float("nan")}, "out.gpkg", ConfigError, "--simplify nan"),
        ({"simplify": float("inf")}, "out.gpkg", ConfigError, "--simplify inf"),
        ({}, "out.shp", ConfigError, "ogr2ogr"),
        ({}, "out", ConfigError, "ends in .gpkg"),
        ({"statistics": {"a b": "x.tif"}}, "out.gpkg", ConfigError, "'a b' becomes the name"),
        ({"statistics": {"confidence": "x.tif"}}, "out.gpkg", ConfigError, "rename it"),
        ({"statistics": {"z": "x.tif", "Z": "x.tif"}}, "out.gpkg", ConfigError, "rename it"),
        ({"statistics": {"z": "nothing.tif"}}, "out.gpkg", InputError, "does not exist"),
        ({"confidence": "map.tif"}, "out.gpkg", InputError, "did not write it as confidence"),
        ({}, "map.tif.gpkg", None, ""),
    ],
)
def test_options_that_cannot_be(write_map, tmp_path, monkeypatch, options, output, error, message):
    name = write_map()
    monkeypatch.chdir(tmp_path)
    if error is None:
        run(name, tmp_path, output, **options)
        return
    with pytest.raises(error, match=message):
        run(name, tmp_path, output, **options)
    assert sorted(
        path.name for path in tmp_path.iterdir() if path.suffix not in {".qml", ".xml"}
    ) == ["map.tif"]


def test_rasters_that_do_not_fit(write_map, write, tmp_path):
    name = write_map()
    image = write("image.tif", np.zeros((3, 6, 8), np.uint8), grid())
    two = write("two.tif", np.zeros((2, 6, 8), np.uint8), grid())
    loud = write("loud.tif", np.full((6, 8), 120, np.uint8), grid())
    far = write("far.tif", np.zeros((6, 8), np.uint8), grid(left=400_000))
    with pytest.raises(BandError, match="has 3 bands"):
        run(name, tmp_path, statistics={"z": image})
    with pytest.raises(BandError, match="has 2 bands, the map has 3 classes"):
        run(name, tmp_path, min_area=1, probabilities=two)
    with pytest.raises(InputError, match=r"loud.tif holds the value 120"):
        run(name, tmp_path, confidence=loud)
    with pytest.raises(GridError, match="does not overlap"):
        run(name, tmp_path, statistics={"z": far})
    with pytest.raises(BandError, match="name the map"):
        run(image, tmp_path)
    assert not (tmp_path / "out.gpkg").exists()


def test_maps_that_have_no_polygons(write_map, tmp_path):
    with pytest.raises(LabelError, match="has no pixel with a class"):
        run(write_map(np.full((3, 3), _)), tmp_path)
    with pytest.raises(LabelError, match="has no class table"):
        run(write_map(classes=None), tmp_path)
    with pytest.raises(LabelError, match="holds the value 9"):
        run(write_map([[9]]), tmp_path)


def test_an_output_is_replaced_on_request_only(write_map, tmp_path):
    name = write_map()
    run(name, tmp_path)
    before = (tmp_path / "out.gpkg").read_bytes()
    with pytest.raises(OutputError, match="pass --overwrite"):
        run(name, tmp_path)
    assert (tmp_path / "out.gpkg").read_bytes() == before
    polygons, _columns = run(name, tmp_path, overwrite=True, min_area=1.1)
    assert len(polygons) == 2


def test_a_failure_leaves_the_old_output(write_map, tmp_path, monkeypatch):
    name = write_map()
    run(name, tmp_path)
    before = sorted((path.name, path.stat().st_size) for path in tmp_path.iterdir())

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(vectorize, "assemble", fail)
    with pytest.raises(OutputError, match="No space left"):
        run(name, tmp_path, overwrite=True)
    assert sorted((path.name, path.stat().st_size) for path in tmp_path.iterdir()) == before


def test_dry_run_says_what_would_be_written(write_map, write, tmp_path):
    surface = write("surface.tif", np.zeros((6, 8), np.float32), grid())
    options = VectorizeOptions(simplify=1.0, statistics={"z": surface})
    report = vectorize.dry_run(write_map(), tmp_path / "out.gpkg", options)
    assert report.ok
    assert report.facts["tolerance"] == "2 pixels"
    assert report.facts["rasters"] == ["z"]
    assert not (tmp_path / "out.gpkg").exists()
    assert not vectorize.dry_run(write_map(), tmp_path / "out.shp").ok
