import numpy as np
import pytest

from cafe_cli.classes import NODATA, ClassTable, LandClass
from cafe_cli.config.schema import HeightSettings, LabelSettings
from cafe_cli.scenes.inspection import inspect_scene
from cafe_cli.scenes.scene import open_scene
from tests.support.rasters import LAMBERT, TABLE, around, grid, moved, nearest, noise, scene_files

IDS = LabelSettings()
PLACE = grid(24, 20)
_ = NODATA


def named(*values):
    return ClassTable(tuple(LandClass(i, f"c{i}", values=v) for i, v in enumerate(values)))


def decoded(write, *labels, classes=TABLE, settings=IDS, where=PLACE):
    image = write("a.tif", noise(1, where), where)
    files = scene_files("a", image, labels=list(labels))
    with open_scene(inspect_scene(files, HeightSettings(), labels=settings)) as scene:
        return scene.read_labels(where.extent, classes, settings)


@pytest.mark.parametrize(
    ("dtype", "nodata"),
    [("uint8", 0), ("uint8", 255), ("int16", -1), ("uint16", 300), ("int32", -9999),
     ("float32", 0), ("float32", -9999)],
)  # fmt: skip
@pytest.mark.parametrize(
    "delivered", [PLACE, moved(PLACE, 0.3, 0.2), around(300_006, 5_199_995, 40, 0.4, LAMBERT)]
)
def test_nodata_that_a_class_names_is_the_class(write, dtype, nodata, delivered):
    held = np.array([7, nodata])[noise(1, delivered)[0] % 2]
    labels = write("labels.tif", held.astype(dtype), delivered, nodata=nodata)
    found = decoded(write, labels, classes=named((7,), (nodata,)))
    inside = nearest(held == nodata, delivered, PLACE)
    expected = np.where(inside < 0, _, inside)
    assert (found.ids == expected).mean() > 0.99  # centres on the edge of two pixels
    assert found.tally.declared == {nodata: int((found.ids == 1).sum())}


@pytest.mark.parametrize("delivered", [PLACE, moved(PLACE, 0.3, 0.2)])
def test_nodata_that_is_an_id_is_left_out_and_counted(write, delivered):
    held = noise(1, delivered)[0] % 3
    found = decoded(write, write("labels.tif", held, delivered, nodata=0))
    expected = nearest(held, delivered, PLACE)
    assert np.array_equal(found.ids, np.where(expected <= 0, _, expected))
    assert found.tally.declared == {0: int((expected == 0).sum())}


def test_data_of_another_raster_comes_before_nodata_of_a_class(write):
    first, second = (np.full((20, 24), v, np.uint8) for v in (0, 7))
    first[:, 20:] = 7
    second[:10] = 0
    paths = [write(f"{i}.tif", v, PLACE, nodata=0) for i, v in enumerate((first, second))]
    found = decoded(write, *paths, classes=named((0,), (7,)))
    expected = np.ones((20, 24), int)
    expected[:10, :20] = 0
    assert np.array_equal(found.ids, expected)
    assert found.tally.declared == {0: 200}


def test_what_a_mask_hides_stays_out_whatever_its_value(write):
    mask = noise(1, PLACE)[0] > 90
    labels = write("labels.tif", np.zeros((20, 24), np.uint8), PLACE, mask=mask)
    found = decoded(write, labels, classes=named((0,), (7,)))
    assert np.array_equal(found.ids, np.where(mask, 0, _))
    assert not found.tally.declared


@pytest.mark.parametrize("delivered", [PLACE, moved(PLACE, 0.3, 0.2), grid(12, 20)])
@pytest.mark.parametrize("nodata", [255, 99, None])
def test_unlabelled_ground_is_where_a_raster_has_no_data(write, delivered, nodata):
    held = np.where(noise(1, delivered)[0] > 128, 1, nodata or 255).astype(np.uint8)
    found = decoded(
        write,
        write("labels.tif", held, delivered, nodata=nodata),
        settings=LabelSettings(unlabelled="building"),
    )
    expected = nearest(np.where(held == 1, 1, 2), delivered, PLACE)
    assert np.array_equal(found.ids, np.where(expected < 0, _, expected))


@pytest.mark.parametrize("delivered", [PLACE, moved(PLACE, 0.3, 0.2)])
@pytest.mark.parametrize("nodata", [255, 0])
def test_colours_that_are_nodata(write, delivered, nodata):
    colors = [f"#{nodata:02x}" * 1 + 2 * f"{nodata:02x}", "#ffff00", "#00ff07"]
    classes = ClassTable(tuple(LandClass(i, f"c{i}", c) for i, c in enumerate(colors)))
    ids = noise(1, delivered)[0] % 3
    labels = write("labels.tif", classes.palette[ids].transpose(2, 0, 1), delivered, nodata=nodata)
    found = decoded(write, labels, classes=classes, settings=LabelSettings(encoding="colors"))
    expected = nearest(ids, delivered, PLACE)
    assert np.array_equal(found.ids, np.where(expected < 0, _, expected))
    assert found.tally.declared == {colors[0]: int((expected == 0).sum())}
