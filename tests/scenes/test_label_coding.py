import os

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rasterio.io import MemoryFile

from cafe_cli.classes import NODATA, ClassTable, LandClass
from cafe_cli.config.schema import LabelSettings
from cafe_cli.errors import ConfigError, InputError, LabelError
from cafe_cli.scenes.label_coding import decode, read_table, value_to_class
from tests.support.rasters import TABLE, grid

IDS = LabelSettings()
COLORS = LabelSettings(encoding="colors", ignore_colors=("#000000",))
ISPRS = ClassTable(
    tuple(
        LandClass(i, name, color)
        for i, (name, color) in enumerate(
            {
                "impervious": "#ffffff",
                "building": "#0000ff",
                "low vegetation": "#00ffff",
                "tree": "#00ff00",
                "car": "#ffff00",
                "clutter": "#ff0000",
            }.items()
        )
    )
)
_ = NODATA


def ids_of(values, classes=TABLE, settings=IDS, valid=None, dtype=np.uint8):
    raw = np.array([[values]], dtype)
    valid = np.ones(raw.shape[1:], bool) if valid is None else np.array([valid])
    decoded = decode(raw, valid, classes, settings)
    assert decoded.ids.dtype == np.uint8
    return decoded.ids[0].tolist(), dict(decoded.unknown_values)


def colors_of(*colors, settings=COLORS, valid=None):
    raw = np.array([colors], np.uint8).transpose(2, 0, 1)
    valid = np.ones(raw.shape[1:], bool) if valid is None else np.array([valid])
    decoded = decode(raw, valid, ISPRS, settings)
    return decoded.ids[0].tolist(), dict(decoded.unknown_values)


def test_ids_mean_themselves_and_unknown_ones_are_counted():
    assert ids_of([0, 1, 2, 255]) == ([0, 1, 2, _], {})
    assert ids_of([7, 1, 7, 9, 0]) == ([_, 1, _, _, 0], {7: 2, 9: 1})


def test_values_stand_for_a_class_instead_of_its_id():
    classes = ClassTable((LandClass(0, "a", values=(2, 9)), LandClass(1, "b", values=(0,))))
    assert ids_of([2, 9, 0, 1], classes) == ([0, 0, 1, _], {1: 1})


def test_ignored_values_are_no_class_and_not_unknown():
    ignoring = LabelSettings(ignore=(4, 7))
    assert ids_of([4, 7, 2, 255], settings=ignoring) == ([_, _, 2, _], {255: 1})


def test_a_class_value_that_is_ignored_is_no_class():
    ids, unknown = ids_of([0, 1], settings=LabelSettings(ignore=(255, 1)))
    assert (ids, unknown) == ([0, _], {})


def test_what_is_not_valid_is_neither_a_class_nor_unknown():
    assert ids_of([1, 9, 9, 0], valid=[False, False, True, True]) == ([_, _, _, 0], {9: 1})
    assert ids_of([9, 9], valid=[False, False]) == ([_, _], {})
    classes = ClassTable((LandClass(0, "a", values=(1,)),))
    assert ids_of([1, 5], classes, valid=[True, False]) == ([0, _], {})


@pytest.mark.parametrize("dtype", [np.int8, np.int16, np.uint16, np.int32, np.float32, np.float64])
def test_values_of_every_type(dtype):
    classes = ClassTable((LandClass(0, "a", values=(-1,)), LandClass(1, "b", values=(100,))))
    first = 0 if np.dtype(dtype).kind == "u" else -1
    expected = ([0, 1], {}) if first else ([_, 1], {0: 1})
    assert ids_of([first, 100], classes, dtype=dtype) == expected


def test_fractions_and_negative_values_have_no_class():
    assert ids_of([1.0, 1.5, -2.0], dtype=np.float32) == ([1, _, _], {1.5: 1, -2.0: 1})
    assert ids_of([300, -9999, 256], dtype=np.int16) == ([_, _, _], {300: 1, -9999: 1, 256: 1})


@given(st.lists(st.integers(0, 255), min_size=1, max_size=40))
def test_every_pixel_has_a_class_or_is_ignored_or_unknown(values):
    ids, unknown = ids_of(values)
    assert ids == [v if v < len(TABLE) else _ for v in values]
    assert sum(unknown.values()) == sum(len(TABLE) <= v < 255 for v in values)


def test_colors_of_the_benchmark():
    colors = ISPRS.palette.tolist()
    assert colors_of(*colors, [0, 0, 0]) == ([0, 1, 2, 3, 4, 5, _], {})


def test_the_nearest_color_counts_and_is_reported():
    # Potsdam 6_7 codes cars as (252, 255, 0).
    assert colors_of([252, 255, 0], [252, 255, 0]) == ([4, 4], {"#fcff00": 2})
    assert colors_of([3, 2, 250], [20, 10, 5]) == ([1, _], {"#0302fa": 1, "#140a05": 1})


def test_black_is_the_nearest_class_unless_it_is_ignored():
    ids, unknown = colors_of([0, 0, 10], settings=LabelSettings(encoding="colors"))
    assert ids[0] in (1, 3, 5)
    assert unknown == {"#00000a": 1}


def test_invalid_pixels_have_no_color():
    assert colors_of([1, 2, 3], [0, 0, 255], valid=[False, True]) == ([_, 1], {})
    assert colors_of([1, 2, 3], valid=[False]) == ([_], {})


def jpeg(rgb):
    """Send an image through lossy compression, as Potsdam 4_12 was."""
    with MemoryFile() as memory:
        size = {
            "width": rgb.shape[2],
            "height": rgb.shape[1],
            "count": 3,
            "dtype": "uint8",
            "transform": grid().transform,
        }
        options = {"compress": "jpeg", "jpeg_quality": 60, "photometric": "ycbcr"}
        with memory.open(driver="GTiff", **size, **options) as dataset:
            dataset.write(rgb)
        with memory.open() as dataset:
            return dataset.read()


def test_lossy_colors_decode_where_exact_ones_would_not():
    truth = np.kron(np.array([[0, 1, 2], [3, 4, 5]]), np.ones((24, 24), int)).astype(np.uint8)
    lossy = jpeg(ISPRS.palette[truth].transpose(2, 0, 1))
    decoded = decode(lossy, np.ones(truth.shape, bool), ISPRS, COLORS)
    inexact = (lossy.transpose(1, 2, 0) != ISPRS.palette[truth]).any(axis=-1)
    assert inexact.mean() > 0.2
    assert (decoded.ids == truth).mean() > 0.97
    assert decoded.unknown_values.total() == pytest.approx(inexact.sum(), rel=0.05)


def test_nearest_is_nearest_by_brute_force():
    raw = np.random.default_rng(0).integers(0, 256, (3, 20, 30), np.uint8)
    decoded = decode(raw, np.ones((20, 30), bool), ISPRS, COLORS)
    palette = np.array([*ISPRS.palette.tolist(), [0, 0, 0]], float)
    distance = ((raw[:, None].astype(float) - palette.T[:, :, None, None]) ** 2).sum(axis=0)
    nearest = distance.argmin(axis=0)
    assert (decoded.ids == np.where(nearest == 6, NODATA, nearest)).all()


def test_a_raster_of_the_other_kind_is_refused():
    valid = np.ones((1, 1), bool)
    with pytest.raises(LabelError, match=r"'colors', but .* 1 band.*'ids'"):
        decode(np.zeros((1, 1, 1), np.uint8), valid, TABLE, COLORS)
    with pytest.raises(LabelError, match=r"'ids', but .* 3 bands.*'colors'"):
        decode(np.zeros((3, 1, 1), np.uint8), valid, TABLE, IDS)


def test_colors_are_bytes():
    with pytest.raises(LabelError, match="uint16"):
        decode(np.full((3, 1, 1), 300, np.uint16), np.ones((1, 1), bool), TABLE, COLORS)


# --- what values mean -----------------------------------------------------------------------------


def test_values_names_and_ignored_values_have_a_meaning():
    classes = ClassTable((LandClass(0, "water", values=(5, "W")), LandClass(1, "tree")))
    assert value_to_class(classes, LabelSettings(ignore=("x", 9))) == {
        "water": 0, 5: 0, "W": 0, "tree": 1, 1: 1, "x": NODATA, 9: NODATA,
    }  # fmt: skip


def test_a_value_wins_over_a_name():
    classes = ClassTable((LandClass(0, "a", values=("b",)), LandClass(1, "b", values=("c",))))
    assert value_to_class(classes, IDS) == {"a": 0, "b": 0, "c": 1, 255: NODATA}


def test_texts_of_whole_numbers_are_numbers():
    classes = ClassTable((LandClass(0, "a", values=("5", "-7", "05", "1.5")),))
    assert set(value_to_class(classes, LabelSettings(ignore=("255",)))) == {
        "a",
        5,
        -7,
        "05",
        "1.5",
        255,
    }
    assert ids_of([5, 255], classes, LabelSettings(ignore=("255",))) == ([0, _], {})


def test_one_value_of_two_classes():
    classes = ClassTable((LandClass(0, "a", values=(5,)), LandClass(1, "b", values=("5",))))
    with pytest.raises(ConfigError, match="value '5' belongs to two classes, a and b"):
        value_to_class(classes, IDS)


@pytest.fixture
def table(tmp_path):
    def write(text, encoding="utf-8"):
        path = tmp_path / "table.csv"
        path.write_bytes(text.encode(encoding))
        return str(path)

    return write


@pytest.mark.parametrize(
    "text",
    [
        "value,class\n5,tree\n6,2\nx,\ny,ignore\n",
        "\ufeffValue; Class\r\n5;tree\r\n6;2.0\r\n\r\nx;\r\ny;ignore\r\n;;\r\n",
        "note\tclass\tvalue\n\ttree\t5\na\tbuilding\t6.0\n\t\tx\n\tignore\ty\n",
        'value,class\n"5","tree"\n"6"," 2 "\n"x"\n"y",ignore',
    ],
)
def test_tables(table, text):
    expected = {5: 1, 6: 2, "x": NODATA, "y": NODATA}
    assert read_table(table(text), TABLE) == expected


def test_a_table_replaces_the_values_of_the_classes(table):
    remapped = LabelSettings(table=table("value,class\n41,tree\n42,tree\n50,\n"), ignore=(7,))
    assert ids_of([41, 42, 50, 7, 1], settings=remapped) == ([1, 1, _, _, _], {1: 1})
    assert set(value_to_class(TABLE, remapped)) == {41, 42, 50, 7}


def test_a_name_wins_over_an_id(table):
    classes = ClassTable((LandClass(0, "1"), LandClass(1, "0")))
    assert read_table(table("value,class\n7,1\n"), classes) == {7: 0}


def test_a_table_that_changes_is_read_again(table):
    path = table("value,class\n5,tree\n")
    assert read_table(path, TABLE) == {5: 1}
    read_table(path, TABLE).clear()
    assert read_table(path, TABLE) == {5: 1}
    table("value,class\n5,building\n")
    os.utime(path, ns=(1, 1))
    assert read_table(path, TABLE) == {5: 2}
    assert read_table(path, ClassTable((LandClass(0, "building"),))) == {5: 0}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "needs the columns value and class in its first line, which has: nothing"),
        ("code,class\n1,tree\n", "needs the columns .* which has: code, class"),
        ("value,class\n", "has no rows below its header"),
        ("value,class\n1,tree\n2,bush\n", "line 3: 'bush' is no class; .*ground, tree, building"),
        ("value,class\n1,3\n", "line 2: '3' is no class"),
        ("class,value\ntree\n,\nbush\n", r"value \(none\) twice, in lines 2 and 4"),
        ("value,class\n1,tree\n2,tree\n1.0,\n", "has the value 1 twice, in lines 2 and 4"),
    ],
)
def test_tables_that_cannot_be(table, text, message):
    with pytest.raises(LabelError, match=rf"labels\.table .*table\.csv.*{message}"):
        read_table(table(text), TABLE)


def test_a_table_that_is_not_there(tmp_path):
    with pytest.raises(InputError, match=r"cannot read labels\.table nowhere\.csv: No such file"):
        read_table("nowhere.csv", TABLE)
    with pytest.raises(InputError, match=r"cannot read labels\.table .*: Is a directory"):
        read_table(str(tmp_path), TABLE)


def test_a_table_that_is_no_text(table):
    with pytest.raises(InputError, match=r"is no CSV table in UTF-8"):
        read_table(table("value,class\n1,Gew\u00e4sser\n", "latin-1"), TABLE)
