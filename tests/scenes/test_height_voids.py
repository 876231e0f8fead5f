"""Values that mark voids in height rasters, and heights that look like them."""

import numpy as np
import pytest
import rasterio
from scipy.ndimage import gaussian_filter

from cafe_cli.config.schema import HeightSettings
from cafe_cli.errors import InputError
from cafe_cli.scenes.height_voids import as_written, find_height_codes, is_code
from cafe_cli.scenes.inspection import inspect_scene
from cafe_cli.scenes.scene import open_scene
from tests.support.rasters import around, noise, scene_files

DSM, NDSM = HeightSettings(ground="none", fill=0), HeightSettings(kind="ndsm", fill=0)
RANDOM = np.random.default_rng(3)
SIZE = 200
HILLS = gaussian_filter(RANDOM.normal(0, 1, (SIZE, SIZE)), 20)
HILLS = (HILLS - HILLS.min()) / np.ptp(HILLS)
HOUSES = 7 * np.kron(RANDOM.random((25, 25)) > 0.8, np.ones((8, 8)))
BLOB = np.zeros((SIZE, SIZE), bool)
BLOB[60:90, 100:150] = True
COLLAR = np.abs(np.subtract.outer(np.arange(SIZE), np.arange(SIZE))) > 150


def land(low, high, noisy=0.03):
    return low + (high - low) * HILLS + HOUSES + RANDOM.normal(0, noisy, (SIZE, SIZE))


def find(values, metres=1.0, above_ground=False):
    parts = np.split(np.asarray(values, np.float64), 2)
    return find_height_codes(parts, lambda v: v * metres, above_ground)


@pytest.mark.parametrize(
    "value",
    [-9999, -999, 9999, -99, -32767, -32768, 32767, 65535, 99999, -3.4028234663852886e38, 1e20,
     10_000, -1000, -99.99, -500_000],
)  # fmt: skip
@pytest.mark.parametrize("where", [BLOB, COLLAR])
def test_codes_that_are_no_heights(value, where):
    (code,) = find(np.where(where, np.float32(value), land(20, 60).astype(np.float32)))
    assert code.certain
    assert code.value == np.float32(value)
    assert code.share == pytest.approx(where.mean())


@pytest.mark.parametrize(
    ("value", "metres", "dtype"),
    [
        (65535, 0.01, "uint16"),
        (-32768, 0.01, "int16"),
        (-9999, 0.1, "int32"),
        (-9999, 0.3048, "f4"),
    ],
)
def test_codes_that_become_possible_heights_in_another_unit(value, metres, dtype):
    stored = np.where(BLOB, value, land(20, 60) / metres).astype(dtype)
    (code,) = find(stored, metres)
    assert (code.value, code.certain) == (value, True)


def test_several_codes_in_one_raster():
    values = np.where(COLLAR, -32767, np.where(BLOB, 9999, land(20, 60)))
    values[0, :50] = -999
    found = {code.value: code.certain for code in find(values)}
    assert found == {-32767: True, 9999: True, -999: True}


@pytest.mark.parametrize("value", [0, -1])
@pytest.mark.parametrize(("low", "high"), [(-5, 20), (3, 18), (25, 60), (400, 600)])
@pytest.mark.parametrize("where", [BLOB, COLLAR])
def test_values_that_may_be_heights(value, low, high, where):
    (code,) = find(np.where(where, value, land(low, high)))
    assert code.value == value
    assert code.share == pytest.approx(where.mean())
    if value == 0:
        assert not code.certain


def flooded(level, low, high):
    return np.maximum(land(low, high, noisy=0.0), level)


@pytest.mark.parametrize(
    "values",
    [
        land(20, 60),
        land(-5, 20),
        flooded(0, -20, 30),  # the sea
        flooded(-1, -9, 8),  # a lake in a polder
        flooded(99, 90, 140),
        np.round(land(-5, 20)),  # whole metres
        np.round(land(-5, 20), 1),
        np.round(land(-8, 8) * 10) / 10,
        np.where(BLOB, 12.5, land(20, 60)),  # a quarry pond, declared by its owner
        np.append(land(20, 60), land(900, 1999, 0), axis=0),
        np.maximum(land(0, 0.01), 0),  # flat ground at 0
        HOUSES,
        np.full((8, 8), 0.0),
    ],
)
def test_heights_that_look_like_codes(values):
    assert not find(values)


@pytest.mark.parametrize(
    "values", [np.maximum(HOUSES + RANDOM.normal(0, 0.1, HOUSES.shape), 0), HOUSES, 255 * HILLS]
)
def test_ground_is_no_void_among_heights_above_ground(values):
    assert not find(values, above_ground=True)


@pytest.mark.parametrize(("value", "certain"), [(-1, False), (-99, True), (9999, True)])
def test_codes_among_heights_above_ground(value, certain):
    (code,) = find(np.where(BLOB, value, np.abs(land(0, 0.2))), above_ground=True)
    assert (code.value, code.certain) == (value, certain)


def test_another_unit_is_not_told_value_by_value():
    (code,) = find(100 * land(200, 400))  # centimetres taken for metres
    assert code.certain


@pytest.mark.parametrize("value", [0, -1, -99, 999, 99999, -999.9, 1e4, -1e3, 65535, 255, 2**31])
def test_values_that_programs_write(value):
    assert is_code(value)
    assert is_code(float(np.float32(value)))


@pytest.mark.parametrize("value", [9, 12.5, 100, 250, -2, 998, 65000, -9998, 1234])
def test_plain_heights(value):
    assert not is_code(value)


@pytest.mark.parametrize("value", [-9999, 0, -3.4028234663852886e38, 1e20, 99.99])
def test_a_written_value_is_read_back(value):
    assert np.float32(float(as_written(value))) == np.float32(value)


# Scenes

WHERE = around(300_000.0, 5_200_000.0, 100, 0.5)


@pytest.fixture
def scene(write):
    def written(heights, terrain=None, **profile):
        optical = write("ortho.tif", noise(3, WHERE), WHERE)
        dsm = write("dsm.tif", np.asarray(heights, "f4"), WHERE, **profile)
        dtm = write("dtm.tif", np.asarray(terrain, "f4"), WHERE) if terrain is not None else None
        return scene_files("s", optical, dsm, dtm=dtm)

    return written


def test_a_certain_void_is_an_error_with_its_remedy(scene):
    with pytest.raises(InputError) as caught:
        inspect_scene(scene(np.where(BLOB, -999, land(20, 60))), DSM)
    for part in ("dsm.tif has heights", "-999 (3.8 %)", "height.nodata = -999 (--height-nodata)"):
        assert part in str(caught.value)


@pytest.mark.parametrize(("nodata", "scale"), [(-999, 1.0), (9999, 0.01)])
def test_once_declared_it_is_void(scene, nodata, scale):
    files = scene(np.where(BLOB, nodata, land(20, 60) / scale))
    unit = "metre" if scale == 1 else "centimetre"
    settings = DSM.model_copy(update={"nodata": nodata, "unit": unit})
    found = inspect_scene(files, settings)
    assert not found.findings
    with open_scene(found) as opened:
        assert np.array_equal(opened.read(WHERE.extent).height_valid, ~BLOB)


def test_a_doubtful_void_is_a_warning_and_silent_once_declared(scene):
    files = scene(np.where(BLOB, 0, land(-5, 20)))
    (finding,) = inspect_scene(files, DSM).findings
    assert (finding.level, finding.where) == ("warning", files.elevation[0])
    assert "0 (3.8 %)" in finding.message
    assert "--height-nodata" in finding.message
    assert not inspect_scene(files, DSM.model_copy(update={"nodata": 0})).findings


def test_a_raster_that_declares_another_value(scene):
    values = land(20, 60)
    values[:5] = -9999
    values[BLOB] = -32767
    with pytest.raises(InputError, match=r"gdal_calc.py .*--NoDataValue=-9999") as caught:
        inspect_scene(scene(values, nodata=-9999), DSM)
    assert "isin(A,[-9999,-32767])" in str(caught.value)


def test_a_terrain_model_is_looked_at_too(scene):
    files = scene(land(20, 60), np.where(BLOB, -999, land(20, 60)))
    with pytest.raises(InputError, match=r"dtm.tif has .*-999") as caught:
        inspect_scene(files, HeightSettings(ground="dtm"))
    assert "gdal_edit.py -a_nodata -999" in str(caught.value)
    assert "--height-nodata" not in str(caught.value)


def test_scaled_heights_are_told_as_they_are_stored(write):
    stored = np.where(BLOB, -9999, land(20, 60) * 100).astype(np.int16)
    path = write("dsm.tif", stored, WHERE)
    with rasterio.open(path, "r+") as dataset:
        dataset.scales = (0.01,)
    files = scene_files("s", write("ortho.tif", noise(3, WHERE), WHERE), path)
    with pytest.raises(InputError, match=r"from 19.9 to 66.6 m; .*nodata = -9999 "):
        inspect_scene(files, DSM)


def test_a_void_between_the_samples_is_found_when_it_is_read(write):
    where = around(300_000.0, 5_200_000.0, 2400, 0.5)
    values = np.full((4800, 4800), 30, np.float32) + np.arange(4800, dtype=np.float32) / 200
    values[700:710, 700:710] = -999
    optical = write("ortho.tif", np.zeros((1, 4800, 4800), np.uint8), where)
    found = inspect_scene(scene_files("s", optical, write("dsm.tif", values, where)), DSM)
    with open_scene(found) as opened, pytest.raises(InputError, match="-999"):
        opened.read(where.extent)
