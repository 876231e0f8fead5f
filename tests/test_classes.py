import dataclasses
import json

import numpy as np
import pytest

from cafe_cli.classes import NODATA, ClassTable, LandClass
from cafe_cli.errors import ConfigError
from tests.support.rasters import TABLE


def test_a_class_fills_in_color_and_values():
    land = LandClass(3, "water")
    assert land.values == ()
    assert land.color.startswith("#")
    assert LandClass(0, "a", "#AbCdEf").color == "#abcdef"
    assert LandClass(0, "a", "#0102ff").rgb == (1, 2, 255)
    assert LandClass(0, "a", values=(7, -1)).values == (7, -1)


def test_the_first_sixteen_default_colors_differ():
    assert len({LandClass(i, str(i)).color for i in range(16)}) == 16
    assert LandClass(254, "last").color == LandClass(254 % 16, "same").color


@pytest.mark.parametrize("color", ["red", "#fff", "#12345g", "#1234567", "123456"])
def test_a_color_is_rrggbb(color):
    with pytest.raises(ConfigError, match=r"class 'a': color .* is not of the form #rrggbb"):
        LandClass(0, "a", color)


@pytest.mark.parametrize("ids", [(), (1,), (0, 2), (1, 0), (0, 0), (-1, 0), tuple(range(256))])
def test_ids_run_from_0_without_gaps(ids):
    with pytest.raises(ConfigError, match="have to run 0, 1, 2"):
        ClassTable(tuple(LandClass(i, f"class {i}", "#000000") for i in ids))


def test_255_classes_are_the_most():
    assert len(ClassTable(tuple(LandClass(i, str(i)) for i in range(NODATA)))) == 255


def test_names_and_values_belong_to_one_class():
    with pytest.raises(ConfigError, match="names occur more than once"):
        ClassTable((LandClass(0, "a"), LandClass(1, "a")))
    with pytest.raises(ConfigError, match=r"label values \[1\] belong to more than one"):
        ClassTable((LandClass(0, "a", values=(0, 1)), LandClass(1, "b", values=(1,))))


def test_a_table_is_a_sequence_by_id():
    assert [c.name for c in TABLE] == list(TABLE.names) == ["ground", "tree", "building"]
    assert (len(TABLE), TABLE[1].name, TABLE[-1].name) == (3, "tree", "building")
    assert TABLE.palette.tolist() == [[255, 255, 255], [0, 255, 0], [0, 0, 255]]
    assert TABLE.colormap == {
        0: (255, 255, 255, 255), 1: (0, 255, 0, 255), 2: (0, 0, 255, 255), 255: (0, 0, 0, 0)
    }  # fmt: skip
    with pytest.raises(dataclasses.FrozenInstanceError):
        TABLE.classes = ()


def test_painting_leaves_nodata_white():
    painted = TABLE.paint(np.array([[1, 2, NODATA]], np.uint8))
    assert painted.tolist() == [[[0, 255, 0], [0, 0, 255], [255, 255, 255]]]


def test_json_and_back():
    table = ClassTable((LandClass(0, "été"), LandClass(1, "<b>", "#010203", scored=False)))
    again = ClassTable.from_json(json.loads(json.dumps(table.as_json())))
    assert again == table
    assert again.scored.tolist() == [True, False]
