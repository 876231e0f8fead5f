"""``cafe sample``: which pixels are drawn, and what the file says of them."""

from dataclasses import replace

import numpy as np
import pyogrio
import pyogrio.raw
import pytest
import shapely
from rasterio.crs import CRS

from cafe_cli.config.provenance import read_beside
from cafe_cli.errors import ConfigError, LabelError, OutputError
from cafe_cli.evaluation import reference
from cafe_cli.evaluation.frame import Fingerprint
from cafe_cli.evaluation.land_cover_map import inspect_map
from cafe_cli.evaluation.sample import DESIGN, SampleSettings, draw, dry_run, sample
from cafe_cli.raster.window import Window
from tests.support.rasters import TABLE, grid

SIZE = (180, 230)
IDS = np.random.default_rng(3).choice(
    np.array([0, 1, 2, 255], np.uint8), SIZE, p=[0.6, 0.3, 0.02, 0.08]
)
SETTINGS = SampleSettings(count=200, minimum=30)


@pytest.fixture
def map_path(write):
    return str(write("map.tif", IDS, grid(SIZE[1], SIZE[0])))


def drawn(path, settings=SETTINGS):
    return draw(inspect_map(path), TABLE, settings)


def read(path, layer="points"):
    meta, _, wkb, data = pyogrio.raw.read(path, layer=layer)
    columns = {name: column.tolist() for name, column in zip(meta["fields"], data, strict=True)}
    xy = None if wkb is None else shapely.get_coordinates(shapely.from_wkb(wkb))
    return columns, xy, meta["crs"]


@pytest.mark.parametrize("block", [17, 64, 1024])
def test_the_windows_do_not_matter(map_path, monkeypatch, block):
    expected = drawn(map_path)
    monkeypatch.setattr(reference, "_BLOCK", block)
    found = drawn(map_path)
    assert found.places.tolist() == expected.places.tolist()
    assert found.fingerprint == expected.fingerprint


def test_points_lie_on_their_class_and_are_drawn_once(map_path):
    found = drawn(map_path)
    assert (IDS.ravel()[found.places.astype(int)] == found.map_class).all()
    assert len(set(found.places.tolist())) == 200
    assert found.pixels.tolist() == np.bincount(IDS.ravel())[:3].tolist()
    assert np.bincount(found.stratum).tolist() == found.sampled.tolist()
    assert found.sampled.sum() == 200
    assert found.sampled.min() == 30


def test_a_larger_sample_holds_the_smaller_one_and_another_seed_is_another_sample(map_path):
    small = set(drawn(map_path).places.tolist())
    large = set(drawn(map_path, replace(SETTINGS, count=400)).places.tolist())
    other = set(drawn(map_path, replace(SETTINGS, seed=1)).places.tolist())
    assert small < large
    assert len(small & other) < 20


def test_every_pixel_has_the_same_chance(write):
    """300 samples of 60 of 600 pixels: each is drawn 30 times, give or take."""
    path = str(write("map.tif", np.zeros((20, 30), np.uint8), grid(30, 20)))
    map_ = inspect_map(path)
    times = np.zeros(600, int)
    for seed in range(300):
        found = draw(map_, TABLE, SampleSettings(60, 2, seed=seed))
        times[found.places.astype(int)] += 1
    # The variance of a count is 300 x 0.1 x 0.9; a sum of squares of 600 such is near chi-square.
    chi_square = ((times - 30) ** 2 / 27).sum()
    assert 500 < chi_square < 710
    halves = times.reshape(20, 30)
    assert abs(halves[:10].sum() - halves[10:].sum()) < 500


def test_classes_do_not_follow_one_another(map_path):
    classes = drawn(map_path, replace(SETTINGS, allocation="equal")).map_class
    first, second = np.bincount(classes[:100], minlength=3), np.bincount(classes[100:], minlength=3)
    assert (np.abs(first - second) < 30).all()


def test_the_file_says_how_likely_each_point_was(map_path, tmp_path):
    found = sample(map_path, tmp_path / "points.gpkg", SETTINGS, classes=TABLE)
    columns, xy, crs = read(tmp_path / "points.gpkg")
    assert list(columns) == [
        "id", "x", "y", "reference", "map_class", "stratum", "stratum_pixels", "stratum_sampled",
        "inclusion_probability", "map_fingerprint",
    ]  # fmt: skip
    assert columns["id"] == list(range(1, 201))
    assert columns["reference"] == [None] * 200
    assert CRS.from_user_input(crs) == CRS.from_epsg(32632)
    assert xy.tolist() == np.stack([columns["x"], columns["y"]], axis=1).tolist()
    column, row = ~grid(SIZE[1], SIZE[0]).transform @ (xy[:, 0], xy[:, 1])
    assert (column % 1 == 0.5).all()
    assert (row % 1 == 0.5).all()
    ids = IDS[row.astype(int), column.astype(int)]
    assert [TABLE.names[i] for i in ids] == columns["map_class"] == columns["stratum"]
    counts = np.bincount(IDS.ravel())
    assert columns["stratum_pixels"] == counts[ids].tolist()
    assert columns["inclusion_probability"] == pytest.approx(
        np.bincount(ids)[ids] / counts[ids], rel=1e-12
    )
    beside = read_beside(tmp_path / "points.gpkg")
    assert (beside["seed"], beside["map_fingerprint"]) == (0, found.fingerprint)
    assert beside["strata"]["building"]["points"] == 30


def test_a_blind_sample_shows_no_class(map_path, tmp_path):
    settings = replace(SETTINGS, blind=True)
    sample(map_path, tmp_path / "blind.gpkg", settings, classes=TABLE)
    sample(map_path, tmp_path / "open.gpkg", SETTINGS, classes=TABLE)
    columns, xy, _ = read(tmp_path / "blind.gpkg")
    assert list(columns) == ["id", "x", "y", "reference"]
    hidden, none, _ = read(tmp_path / "blind.gpkg", DESIGN)
    assert none is None
    everything, others, _ = read(tmp_path / "open.gpkg")
    assert xy.tolist() == others.tolist()
    assert {**columns, **hidden} == everything


@pytest.mark.parametrize(("epsg", "pixel"), [(2154, 0.2), (4326, 1e-5), (3857, 3.0), (None, 1.0)])
def test_points_are_at_pixel_centres_of_any_grid(write, tmp_path, epsg, pixel):
    where = grid(40, 30, pixel, 7.0, 46.0, None if epsg is None else CRS.from_epsg(epsg))
    path = str(write("map.tif", (np.arange(1200) % 3).reshape(30, 40).astype(np.uint8), where))
    sample(path, tmp_path / "p.gpkg", SampleSettings(90, 10), classes=TABLE)
    columns, xy, crs = read(tmp_path / "p.gpkg")
    assert (crs is None) == (epsg is None) or "Undefined" in str(crs)
    column, row = ~where.transform @ (xy[:, 0], xy[:, 1])
    assert np.abs(column % 1 - 0.5).max() < 1e-3
    ids = (np.floor(row) * 40 + np.floor(column)).astype(int) % 3
    assert [TABLE.names[i] for i in ids] == columns["map_class"]


def test_classes_may_share_a_stratum(map_path):
    found = drawn(map_path, replace(SETTINGS, groups=("ground,building",)))
    assert found.strata == ("ground+building", "tree")
    counts = np.bincount(IDS.ravel())
    assert found.pixels.tolist() == [counts[0] + counts[2], counts[1]]
    assert set(found.map_class[found.stratum == 0].tolist()) == {0, 2}


def test_outputs_are_refused_before_the_map_is_read(map_path, tmp_path):
    with pytest.raises(ConfigError, match=r"name a \.gpkg file"):
        sample(map_path, tmp_path / "points.shp", SETTINGS, classes=TABLE)
    (tmp_path / "points.gpkg").write_text("mine")
    with pytest.raises(OutputError, match="--overwrite"):
        sample(map_path, tmp_path / "points.gpkg", SETTINGS, classes=TABLE)
    assert (tmp_path / "points.gpkg").read_text() == "mine"
    sample(map_path, tmp_path / "points.gpkg", SETTINGS, classes=TABLE, overwrite=True)
    assert len(read(tmp_path / "points.gpkg")[0]["id"]) == 200
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "map.tif", "points.gpkg", "points.gpkg.toml",
    ]  # fmt: skip


def test_a_dry_run_writes_nothing(map_path, tmp_path):
    report = dry_run(map_path, tmp_path / "points.gpkg", SETTINGS, classes=TABLE)
    assert report.ok
    assert report.facts["strata"]["building"]["points"] == 30
    assert [p.name for p in tmp_path.iterdir()] == ["map.tif"]
    assert not dry_run(map_path, tmp_path / "p.gpkg", SETTINGS).ok


def test_a_map_without_classes_is_refused(map_path, tmp_path):
    with pytest.raises(LabelError, match=r"\[\[classes\]\]"):
        sample(map_path, tmp_path / "points.gpkg", SETTINGS)
    assert not (tmp_path / "points.gpkg").exists()


def test_fingerprints_tell_maps_apart_and_not_files(write, map_path):
    def of(path):
        return drawn(str(path)).fingerprint

    where = grid(SIZE[1], SIZE[0])
    same = write(
        "same.tif", IDS, where, compress="deflate", tiled=True, blockxsize=64, blockysize=64
    )
    wider = write("wider.tif", IDS.astype(np.int16), where, nodata=255)
    changed = IDS.copy()
    changed[100, 100] = (changed[100, 100] + 1) % 3
    swapped = IDS.copy()
    swapped[0], swapped[1] = IDS[1], IDS[0]
    assert of(same) == of(wider) == of(map_path)
    others = [
        of(write("changed.tif", changed, where)),
        of(write("swapped.tif", swapped, where)),
        of(write("turned.tif", IDS[:, ::-1], where)),
        of(write("folded.tif", IDS.reshape(SIZE[::-1]), grid(*SIZE))),
    ]
    assert len({of(map_path), *others}) == 5


def test_a_fingerprint_does_not_depend_on_the_order_of_windows():
    where = grid(SIZE[1], SIZE[0])
    whole, parts = Fingerprint(where), Fingerprint(where)
    whole.visit(where.extent, IDS)
    windows = [Window(c, r, 46, 60) for c in range(0, 230, 46) for r in range(0, 180, 60)]
    for window in reversed(windows):
        parts.visit(window, IDS[window.slices()])
    assert whole.text == parts.text
