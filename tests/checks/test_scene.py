import json
import math
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rasterio
from hypothesis import given
from hypothesis import strategies as st
from rasterio.crs import CRS
from scipy.ndimage import shift

from cafe_cli.checks import scene as diagnosis
from cafe_cli.checks.coregistration import OffsetConsensus
from cafe_cli.checks.rules import (
    check_above_ground,
    check_grid,
    check_heights,
    check_image,
    check_labels,
    check_margins,
    check_registration,
    check_storage,
    check_voids,
    margin_shares,
    pixel_shift,
    void_shares,
)
from cafe_cli.checks.scene import describe_raster, diagnose
from cafe_cli.config.schema import (
    ClassSettings,
    Config,
    HeightSettings,
    LabelSettings,
    SceneSettings,
)
from cafe_cli.raster.window import Window, spread
from tests.support.rasters import LAMBERT, TABLE, around, grid, noise, scene_files

X, Y = 300_000.0, 5_200_000.0
DSM, NDSM = HeightSettings(), HeightSettings(kind="ndsm")
SAMPLES = Path(__file__).parents[2] / "sample_data"
AUTZEN = SAMPLES.parents[1] / "shared/data/autzen"
RANDOM = np.random.default_rng(0)
VALLEY = RANDOM.uniform(477, 518, 2000)
"""Absolute heights."""
TOWN = np.concatenate([RANDOM.normal(0, 0.1, 1400), RANDOM.uniform(2, 25, 600)])
"""Heights above ground."""
CLASSES = tuple(ClassSettings(id=c.id, name=c.name) for c in TABLE)


def said(findings, level=None):
    """Return the messages, those of a level if given, one per line."""
    return "\n".join(f.message for f in findings if level in (None, f.level))


def with_value(values, value, share):
    return np.where(np.arange(len(values)) < share * len(values), value, values)


# Heights


@pytest.mark.parametrize(
    ("values", "settings"),
    [
        (VALLEY, DSM),
        (VALLEY - 500, DSM),  # a polder
        (TOWN, NDSM),
        (TOWN, HeightSettings(ground="none")),
        (np.abs(TOWN), NDSM),
        (with_value(VALLEY, 470, 0.3), DSM),  # a lake
        (with_value(RANDOM.uniform(0, 15, 2000), 0.0, 0.4), DSM),  # a harbour
    ],
)
def test_nothing_is_said_of_good_heights(values, settings):
    assert not list(check_heights(values, settings))


@pytest.mark.parametrize("void", [-9999, -32767, -32768, 32767, 99999, -3.4028234663852886e38])
def test_undeclared_voids(void):
    (found,) = check_heights(with_value(VALLEY, void, 0.1), DSM)
    assert found.level == "error"
    assert "10.0 % of the heights are" in found.message
    assert "beside heights from 477.0 to 518.0 m" in found.message
    written = found.message.split("height.nodata = ")[1].split()[0]
    assert np.float32(float(written)) == np.float32(void)


def test_a_void_is_found_among_plausible_heights_in_decimetres():
    values = with_value(TOWN * 10, -9999, 0.1)
    (found,) = check_heights(values, NDSM, 0.1)
    assert "10.0 % of the heights are -9999" in found.message
    assert "height.nodata = -9999 " in found.message


def test_heights_not_of_this_earth():
    (found,) = check_heights(np.linspace(20_000, 60_000, 50), DSM)
    assert found.level == "error"
    assert "60000" in found.message
    assert "height.unit" in found.message


def test_a_mountain_is_no_void():
    assert not list(check_heights(np.append(VALLEY, 9999 - 8000), DSM))
    assert not list(check_heights(np.linspace(-999, -700, 100), DSM))


def test_zeros_for_voids():
    (found,) = check_heights(with_value(VALLEY, 0, 0.05), DSM)
    assert found.level == "warning"
    assert "5.0 % of the heights are exactly 0, while the others begin at 477.0 m" in found.message
    assert "height.nodata = 0" in found.message


def test_zeros_are_ground_in_an_ndsm():
    assert not list(check_heights(np.maximum(TOWN, 0), NDSM))


def test_no_height_at_all():
    (found,) = check_heights(np.array([]), DSM)
    assert (found.level, found.message) == ("error", "holds no valid height: everything is nodata")


def test_constant_heights():
    assert "every height is 477.5 m" in said(check_heights(np.full(9, 477.5), DSM), "warning")
    assert "every height is 0 m" in said(check_heights(np.zeros(9), DSM), "warning")


def test_feet():
    unit = "US survey foot"
    found = said(check_heights(VALLEY, DSM, crs_unit=unit), "warning")
    assert "a CRS that counts in US survey foot are taken for metres" in found
    assert not list(check_heights(VALLEY, DSM, crs_unit=unit, unit_known=True))
    named = HeightSettings(unit="foot")
    assert not list(check_heights(VALLEY, named, 0.3048, crs_unit=unit))


@pytest.mark.parametrize(
    ("factor", "dtype", "unit"),
    [(10, "uint8", "decimetre"), (10, "int16", "decimetre"), (100, "uint16", "centimetre")],
)
def test_whole_numbers_above_ground_look_like_finer_units(factor, dtype, unit):
    values = np.round(np.maximum(TOWN, 0) * factor)
    found = said(check_heights(values, NDSM, dtype=dtype), "warning")
    assert f"whole numbers ({dtype}) up to" in found
    assert f"height.unit = '{unit}'" in found
    settings = HeightSettings(kind="ndsm", unit=unit)
    assert not list(check_heights(values, settings, 1 / factor, dtype=dtype))


def test_whole_metres_are_noted():
    found = check_heights(np.round(VALLEY), DSM, dtype="int16")
    assert "whole numbers (int16) without a unit are taken for metres" in said(found, "note")
    assert not list(check_heights(np.round(VALLEY), DSM, dtype="int16", unit_known=True))


def test_feet_above_ground_are_too_tall():
    found = said(check_heights(TOWN * 3.28, NDSM), "warning")
    assert "1 % of the pixels lie more than" in found
    assert "height.unit" in found


def test_absolute_heights_are_no_ndsm():
    found = said(check_heights(VALLEY, NDSM), "warning")
    assert "95 % of the heights are above 478.8 m" in found
    assert "unit" not in found
    assert "height.kind = 'dsm'" in found


def test_an_ndsm_does_not_lie_below_ground():
    found = check_heights(TOWN - 5, NDSM)
    assert "5 % of the heights are below -5" in said(found, "warning")


def test_heights_above_ground_are_no_dsm():
    found = said(check_heights(TOWN, DSM), "warning")
    assert "of the heights are within 0.3 m of zero" in found
    assert "height.kind = 'ndsm'" in found


@given(
    st.lists(st.floats(-500, 5000, width=32), min_size=1, max_size=50),
    st.sampled_from(["dsm", "ndsm"]),
    st.sampled_from([1.0, 0.3048, 0.1]),
    st.sampled_from(["float32", "int16"]),
)
def test_every_finding_is_one_line(values, kind, metres, dtype):
    found = check_heights(np.array(values), HeightSettings(kind=kind), metres, dtype=dtype)
    for finding in found:
        assert "\n" not in finding.message
        assert "nan" not in finding.message


# Heights above ground


def test_nothing_is_said_of_a_town():
    assert not list(check_above_ground(-0.1, 0.1, 25))


@pytest.mark.parametrize(
    ("percentiles", "level", "message"),
    [
        ((0, 0.1, 123), "warning", "1 % of the pixels lie more than 123 m above ground"),
        ((0, 17.5, 30), "note", "half of the pixels lie more than 17.5 m above ground"),
        ((-4.5, 0.1, 20), "warning", "1 % of the pixels lie more than 4.5 m below ground"),
    ],
)
def test_ground_that_cannot_be(percentiles, level, message):
    assert message in said(check_above_ground(*percentiles), level)


# Voids


def test_voids_inside_count_and_those_at_the_border_do_not():
    void = np.zeros((20, 20), bool)
    void[:, :5] = void[0] = True
    void[10:12, 10:12] = void[15, 15] = True
    assert void_shares(void) == (5 / 400, 4 / 400)


@pytest.mark.parametrize("everywhere", [False, True])
def test_no_voids_inside(everywhere):
    assert void_shares(np.full((5, 6), everywhere)) == (0, 0)


def test_few_voids_are_nothing():
    assert not list(check_voids(0.3, 0.01, 8, 2))


def test_many_voids():
    (found,) = check_voids(0.1, 0.05, 35.2, 2)
    assert found.level == "note"
    assert "5.0 % of the heights are void, the largest gap is about 35 m wide" in found.message
    assert "height.fill = 2 m" in found.message
    assert "40.0 % of the heights are void" in said(check_voids(0.4, 0.4, 99, 2), "warning")
    assert "60.0 % of the raster is void around" in said(check_voids(0.6, 0, 0, 2), "warning")


# Image


def test_nothing_is_said_of_a_good_image():
    assert not list(check_image(RANDOM.integers(0, 255, (3, 50), np.uint8), (1, 2, 3)))
    assert not list(check_image(RANDOM.integers(0, 60_000, (3, 50), np.uint16), (1, 2, 3)))


def test_a_band_that_shows_nothing_is_named():
    values = RANDOM.integers(0, 255, (3, 50), np.uint8)
    values[1] = 7
    assert "band 4 is 7 everywhere" in said(check_image(values, (2, 4, 1)), "warning")


@pytest.mark.parametrize(
    ("top", "bits"), [(255, 8), (256, 10), (1023, 10), (1024, 11), (2047, 11), (4095, 12)]
)
def test_sixteen_bits_that_are_not_all_used(top, bits):
    values = np.array([[0, top]], np.uint16)
    (found,) = check_image(values, (1,))
    assert found.level == "note"
    assert f"uint16 of which {bits} bits are used (values up to {top})" in found.message
    assert not list(check_image(np.array([[0, 4096]], np.uint16), (1,)))


def test_an_empty_image():
    assert "no valid pixel" in said(check_image(np.zeros((3, 0), np.uint8), (1, 2, 3)), "warning")


ALL_SIDES = (True, True, True, True)


@pytest.mark.parametrize("value", [0, 255])
def test_a_margin_is_connected_to_the_border(value):
    values = np.full((3, 10, 10), 100, np.uint8)
    values[:, :, :2] = value
    values[:, 5:7, 5:7] = value
    shares = margin_shares(values, np.ones((10, 10), bool), ALL_SIDES)
    assert shares[value] == 0.2
    assert shares[255 - value] == 0


@pytest.mark.parametrize(
    "sides",
    [(False, True, True, True), (True, False, True, True), (True, True, False, True),
     (True, True, True, False)],
)  # fmt: skip
def test_a_margin_lies_at_a_side_of_the_raster(sides):
    black = np.full((1, 9, 9), 100, np.uint8)
    for side, edge in zip(sides, (np.s_[0], np.s_[-1], np.s_[:, 0], np.s_[:, -1]), strict=True):
        if not side:
            black[0][edge] = 0
    everywhere = np.ones((9, 9), bool)
    assert margin_shares(black, everywhere, tuple(not s for s in sides))[0] == 9 / 81
    assert margin_shares(black[:, 1:-1, 1:-1], everywhere[1:-1, 1:-1], sides)[0] == 0


def test_black_in_some_bands_or_where_nothing_is_valid_is_no_margin():
    red = np.zeros((3, 5, 5), np.uint8)
    red[0] = 200
    everywhere = np.ones((5, 5), bool)
    assert margin_shares(red, everywhere, ALL_SIDES)[0] == 0
    assert margin_shares(red * 0, ~everywhere, ALL_SIDES)[0] == 0


def test_a_margin_is_told_with_its_value():
    (found,) = check_margins({0.0: 0.125, 255.0: 0.001})
    assert found.level == "warning"
    assert "a margin that is 0 in every band, 12.5 % of the pixels" in found.message
    assert "gdal_edit.py -a_nodata 0 FILE" in found.message


# Labels


def labels(counts, odd=(), **settings):
    return check_labels(np.array(counts), Counter(dict(odd)), TABLE, LabelSettings(**settings))


def test_nothing_is_said_of_good_labels():
    assert not list(labels([5, 6, 7]))
    assert not list(labels([5, 0, 7], absent=("tree",)))


def test_values_without_a_class_are_listed_with_counts():
    (found,) = labels([5, 6, 7], {7: 1234, 19: 5})
    assert found.level == "error"
    assert "label values without a class: 7 (1,234 px), 19 (5 px); add" in found.message
    assert "and 2 more" in said(labels([5, 6, 7], dict.fromkeys(range(10, 20), 1)))


def test_colours_that_are_not_exact_are_noted():
    (found,) = labels([5, 6, 7], {"#fffe00": 40}, encoding="colors")
    assert found.level == "note"
    assert "#fffe00 (40 px)" in found.message


def test_classes_that_do_not_occur_are_noted():
    (found,) = labels([5, 0, 0])
    assert found.level == "note"
    assert "classes that were not seen here: tree, building" in found.message


def test_no_label_at_all():
    (found,) = labels([0, 0, 0])
    assert found.level == "error"
    assert "no label in any of the places looked at" in found.message


# Grids


@pytest.mark.parametrize(
    ("left", "top", "expected"),
    [(0, 0, (0, 0)), (0.25, 0, (-0.5, 0)), (1.5, -2.0, (0, 0)), (-0.1, 0.05, (-0.2, -0.1))],
)
def test_shift_is_what_is_left_of_whole_pixels(left, top, expected):
    found = pixel_shift(grid(left=X + left, top=Y + top), grid(left=X, top=Y))
    assert found == pytest.approx(expected, abs=1e-6)


def test_grids_of_other_pixels_are_not_shifted():
    assert pixel_shift(grid(pixel=1.0), grid(pixel=0.5)) is None
    assert pixel_shift(grid(crs=LAMBERT), grid()) is None
    assert pixel_shift(around(X, Y, 5, 0.5, angle=10), around(X, Y, 5, 0.5)) is None


def test_nothing_is_said_of_a_grid_that_fits():
    assert not list(check_grid("elevation", grid(), grid(), 1.0))
    assert not list(check_grid("elevation", grid(pixel=1.0), grid(), 0.999))


def test_half_a_pixel_is_noted():
    (found,) = check_grid("elevation", grid(left=X + 0.25), grid(left=X), 1.0)
    assert found.level == "note"
    assert "lies 0.50 columns and 0.00 rows off the pixels of the image" in found.message
    assert "interpolated" in found.message
    assert "nearest" in said(check_grid("labels", grid(left=X + 0.25), grid(left=X), 1.0))


@pytest.mark.parametrize(("share", "level"), [(0.95, "note"), (0.4, "warning")])
def test_overlap(share, level):
    (found,) = check_grid("elevation", grid(), grid(), share)
    assert (found.level, found.message) == (level, f"covers {100 * share:.1f} % of the image")


@pytest.mark.parametrize(("pixel", "level"), [(2.5, "note"), (10.0, "warning")])
def test_coarse_heights(pixel, level):
    (found,) = check_grid("elevation", grid(pixel=pixel), grid(pixel=0.5), 1.0)
    assert found.level == level
    assert f"pixels of {pixel:g} m are {2 * pixel:.1f} times as large" in found.message
    assert not list(check_grid("dtm", grid(pixel=pixel), grid(pixel=0.5), 1.0))


# Registration


def agreement(columns=4.0, rows=-2.5, windows=9, agree=0.8, shifted=1.0):
    return OffsetConsensus(columns, rows, 0.1, 0.3, windows, agree, shifted)


def test_a_shift_is_told_with_where_to():
    (found,) = check_registration(agreement(), 8.0, -5.0, 2.36)
    assert found.level == "warning"
    assert "moved 8.0 px to the right and 5.0 px up (2.4 m)" in found.message
    assert "correlation of edges 0.10, then 0.30, alike in 7 of 9 places" in found.message
    (found,) = check_registration(agreement(-4, 2), -4, 2, None)
    assert "moved 4.0 px to the left and 2.0 px down: correlation" in found.message


def test_few_places_make_a_note():
    (found,) = check_registration(agreement(windows=2, agree=1.0), 4, -2.5, 2.4)
    assert found.level == "note"


@pytest.mark.parametrize(
    ("found", "metres"),
    [
        (agreement(1.0, 1.0), 3.0),
        (agreement(), 0.4),
        (agreement(agree=0.5), 2.4),
        (agreement(shifted=0.5), 2.4),
    ],
)
def test_small_or_doubtful_shifts_are_no_finding(found, metres):
    assert not list(check_registration(found, found.columns, found.rows, metres))


# Storage


def test_big_files_in_strips_are_noted():
    facts = {"width": 12_000, "height": 12_000, "block": [1, 12_000], "overviews": []}
    (found,) = check_storage(facts)
    assert found.level == "note"
    assert "12000 x 12000 pixels, neither tiled nor with overviews" in found.message
    assert not list(check_storage({**facts, "overviews": [2, 4]}))
    assert not list(check_storage({**facts, "block": [256, 256]}))
    assert not list(check_storage({**facts, "height": 1000}))


@pytest.mark.parametrize(
    ("options", "mask"),
    [
        ({}, "none"),
        ({"nodata": 0}, "nodata"),
        ({"alpha": 4}, "alpha"),
        ({"mask": np.full((60, 60), 255, np.uint8)}, "mask"),
    ],
)
def test_describes_masks(write, options, mask):
    where = around(X, Y, 30, 0.5)
    with rasterio.open(write("a.tif", noise(4, where), where, **options)) as dataset:
        assert describe_raster(dataset)["mask"] == mask


def test_describes_a_raster(write):
    where = around(X, Y, 30, 0.5, angle=30)
    options = {"tiled": True, "blockxsize": 16, "blockysize": 32, "compress": "deflate"}
    path = write("dsm.tif", noise(1, where, "float32"), where, nodata=math.nan, **options)
    with rasterio.open(path) as dataset:
        facts = describe_raster(dataset)
    assert json.loads(json.dumps(facts, allow_nan=False)) == facts
    assert facts["pixel"] == pytest.approx([0.5, 0.5])
    assert facts["rotation"] == pytest.approx(30)
    assert facts["gsd"] == pytest.approx(0.5)
    some = (
        "path",
        "width",
        "height",
        "crs",
        "dtype",
        "nodata",
        "block",
        "overviews",
        "compression",
    )
    assert [facts[key] for key in some] == [
        path, 60, 60, "EPSG:32632", "float32", "nan", [32, 16], [], "DEFLATE",
    ]  # fmt: skip


# Scenes


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
    assert said(report.findings) == "classes that were not seen here: tree"
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


def test_voids_as_heights_are_told_once_and_labels_are_still_counted(scene):
    heights = scene.usual["elevation"].copy()
    heights[:40, :40] = -9999
    report = diagnose(scene(elevation=heights), config())
    (error,) = (f for f in report.findings if f.level == "error")
    assert "6.2 % of the heights are -9999" in error.message
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
    assert "is no CRS" in said(report.findings, "error")


def test_a_band_that_is_not_there_is_an_error(scene):
    report = diagnose(scene(), config(bands=(1, 2, 9)))
    assert "there is no band 9" in said(report.findings, "error")


def test_an_unknown_unit_is_an_error(scene):
    report = diagnose(scene(options={"elevation": {"units": "furlong"}}), config())
    assert "gives its heights in 'furlong'" in said(report.findings, "error")


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
    assert "band 4 is marked as alpha" in said(diagnose(files, config()).findings, "warning")
    named = diagnose(files, config(bands=(1, 2, 4)))
    assert "alpha" not in said(named.findings)


def test_a_black_margin_that_nobody_declared(scene):
    image = scene.usual["optical"].copy()
    image[:, :, :20] = 0
    report = diagnose(scene(optical=image), config())
    assert "a margin that is 0 in every band, 12.5 %" in said(report.findings, "warning")
    declared = diagnose(scene(optical=image, options={"optical": {"nodata": 0}}), config())
    assert "margin" not in said(declared.findings)
    assert declared.facts["optical"]["rasters"][0]["valid_percent"] == pytest.approx(87.5, abs=1)


def test_feet_in_the_crs(scene):
    feet = {k: around(X, Y, 262, 1.6375, CRS.from_epsg(2994)) for k in ("optical", "elevation")}
    report = diagnose(scene(grids=feet, labels=None), config())
    assert "CRS that counts in foot" in said(report.findings, "warning")
    feet["elevation"] = replace(feet["elevation"], crs=CRS.from_string("EPSG:2994+5703"))
    assert "foot" not in said(diagnose(scene(grids=feet, labels=None), config()).findings)


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_rasters_without_a_place(scene):
    where = around(X, Y, 80, 0.5)
    nowhere = type(where)(None, where.transform.identity(), 160, 160)
    report = diagnose(
        scene(grids=dict.fromkeys(("optical", "elevation", "labels"), nowhere)), config()
    )
    assert report.ok
    assert report.facts["registration"]["metres"] is None
    assert report.facts["optical"]["rasters"][0]["gsd"] is None


def test_a_ground_that_takes_long_is_left_out(scene, monkeypatch):
    monkeypatch.setattr(diagnosis, "_MOST_CELLS", 100)
    report = diagnose(scene(), config())
    assert "heights above ground were not looked at: 1,600 cells" in said(report.findings, "note")
    assert "above_ground" not in report.facts["elevation"]
    assert report.facts["registration"]["windows"] == 1


def test_files_that_are_joined_are_counted_and_some_looked_at(write, monkeypatch):
    monkeypatch.setattr(diagnosis, "_MOST_FILES", 2)
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


@pytest.mark.skipif(not AUTZEN.exists(), reason="the real scene is not here")
def test_a_real_scene_whose_trees_lean_and_throw_shadows():
    files = scene_files("autzen", AUTZEN / "ortho.tif", AUTZEN / "dsm.tif")
    report = diagnose(files, config(HeightSettings(ground="none")))
    assert report.ok
    assert said(report.findings) == "covers 92.3 % of the image"
