import logging
from pathlib import Path

import numpy as np
import pytest
from rasterio.crs import CRS
from rasterio.transform import from_origin
from rasterio.warp import transform

from cafe_cli.classes import ClassTable, LandClass
from cafe_cli.config.schema import LabelSettings
from cafe_cli.errors import BandError, GridError, InputError, LabelError
from cafe_cli.evaluation import counting as engine
from cafe_cli.evaluation import reference
from cafe_cli.evaluation.evaluate import evaluate
from cafe_cli.evaluation.metrics import Confusion
from cafe_cli.raster.grid import Grid
from cafe_cli.raster.writer import create_cog, write_geotiff

UTM = CRS.from_epsg(32632)
SWISS = CRS.from_epsg(2056)
TABLE = ClassTable(
    (
        LandClass(0, "ground", "#808080"),
        LandClass(1, "tree", "#00ff00"),
        LandClass(2, "building", "#0000ff"),
    )
)


def grid_of(array, left=500_000.0, top=5_200_000.0, cell=1.0, crs=UTM) -> Grid:
    return Grid(crs, from_origin(left, top, cell, cell), array.shape[-1], array.shape[-2])


def write_map(path: Path, array, grid=None, classes=TABLE) -> str:
    with create_cog(path, grid or grid_of(array), False, classes) as dataset:
        dataset.write(array, 1)
    return str(path)


def write_labels(path: Path, array, grid=None, nodata=255) -> str:
    bands = array if array.ndim == 3 else array[None]
    write_geotiff(path, bands, grid or grid_of(array), predictor=1, nodata=nodata)
    return str(path)


def random_labels(seed: int, height: int, width: int, values=(0, 1, 2, 255)):
    rng = np.random.default_rng(seed)
    return np.array(values, np.uint8)[rng.integers(0, len(values), (height, width))]


def counts(reference, prediction):
    confusion = Confusion(len(TABLE))
    confusion.add(reference, prediction)
    return tuple(map(tuple, confusion.counts.tolist())), confusion.unpredicted


def test_a_perfect_prediction_scores_one(tmp_path):
    labels = random_labels(0, 30, 41, (0, 1, 2))
    result = evaluate(
        write_map(tmp_path / "map.tif", labels), write_labels(tmp_path / "truth.tif", labels)
    )
    assert (result.miou, result.mean_f1, result.overall_accuracy) == (1, 1, 1)
    assert (result.pixels, result.unpredicted) == (30 * 41, 0)
    assert list(result.classes) == ["ground", "tree", "building"]


@pytest.mark.parametrize("block", [7, 16, 1024])
def test_the_same_grid_is_compared_pixel_by_pixel(tmp_path, monkeypatch, block):
    monkeypatch.setattr(reference, "_BLOCK", block)
    truth, predicted = random_labels(1, 40, 33), random_labels(2, 40, 33)
    result = evaluate(
        write_map(tmp_path / "map.tif", predicted), write_labels(tmp_path / "truth.tif", truth)
    )
    assert (result.confusion, result.unpredicted) == counts(truth, predicted)


def test_a_shifted_prediction_counts_where_both_are_and_is_lacking_elsewhere(tmp_path):
    truth, predicted = random_labels(3, 40, 33), random_labels(4, 30, 50)
    place = grid_of(predicted, left=500_000.0 + 5, top=5_200_000.0 - 12)
    result = evaluate(
        write_map(tmp_path / "map.tif", predicted, place),
        write_labels(tmp_path / "truth.tif", truth),
    )
    expected = np.full(truth.shape, 255, np.uint8)
    expected[12:40, 5:33] = predicted[:28, :28]
    assert (result.confusion, result.unpredicted) == counts(truth, expected)
    assert result.unpredicted > 0
    assert result.pixels + result.unpredicted == (truth != 255).sum()


@pytest.mark.parametrize("cell", [0.4, 0.75, 3.0])
def test_each_reference_pixel_counts_once_whatever_the_resolution(tmp_path, cell):
    truth, predicted = random_labels(5, 40, 33), random_labels(6, 60, 60)
    place = grid_of(predicted, left=500_003.1, top=5_199_995.3, cell=cell)
    result = evaluate(
        write_map(tmp_path / "map.tif", predicted, place),
        write_labels(tmp_path / "truth.tif", truth),
    )
    rows = np.floor((5_199_995.3 - (5_200_000 - np.arange(40) - 0.5)) / cell).astype(int)
    cols = np.floor((500_000 + np.arange(33) + 0.5 - 500_003.1) / cell).astype(int)
    inside = np.ix_((rows >= 0) & (rows < 60), (cols >= 0) & (cols < 60))
    expected = np.full(truth.shape, 255, np.uint8)
    expected[inside] = predicted[rows.clip(0, 59)][:, cols.clip(0, 59)][inside]
    assert (result.confusion, result.unpredicted) == counts(truth, expected)


def test_a_prediction_in_another_crs_is_brought_to_the_reference(tmp_path):
    (left,), (top,) = transform(SWISS, UTM, [2_600_000.0], [1_200_000.0])
    truth, predicted = random_labels(7, 60, 70), random_labels(8, 90, 80)
    place = grid_of(truth, left, top)
    source = grid_of(predicted, 2_599_990.0, 1_200_010.0, 0.9, SWISS)
    cols, rows = np.meshgrid(np.arange(70) + 0.5, np.arange(60) + 0.5)
    xs, ys = transform(UTM, SWISS, (left + cols).ravel(), (top - rows).ravel())
    col = ((np.array(xs) - 2_599_990.0) / 0.9).reshape(truth.shape)
    row = ((1_200_010.0 - np.array(ys)) / 0.9).reshape(truth.shape)
    # GDAL transforms to an eighth of a pixel: leave out what lies on the edge of a pixel.
    edge = [np.abs(v - np.round(v)) < 0.15 for v in (col, row)]
    truth[edge[0] | edge[1]] = 255
    inside = (col > 0) & (col < 80) & (row > 0) & (row < 90)
    at = row.clip(0, 89).astype(int), col.clip(0, 79).astype(int)
    expected = np.where(inside, predicted[at], np.uint8(255))
    result = evaluate(
        write_map(tmp_path / "map.tif", predicted, source),
        write_labels(tmp_path / "truth.tif", truth, place),
    )
    assert (result.confusion, result.unpredicted) == counts(truth, expected)
    assert result.pixels > 500


def test_pixel_coordinates_are_a_grid_too(tmp_path):
    truth, predicted = random_labels(9, 20, 20), random_labels(10, 20, 20)
    grid = Grid(None, from_origin(0, 0, 1, 1), 20, 20)
    result = evaluate(
        write_map(tmp_path / "map.tif", predicted, grid),
        write_labels(tmp_path / "truth.tif", truth, grid),
    )
    assert (result.confusion, result.unpredicted) == counts(truth, predicted)


def test_values_of_the_reference_follow_the_given_table(tmp_path):
    codes = np.array([[10, 11, 20, 0]], np.uint8)
    given = ClassTable(
        (
            LandClass(0, "ground", values=(10, 11)),
            LandClass(1, "tree", values=(20,)),
            LandClass(2, "building", values=(30,)),
        )
    )
    result = evaluate(
        write_map(tmp_path / "map.tif", np.array([[0, 1, 1, 2]], np.uint8)),
        write_labels(tmp_path / "truth.tif", codes, nodata=None),
        classes=given,
        labels=LabelSettings(ignore=(0,)),
    )
    assert result.confusion == ((1, 1, 0), (0, 1, 0), (0, 0, 0))


def test_nodata_of_the_reference_is_no_label_unless_a_class_names_it(tmp_path, caplog):
    truth = np.array([[0, 0, 1, 1]], np.uint8)
    result = evaluate(
        write_map(tmp_path / "map.tif", np.array([[1, 1, 1, 0]], np.uint8)),
        write_labels(tmp_path / "truth.tif", truth, nodata=0),
    )
    assert result.confusion == ((0, 0, 0), (1, 1, 0), (0, 0, 0))
    assert "2 label pixels are 0, which their raster declares as nodata" in caplog.text


def test_nodata_of_the_reference_that_a_class_names_is_the_class(tmp_path, caplog):
    values = (0, 1, 255)
    given = ClassTable(tuple(LandClass(c.id, c.name, values=(values[c.id],)) for c in TABLE))
    predicted = write_map(tmp_path / "map.tif", np.array([[1, 1, 2, 0]], np.uint8))
    truth = np.array([[0, 1, 255, 0]], np.uint8)
    for nodata in (0, 255):
        path = write_labels(tmp_path / f"{nodata}.tif", truth, nodata=nodata)
        result = evaluate(predicted, path, classes=given)
        assert result.confusion == ((1, 1, 0), (0, 1, 0), (0, 0, 1))
    assert "2 label pixels are 0, which their raster declares as nodata" in caplog.text
    assert "1 label pixels are 255" in caplog.text


def test_unknown_values_are_listed_with_their_counts_and_can_be_ignored(tmp_path, monkeypatch):
    monkeypatch.setattr(reference, "_BLOCK", 2)
    predicted = write_map(tmp_path / "map.tif", np.zeros((4, 4), np.uint8))
    truth = np.array([[0, 0, 7, 7], [0, 9, 0, 0], [0, 0, 0, 7], [0, 0, 0, 0]], np.uint8)
    path = write_labels(tmp_path / "truth.tif", truth)
    with pytest.raises(LabelError, match=r"7 \(3 pixels\), 9 \(1 pixels\); .*--ignore"):
        evaluate(predicted, path)
    result = evaluate(predicted, path, labels=LabelSettings(ignore=(7, 9)))
    assert (result.pixels, result.overall_accuracy) == (12, 1.0)


def test_a_raster_of_measurements_is_refused_early_and_in_one_short_line(tmp_path, monkeypatch):
    monkeypatch.setattr(reference, "_BLOCK", 30)
    monkeypatch.setattr(engine, "_TOO_MANY", 100)
    predicted = write_map(tmp_path / "map.tif", np.zeros((60, 60), np.uint8))
    heights = np.linspace(3, 400, 3600, dtype=np.float32).reshape(60, 60)
    path = write_labels(tmp_path / "dsm.tif", heights, nodata=None)
    seen = []
    with pytest.raises(LabelError, match="and more") as error:
        evaluate(predicted, path, progress=lambda done, total: seen.append((done, total)))
    assert len(str(error.value)) < 500 + len(path)
    assert seen == [(1, 4)]


def test_colour_labels_take_the_nearest_class_and_say_so(tmp_path, caplog):
    colours = np.array([[[128, 128, 128], [0, 250, 3], [0, 0, 255], [1, 0, 0]]], np.uint8)
    path = write_labels(tmp_path / "truth.tif", np.moveaxis(colours, -1, 0), nodata=None)
    predicted = write_map(tmp_path / "map.tif", np.array([[0, 1, 1, 0]], np.uint8))
    settings = LabelSettings(encoding="colors", ignore_colors=("#000000",))
    with caplog.at_level(logging.WARNING, "cafe"):
        result = evaluate(predicted, path, labels=settings)
    assert result.confusion == ((1, 0, 0), (0, 1, 0), (0, 1, 0))
    assert "2 pixels" in caplog.text


def test_progress_ends_at_the_total(tmp_path, monkeypatch):
    monkeypatch.setattr(reference, "_BLOCK", 10)
    labels = random_labels(11, 25, 15, (0, 1))
    seen = []
    evaluate(
        write_map(tmp_path / "map.tif", labels),
        write_labels(tmp_path / "truth.tif", labels),
        progress=lambda done, total: seen.append((done, total)),
    )
    assert seen == [(i, 6) for i in range(1, 7)]


def test_no_overlap_names_both_extents(tmp_path):
    labels = random_labels(12, 10, 10)
    predicted = write_map(tmp_path / "map.tif", labels, grid_of(labels, left=600_000.0))
    truth = write_labels(tmp_path / "truth.tif", labels)
    with pytest.raises(GridError, match=r"600000 to 600010.* 500000 to 500010"):
        evaluate(predicted, truth)


def test_a_crs_on_one_side_only_is_refused(tmp_path):
    labels = random_labels(13, 10, 10)
    predicted = write_map(tmp_path / "map.tif", labels, grid_of(labels, crs=None))
    truth = write_labels(tmp_path / "truth.tif", labels)
    with pytest.raises(GridError, match=r"map.tif has no CRS"):
        evaluate(predicted, truth)


def test_a_prediction_without_class_table_needs_one(tmp_path):
    labels = random_labels(14, 10, 10)
    predicted = write_map(tmp_path / "map.tif", labels, classes=None)
    truth = write_labels(tmp_path / "truth.tif", labels)
    with pytest.raises(LabelError, match=r"\[\[classes\]\]"):
        evaluate(predicted, truth)
    assert evaluate(predicted, truth, classes=TABLE).overall_accuracy == 1


def test_another_class_table_than_that_of_the_prediction_is_refused(tmp_path):
    labels = random_labels(15, 10, 10)
    predicted = write_map(tmp_path / "map.tif", labels)
    truth = write_labels(tmp_path / "truth.tif", labels)
    other = ClassTable(tuple(LandClass(i, n) for i, n in enumerate(["ground", "water", "tree"])))
    with pytest.raises(LabelError, match=r"ground, tree, building.*ground, water, tree"):
        evaluate(predicted, truth, classes=other)


def test_a_prediction_with_values_that_are_no_class_is_refused(tmp_path):
    predicted = write_map(tmp_path / "map.tif", np.array([[0, 1, 5]], np.uint8))
    truth = write_labels(tmp_path / "truth.tif", np.array([[0, 1, 255]], np.uint8))
    with pytest.raises(LabelError, match=r"map.tif holds the value 5, .* 0 to 2"):
        evaluate(predicted, truth)


def test_pictures_and_heights_are_not_maps(tmp_path):
    truth = write_labels(tmp_path / "truth.tif", np.zeros((4, 4), np.uint8))
    rgb = write_labels(tmp_path / "rgb.tif", np.zeros((3, 4, 4), np.uint8), nodata=None)
    with pytest.raises(BandError, match=r"rgb.tif has 3 bands"):
        evaluate(rgb, truth)
    dsm = write_labels(tmp_path / "dsm.tif", np.full((4, 4), 0.5, np.float32), nodata=None)
    with pytest.raises(LabelError, match=r"dsm.tif holds the value 0.5, .* before its ref"):
        evaluate(dsm, truth, classes=TABLE)
    predicted = write_map(tmp_path / "map.tif", np.zeros((4, 4), np.uint8))
    with pytest.raises(LabelError, match=r"rgb.tif has 3 bands.*'colors'"):
        evaluate(predicted, rgb)


def test_nothing_to_score_is_an_error(tmp_path):
    zeros, nothing = np.zeros((4, 4), np.uint8), np.full((4, 4), 255, np.uint8)
    predicted = write_map(tmp_path / "map.tif", zeros)
    empty = write_map(tmp_path / "empty.tif", nothing)
    truth = write_labels(tmp_path / "truth.tif", zeros)
    unlabelled = write_labels(tmp_path / "unlabelled.tif", nothing)
    with pytest.raises(LabelError, match=r"unlabelled.tif has no labelled pixel"):
        evaluate(predicted, unlabelled)
    with pytest.raises(LabelError, match=r"empty.tif has no class on any of the 16"):
        evaluate(empty, truth)


def test_a_missing_file_is_named(tmp_path):
    truth = write_labels(tmp_path / "truth.tif", np.zeros((4, 4), np.uint8))
    with pytest.raises(InputError, match=r"gone.tif does not exist"):
        evaluate(str(tmp_path / "gone.tif"), truth)
