"""Maps scored at points: whose class, on which pixel, and what they tell of the map."""

import csv
import io
import json
import logging

import numpy as np
import pyogrio.raw
import pytest
import shapely
from rasterio.crs import CRS
from rasterio.warp import transform
from sklearn import metrics

from cafe_cli.classes import ClassTable, LandClass
from cafe_cli.config.schema import LabelSettings
from cafe_cli.errors import ConfigError, GridError, InputError, LabelError
from cafe_cli.evaluation.points import are_points, evaluate_points
from cafe_cli.evaluation.sample import DESIGN, SampleSettings, sample
from tests.support.rasters import TABLE, grid

WHERE = grid(90, 70)
RANDOM = np.random.default_rng(5)
TRUTH = RANDOM.choice(np.array([0, 1, 2], np.uint8), (70, 90), p=[0.6, 0.3, 0.1])
MAP = np.where(RANDOM.random((70, 90)) < 0.8, TRUTH, RANDOM.integers(0, 3, (70, 90), np.uint8))


@pytest.fixture
def map_path(write):
    return str(write("map.tif", MAP, WHERE))


def save(path, pixels, columns, where=WHERE, crs="EPSG:32632", kind="Point", driver="GPKG"):
    """Write points at pixel coordinates (column, row)."""
    x, y = where.transform @ np.asarray(pixels, float).T
    points = shapely.points(x, y)
    shapes = shapely.multipoints(points, indices=range(len(x))) if kind != "Point" else points
    pyogrio.raw.write(
        path, shapely.to_wkb(shapes), [np.array(c) for c in columns.values()], list(columns),
        driver=driver, geometry_type=kind, crs=crs,
    )  # fmt: skip
    return str(path)


def answered(source, target, truth=TRUTH, where=WHERE, keep=None, change=None):
    """Copy a sample, with the classes that an interpreter would see."""
    meta, _, wkb, data = pyogrio.raw.read(source, layer="points")
    column, row = ~where.transform @ shapely.get_coordinates(shapely.from_wkb(wkb)).T
    columns = dict(zip(meta["fields"], data, strict=True))
    seen = truth[row.astype(int), column.astype(int)]
    columns["reference"] = np.array([TABLE.names[i] if i != 255 else None for i in seen], object)
    for name, function in (change or {}).items():
        columns[name] = function(columns)
    columns = {name: values for name, values in columns.items() if values is not None}
    kept = slice(None) if keep is None else keep
    pyogrio.raw.write(
        target, wkb[kept], [c[kept] for c in columns.values()], list(columns), layer="points",
        driver="GPKG", geometry_type="Point", crs=meta["crs"],
    )  # fmt: skip
    return str(target)


@pytest.fixture
def drawn(map_path, tmp_path):
    path = tmp_path / "drawn.gpkg"
    sample(map_path, path, SampleSettings(count=300, minimum=40), classes=TABLE)
    return path


def score(maps, reference, **options):
    maps = [maps] if isinstance(maps, str) else maps
    return evaluate_points(maps, reference, classes=TABLE, **options)


# --- points of any origin ----------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["Point", "MultiPoint"])
@pytest.mark.parametrize(("driver", "suffix"), [("GPKG", "gpkg"), ("GeoJSON", "geojson")])
def test_a_point_has_the_class_of_the_pixel_that_holds_it(
    map_path, tmp_path, caplog, kind, driver, suffix
):
    pixels = np.array([(3.5, 4.5), (3.01, 4.99), (3.99, 4.01), (0.02, 0.02), (89.9, 69.9)])
    values = ["tree", "Building", "ground", "0", "2"]
    path = save(
        tmp_path / f"p.{suffix}", pixels, {"class": np.array(values, object)},
        kind=kind, driver=driver,
    )  # fmt: skip
    assert are_points([path])
    found = score(map_path, path).first
    expected = np.zeros((3, 3), int)
    columns, rows = np.floor(pixels).astype(int).T
    np.add.at(expected, ([1, 2, 0, 0, 2], MAP[rows, columns]), 1)
    assert found.scores.confusion == tuple(map(tuple, expected.tolist()))
    assert found.estimates is None
    assert "no columns stratum" in found.reason


def test_points_in_another_crs_are_transformed(map_path, tmp_path):
    pixels = np.stack(np.meshgrid(np.arange(90), np.arange(70)), -1).reshape(-1, 2) + 0.5
    x, y = WHERE.transform @ pixels.T
    lon, lat = transform(CRS.from_epsg(32632), CRS.from_epsg(4326), x.tolist(), y.tolist())
    path = tmp_path / "p.gpkg"
    pyogrio.raw.write(
        path, shapely.to_wkb(shapely.points(lon, lat)), [TRUTH.ravel().astype(int)], ["class"],
        driver="GPKG", geometry_type="Point", crs="EPSG:4326",
    )  # fmt: skip
    found = score(map_path, str(path)).first.scores
    expected = np.zeros((3, 3), int)
    np.add.at(expected, (TRUTH.ravel(), MAP.ravel()), 1)
    assert found.confusion == tuple(map(tuple, expected.tolist()))


def test_points_agree_with_sklearn(map_path, tmp_path):
    pixels = np.random.default_rng(0).uniform(0, 70, (500, 2))
    columns, rows = np.floor(pixels).astype(int).T
    truth, predicted = TRUTH[rows, columns], MAP[rows, columns]
    path = save(tmp_path / "p.gpkg", pixels, {"class": truth.astype(int)})
    found = score(map_path, path).first
    matrix = metrics.confusion_matrix(truth, predicted)
    assert found.scores.confusion == tuple(map(tuple, matrix.tolist()))
    assert found.scores.miou == pytest.approx(
        metrics.jaccard_score(truth, predicted, average="macro")
    )
    assert found.kappa == pytest.approx(metrics.cohen_kappa_score(truth, predicted))
    assert found.as_json(True)["kappa"] == found.kappa
    assert "kappa" not in found.as_json()


def test_values_follow_the_class_table_and_the_settings(map_path, tmp_path):
    pixels = np.array([(3.5, 4.5), (5.5, 4.5), (7.5, 4.5)])
    path = save(tmp_path / "p.gpkg", pixels, {"code": np.array([10, 20, 99]), "other": np.ones(3)})
    table = ClassTable(
        tuple(
            LandClass(c.id, c.name, values=(v,)) for c, v in zip(TABLE, (10, 20, 30), strict=True)
        )
    )
    settings = LabelSettings(attribute="code", ignore=(99,))
    found = evaluate_points([map_path], path, classes=table, labels=settings)
    assert (found.first.scores.pixels, found.first.unanswered) == (2, 1)
    with pytest.raises(LabelError, match=r"99 \(1 points\); name them"):
        evaluate_points([map_path], path, classes=table, labels=LabelSettings(attribute="code"))
    with pytest.raises(LabelError, match=r"no attribute 'reference'.* code, other"):
        evaluate_points([map_path], path, classes=table)


def test_faults_of_points_are_named(map_path, tmp_path):
    pixels = np.array([(3.5, 4.5), (5.5, 4.5)])
    texts = {"class": np.array(["tree", "ground"], object)}
    with pytest.raises(LabelError, match=r"did you mean 'tree'"):
        score(
            map_path, save(tmp_path / "a.gpkg", pixels, {"class": np.array(["tre", "x"], object)})
        )
    with pytest.warns(UserWarning, match="crs"):
        save(tmp_path / "c.gpkg", pixels, texts, crs=None)
    with pytest.raises(GridError, match="has no CRS"):
        score(map_path, str(tmp_path / "c.gpkg"))
    with pytest.raises(LabelError, match="do they cover the same ground"):
        score(map_path, save(tmp_path / "d.gpkg", pixels + 1000, texts))
    x, y = WHERE.transform @ pixels.T
    pyogrio.raw.write(
        tmp_path / "e.gpkg", shapely.to_wkb([shapely.multipoints(np.stack([x, y], 1))]),
        [np.array(["tree"], object)], ["class"], driver="GPKG", geometry_type="MultiPoint",
        crs="EPSG:32632",
    )  # fmt: skip
    with pytest.raises(InputError, match="explodecollections"):
        score(map_path, str(tmp_path / "e.gpkg"))


def test_polygons_and_rasters_are_no_points(map_path, tmp_path):
    pyogrio.raw.write(
        tmp_path / "p.gpkg", shapely.to_wkb([shapely.box(0, 0, 1, 1)]), [np.array([1])], ["class"],
        driver="GPKG", geometry_type="Polygon", crs="EPSG:32632",
    )  # fmt: skip
    assert not are_points([str(tmp_path / "p.gpkg")])
    assert not are_points([map_path])
    assert not are_points([])


# --- samples -----------------------------------------------------------------------------------


def test_a_sample_estimates_what_a_comparison_of_all_pixels_finds(map_path, drawn, tmp_path):
    found = score(map_path, answered(drawn, tmp_path / "p.gpkg")).first
    estimates = found.estimates
    assert estimates is not None
    truth = (MAP == TRUTH).mean()
    overall = estimates.overall["overall_accuracy"]
    assert abs(overall.value - truth) < 3 * overall.standard_error
    assert 0 < overall.standard_error < 0.03
    for land in TABLE:
        area = estimates.square_metres[land.name]
        assert abs(area.value - (land.id == TRUTH).sum() / 4) < 3.5 * area.standard_error
        users = estimates.classes[land.name]["users_accuracy"]
        exact = (land.id == TRUTH)[land.id == MAP].mean()
        assert abs(users.value - exact) < 3.5 * users.standard_error
    assert found.scores.pixels == 300
    assert found.scores.overall_accuracy == overall.value
    assert estimates.matrix.sum() == pytest.approx(1)
    assert estimates.strata["tree"][0] == (MAP == 1).sum()


def test_a_sample_of_every_pixel_is_the_comparison(map_path, tmp_path):
    sample(map_path, tmp_path / "all.gpkg", SampleSettings(count=6300), classes=TABLE)
    found = score(map_path, answered(tmp_path / "all.gpkg", tmp_path / "p.gpkg")).first
    assert found.scores.overall_accuracy == pytest.approx((MAP == TRUTH).mean())
    assert found.estimates.overall["miou"].standard_error == 0
    assert found.estimates.square_metres["tree"].value == pytest.approx((TRUTH == 1).sum() / 4)


def test_a_blind_sample_is_joined_to_its_design(map_path, drawn, tmp_path):
    blind = tmp_path / "blind.gpkg"
    sample(map_path, blind, SampleSettings(300, 40, blind=True), classes=TABLE)
    path = answered(blind, tmp_path / "p.gpkg")
    table = pyogrio.raw.read(blind, layer=DESIGN)
    order = np.random.default_rng(0).permutation(300)
    pyogrio.raw.write(
        path, None, [c[order] for c in table[3]], list(table[0]["fields"]), layer=DESIGN,
        driver="GPKG", geometry_type=None, crs=None,
    )  # fmt: skip
    expected = score(map_path, answered(drawn, tmp_path / "open.gpkg")).as_json()
    assert score(map_path, path).as_json() == expected
    wrong = answered(blind, tmp_path / "q.gpkg", change={"id": lambda c: c["id"] + 500})
    pyogrio.raw.write(
        wrong, None, list(table[3]), list(table[0]["fields"]), layer=DESIGN, driver="GPKG",
        geometry_type=None, crs=None,
    )  # fmt: skip
    with pytest.raises(LabelError, match=r"300 points have an id .* lacks: 501, 502"):
        score(map_path, wrong)


@pytest.mark.parametrize(
    ("driver", "suffix", "epsg"),
    [("ESRI Shapefile", "shp", 32632), ("GeoJSON", "geojson", 4326), ("FlatGeobuf", "fgb", 2154)],
)
@pytest.mark.filterwarnings("ignore:Normalized/laundered field name")
def test_a_sample_may_have_been_through_another_format(
    map_path, drawn, tmp_path, driver, suffix, epsg
):
    path = answered(drawn, tmp_path / "p.gpkg")
    meta, _, wkb, data = pyogrio.raw.read(path)
    xy = shapely.get_coordinates(shapely.from_wkb(wkb)).T.tolist()
    x, y = transform(CRS.from_user_input(meta["crs"]), CRS.from_epsg(epsg), *xy)
    pyogrio.raw.write(
        tmp_path / f"p.{suffix}", shapely.to_wkb(shapely.points(x, y)), list(data),
        list(meta["fields"]), driver=driver, geometry_type="Point", crs=f"EPSG:{epsg}",
    )  # fmt: skip
    found = score(map_path, str(tmp_path / f"p.{suffix}")).first
    expected = score(map_path, path).first
    assert found.scores.confusion == expected.scores.confusion
    assert found.estimates.strata == expected.estimates.strata
    # FlatGeobuf orders its features anew, so that sums are rounded elsewhere.
    for name in TABLE.names:
        area, wanted = (s.estimates.square_metres[name] for s in (found, expected))
        assert vars(area) == pytest.approx(vars(wanted))


def test_another_map_is_refused_with_what_differs(map_path, drawn, tmp_path, write):
    path = answered(drawn, tmp_path / "p.gpkg")
    fewer = MAP.copy()
    fewer[:10] = 0
    other = str(write("other.tif", fewer, WHERE))
    trees, left = (MAP == 0).sum(), (fewer == 0).sum()
    with pytest.raises(
        LabelError,
        match=rf"not a sample of .*other.tif: stratum ground had {trees:,} pixels, .*{left:,}",
    ):
        score(other, path)
    turned = str(write("turned.tif", MAP[::-1], WHERE))
    with pytest.raises(LabelError, match="the classes lie on other pixels"):
        score(turned, path)
    copied = str(write("copy.tif", MAP.astype(np.int16), WHERE, compress="deflate"))
    assert score(copied, path).first.estimates is not None


@pytest.mark.parametrize("lacking", ["stratum", "stratum_pixels"])
def test_points_without_a_design_give_scores_only(map_path, drawn, tmp_path, lacking):
    change = dict.fromkeys(("inclusion_probability", lacking), lambda columns: None)
    path = answered(drawn, tmp_path / "p.gpkg", change=change)
    found = score(map_path, path)
    assert found.first.estimates is None
    assert lacking in found.first.reason
    assert found.as_json()["sample"] is None
    with pytest.raises(
        LabelError, match=r"not a probability sample, so it gives no areas.* cafe sample"
    ):
        found.areas()


def test_inclusion_probabilities_are_enough(map_path, drawn, tmp_path):
    expected = score(map_path, answered(drawn, tmp_path / "p.gpkg")).first
    change = dict.fromkeys(
        ("stratum_pixels", "stratum_sampled", "map_fingerprint", "map_class"), lambda columns: None
    )
    found = score(map_path, answered(drawn, tmp_path / "q.gpkg", change=change)).first
    assert found.scores.miou == pytest.approx(expected.scores.miou)
    area, wanted = (s.estimates.square_metres["tree"] for s in (found, expected))
    assert (area.value, area.standard_error) == pytest.approx((wanted.value, wanted.standard_error))


def test_a_simple_random_sample_is_one_stratum(map_path, tmp_path):
    places = np.random.default_rng(2).choice(6300, 200, replace=False)
    rows, columns = np.divmod(places, 90)
    path = save(
        tmp_path / "p.gpkg", np.stack([columns, rows], 1) + 0.5,
        {"reference": TRUTH[rows, columns].astype(int), "inclusion_probability": [2 / 63] * 200},
    )  # fmt: skip
    found = score(map_path, path).first
    right = (MAP == TRUTH)[rows, columns]
    overall = found.estimates.overall["overall_accuracy"]
    assert overall.value == pytest.approx(right.mean())
    assert overall.standard_error == pytest.approx(right.std(ddof=1) / 200**0.5)
    unequal = np.where(np.arange(200) < 50, 0.1, 0.02)
    path = save(
        tmp_path / "q.gpkg", np.stack([columns, rows], 1) + 0.5,
        {"reference": TRUTH[rows, columns].astype(int), "inclusion_probability": unequal},
    )  # fmt: skip
    assert "probabilities differ" in score(map_path, path).first.reason


def test_points_that_were_moved_added_or_doubled_are_refused(map_path, drawn, tmp_path):
    moved = answered(drawn, tmp_path / "moved.gpkg")
    meta, _, wkb, data = pyogrio.raw.read(moved)
    away = shapely.to_wkb(
        shapely.transform(
            shapely.from_wkb(wkb), lambda xy: xy + np.array([0.5, 0])
        )  # to the next pixel
    )
    pyogrio.raw.write(
        tmp_path / "moved2.gpkg", away, list(data), list(meta["fields"]), driver="GPKG",
        geometry_type="Point", crs=meta["crs"],
    )  # fmt: skip
    with pytest.raises(LabelError, match=r"of 300 points .* were they moved"):
        score(map_path, str(tmp_path / "moved2.gpkg"))
    twice = answered(drawn, tmp_path / "twice.gpkg", keep=np.r_[0:300, 0:5])
    with pytest.raises(LabelError, match=r"points were added or duplicated"):
        score(map_path, twice)
    mixed = answered(
        drawn, tmp_path / "mixed.gpkg",
        change={"stratum_pixels": lambda c: c["stratum_pixels"] + (c["id"] == 1)},
    )  # fmt: skip
    with pytest.raises(LabelError, match="one positive number"):
        score(map_path, mixed)


def test_a_stratum_without_answers_is_refused_and_a_single_one_is_told(
    map_path, drawn, tmp_path, caplog
):
    def only(count):
        def change(columns):
            values = columns["reference"].copy()
            here = np.flatnonzero(columns["stratum"] == "building")
            values[here[count:]] = None
            return values

        return {"reference": change}

    none = answered(drawn, tmp_path / "none.gpkg", change=only(0))
    with pytest.raises(LabelError, match="no point of building has a reference class"):
        score(map_path, none)
    one = answered(drawn, tmp_path / "one.gpkg", change=only(1))
    with caplog.at_level(logging.WARNING, "cafe"):
        found = score(map_path, one).first
    assert "building has only one point" in caplog.text
    assert np.isnan(found.estimates.overall["miou"].standard_error)
    two = answered(drawn, tmp_path / "two.gpkg", change=only(2))
    found = score(map_path, two).first
    total = np.bincount(MAP.ravel())
    assert found.estimates.strata["building"] == (total[2], 2)
    assert found.unanswered == 300 - found.scores.pixels > 10
    assert np.isfinite(found.estimates.overall["miou"].standard_error)


def test_a_stratum_that_was_deleted_is_noticed(map_path, drawn, tmp_path):
    meta, _, _, data = pyogrio.raw.read(drawn)
    strata = data[list(meta["fields"]).index("stratum")]
    path = answered(
        drawn, tmp_path / "p.gpkg", keep=strata != "building",
        change={"map_fingerprint": lambda columns: None},
    )  # fmt: skip
    with pytest.raises(LabelError, match=r"its strata have [\d,]+ pixels, the map 6,300"):
        score(map_path, path)


def test_classes_may_be_left_out(map_path, drawn, tmp_path):
    path = answered(drawn, tmp_path / "p.gpkg")
    found = score(map_path, path, ignored=["Building"]).first
    all_classes = score(map_path, path).first
    assert np.isnan(found.scores.classes["building"].recall)
    assert found.scores.pixels < all_classes.scores.pixels
    assert found.estimates.shares == all_classes.estimates.shares
    with pytest.raises(ConfigError, match="did you mean 'building'"):
        score(map_path, path, ignored=["bulding"])
    with pytest.raises(ConfigError, match="every class"):
        score(map_path, path, ignored=TABLE.names)


def test_maps_are_compared_at_the_points_they_share(map_path, drawn, tmp_path, write):
    better = np.where(np.random.default_rng(1).random(MAP.shape) < 0.7, TRUTH, MAP)
    better[:, :8] = 255
    other = str(write("other.tif", better, WHERE))
    path = answered(drawn, tmp_path / "p.gpkg")
    found = score([map_path, other], path)
    difference = found.differences[other]["overall_accuracy"]
    first, second = (found.maps[name].scores for name in (map_path, other))
    assert first.pixels == second.pixels < 300
    assert difference["estimate"] == pytest.approx(second.overall_accuracy - first.overall_accuracy)
    assert difference["low"] > 0
    turned = score([other, map_path], path)
    assert turned.differences[map_path]["overall_accuracy"]["high"] == pytest.approx(
        -difference["low"]
    )
    assert turned.as_json()["compared"][0]["map"] == map_path
    assert turned.areas().classes["tree"].pixels == (better == 1).sum()
    with pytest.raises(LabelError, match="not a sample of"):
        score([other], path)


def test_areas_have_intervals(map_path, drawn, tmp_path):
    areas = score(map_path, answered(drawn, tmp_path / "p.gpkg")).areas()
    row = next(csv.DictReader(io.StringIO(areas.as_csv())))
    values = json.loads(json.dumps(areas.as_json()))["classes"]["ground"]
    assert float(row["hectares"]) == values["hectares"] == (MAP == 0).sum() / 40_000
    estimated = values["estimated_hectares"]
    assert [float(row[k]) for k in ("standard_error", "low", "high")] == [
        estimated[k] for k in ("standard_error", "low", "high")
    ]
    assert estimated["low"] < estimated["estimate"] < estimated["high"]


def test_a_map_without_crs_has_shares_but_no_areas(write, tmp_path):
    where = grid(90, 70, 1.0, 0, 70, None)
    path = str(write("map.tif", MAP, where))
    drawn = tmp_path / "drawn.gpkg"
    sample(path, drawn, SampleSettings(300, 40), classes=TABLE)
    with pytest.warns(UserWarning, match="crs"):
        given = answered(drawn, tmp_path / "p.gpkg", where=where)
    found = score(path, given).first
    assert found.estimates.square_metres is None
    assert found.estimates.shares["ground"].standard_error > 0
    assert found.as_json()["sample"]["classes"]["ground"]["hectares"] is None
