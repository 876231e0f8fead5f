import logging

import numpy as np
import pytest
import rasterio
from rasterio.crs import CRS
from rasterio.warp import transform

from cafe_cli.config.schema import HeightSettings, LabelSettings
from cafe_cli.errors import BandError, GridError, InputError
from cafe_cli.raster.grid import Grid
from cafe_cli.raster.reader import open_raster, read_decimated
from cafe_cli.raster.window import Window
from cafe_cli.scenes.discovery import SceneFiles
from cafe_cli.scenes.inspection import inspect_scene
from cafe_cli.scenes.scene import find_scene_ground, open_scene
from tests.support.rasters import (
    LAMBERT,
    TABLE,
    UTM,
    around,
    centres,
    grid,
    nearest,
    noise,
    scene_files,
)

PLAIN = HeightSettings(ground="none", fill=0)
NDSM = HeightSettings(kind="ndsm", fill=0)
DSM = HeightSettings(cell=1.0, max_window=20.0, fill=0)
X, Y = 300_000.0, 5_200_000.0
OREGON = CRS.from_epsg(2994)
"""Feet, and of use (if not of sense) only in Oregon, hence `FAR`."""
FAR = transform(CRS.from_epsg(4326), UTM, [-123.07], [44.05])


def read(files: SceneFiles, settings=NDSM, window=None, bands=None, ground=None, **options):
    with open_scene(inspect_scene(files, settings, bands, **options), ground) as scene:
        return scene.read(window or scene.grid.extent)


@pytest.fixture
def optical(write):
    """Three bands of 120 x 120 pixels of 0.25 m."""
    where = around(X, Y, 30, 0.25)
    return write("ortho.tif", noise(3, where), where), where


def plane(x, y):
    """Metres above ground; `x` and `y` are metres from the centre."""
    return 12 + 0.25 * x - 0.15 * y


def plane_on(where: Grid, crs, place=(X, Y)):
    """Heights at the pixel centres of a grid, of the plane that lies in a CRS."""
    metre = 1 / grid(crs=crs).unit_metres
    (left,), (top,) = transform(UTM, crs, [place[0]], [place[1]])
    x, y = centres(where, crs)
    return plane((x - left) / metre, (y - top) / metre)


# Heights


@pytest.mark.parametrize(
    ("crs", "pixel", "angle", "tolerance"),
    [
        (UTM, 1.0, 0, 1e-4),
        (UTM, 0.25, 0, 1e-4),
        (LAMBERT, 0.8, 15, 1e-4),
        # A finer raster is averaged, with weights that GDAL rounds: by a sixth of its pixel.
        (LAMBERT, 0.1, 0, 0.4 * 0.1 / 6),
    ],
)
def test_a_plane_stays_a_plane_on_the_optical_grid(optical, write, crs, pixel, angle, tolerance):
    path, where = optical
    delivered = around(X, Y, 60, pixel, crs, angle)
    dsm = write("dsm.tif", plane_on(delivered, crs).astype(np.float32), delivered)
    patch = read(scene_files("a", path, dsm), PLAIN)
    assert patch.height_valid.all()
    assert patch.height.dtype == np.float32
    assert np.abs(patch.height - plane_on(where, crs)).max() < tolerance


@pytest.mark.parametrize(
    ("unit", "tag", "metres", "dtype", "tolerance"),
    [
        ("auto", None, 1, "float32", 1e-4),
        ("auto", "metre", 1, "float64", 1e-4),
        ("auto", "ft", 0.3048, "float32", 1e-4),
        ("auto", "US survey foot", 1200 / 3937, "float32", 1e-4),
        ("foot", None, 0.3048, "float32", 1e-4),
        ("us-foot", "metre", 1200 / 3937, "float32", 1e-4),
        ("decimetre", None, 0.1, "uint8", 0.051),
        ("centimetre", None, 0.01, "uint16", 0.0051),
        ("auto", "cm", 0.01, "int16", 0.0051),
    ],
)
def test_heights_are_metres(optical, write, unit, tag, metres, dtype, tolerance):
    path, where = optical
    delivered = around(X, Y, 50, 0.5, LAMBERT)
    stored = plane_on(delivered, LAMBERT) / metres
    stored = stored.round() if dtype in ("uint8", "uint16", "int16") else stored
    dsm = write("dsm.tif", stored.astype(dtype), delivered, units=tag)
    patch = read(scene_files("a", path, dsm), HeightSettings(kind="ndsm", unit=unit))
    assert np.abs(patch.height - plane_on(where, LAMBERT)).max() < tolerance


def test_an_orthophoto_in_feet_below_a_surface_in_metres(write):
    utm = CRS.from_epsg(32610)
    where = around(*(c[0] for c in FAR), 300, 1.0, OREGON)
    delivered = around(*(c[0] for c in FAR), 150, 0.5, utm)
    path = write("ortho.tif", noise(3, where), where)
    place = (FAR[0][0], FAR[1][0])
    dsm = write("dsm.tif", plane_on(delivered, utm, place).astype(np.float32), delivered)
    with open_scene(inspect_scene(scene_files("a", path, dsm), PLAIN)) as scene:
        patch = scene.read(scene.grid.extent)
        assert scene.grid.gsd == pytest.approx(0.3048)
    assert patch.height_valid.all()
    assert np.abs(patch.height - plane_on(where, utm, place)).max() < 1e-4


@pytest.mark.parametrize("declared", [True, False], ids=["declared", "by the settings"])
def test_voids_and_what_lies_outside_is_not_valid(optical, write, declared):
    path, where = optical
    delivered = around(X + 5, Y, 30, 0.5, LAMBERT)  # the western edge lies within the image
    heights = plane_on(delivered, LAMBERT).astype(np.float32)
    heights[20:30, 20:40] = -9999
    dsm = write("dsm.tif", heights, delivered, nodata=-9999 if declared else 0)
    settings = PLAIN if declared else HeightSettings(ground="none", nodata=-9999, fill=0)
    patch = read(scene_files("a", path, dsm), settings)
    column, row = ~delivered.transform @ centres(where, LAMBERT)
    hole = (column > 20) & (column < 40) & (row > 20) & (row < 30)
    near = (column > 19) & (column < 41) & (row > 19) & (row < 31)
    outside = (column < 0) | (row < 0) | (row > 60)
    inside = (column > 1) & (row > 1) & (row < 59)
    assert not patch.height_valid[hole | outside].any()
    assert patch.height_valid[inside & ~near].all()
    assert (patch.height[~patch.height_valid] == 0).all()
    # Beside a void what is known is taken as it is: half a pixel off at most, never mixed with it.
    error = np.abs(patch.height - plane_on(where, LAMBERT))[patch.height_valid]
    assert error.max() < 0.5 * (0.25 + 0.15) * 0.5 * 2
    rest = patch.height_valid & inside & ~near
    assert np.abs(patch.height - plane_on(where, LAMBERT))[rest].max() < 1e-4


def test_without_a_height_raster_no_height_is_valid(optical):
    path, _ = optical
    with open_scene(inspect_scene(scene_files("a", path), DSM)) as scene:
        patch = scene.read(Window(-5, -5, 20, 30))
        assert scene.inspection.heights is None
    assert patch.height.shape == (30, 20)
    assert not patch.height.any()
    assert not patch.height_valid.any()
    assert find_scene_ground(inspect_scene(scene_files("a", path), DSM)) is None


@pytest.fixture
def hillside(optical, write):
    """A slope with a house of 6 m and a void; in another CRS and coarser than the image."""
    path, _ = optical
    delivered = around(X, Y, 80, 0.5, LAMBERT)
    heights = plane_on(delivered, LAMBERT).astype(np.float32) + 300
    heights[70:90, 75:95] += 6
    heights[100:104, 60:70] = -9999
    return scene_files("a", path, write("dsm.tif", heights, delivered, nodata=-9999)), delivered


def test_heights_count_from_the_ground(hillside, optical):
    files, delivered = hillside
    patch = read(files, DSM)
    column, row = ~delivered.transform @ centres(optical[1], LAMBERT)
    roof = (column > 77) & (column < 93) & (row > 72) & (row < 88)
    beside = (column < 72) | (column > 98) | (row < 67)
    assert np.abs(patch.height[roof] - 6).max() < 0.7
    assert np.abs(patch.height[beside & patch.height_valid]).max() < 0.7
    assert 0.9 < patch.height_valid.mean() < 1


def test_a_window_shows_the_same_as_the_whole(hillside):
    """The ground was estimated once, over the whole raster, whatever is read."""
    files, _ = hillside
    ground = find_scene_ground(inspect_scene(files, DSM))
    whole = read(files, DSM)
    for window in (Window(0, 0, 50, 50), Window(31, 64, 50, 20), Window(100, -10, 40, 60)):
        inside = window.intersection(Window(0, 0, 120, 120))
        for patch in (read(files, DSM, window), read(files, DSM, window, ground=ground)):
            part, place = inside.slices(window), inside.slices()
            assert np.array_equal(patch.height[part], whole.height[place])
            assert np.array_equal(patch.height_valid[part], whole.height_valid[place])
            assert np.array_equal(patch.optical[:, *part], whole.optical[:, *place])
            assert patch.optical_valid.sum() == inside.width * inside.height


def test_ground_below_a_surface_in_degrees(optical, write):
    path, _ = optical
    degrees = CRS.from_epsg(4326)
    delivered = around(X, Y, 1e-3, 5e-6, degrees)
    flat = np.full((delivered.height, delivered.width), 80, np.float32)
    flat[95:105, 95:105] += 5
    patch = read(scene_files("a", path, write("dsm.tif", flat, delivered)), DSM)
    assert patch.height_valid.all()
    assert patch.height.max() == pytest.approx(5, abs=0.1)
    assert np.median(patch.height) == pytest.approx(0, abs=0.1)


@pytest.mark.parametrize(
    ("settings", "difference"),
    [(DSM, 0), (PLAIN, 300), (NDSM, 300), (HeightSettings(kind="ndsm", ground="estimate"), 300)],
)
def test_ground_is_taken_off_only_absolute_heights(optical, write, settings, difference):
    path, where = optical
    dsm = write("dsm.tif", np.full((120, 120), 300, np.float32), where)
    assert read(scene_files("a", path, dsm), settings).height == pytest.approx(difference)


# Heights that cannot be


@pytest.mark.parametrize(
    ("void", "unit", "named"),
    [
        (-9999, "auto", "-9999"),
        (-9999, "foot", "-9999"),
        (-32767, "decimetre", "-32767"),
        (32767, "auto", "32767"),
        (np.finfo(np.float32).min, "auto", "-3.4028235e+38"),
        (-99999.5, "us-foot", "-99999.5"),
    ],
)
def test_undeclared_voids_are_named_with_the_remedy(optical, write, void, unit, named):
    path, where = optical
    heights = np.full((120, 120), 50, np.float32)
    heights[:40] = void
    files = scene_files("a", path, write("dsm.tif", heights, where))
    with pytest.raises(
        InputError,
        match=r"dsm\.tif has heights that look like undeclared nodata.* from .* to .* m",
    ) as caught:
        read(files, HeightSettings(unit=unit))
    assert f"declare them with height.nodata = {named} (--height-nodata)" in str(caught.value)
    said = float(str(caught.value).split("height.nodata = ")[1].split()[0])
    patch = read(files, HeightSettings(unit=unit, nodata=said, ground="none", fill=0))
    assert (~patch.height_valid).sum() == 40 * 120


@pytest.mark.parametrize("settings", [DSM, PLAIN], ids=["on opening", "on reading"])
def test_a_single_void_in_a_large_raster_is_not_overlooked(write, settings):
    where = grid(3000, 8, 0.5)
    with open_raster(write("x.tif", np.tile(np.arange(3000.0), (8, 1)), where)) as dataset:
        looked_at = read_decimated(dataset, 1024)
    heights = np.full((8, 3000), 50, np.float32)
    heights[4, min({*range(1000, 3000)} - {*looked_at[4]})] = -9999
    path, dsm = write("a.tif", noise(1, where), where), write("dsm.tif", heights, where)
    files = scene_files("a", path, dsm)
    with pytest.raises(InputError, match=r"dsm\.tif .*height\.nodata"):
        read(files, settings)
    if settings is DSM:
        with pytest.raises(InputError, match=r"height\.nodata = -9999 "):
            find_scene_ground(inspect_scene(files, settings))


def test_a_surface_without_any_height(optical, write):
    path, where = optical
    dsm = write("dsm.tif", np.full((120, 120), -9999, np.float32), where, nodata=-9999)
    with pytest.raises(InputError, match=r"dsm\.tif holds no valid height"):
        read(scene_files("a", path, dsm))


def test_an_unknown_unit_is_named(optical, write):
    path, where = optical
    dsm = write("dsm.tif", np.ones((120, 120), np.float32), where, units="fathom")
    with pytest.raises(InputError, match=r"'fathom'.*set height\.unit to one of metre, foot"):
        read(scene_files("a", path, dsm))


@pytest.mark.parametrize("key", ["elevation", "labels"])
def test_a_partner_that_does_not_overlap_is_named_with_both_extents(optical, write, key):
    path, _ = optical
    apart = around(X + 500, Y, 30, 0.5, LAMBERT)
    partner = write("partner.tif", np.ones((60, 60), np.uint8), apart)
    with pytest.raises(GridError, match=r"partner\.tif does not overlap .*ortho\.tif") as caught:
        read(scene_files("a", path, **{key: partner}))
    assert "in EPSG:32632" in str(caught.value)
    assert "x 299985 to 300015, y 5199985 to 5200015" in str(caught.value)


def test_a_partner_without_a_crs_is_named(optical, write):
    path, _ = optical
    partner = write("dsm.tif", np.ones((9, 9), np.uint8), grid(9, 9, crs=None))
    with pytest.raises(GridError, match=r"dsm\.tif has no CRS while"):
        read(scene_files("a", path, partner))


@pytest.mark.parametrize(
    ("shift", "share"), [(15, "50.0 %"), (3, "90.0 %"), (0.5, "98.3 %"), (0, "")]
)
def test_a_partner_that_covers_a_part_is_a_warning(optical, write, shift, share):
    path, _ = optical
    place = around(X + shift, Y, 30, 0.5)
    files = scene_files("a", path, write("part.tif", np.ones((60, 60), np.uint8), place))
    found = inspect_scene(files, HeightSettings(kind="ndsm")).findings
    expected = [("warning", f"{files.elevation[0]} covers {share} of {path}")] if share else []
    assert [(f.level, f.message) for f in found] == expected


# Labels


@pytest.mark.parametrize("crs", [UTM, LAMBERT])
@pytest.mark.parametrize("pixel", [0.1, 0.25, 1.1])
def test_labels_are_those_below_each_pixel_centre(optical, write, crs, pixel):
    path, where = optical
    delivered = around(X - 6, Y + 2, 30, pixel, crs)
    values = noise(1, delivered)[0] % 4
    labels = write("labels.tif", values, delivered, nodata=3)
    with open_scene(inspect_scene(scene_files("a", path, labels=labels), NDSM)) as scene:
        assert scene.inspection.labels
        decoded = scene.read_labels(where.extent, TABLE, LabelSettings())
    expected = nearest(values, delivered, where)
    expected[(expected == 3) | (expected < 0)] = 255
    assert (decoded.ids == expected).mean() > 0.999  # centres on the edge of two pixels
    assert not decoded.tally.unknown


def test_color_labels_with_alpha(optical, write):
    path, where = optical
    ids = noise(1, where)[0] % 3
    shown = np.where(noise(1, where, seed=1) > 50, 255, 0).astype(np.uint8)
    rgba = np.concatenate([TABLE.palette[ids].transpose(2, 0, 1), shown])
    labels = write("labels.tif", rgba, where, alpha=4)
    with open_scene(inspect_scene(scene_files("a", path, labels=labels), NDSM)) as scene:
        decoded = scene.read_labels(where.extent, TABLE, LabelSettings(encoding="colors"))
    assert np.array_equal(decoded.ids, np.where(shown[0] > 0, ids, 255))


def test_a_scene_without_labels(optical):
    with (
        open_scene(inspect_scene(scene_files("a", optical[0]), NDSM)) as scene,
        pytest.raises(InputError, match="scene a has no labels"),
    ):
        scene.read_labels(scene.grid.extent, TABLE, LabelSettings())


# The image


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "float32"])
@pytest.mark.parametrize("bands", [None, (1,), (4, 2, 1)])
def test_bands_are_read_raw_and_in_the_order_asked_for(write, dtype, bands):
    values = noise(5, grid(), dtype)
    path = write("a.tif", values, grid())
    with open_scene(inspect_scene(scene_files("a", path), NDSM, bands)) as scene:
        patch = scene.read(Window(1, 2, 5, 4))
        assert scene.inspection.dtype == dtype
        assert len(scene.inspection.band_names) == len(scene.inspection.bands)
    chosen = values if bands is None else values[[b - 1 for b in bands]]
    assert patch.optical.dtype == dtype
    assert np.array_equal(patch.optical, chosen[:, 2:6, 1:6])
    assert patch.optical_valid.all()


def test_a_band_that_is_not_there(optical):
    with pytest.raises(BandError, match=r"ortho\.tif has 3 bands, there is no band 4"):
        read(scene_files("a", optical[0]), bands=(1, 4))


@pytest.mark.parametrize("count", [4, 5])
def test_alpha_is_a_mask_and_no_band(write, count, caplog):
    values = noise(count, grid())
    values[-1] = np.where(values[-1] > 80, 255, 0)
    path = write("a.tif", values, grid(), alpha=count)
    patch = read(scene_files("a", path))
    assert np.array_equal(patch.optical, values[:-1])
    assert np.array_equal(patch.optical_valid, values[-1] > 0)
    assert not caplog.records


def test_infrared_marked_as_alpha_is_pointed_out_and_can_be_named(write):
    values = noise(4, grid(40, 40))
    values[3, 0, 0] = 0  # black in infrared is not nodata
    path = write("a.tif", values, grid(40, 40), alpha=4)
    (finding,) = inspect_scene(scene_files("a", path), NDSM).findings
    assert (finding.level, finding.where) == ("warning", path)
    assert f"band 4 of {path}" in finding.message
    assert "name the bands" in finding.message
    with open_scene(inspect_scene(scene_files("a", path), NDSM, (1, 2, 3, 4))) as scene:
        assert scene.inspection.band_names[-1] == "band 4"
        patch = scene.read(scene.grid.extent)
    assert np.array_equal(patch.optical, values)
    assert patch.optical_valid.all()
    assert not scene.inspection.findings


def test_only_alpha_is_no_image(write):
    path = write("a.tif", noise(1, grid()), grid(), alpha=1)
    with pytest.raises(BandError, match="no band besides alpha"):
        read(scene_files("a", path))


def test_bands_have_names(write):
    path = write("a.tif", noise(3, grid(), "uint16"), grid())
    with rasterio.open(path, "r+") as dataset:
        dataset.set_band_description(2, "near infrared")
    for gsd in (None, 1.0):
        with open_scene(inspect_scene(scene_files("a", path), NDSM, (2, 3), gsd=gsd)) as scene:
            assert scene.inspection.band_names == ("near infrared", "band 3")
    rgb = write("b.tif", noise(3, grid()), grid(), photometric="rgb")
    with open_scene(inspect_scene(scene_files("a", rgb), NDSM)) as scene:
        assert scene.inspection.band_names == ("red", "green", "blue")


def test_a_scene_of_coarser_pixels_holds_the_mean_of_the_fine(write):
    where = grid(40, 24, 0.5)
    values = noise(3, where, "uint16")
    path = write("a.tif", values, where)
    with open_scene(inspect_scene(scene_files("a", path), NDSM, gsd=1.0)) as scene:
        assert scene.grid == Grid(UTM, grid(20, 12, 1.0).transform, 20, 12)
        patch = scene.read(scene.grid.extent)
    mean = values.reshape(3, 12, 2, 20, 2).mean(axis=(2, 4))
    assert np.abs(patch.optical - mean).max() <= 0.5
    assert patch.optical_valid.all()


def test_a_scene_of_finer_pixels_is_interpolated(write):
    where = around(X, Y, 40, 1.0)
    values = (plane_on(where, UTM) * 10).astype(np.float32)
    path = write("a.tif", values, where)
    with open_scene(inspect_scene(scene_files("a", path), NDSM, gsd=0.25)) as scene:
        fine = scene.grid
        patch = scene.read(Window(8, 8, 140, 140))
    expected = plane_on(fine, UTM)[8:148, 8:148] * 10
    assert np.abs(patch.optical[0] - expected).max() < 1e-2


@pytest.mark.parametrize("factor", [0.5, 2.0])
@pytest.mark.parametrize("kind", ["nodata", "mask", "alpha", "NaN"])
def test_invalid_pixels_are_never_mixed_in_when_resampled(write, factor, kind):
    values = np.full((2, 20, 20), 100, np.float32)
    values[:, :, :10] = np.nan if kind == "NaN" else 3000
    valid = np.arange(20) >= 10
    options = {"nodata": {"nodata": 3000}, "mask": {"mask": np.tile(valid, (20, 1))}}.get(kind, {})
    if kind == "alpha":
        values[1] = np.where(valid, 255, 0)
        options = {"alpha": 2}
    path = write("a.tif", values, grid(20, 20), **options)
    patch = read(scene_files("a", path), gsd=0.5 * factor)
    half = patch.optical_valid.shape[1] // 2
    assert np.array_equal(patch.optical_valid, np.tile(np.arange(2 * half) >= half, (2 * half, 1)))
    assert np.nanmax(np.abs(patch.optical[:, patch.optical_valid] - 100)) < 1e-3


def test_a_resampled_scene_has_its_heights_and_labels_there(optical, write):
    path, where = optical
    dsm = write("dsm.tif", plane_on(where, UTM).astype(np.float32), where)
    labels = write("labels.tif", noise(1, where)[0] % 3, where)
    with open_scene(inspect_scene(scene_files("a", path, dsm, labels), PLAIN, gsd=0.75)) as scene:
        patch = scene.read(scene.grid.extent)
        ids = scene.read_labels(scene.grid.extent, TABLE, LabelSettings()).ids
    assert patch.height.shape == patch.optical.shape[1:] == ids.shape == (40, 40)
    inner = np.abs(patch.height - plane_on(scene.grid, UTM))[1:-1, 1:-1]
    assert inner.max() < 0.4 * 0.25 / 6
    assert np.array_equal(ids, noise(1, where)[0][1::3, 1::3] % 3)


def test_an_image_of_one_pixel(write):
    where = grid(1, 1)
    path = write("a.tif", np.full((3, 1, 1), 7, np.uint8), where)
    dsm = write("dsm.tif", np.full((40, 40), 5, np.float32), grid(40, 40, left=X - 5, top=Y + 5))
    labels = write(
        "labels.tif", np.full((40, 40), 2, np.uint8), grid(40, 40, left=X - 5, top=Y + 5)
    )
    with open_scene(inspect_scene(scene_files("a", path, dsm, labels), NDSM)) as scene:
        patch = scene.read(Window(0, 0, 1, 1))
        ids = scene.read_labels(Window(0, 0, 1, 1), TABLE, LabelSettings()).ids
    assert (patch.optical[0, 0, 0], patch.height[0, 0], ids[0, 0]) == (7, 5, 2)


def test_a_float_image_is_valid_where_every_band_is_a_number(write):
    values = np.ones((2, 1, 3), np.float32)
    values[1, 0, 1], values[0, 0, 2] = np.nan, np.inf
    patch = read(scene_files("a", write("a.tif", values, grid(3, 1))))
    assert patch.optical_valid.tolist() == [[True, False, False]]


def test_missing_files_are_named(optical, tmp_path):
    path, none = optical[0], str(tmp_path / "none.tif")
    for files in (
        scene_files("a", none),
        scene_files("a", path, none),
        scene_files("a", path, None, none),
    ):
        with pytest.raises(InputError, match=r"none\.tif does not exist"):
            read(files)


def test_nothing_is_logged_for_a_scene_in_order(optical, write, caplog):
    path, where = optical
    caplog.set_level(logging.DEBUG, "cafe")
    read(scene_files("a", path, write("dsm.tif", np.ones((120, 120), np.float32), where)), DSM)
    assert not [r for r in caplog.records if r.name == "cafe"]
