"""References of every kind that `cafe tile` reads."""

import numpy as np
import pyogrio.raw
import pytest
import rasterio
import shapely
from rasterio.features import shapes
from shapely.geometry import shape

from cafe_cli.classes import ClassTable, LandClass
from cafe_cli.config.schema import LabelSettings
from cafe_cli.errors import GridError, LabelError
from cafe_cli.evaluation import reference as module
from cafe_cli.evaluation.evaluate import evaluate
from cafe_cli.raster.window import Window
from tests.support.rasters import TABLE, UTM, grid, write

WHERE = grid(60, 40)
IDS = np.kron(np.random.default_rng(0).integers(0, 3, (4, 6)), np.ones((10, 10))).astype(np.uint8)
CODED = ClassTable(
    (
        LandClass(0, "ground", values=("soil", 10)),
        LandClass(1, "tree", values=("oak", 20)),
        LandClass(2, "building", values=("hall", 30)),
    )
)
NAMES = np.array(["soil", "oak", "hall"], object)


@pytest.fixture
def map_path(tmp_path):
    return str(write(tmp_path / "map.tif", IDS, WHERE))


def draw(path, values=None, driver="GPKG", layer="l", crs=UTM, **columns):
    drawn = [(shape(g), int(v)) for g, v in shapes(IDS, transform=WHERE.transform)]
    ids = np.array([v for _, v in drawn])
    data = {"code": NAMES[ids] if values is None else np.array(values)[ids], **columns}
    pyogrio.raw.write(
        path,
        shapely.to_wkb(np.array([g for g, _ in drawn], object)),
        [np.resize(v, len(ids)) for v in data.values()],
        list(data),
        driver=driver,
        layer=layer,
        geometry_type="Polygon",
        crs=crs.to_wkt(),
        append=path.exists(),
    )
    return str(path)


@pytest.mark.parametrize(
    ("suffix", "driver", "values"),
    [
        ("gpkg", "GPKG", None),
        ("shp", "ESRI Shapefile", [10, 20, 30]),
        ("fgb", "FlatGeobuf", ["10", "20", "30"]),
        ("geojson", "GeoJSON", [10.0, 20.0, 30.0]),
    ],
)
def test_polygons_are_labels_on_the_grid_of_the_map(tmp_path, map_path, suffix, driver, values):
    path = draw(tmp_path / f"labels.{suffix}", values, driver)
    found = evaluate(map_path, path, classes=CODED, labels=LabelSettings(attribute="code"))
    assert (found.overall_accuracy, found.pixels) == (1, IDS.size)


def test_a_layer_an_attribute_and_ignored_values(tmp_path, map_path):
    draw(tmp_path / "labels.gpkg", layer="other", values=["hall", "hall", "hall"])
    path = draw(
        tmp_path / "labels.gpkg", ["soil", "ash", "hall"], layer="mine", year=np.array([2020])
    )
    labels = LabelSettings(layer="mine", attribute="code", ignore=("ash",))
    found = evaluate(map_path, path, classes=CODED, labels=labels)
    assert (found.overall_accuracy, found.pixels) == (1, int((IDS != 1).sum()))
    with pytest.raises(LabelError, match=r"several attributes, set labels.attribute"):
        evaluate(map_path, path, classes=CODED, labels=LabelSettings(layer="mine"))


def test_points_lie_on_top_of_unlabelled_ground(tmp_path, map_path):
    places = [(3, 4), (15, 25), (39, 59)]
    points = [shapely.Point(WHERE.transform @ (c + 0.5, r + 0.5)) for r, c in places]
    path = tmp_path / "points.gpkg"
    pyogrio.raw.write(
        path,
        shapely.to_wkb(np.array(points, object)),
        [np.array([IDS[p] for p in places])],
        ["code"],
        driver="GPKG",
        geometry_type="Point",
        crs=UTM.to_wkt(),
    )
    found = evaluate(map_path, str(path), classes=TABLE)
    assert (found.overall_accuracy, found.pixels) == (1, 3)
    found = evaluate(
        map_path, str(path), classes=TABLE, labels=LabelSettings(unlabelled=TABLE.names[0])
    )
    assert found.pixels == IDS.size


def test_several_vector_files_and_blocks(tmp_path, map_path, monkeypatch):
    monkeypatch.setattr(module, "_BLOCK", 16)
    (tmp_path / "parts").mkdir()
    for name in "ab":
        draw(tmp_path / "parts" / f"{name}.gpkg")
    found = evaluate(map_path, str(tmp_path / "parts" / "*.gpkg"), classes=CODED)
    assert (found.overall_accuracy, found.pixels) == (1, IDS.size)


@pytest.mark.parametrize("name", ["", "*.tif", "@"])
@pytest.mark.parametrize("dtype", ["uint8", "int32", "float32"])
def test_sheets_of_labels_are_one_reference(tmp_path, map_path, name, dtype):
    folder = tmp_path / "sheets"
    folder.mkdir()
    for i in range(3):
        part = Window(20 * i, 0, 20, 40)
        write(folder / f"{i}.tif", IDS[part.slices()].astype(dtype), WHERE.at(part))
    (tmp_path / "list.txt").write_text("\n".join(str(folder / f"{i}.tif") for i in range(3)))
    given = f"@{tmp_path / 'list.txt'}" if name == "@" else str(folder / name)
    found = evaluate(map_path, given, classes=TABLE)
    assert (found.overall_accuracy, found.pixels, found.unpredicted) == (1, IDS.size, 0)


def test_sheets_far_apart_cost_no_blocks_between_them(tmp_path, monkeypatch):
    far = grid(60, 40, left=WHERE.transform.c + 500_000)
    for name, where in (("1", WHERE), ("2", far)):
        write(tmp_path / f"map{name}.tif", IDS, where)
        write(tmp_path / f"ref{name}.tif", IDS, where)
    seen = []
    found = evaluate(
        str(tmp_path / "map*.tif"),
        str(tmp_path / "ref*.tif"),
        classes=TABLE,
        progress=lambda done, total: seen.append(total),
    )
    assert (found.overall_accuracy, found.pixels) == (1, 2 * IDS.size)
    assert max(seen) <= 4


def test_labels_without_georeference_have_the_pixels_of_the_map(tmp_path, map_path):
    path = tmp_path / "labels.png"
    with rasterio.open(
        path, "w", driver="PNG", width=60, height=40, count=1, dtype="uint8"
    ) as dataset:
        dataset.write(IDS, 1)
    assert evaluate(map_path, str(path), classes=TABLE).overall_accuracy == 1


def test_a_crs_may_be_assumed(tmp_path):
    bare = grid(60, 40, crs=None)
    map_path = write(tmp_path / "map.tif", IDS, WHERE)
    path = write(tmp_path / "labels.tif", IDS[:20], bare.at(Window(0, 0, 60, 20)))
    with pytest.raises(GridError, match="no CRS"):
        evaluate(str(map_path), str(path), classes=TABLE)
    found = evaluate(str(map_path), str(path), classes=TABLE, crs=UTM.to_string())
    assert (found.overall_accuracy, found.pixels) == (1, 20 * 60)


def test_features_elsewhere_are_an_error(tmp_path):
    far = grid(60, 40, left=WHERE.transform.c + 5000)
    path = draw(tmp_path / "labels.gpkg")
    with pytest.raises(GridError, match=r"labels.gpkg does not overlap .*map.tif"):
        evaluate(str(write(tmp_path / "map.tif", IDS, far)), path, classes=CODED)
