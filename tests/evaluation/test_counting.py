"""What is counted of maps and a reference: borders and classes left out, blocks, groups."""

import numpy as np
import pytest
from scipy import ndimage
from sklearn import metrics

from cafe_cli.config.schema import HeightSettings
from cafe_cli.errors import ConfigError, GridError, LabelError
from cafe_cli.evaluation import reference
from cafe_cli.evaluation.boundaries import boundary_distance
from cafe_cli.evaluation.counting import CountSettings
from cafe_cli.evaluation.evaluate import evaluate, evaluate_in_detail
from tests.support.rasters import TABLE, grid

WHERE = grid(130, 100)
RANDOM = np.random.default_rng(4)
COARSE = RANDOM.choice(np.array([0, 1, 2, 255], np.uint8), (13, 17), p=[0.5, 0.3, 0.15, 0.05])
TRUTH = np.repeat(np.repeat(COARSE, 8, axis=0), 8, axis=1)[:100, :130]
NOISE = RANDOM.integers(0, 3, TRUTH.shape).astype(np.uint8)
MAP = np.where((RANDOM.random(TRUTH.shape) < 0.75) & (TRUTH != 255), TRUTH, NOISE)


@pytest.fixture
def paths(write):
    return str(write("map.tif", MAP, WHERE)), str(write("truth.tif", TRUTH, WHERE, nodata=255))


def detail(paths, **options):
    maps, truth = paths
    maps = [maps] if isinstance(maps, str) else maps
    found = {k: options.pop(k) for k in ("ignored", "labels") if k in options}
    return evaluate_in_detail(
        maps, truth, classes=TABLE, settings=CountSettings(**options), **found
    )


def brute_force_distance(ids):
    """Return the distance to the nearest pixel of another class, pixel by pixel."""
    rows, columns = np.nonzero(ids != 255)
    places, values = np.stack([rows, columns], 1), ids[rows, columns]
    found = np.full(ids.shape, np.inf)
    for place, value in zip(places, values, strict=True):
        others = places[values != value]
        if len(others):
            found[tuple(place)] = np.sqrt(((others - place) ** 2).sum(axis=1).min())
    return found


DISTANCE = brute_force_distance(TRUTH)


@pytest.mark.parametrize("seed", range(4))
def test_distances_are_to_the_nearest_pixel_of_another_class(seed):
    random = np.random.default_rng(seed)
    ids = random.choice(np.array([0, 1, 7, 255], np.uint8), (25, 30), p=[0.7, 0.2, 0.05, 0.05])
    assert boundary_distance(ids) == pytest.approx(brute_force_distance(ids))


@pytest.mark.parametrize("ids", [np.zeros((5, 6), np.uint8), np.full((5, 6), 255, np.uint8)])
def test_one_class_has_no_boundary(ids):
    assert np.isinf(boundary_distance(ids)).all()


@pytest.mark.parametrize("block", [16, 33, 1024])
@pytest.mark.parametrize("radius", [1, 2.5, 3])
def test_eroded_borders_are_not_scored(paths, monkeypatch, block, radius):
    monkeypatch.setattr(reference, "_BLOCK", block)
    kept = (TRUTH != 255) & (radius < DISTANCE)
    found = detail(paths, erode=radius).first.scores
    expected = metrics.confusion_matrix(TRUTH[kept], MAP[kept], labels=[0, 1, 2])
    assert found.confusion == tuple(map(tuple, expected.tolist()))


def test_erosion_by_three_is_a_disc_of_radius_three():
    """As the ISPRS benchmarks erode: no pixel of another class in a disc around a kept pixel."""
    rows, columns = np.mgrid[-3:4, -3:4]
    disc = rows**2 + columns**2 <= 9
    filled = np.where(TRUTH == 255, np.uint8(0), TRUTH)
    whole = ndimage.maximum_filter(filled, footprint=disc, mode="nearest") == filled
    whole &= ndimage.minimum_filter(filled, footprint=disc, mode="nearest") == filled
    assert (boundary_distance(filled) > 3).tolist() == whole.tolist()


def test_classes_left_out_are_in_no_score(paths):
    kept = (TRUTH != 255) & (TRUTH != 1)
    found = detail(paths, ignored=["tree"]).first.scores
    expected = metrics.confusion_matrix(TRUTH[kept], MAP[kept], labels=[0, 1, 2])
    assert found.confusion == tuple(map(tuple, expected.tolist()))
    assert found.overall_accuracy == metrics.accuracy_score(TRUTH[kept], MAP[kept])
    iou = [found.classes[name].iou for name in ("ground", "building")]
    assert found.miou == pytest.approx(np.mean(iou))
    with pytest.raises(LabelError, match=r"--ignore-class.*200 pixels of another class"):
        detail(paths, erode=200)


def test_scores_agree_with_sklearn(paths):
    kept = TRUTH != 255
    truth, mapped = TRUTH[kept], MAP[kept]
    found = detail(paths).first
    assert found.kappa == pytest.approx(metrics.cohen_kappa_score(truth, mapped))
    assert found.scores.miou == pytest.approx(metrics.jaccard_score(truth, mapped, average="macro"))
    rows = metrics.precision_recall_fscore_support(truth, mapped)
    for land, (precision, recall, f1, support) in zip(TABLE, np.transpose(rows), strict=True):
        row = found.scores.classes[land.name]
        assert (row.precision, row.recall, row.f1, row.pixels) == pytest.approx(
            (precision, recall, f1, support)
        )
    assert found.scores == evaluate(*paths, classes=TABLE)
    assert found.as_json(True)["kappa"] == found.kappa
    assert "kappa" not in found.as_json()


@pytest.mark.parametrize("block", [16, 50, 1024])
def test_intervals_do_not_depend_on_the_windows(paths, monkeypatch, block):
    expected = detail(paths, block=20).first.intervals
    monkeypatch.setattr(reference, "_BLOCK", block)
    assert detail(paths, block=20).first.intervals == expected
    assert expected.blocks == 5 * 7
    low, high = expected.overall["miou"]
    assert low < detail(paths).first.scores.miou < high


def test_there_are_about_a_hundred_blocks(paths):
    found = detail(paths).first.intervals
    assert 90 <= found.blocks <= 130
    assert found.side == 11
    assert detail(paths, block=60).first.intervals is None
    assert detail(paths, block=60).first.as_json()["intervals"] is None


def test_blocks_may_be_too_many(paths, monkeypatch):
    monkeypatch.setattr("cafe_cli.evaluation.counting._MOST_BLOCKS", 1000)
    with pytest.raises(ConfigError, match=r"blocks of 2 pixels .* into 3,250, .* take 4 or more"):
        detail(paths, block=2)


def test_pixels_are_grouped_by_their_distance_to_boundaries(paths, monkeypatch):
    monkeypatch.setattr(reference, "_BLOCK", 32)
    found = detail(paths, distances=(1, 2.5)).first.by_distance
    groups = {
        "up to 1 px": DISTANCE <= 1,
        "1 to 2.5 px": (DISTANCE > 1) & (DISTANCE <= 2.5),
        "over 2.5 px": DISTANCE > 2.5,
    }
    assert list(found) == list(groups)
    for name, where in groups.items():
        kept = where & (TRUTH != 255)
        expected = metrics.confusion_matrix(TRUTH[kept], MAP[kept], labels=[0, 1, 2])
        assert found[name].confusion == tuple(map(tuple, expected.tolist()))


@pytest.mark.parametrize(("unit", "factor"), [("", 1), ("ft", 1 / 0.3048), ("cm", 100)])
def test_pixels_are_grouped_by_height(paths, write, unit, factor):
    metres = RANDOM.uniform(-1, 30, TRUTH.shape).astype(np.float32)
    metres[:10] = np.nan
    stored = np.where(np.isnan(metres), -9999, metres * factor).astype(np.float32)
    heights = write("ndsm.tif", stored, WHERE, nodata=-9999, units=unit)
    found = detail(paths, heights=str(heights), height_limits=(2.0, 10.0)).first
    groups = {
        "up to 2 m": metres <= 2,
        "2 to 10 m": (metres > 2) & (metres <= 10),
        "over 10 m": metres > 10,
        "unknown": np.isnan(metres),
    }
    assert list(found.by_height) == list(groups)
    for name, where in groups.items():
        kept = where & (TRUTH != 255)
        assert found.by_height[name].pixels == kept.sum()
        assert found.by_height[name].overall_accuracy == (MAP == TRUTH)[kept].mean()
    assert list(found.as_json()["by_height"]) == list(groups)


def test_settings_say_the_unit_of_heights(paths, write):
    heights = write("ndsm.tif", np.full(TRUTH.shape, 30, np.float32), WHERE)
    settings = HeightSettings(unit="decimetre")
    found = detail(
        paths, heights=str(heights), height_limits=(2.0, 10.0), height_settings=settings
    ).first
    assert list(found.by_height) == ["2 to 10 m"]


def test_heights_elsewhere_and_limits_out_of_order_are_refused(paths, write):
    away = write("away.tif", np.ones((10, 10), np.float32), grid(10, 10, left=900_000.0))
    with pytest.raises(GridError, match="does not overlap"):
        detail(paths, heights=str(away))
    with pytest.raises(ConfigError, match="limits of distances must increase: 3, 1"):
        CountSettings(distances=(3, 1))
    with pytest.raises(ConfigError, match="limits of heights must increase: 2, 2"):
        CountSettings(height_limits=(2, 2))


def test_maps_are_compared_where_all_have_a_class(paths, write):
    other = np.where(RANDOM.random(TRUTH.shape) < 0.5, TRUTH, MAP)
    other[:, :30] = 255
    path = str(write("other.tif", other, WHERE))
    found = detail(([paths[0], path], paths[1]), block=15)
    kept = (TRUTH != 255) & (other != 255)
    for name, values in ((paths[0], MAP), (path, other)):
        scores = found.maps[name].scores
        assert scores.overall_accuracy == (values == TRUTH)[kept].mean()
        assert scores.unpredicted == ((TRUTH != 255) & (other == 255)).sum()
    difference = found.differences[path]["overall_accuracy"]
    gain = (other == TRUTH)[kept].mean() - (MAP == TRUTH)[kept].mean()
    assert difference["estimate"] == pytest.approx(gain)
    assert 0 < difference["low"] < gain < difference["high"]
    assert found.as_json()["compared"][0]["map"] == path
    assert found.as_json()["compared"][0]["miou"] == found.maps[path].scores.miou
    nowhere = str(write("nowhere.tif", np.full_like(MAP, 255), WHERE))
    with pytest.raises(LabelError, match="has no class on any of the"):
        detail(([paths[0], nowhere], paths[1]))
