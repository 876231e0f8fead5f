"""Maps that other tools write, in sheets and with nodata of their own."""

import logging

import numpy as np
import pytest
import rasterio
from rasterio.enums import ColorInterp

from cafe_cli.classes import ClassTable, LandClass
from cafe_cli.config.schema import LabelSettings
from cafe_cli.errors import BandError, InputError, LabelError
from cafe_cli.evaluation.evaluate import evaluate
from cafe_cli.evaluation.land_cover_map import inspect_map
from cafe_cli.raster.window import Window
from cafe_cli.raster.writer import create_cog
from tests.support.rasters import TABLE, grid, write

WHERE = grid(40, 30)
IDS = np.random.default_rng(0).integers(0, 3, (30, 40), np.uint8)


def read(path, table=TABLE, where=WHERE):
    with inspect_map(str(path)).open(where, table) as reader:
        return reader.read(where.extent)


@pytest.mark.parametrize(
    "dtype", ["uint8", "int16", "uint16", "int32", "uint32", "float32", "float64"]
)
def test_any_data_type_with_class_ids_is_a_map(tmp_path, dtype):
    write(tmp_path / "map.tif", IDS.astype(dtype), WHERE)
    assert (read(tmp_path / "map.tif").ids == IDS).all()


@pytest.mark.parametrize(
    ("dtype", "void"),
    [("int16", -1), ("int32", -9999), ("uint16", 65535), ("float32", np.nan), ("float64", -1e38)],
)
def test_nodata_of_other_tools_is_no_class(tmp_path, dtype, void):
    values = IDS.astype(dtype)
    values[:5] = void
    write(tmp_path / "map.tif", values, WHERE, nodata=void)
    found = read(tmp_path / "map.tif")
    assert (found.ids[:5] == 255).all()
    assert (found.ids[5:] == IDS[5:]).all()
    assert (found.hidden == 255).all()


@pytest.mark.parametrize(
    ("dtype", "value"), [("float32", 0.5), ("int16", -1), ("uint16", 300), ("float64", np.inf)]
)
def test_values_that_are_no_class_ids_are_named(tmp_path, dtype, value):
    values = IDS.astype(dtype)
    values[3, 4] = value
    write(tmp_path / "map.tif", values, WHERE)
    with pytest.raises(LabelError, match=rf"map.tif holds the value {value}, .* 0 to 2"):
        read(tmp_path / "map.tif")


@pytest.mark.parametrize("moved", [0, 0.1])
@pytest.mark.parametrize(
    ("dtype", "nodata", "name"),
    [("uint8", 0, "a"), ("int32", 1, "b"), ("float32", 2, "c")],
)
def test_a_declared_nodata_that_is_a_class_is_refused_with_its_pixels(
    tmp_path, dtype, nodata, name, moved
):
    table = ClassTable(tuple(LandClass(i, n) for i, n in enumerate("abc")))
    where = grid(40, 30, left=WHERE.transform.c + moved)  # warped if it is moved
    write(tmp_path / "map.tif", IDS.astype(dtype), where, nodata=nodata)
    truth = IDS.copy()
    truth[:, 20:] = 255
    write(tmp_path / "truth.tif", truth, WHERE, nodata=255)
    count = int((IDS[:, :20] == nodata).sum())
    said = rf"declares nodata {nodata}, .* class {name}: {count} pixels .*-srcnodata {nodata} "
    with pytest.raises(LabelError, match=said):
        evaluate(str(tmp_path / "map.tif"), str(tmp_path / "truth.tif"), classes=table)


def test_a_nodata_that_is_a_class_may_lie_where_nothing_is_labelled(tmp_path):
    values = IDS.clip(1)
    values[:10] = 0
    write(tmp_path / "map.tif", values, WHERE, nodata=0)
    truth = np.where(values == 0, 255, IDS.clip(1)).astype(np.uint8)
    write(tmp_path / "truth.tif", truth, WHERE, nodata=255)
    found = evaluate(str(tmp_path / "map.tif"), str(tmp_path / "truth.tif"), classes=TABLE)
    assert (found.overall_accuracy, found.pixels) == (1, 20 * 40)


def test_a_sheet_without_that_nodata_may_hold_the_class(tmp_path):
    left, right = Window(0, 0, 20, 30), Window(20, 0, 20, 30)
    write(tmp_path / "1.tif", IDS[:, :20].clip(1), WHERE.at(left), nodata=0)
    write(tmp_path / "2.tif", IDS[:, 20:], WHERE.at(right), nodata=255)
    found = read(tmp_path)
    assert (found.ids[:, 20:] == IDS[:, 20:]).all()
    assert (found.hidden == 255).all()


def sheets(folder):
    for i in range(4):
        part = Window(10 * i, 0, 10, 30)
        with create_cog(folder / f"{i}.tif", WHERE.at(part), False, TABLE) as dataset:
            dataset.write(IDS[part.slices()], 1)


@pytest.mark.parametrize("name", ["", "*.tif", "[0-3].tif", "{n}.tif", "@"])
def test_sheets_are_one_map(tmp_path, name):
    sheets(tmp_path)
    (tmp_path / "list.txt").write_text("\n".join(str(tmp_path / f"{i}.tif") for i in range(4)))
    given = f"@{tmp_path / 'list.txt'}" if name == "@" else tmp_path / name
    assert (read(given).ids == IDS).all()
    map_ = inspect_map(str(given))
    assert map_.grid.same_pixels(WHERE)
    assert map_.classes is not None
    assert map_.classes.names == TABLE.names


def test_sheets_of_other_classes_are_no_sheets(tmp_path):
    sheets(tmp_path)
    other = ClassTable((LandClass(0, "sand"),))
    with create_cog(tmp_path / "9.tif", WHERE, False, other) as dataset:
        dataset.write(np.zeros_like(IDS), 1)
    with pytest.raises(LabelError, match=r"0.tif has the classes .*9.tif has sand"):
        inspect_map(str(tmp_path))


def test_what_is_no_map(tmp_path):
    write(tmp_path / "rgb.tif", np.stack([IDS] * 3), WHERE)
    with pytest.raises(BandError, match=r"rgb.tif has 3 bands"):
        inspect_map(str(tmp_path / "rgb.tif"))
    with pytest.raises(InputError, match=r"gone.tif does not exist"):
        inspect_map(str(tmp_path / "gone.tif"))


def test_an_alpha_band_is_a_mask(tmp_path, caplog):
    alpha = np.full_like(IDS, 255)
    alpha[:7] = 0
    path = write(tmp_path / "map.tif", np.stack([IDS, alpha]), WHERE)
    with rasterio.open(path, "r+") as dataset:
        dataset.colorinterp = [ColorInterp.gray, ColorInterp.alpha]
    with caplog.at_level(logging.WARNING, "cafe"):
        found = read(path)
    assert (found.ids[:7] == 255).all()
    assert (found.ids[7:] == IDS[7:]).all()
    assert caplog.text == ""


def test_settings_of_labels_do_not_touch_the_map(tmp_path):
    write(tmp_path / "map.tif", IDS, WHERE)
    write(tmp_path / "truth.tif", IDS, WHERE)
    found = evaluate(
        str(tmp_path / "map.tif"),
        str(tmp_path / "truth.tif"),
        classes=TABLE,
        labels=LabelSettings(ignore=(0,)),
    )
    assert found.pixels == int((IDS > 0).sum())
    assert found.overall_accuracy == 1
