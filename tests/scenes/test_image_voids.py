"""Values that mark voids in orthophotos, margins, and images that look like them."""

import numpy as np
import pytest
import rasterio

from cafe_cli.config.schema import HeightSettings
from cafe_cli.errors import InputError
from cafe_cli.scenes.image_voids import find_far_code, find_image_codes, find_image_voids
from cafe_cli.scenes.inspection import inspect_scene
from cafe_cli.scenes.scene import open_scene
from tests.support.rasters import around, scene_files

SIZE = 200
WHERE = around(300_000.0, 5_200_000.0, 100, 0.5)
RANDOM = np.random.default_rng(5)
GREY = RANDOM.integers(40, 200, (3, SIZE, SIZE)).astype(np.uint8)
BLOB = np.zeros((SIZE, SIZE), bool)
BLOB[60:90, 100:150] = True
COLLAR = np.abs(np.subtract.outer(np.arange(SIZE), np.arange(SIZE))) > 150
NDSM = HeightSettings(kind="ndsm")


def image(dtype, top):
    return (GREY / 255 * top).astype(dtype)


def codes(values):
    return find_image_codes(np.asarray(values).reshape(len(values), -1))


@pytest.mark.parametrize(
    ("dtype", "top", "value"),
    [
        ("f4", 1, -9999), ("f4", 1, -999), ("f4", 255, -3.4028234663852886e38), ("f4", 1, 1e20),
        ("f8", 1, -1.7e308), ("f4", 1, 9999), ("f4", 1, 255), ("f4", 1, -1), ("i2", 10_000, -9999),
        ("i2", 7000, -999), ("i2", 255, -32768), ("u2", 4095, 65535), ("i2", 4000, 32767),
        ("i4", 255, -99), ("f4", 10_000, 65535),
    ],
)  # fmt: skip
@pytest.mark.parametrize("where", [BLOB, COLLAR])
def test_codes_that_are_no_grey_values(dtype, top, value, where):
    values = np.where(where, np.dtype(dtype).type(value), image(dtype, top))
    ((found, share, certain),) = codes(values)
    assert found == np.dtype(dtype).type(value)
    assert share == pytest.approx(where.mean())
    assert certain


def test_several_codes():
    values = np.where(COLLAR, np.float32(-9999), np.where(BLOB, np.float32(1e20), image("f4", 1)))
    assert {(value, sure) for value, _, sure in codes(values)} == {
        (-9999, True), (float(np.float32(1e20)), True),
    }  # fmt: skip


def test_an_impossible_value_in_one_band():
    values = image("f4", 1)
    values[1, BLOB] = -3e38
    assert [sure for *_, sure in codes(values)] == [True]


def test_a_code_in_one_band_only_is_none():
    values = image("i2", 4000)
    values[1, BLOB] = -9999
    assert not codes(values)


def test_a_code_that_may_be_saturation_is_doubtful():
    values = np.where(BLOB, 65535, image("u2", 30_000))
    ((value, _, certain),) = codes(values)
    assert (value, certain) == (65535, False)


@pytest.mark.parametrize(
    "values",
    [
        GREY,
        np.where(BLOB, 255, GREY).astype("u1"),  # a white roof
        np.where(BLOB, 0, GREY).astype("u1"),  # a deep shadow
        np.where(BLOB, 0, image("u2", 4095)).astype("u2"),  # dark water
        np.clip(RANDOM.normal(50_000, 9000, GREY.shape), 0, 65535).astype("u2"),  # clipped snow
        RANDOM.normal(0, 1, GREY.shape).astype("f4"),  # standardised
        np.clip(RANDOM.normal(0, 1, GREY.shape), -1, 1).astype("f4"),
        RANDOM.integers(-120, 9000, GREY.shape).astype("i2"),  # reflectance
        np.zeros((3, 9, 9), "f4"),
    ],
)
def test_images_without_codes(values):
    assert not codes(values)


def test_codes_between_the_samples():
    values, valid = image("f4", 1), np.ones((SIZE, SIZE), bool)
    assert find_far_code(values, valid, (0.1, 0.9)) is None
    values[:, 5, 5] = -9999
    assert find_far_code(values, valid, (0.1, 0.9)) == -9999
    assert find_far_code(values, ~valid, (0.1, 0.9)) is None
    assert find_far_code(values, valid, None) is None
    values[1:, 5, 5] = 0.5
    assert find_far_code(values, valid, (0.1, 0.9)) is None
    values[2, 5, 5], values[0, 5, 5] = 0.5, 1e30
    assert find_far_code(values, valid, (0.1, 0.9)) == pytest.approx(1e30)


# Margins


def voids(path, nodata=None):
    with rasterio.open(path) as dataset:
        return find_image_voids(dataset, (1, 2, 3), nodata)


@pytest.fixture
def found(write):
    """Write an image and return what is found about it: (level, message)."""

    def find(values, **profile):
        path = write("a.tif", np.asarray(values), WHERE, **profile)
        return [(f.level, f.message) for f in voids(path).findings]

    return find


JPEG = RANDOM.integers(0, 4, GREY.shape).astype("u1")


@pytest.mark.parametrize(
    ("margin", "dtype", "words"),
    [
        (0, "u1", ("black margin", "are 0 in every band", "scenes.optical_nodata = 0", "-setmask")),
        (255, "u1", ("white margin", "are 255 in every", "nearblack -white -setmask",
                     "--optical-nodata")),
        (JPEG, "u1", ("black margin", "0, give or take 3,", "mask them with nearblack -setmask")),
        (255 - JPEG, "u1", ("white margin", "255, give or take 3", "nearblack -white -setmask")),
        (0, "u2", ("black margin",)),
        (65535, "u2", ("white margin", "65535")),
        (0, "f4", ("black margin",)),
    ],
)  # fmt: skip
def test_margins_are_warnings(found, margin, dtype, words):
    grey = GREY.astype(dtype) * (320 if dtype == "u2" else 1)
    ((level, message),) = found(np.where(COLLAR, np.asarray(margin, dtype), grey))
    assert level == "warning"
    for part in words:
        assert part in message
    assert ("optical_nodata" in message) is (np.ndim(margin) == 0)


def test_small_or_inner_areas_are_no_margins(found):
    inner, thin = GREY.copy(), GREY.copy()
    inner[:, BLOB] = 0
    thin[:, 0] = 255
    assert not found(inner)
    assert not found(thin)


def test_snow_at_the_rim_is_a_note_at_most(found):
    roof = GREY.copy()
    roof[:, :60, 50:120] = 255
    ((level, _),) = found(roof)
    assert level == "note"
    light = 300 - 0.6 * np.abs(np.arange(SIZE) - 70)
    snow = np.clip(np.broadcast_to(light, GREY.shape) + GREY / 20, 0, 255).astype("u1")
    ((level, _),) = found(snow)
    assert level == "note"
    assert [level for level, _ in found(255 - snow)] == ["note"]


def test_saturated_pixels_that_count_as_void(found):
    logs = GREY.copy()
    for size, value in ((3, 220), (1, 255)):
        here = [slice(20 - size // 2 + k, 180, 8) for k in range(size)]
        for row in here:
            for col in here:
                logs[:, row, col] = value
    assert not found(logs)
    ((level, message),) = found(logs, nodata=255)
    assert level == "warning"
    assert "400 of 40,000 sampled pixels" in message
    assert "gdal_edit.py -unsetnodata" in message
    assert "nearblack -white -setmask" in message
    logs = 255 - logs
    ((_, message),) = found(logs, nodata=0)
    assert "black pixels" in message


def test_a_declared_margin_is_silent(found):
    assert not found(np.where(COLLAR, 0, GREY).astype("u1"), nodata=0)
    assert not found(np.where(COLLAR, 0, GREY).astype("u1"), mask=np.uint8(255 * ~COLLAR))


# Scenes


@pytest.mark.parametrize(
    ("dtype", "top", "value"),
    [("f4", 1, -9999), ("i2", 7000, -32768), ("u2", 4095, 65535), ("f4", 1, 1e20)],
)
def test_declared_by_an_option_it_is_void(write, dtype, top, value):
    path = write("a.tif", np.where(BLOB, value, image(dtype, top)).astype(dtype), WHERE)
    files = scene_files("a", path)
    with pytest.raises(InputError, match="--optical-nodata") as caught:
        inspect_scene(files, NDSM)
    nodata = float(str(caught.value).split("optical_nodata = ")[1].split()[0])
    found = inspect_scene(files, NDSM, optical_nodata=nodata)
    assert not found.findings
    with open_scene(found) as scene:
        assert np.array_equal(scene.read(WHERE.extent).optical_valid, ~BLOB)
        assert np.array_equal(scene.read_valid(WHERE.extent), ~BLOB)
    with open_scene(inspect_scene(files, NDSM, gsd=1.0, optical_nodata=nodata)) as scene:
        patch = scene.read(scene.grid.extent)
    assert patch.optical_valid.mean() == pytest.approx(1 - BLOB.mean(), abs=0.01)
    assert patch.optical[:, patch.optical_valid].max() <= top


def test_each_sheet_is_looked_at(write):
    good = write("a.tif", image("f4", 1), WHERE)
    bad = write("b.tif", np.where(BLOB, np.float32(-9999), image("f4", 1)), WHERE)
    with pytest.raises(InputError, match=r"b\.tif has pixels that look like undeclared nodata"):
        inspect_scene(scene_files("a", [good, bad]), NDSM)


def test_a_raster_that_declares_another_value(write):
    values = np.where(COLLAR, -9999, np.where(BLOB, -32767, image("i2", 4000))).astype("i2")
    path = write("a.tif", values, WHERE, nodata=-9999)
    with pytest.raises(InputError, match=r"isin\(A,\[-9999,-32767\]\)"):
        inspect_scene(scene_files("a", path), NDSM)


def test_a_void_between_the_samples_is_found_when_it_is_read(write):
    where = around(300_000.0, 5_200_000.0, 2400, 0.5)
    values = np.full((1, 4800, 4800), 0.5, np.float32)
    values[:, :, ::2] = 0.25
    values[:, 700:710, 700:710] = -9999
    found = inspect_scene(scene_files("a", write("a.tif", values, where)), NDSM)
    with open_scene(found) as scene, pytest.raises(InputError, match="-9999"):
        scene.read(where.extent)


def test_a_value_that_the_data_type_lacks(write):
    path = write("a.tif", GREY, WHERE)
    found = inspect_scene(scene_files("a", path), NDSM, optical_nodata=-9999)
    with open_scene(found) as scene:
        assert scene.read(WHERE.extent).optical_valid.all()
    with open_scene(
        inspect_scene(scene_files("a", path), NDSM, gsd=1.0, optical_nodata=-9999)
    ) as scene:
        assert scene.read(scene.grid.extent).optical_valid.all()


def test_voids_on_purpose_are_not_taken_for_saturation(found):
    scattered = np.where(RANDOM.random((SIZE, SIZE)) < 0.05, 255, GREY).astype("u1")
    assert not found(scattered, nodata=255)


def test_an_image_of_one_value_has_no_margin(found):
    assert not found(GREY * 0)


def test_integers_of_64_bits_may_be_large(found):
    assert not found(RANDOM.integers(0, 2**62, GREY.shape))
