import numpy as np
import pyogrio.raw
import pytest
import rasterio
import shapely

from cafe_cli.errors import BandError, ConfigError, GridError, InputError, LabelError, OutputError
from cafe_cli.evaluation.suggest import SuggestInput, dry_run, suggest
from cafe_cli.raster.writer import class_tags
from tests.support.engines import PIXEL, TABLE, write

pytest_plugins = ["tests.support.fixtures"]

SIDE = 256
LEFT, TOP = 500_000, 5_200_000  # of rasters that `write` writes
HARD = (slice(64, 128), slice(128, 192))
WRONG = (slice(192, 256), slice(0, 64))


@pytest.fixture
def folder(tmp_path):
    """A map, its confidence and probabilities, and labels of its left half."""
    labels = np.zeros((1, SIDE, SIDE), np.uint8)
    labels[0, :, 128:] = 1
    confidence = np.full((1, SIDE, SIDE), 90, np.uint8)
    confidence[0][HARD] = 40
    second = np.where(confidence == 40, 38, 6)
    probabilities = np.concatenate([confidence, second, 100 - confidence - second])
    truth = np.full((1, SIDE, SIDE), 255, np.uint8)
    truth[0, :, :128] = 0
    truth[0][WRONG] = 2
    write(tmp_path / "map.tif", labels, nodata=255)
    write(tmp_path / "confidence.tif", confidence, nodata=255)
    write(tmp_path / "probabilities.tif", probabilities.astype(np.uint8), nodata=255)
    write(tmp_path / "labels.tif", truth, nodata=255)
    return tmp_path


def run(folder, count=50, size=64, output="places.gpkg", **names):
    files = {key: str(folder / name) for key, name in names.items()}
    source = SuggestInput(str(folder / "map.tif"), classes=TABLE, **files)
    return suggest(source, folder / output, count=count, size=size)


def read(path):
    meta, _, geometry, columns = pyogrio.raw.read(path)
    return meta, shapely.from_wkb(geometry), dict(zip(meta["fields"], columns, strict=True))


def test_low_margin(folder):
    best = run(folder, probabilities="probabilities.tif", count=3)[0]
    assert (best.rank, best.reason) == (1, "low margin")
    assert best.margin == pytest.approx(0.02, abs=1e-4)
    assert best.score == pytest.approx(0.98, abs=1e-4)
    assert (best.labelled, best.disagreement) == (0, None)
    meta, boxes, columns = read(folder / "places.gpkg")
    left, top = LEFT + HARD[1].start * PIXEL, TOP - HARD[0].start * PIXEL
    assert boxes[0].equals(shapely.box(left, top - 64 * PIXEL, left + 64 * PIXEL, top))
    assert meta["crs"] == "EPSG:32632"
    assert columns["rank"].tolist() == [1, 2, 3]
    assert np.isnan(columns["disagreement"]).all()


def test_low_confidence(folder):
    best = run(folder, confidence="confidence.tif", count=1)[0]
    assert (best.reason, best.margin, best.score) == ("low confidence", 0.4, 0.6)


def test_disagreement(folder):
    found = run(folder, labels="labels.tif")
    assert [place.reason for place in found] == ["disagreement"]
    assert (found[0].score, found[0].disagreement, found[0].labelled) == (1, 1, 1)
    assert found[0].margin is None
    _, boxes, _ = read(folder / "places.gpkg")
    assert boxes[0].bounds[3] == TOP - WRONG[0].start * PIXEL


def test_both(folder):
    found = run(folder, labels="labels.tif", probabilities="probabilities.tif", count=2)
    assert [place.reason for place in found] == ["disagreement", "low margin"]


def test_labelled_ground_is_in_no_doubt(folder):
    truth = np.zeros((1, SIDE, SIDE), np.uint8)
    truth[0, :, 128:] = 1
    write(folder / "labels.tif", truth, nodata=255)
    assert run(folder, labels="labels.tif", confidence="confidence.tif") == []
    meta, boxes, _ = read(folder / "places.gpkg")
    assert len(boxes) == 0
    assert "rank" in meta["fields"]


def test_settings_lie_beside_it(folder):
    run(folder, confidence="confidence.tif", count=1)
    assert 'confidence = "' in (folder / "places.gpkg.toml").read_text()


def test_vector_labels(folder):
    place = shapely.box(LEFT, TOP - 64 * PIXEL, LEFT + 64 * PIXEL, TOP)
    pyogrio.raw.write(
        folder / "labels.gpkg", shapely.to_wkb([place]), [np.array(["tree"], object)], ["class"],
        geometry_type="Polygon", crs="EPSG:32632",
    )  # fmt: skip
    (found,) = run(folder, labels="labels.gpkg")
    assert (found.reason, found.disagreement) == ("disagreement", 1)


@pytest.mark.parametrize(
    ("names", "says"),
    [
        ({"confidence": "confidence.tif", "labels": "labels.tif"}, None),
        ({"confidence": "probabilities.tif"}, "has 3 bands"),
        ({}, "give --confidence"),
        ({"probabilities": "absent.tif"}, "absent.tif"),
    ],
)
def test_dry_run(folder, names, says):
    files = {key: str(folder / name) for key, name in names.items()}
    source = SuggestInput(str(folder / "map.tif"), classes=TABLE, **files)
    report = dry_run(source, folder / "places.gpkg")
    assert report.ok is (says is None)
    assert not (folder / "places.gpkg").exists()
    if says:
        assert says in report.findings[0].message


def test_the_same_places_again(folder):
    names = {"labels": "labels.tif", "probabilities": "probabilities.tif"}
    assert run(folder, **names) == run(folder, output="again.gpkg", **names)


@pytest.mark.parametrize("size", [32, 96, 256, 1024])
def test_sizes(folder, size):
    found = run(folder, size=size, confidence="confidence.tif", count=1)
    assert len(found) == 1
    _, boxes, _ = read(folder / "places.gpkg")
    assert boxes[0].bounds[2] - boxes[0].bounds[0] == min(size, SIDE) * PIXEL


@pytest.mark.parametrize("many", [16, 400])
def test_as_many_as_fit(folder, many):
    found = run(folder, confidence="confidence.tif", count=many, size=64)
    assert 9 <= len(found) <= 16
    _, boxes, _ = read(folder / "places.gpkg")
    assert shapely.union_all(boxes).area == pytest.approx(sum(shapely.area(boxes)))


@pytest.mark.parametrize("size", [0, -4, 30, 66, 4100])
def test_sizes_that_cannot_be(folder, size):
    with pytest.raises(ConfigError, match=rf"a place of {size} pixels: .* multiple of 4 from 32"):
        run(folder, size=size, confidence="confidence.tif")


@pytest.mark.parametrize("count", [0, -1, 10_001])
def test_counts_that_cannot_be(folder, count):
    with pytest.raises(ConfigError, match=rf"{count} places: ask for 1 to 10,000"):
        run(folder, count=count, confidence="confidence.tif")


def test_nothing_to_go_by(folder):
    with pytest.raises(ConfigError, match="give --confidence or --probabilities"):
        run(folder)


@pytest.mark.parametrize("name", ["places.shp", "places", "places.tif"])
def test_other_formats(folder, name):
    with pytest.raises(OutputError, match=r"name it \.gpkg"):
        run(folder, output=name, confidence="confidence.tif")


@pytest.mark.parametrize(
    ("names", "error", "says"),
    [
        ({"confidence": "probabilities.tif"}, BandError, "has 3 bands, but a confidence raster"),
        ({"probabilities": "confidence.tif"}, BandError, "probabilities of 3 classes have 3"),
        ({"confidence": "absent.tif"}, InputError, "absent.tif"),
    ],
)
def test_other_rasters(folder, names, error, says):
    with pytest.raises(error, match=says):
        run(folder, **names)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        (np.full((1, SIDE, SIDE), 0.9, np.float32), "shares up to 0.9"),
        (np.full((1, SIDE, SIDE), 200, np.uint8), "holds the value 200"),
        (np.full((1, SIDE, SIDE), -1, np.int16), "holds the value -1"),
    ],
)
def test_values_that_are_no_per_cent(folder, values, says):
    write(folder / "other.tif", values)
    with pytest.raises(InputError, match=says):
        run(folder, confidence="other.tif")


def test_other_ground(folder):
    write(folder / "far.tif", np.full((1, 64, 64), 50, np.uint8), origin=(9000, 0), nodata=255)
    with pytest.raises(GridError):
        run(folder, confidence="far.tif")


def test_no_data(folder):
    write(folder / "empty.tif", np.full((1, SIDE, SIDE), 255, np.uint8), nodata=255)
    with pytest.raises(InputError, match=r"both a class in .*map\.tif and a confidence in"):
        run(folder, confidence="empty.tif")
    with pytest.raises(InputError, match=r"both a class in .*map\.tif and a label in"):
        run(folder, labels="empty.tif")


def test_labels_of_another_table(folder):
    write(folder / "other.tif", np.full((1, SIDE, SIDE), 9, np.uint8), nodata=255)
    with pytest.raises(LabelError, match="holds values that no class has: 9"):
        run(folder, labels="other.tif", confidence="confidence.tif")
    assert not (folder / "places.gpkg").exists()


def test_an_output_that_exists(folder):
    run(folder, confidence="confidence.tif", count=1)
    with pytest.raises(OutputError, match="exists"):
        run(folder, confidence="confidence.tif", count=1)


def test_command(folder, invoke):
    words = ["suggest", folder / "map.tif", "--confidence", folder / "confidence.tif"]
    words += ["-o", folder / "p.gpkg", "-n", 2, "--size", 64]
    code, said = invoke(*words)
    assert code == 1
    assert "has no class table" in said.err
    with rasterio.open(folder / "map.tif", "r+") as dataset:
        dataset.update_tags(**class_tags(TABLE))
    code, said = invoke(*words)
    assert code == 0
    assert f"wrote {folder / 'p.gpkg'}: 2 places (2 low confidence)" in said.err
