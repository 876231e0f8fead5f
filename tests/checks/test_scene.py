import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rasterio.shutil
from hypothesis import given
from hypothesis import strategies as st
from rasterio.crs import CRS
from scipy.ndimage import shift

from cafe_cli.checks import scene as diagnosis
from cafe_cli.checks.scene import diagnose
from cafe_cli.config.schema import (
    ClassSettings,
    Config,
    HeightSettings,
    LabelSettings,
    SceneSettings,
)
from cafe_cli.raster.window import Window, spread
from cafe_cli.scenes import height_rasters
from tests.support.findings import said
from tests.support.rasters import TABLE, around, noise, scene_files

X, Y = 300_000.0, 5_200_000.0
DSM, NDSM = HeightSettings(), HeightSettings(kind="ndsm")
SAMPLES = Path(__file__).parents[2] / "sample_data"
AUTZEN = SAMPLES.parents[1] / "shared/data/autzen"
CLASSES = tuple(ClassSettings(id=c.id, name=c.name) for c in TABLE)


@pytest.fixture
def scene(write):
    """Write a scene of 160 x 160 pixels of 0.5 m; what is given replaces a stream's values."""
    where = around(X, Y, 80, 0.5)
    town = np.kron(np.random.default_rng(1).random((20, 20)) > 0.7, np.ones((8, 8)))
    usual = {
        "optical": 90 + 80 * town + noise(3, where) // 8,
        "elevation": 500 + 7 * town + noise(1, where, "float32")[0] / 1000,
        "labels": (2 * town).astype("uint8"),
    }
    kinds = {"optical": "uint8", "elevation": "float32", "labels": "uint8", "dtm": "float32"}

    def written(grids=(), options=(), **changed):
        streams = {k: v for k, v in {**usual, **changed}.items() if v is not None}
        paths = {
            key: write(
                f"{key}.tif",
                np.asarray(values).astype(kinds[key]),
                dict(grids).get(key, where),
                **dict(options).get(key, {}),
            )
            for key, values in streams.items()
        }
        return scene_files("s", **paths)

    written.usual = usual
    return written


def config(height=DSM, classes=CLASSES, **scenes):
    named = SceneSettings(optical="x", **scenes) if scenes else None
    return Config(scenes=named, height=height, classes=classes)


def test_a_good_scene(scene):
    report = diagnose(scene(), config(labels="x"))
    assert report.ok
    assert said(report.findings) == "classes without a pixel in the sampled windows: tree"
    facts = report.facts
    assert list(facts) == ["optical", "elevation", "labels", "grid", "registration"]
    assert facts["elevation"]["overlap_percent"] == 100
    assert facts["elevation"]["shift_pixels"] == [0, 0]
    assert facts["elevation"]["gsd_ratio"] == 1
    assert facts["elevation"]["above_ground"]["p99"] == pytest.approx(7, abs=0.5)
    assert facts["optical"]["rasters"][0]["valid_percent"] == 100
    assert facts["labels"]["looked_at_percent"] == 100
    assert facts["labels"]["unlabelled_percent"] == 0
    assert facts["labels"]["unknown"] == {}
    assert sum(facts["labels"]["classes"].values()) == 160 * 160
    assert math.hypot(facts["registration"]["columns"], facts["registration"]["rows"]) < 0.3
    json.dumps(report.as_json(), allow_nan=False)


def test_an_image_alone(scene):
    report = diagnose(scene(elevation=None, labels=None), Config())
    assert report.ok
    assert list(report.facts) == ["optical", "grid"]


@pytest.mark.parametrize("stream", ["optical", "elevation", "labels"])
def test_what_is_missing_is_an_error_and_the_rest_is_looked_at(scene, stream):
    files = scene()
    path = Path(getattr(files, stream)[0])
    path.unlink()
    report = diagnose(files, config())
    assert not report.ok
    assert [(f.message, f.where) for f in report.findings if f.level == "error"] == [
        (f"{path} does not exist", str(path))
    ]
    for other in {"optical", "elevation", "labels"} - {stream}:
        assert report.facts[other]["rasters"][0]["width"] == 160


def test_a_damaged_file_is_an_error(scene):
    files = scene()
    content = Path(files.elevation[0]).read_bytes()
    Path(files.elevation[0]).write_bytes(content[: len(content) // 2])
    report = diagnose(files, config())
    assert "truncated or damaged" in said(report.findings, "error")
    assert report.facts["labels"]["classes"]["building"] > 0


@pytest.mark.parametrize(("in_full", "level"), [(True, "error"), (False, "warning")])
def test_a_missing_source_that_no_sample_needs_is_told(scene, tmp_path, in_full, level):
    files = scene()
    vrt = tmp_path / "many.vrt"
    rasterio.shutil.copy(files.optical[0], vrt, driver="VRT")
    beyond = (
        '<SimpleSource><SourceFilename relativeToVRT="1">gone.tif</SourceFilename>'
        '<DstRect xOff="9000" yOff="0" xSize="1" ySize="1"/></SimpleSource></VRTRasterBand>'
    )
    vrt.write_text(vrt.read_text().replace("</VRTRasterBand>", beyond))
    report = diagnose(replace(files, optical=(str(vrt),)), config(), in_full=in_full)
    assert "gone.tif does not exist" in said(report.findings, level)
    assert report.ok == (not in_full)


def test_voids_as_heights_are_told_once_and_labels_are_still_counted(scene):
    heights = scene.usual["elevation"].copy()
    heights[:40, :40] = -9999
    report = diagnose(scene(elevation=heights), config())
    (error,) = (f for f in report.findings if f.level == "error")
    assert "-9999 (6.2 %), beside heights from" in error.message
    assert error.where.endswith("elevation.tif")
    assert report.facts["labels"]["classes"]["building"] > 0
    assert diagnose(scene(elevation=heights), config(HeightSettings(nodata=-9999))).ok


def test_no_overlap_is_an_error(scene):
    report = diagnose(scene(grids={"elevation": around(X + 5000, Y, 80, 0.5)}), config())
    assert "does not overlap" in said(report.findings, "error")


def test_a_crs_on_one_side_only_is_an_error_until_it_is_given(scene):
    lost = {"elevation": replace(around(X, Y, 82, 0.5), crs=None)}
    heights = np.pad(scene.usual["elevation"], 2, mode="edge")
    files = scene(elevation=heights, grids=lost)
    report = diagnose(files, config())
    assert "has no CRS" in said(report.findings, "error")
    assert diagnose(files, config(crs="EPSG:32632")).ok


def test_a_crs_that_means_nothing_is_an_error(scene):
    report = diagnose(scene(), config(crs="nonsense"))
    assert "is not a CRS" in said(report.findings, "error")


def test_a_band_that_is_not_there_is_an_error(scene):
    report = diagnose(scene(), config(bands=(1, 2, 9)))
    assert "there is no band 9" in said(report.findings, "error")


def test_an_unknown_unit_is_an_error(scene):
    report = diagnose(scene(options={"elevation": {"units": "furlong"}}), config())
    assert "states its heights in 'furlong'" in said(report.findings, "error")


def test_a_ground_without_a_terrain_model_is_an_error(scene):
    report = diagnose(scene(), config(HeightSettings(ground="dtm")))
    assert "there is no terrain model" in said(report.findings, "error")
    assert report.facts["registration"]["windows"] == 1
    assert "above_ground" not in report.facts["elevation"]


def test_a_terrain_model_of_another_datum_is_doubted(scene):
    report = diagnose(scene(dtm=np.full((160, 160), 545.0)), config())
    assert "m below ground" in said(report.findings, "warning")


def test_unknown_label_values_are_listed(scene):
    values = scene.usual["labels"].copy()
    values[0, :30] = 77
    report = diagnose(scene(labels=values), config())
    assert "without a class: 77 (30 px)" in said(report.findings, "error")
    assert report.facts["labels"]["unknown"] == {"77": 30}


def test_all_unknown_label_values_are_in_the_facts(scene):
    values = scene.usual["labels"].copy()
    values[0, :40] = np.arange(50, 90)
    values[1, :7] = 255
    report = diagnose(scene(labels=values, options={"labels": {"nodata": 0}}), config())
    assert report.facts["labels"]["unknown"] == {str(v): 1 for v in range(50, 90)}
    assert report.facts["labels"]["ignored"] == {"255": 7}
    assert report.facts["labels"]["nodata_of_classes"] == {"0": int((values == 0).sum())}
    assert "and 32 more; add" in said(report.findings, "error")
    assert "the id of 'ground': they are left out" in said(report.findings, "note")


def test_vector_labels_are_counted_too(scene, tmp_path):
    left, right, bottom, top = X - 40, X, Y - 40, Y + 40
    ring = [[left, bottom], [left, top], [right, top], [right, bottom], [left, bottom]]
    shape = {"type": "Polygon", "coordinates": [ring]}
    features = [{"type": "Feature", "properties": {"kind": "tree"}, "geometry": shape}]
    crs = {"type": "name", "properties": {"name": "urn:ogc:def:crs:EPSG::32632"}}
    path = tmp_path / "labels.geojson"
    path.write_text(json.dumps({"type": "FeatureCollection", "crs": crs, "features": features}))
    classes = tuple(c.model_copy(update={"values": (c.name,)}) for c in CLASSES)
    settings = Config(classes=classes, labels=LabelSettings(attribute="kind"))
    report = diagnose(replace(scene(), labels=(str(path),)), settings)
    assert report.ok
    assert report.facts["labels"]["rasters"] == [{"path": str(path)}]
    assert report.facts["labels"]["classes"]["tree"] == 160 * 80
    assert report.facts["labels"]["unlabelled_percent"] == 50


def test_heights_that_lie_shifted_are_found(scene):
    heights = shift(scene.usual["elevation"], (4, -3), order=1, mode="nearest")
    report = diagnose(scene(elevation=heights), config())
    assert report.facts["registration"]["columns"] == pytest.approx(3, abs=0.5)
    assert report.facts["registration"]["rows"] == pytest.approx(-4, abs=0.5)
    assert report.facts["registration"]["metres"] == pytest.approx(2.5, abs=0.3)
    assert "px to the right and" in said(report.findings, "note")
    assert "px up (2.5 m)" in said(report.findings, "note")


def test_an_infrared_band_that_passes_for_alpha(scene):
    where = around(X, Y, 80, 0.5)
    four = np.concatenate([scene.usual["optical"], noise(1, where)])
    files = scene(optical=four, options={"optical": {"alpha": 4}})
    assert "is marked as alpha" in said(diagnose(files, config()).findings, "warning")
    named = diagnose(files, config(bands=(1, 2, 4)))
    assert "alpha" not in said(named.findings)


def test_a_black_margin_that_nobody_declared(scene):
    image = scene.usual["optical"].copy()
    image[:, :, :20] = 0
    report = diagnose(scene(optical=image), config())
    assert "a black margin: 12.5 % of the sampled pixels" in said(report.findings, "warning")
    declared = diagnose(scene(optical=image, options={"optical": {"nodata": 0}}), config())
    assert "margin" not in said(declared.findings)
    assert declared.facts["optical"]["rasters"][0]["valid_percent"] == pytest.approx(87.5, abs=1)


def test_feet_in_the_crs(scene):
    feet = {k: around(X, Y, 262, 1.6375, CRS.from_epsg(2994)) for k in ("optical", "elevation")}
    report = diagnose(scene(grids=feet, labels=None), config())
    assert "CRS is in foot" in said(report.findings, "warning")
    feet["elevation"] = replace(feet["elevation"], crs=CRS.from_string("EPSG:2994+5703"))
    assert "foot" not in said(diagnose(scene(grids=feet, labels=None), config()).findings)


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_rasters_without_a_place(scene):
    where = around(X, Y, 80, 0.5)
    nowhere = type(where)(None, where.transform.identity(), 160, 160)
    files = scene(grids=dict.fromkeys(("optical", "elevation", "labels"), nowhere))
    report = diagnose(files, config())
    assert "the ground below " in said(report.findings, "error")
    assert "scenes.pixel_size (--pixel-size)" in said(report.findings, "error")
    assert report.facts["registration"]["metres"] is None
    assert report.facts["optical"]["rasters"][0]["gsd"] is None
    report = diagnose(files, config(pixel_size=0.5))
    assert report.ok
    assert report.facts["registration"]["metres"] is not None
    assert report.facts["optical"]["rasters"][0]["gsd"] == 0.5
    assert report.facts["elevation"]["above_ground"]["p99"] == pytest.approx(7, abs=0.5)


def test_a_surface_model_of_another_vertical_datum(scene):
    terrain = 500 + np.add.outer(np.arange(160), np.arange(160)) / 1000
    files = scene(elevation=scene.usual["elevation"] + 47, dtm=terrain)
    report = diagnose(files, config())
    assert "m above ground" in said(report.findings, "warning")
    assert "set height.unit" not in said(report.findings)
    assert not said(diagnose(scene(dtm=terrain), config()).findings, "warning")


def test_a_ground_that_takes_long_is_left_out(scene, monkeypatch):
    monkeypatch.setattr(diagnosis, "_MOST_CELLS", 100)
    report = diagnose(scene(), config())
    assert (
        "heights above ground were not checked: the ground filter would need 1,600 cells"
        in said(report.findings, "note")
    )
    assert "above_ground" not in report.facts["elevation"]
    assert report.facts["registration"]["windows"] == 1


def test_files_that_are_joined_are_counted_and_some_looked_at(write, monkeypatch):
    monkeypatch.setattr(height_rasters, "_MOST_FILES", 2)
    parts = [around(X + 20 * i, Y, 20, 0.5) for i in range(4)]
    paths = [write(f"{i}.tif", noise(3, part, seed=i), part) for i, part in enumerate(parts)]
    report = diagnose(scene_files("s", paths), config())
    assert report.facts["optical"]["files"] == 4
    assert [r["path"] for r in report.facts["optical"]["rasters"]] == paths[::2]
    assert report.facts["grid"] == {"width": 160, "height": 40}


def test_of_many_height_files_one_may_be_void(write):
    parts = [around(X + 40 * i, Y, 40, 0.5) for i in range(2)]
    images = [write(f"o{i}.tif", noise(3, part), part) for i, part in enumerate(parts)]
    land = write("land.tif", noise(1, parts[0], "float32"), parts[0])
    sea = write("sea.tif", np.full((80, 80), np.nan, "float32"), parts[1])
    assert diagnose(scene_files("s", images[0], [land, sea]), config()).ok
    alone = diagnose(scene_files("s", images[1], sea), config())
    assert "holds no valid height" in said(alone.findings, "error")


@given(
    width=st.integers(1, 3000),
    height=st.integers(1, 3000),
    side=st.integers(1, 600),
    count=st.integers(1, 5),
)
def test_windows_are_few_inside_and_all_of_what_is_small(width, height, side, count):
    windows = spread(width, height, side, count)
    assert 1 <= len(windows) <= count**2
    for window in windows:
        assert window.intersection(Window(0, 0, width, height)) == window
        assert max(window.width, window.height) <= side
    pixels = sum(w.width * w.height for w in windows)
    assert pixels == min(width, side * count) * min(height, side * count)


def test_sample_scene():
    files = scene_files("a", *(SAMPLES / f"a_{k}.tif" for k in ("ortho", "dsm", "labels")))
    report = diagnose(files, config(classes=()))
    assert report.ok
    assert not said(report.findings, "warning")
    assert report.facts["elevation"]["gsd_ratio"] == 2
    assert report.facts["registration"]["shifted_percent"] == 0


@pytest.mark.slow
@pytest.mark.real_data
@pytest.mark.skipif(not AUTZEN.exists(), reason="the real scene is not here")
def test_a_real_scene_whose_trees_lean_and_throw_shadows():
    files = scene_files("autzen", AUTZEN / "ortho.tif", AUTZEN / "dsm.tif")
    report = diagnose(files, config(HeightSettings(ground="none")))
    assert report.ok
    assert said(report.findings, "warning").endswith(
        "covers 92.3 % of " + str(AUTZEN / "ortho.tif")
    )
