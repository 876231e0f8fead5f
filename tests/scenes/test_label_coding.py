import os
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rasterio.io import MemoryFile

from cafe_cli.classes import NODATA, ClassTable, LandClass
from cafe_cli.config.schema import LabelSettings
from cafe_cli.errors import ConfigError, InputError, LabelError
from cafe_cli.scenes.label_coding import (
    Covered,
    LabelTally,
    decode,
    explain_nodata,
    explain_unknown,
    needs_cover,
)
from cafe_cli.scenes.label_values import read_table, value_to_class
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
    return decoded.ids[0].tolist(), dict(decoded.tally.unknown)


def colors_of(*colors, settings=COLORS, valid=None):
    raw = np.array([colors], np.uint8).transpose(2, 0, 1)
    valid = np.ones(raw.shape[1:], bool) if valid is None else np.array([valid])
    decoded = decode(raw, valid, ISPRS, settings)
    return decoded.ids[0].tolist(), dict(decoded.tally.unknown)


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
    assert ids_of([1.0, 1.5, -2.0], dtype=np.float32) == ([1, _, _], {"1.5": 1, -2: 1})
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
    assert decoded.tally.unknown.total() == pytest.approx(inexact.sum(), rel=0.05)


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
    assert value_to_class(classes, LabelSettings(ignore=("x", 9))).exact == {
        "water": 0, 5: 0, "W": 0, "tree": 1, 1: 1, "x": NODATA, 9: NODATA,
    }  # fmt: skip


def test_a_value_wins_over_a_name():
    classes = ClassTable((LandClass(0, "a", values=("b",)), LandClass(1, "b", values=("c",))))
    assert value_to_class(classes, IDS).exact == {"a": 0, "b": 0, "c": 1, 255: NODATA}


def test_texts_of_whole_numbers_are_numbers():
    classes = ClassTable((LandClass(0, "a", values=("5", "-7", "05", "1.5")),))
    assert set(value_to_class(classes, LabelSettings(ignore=("255",))).exact) == {
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
    assert set(value_to_class(TABLE, remapped).exact) == {41, 42, 50, 7}


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
        (
            "value,class\n1,tree\n2,bush\n",
            "line 3: 'bush' is not a class; .*ground, tree, building",
        ),
        ("value,class\n1,3\n", "line 2: '3' is not a class"),
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
    with pytest.raises(InputError, match=r"is not a CSV table in UTF-8"):
        read_table(table("value,class\n1,Gew\u00e4sser\n", "latin-1"), TABLE)


# --- values that are a class's and nothing --------------------------------------------------------


def classes_of(*values):
    return ClassTable(tuple(LandClass(i, f"c{i}", values=v) for i, v in enumerate(values)))


@pytest.mark.parametrize("values", [(255,), ("255",), (7, 255), ("250..300",)])
def test_a_value_of_a_class_is_not_ignored_by_default(values):
    assert ids_of([0, 255], classes_of((), values)) == ([0, 1], {})
    assert ids_of([3, 255], classes_of((3,), values), dtype=np.int32) == ([0, 1], {})


def test_a_table_takes_255_too(table):
    remapped = LabelSettings(table=table("value,class\n255,tree\n0,ground\n"))
    assert ids_of([0, 255], settings=remapped) == ([0, 1], {})
    twice = LabelSettings(table=table("value,class\n255,tree\n"), ignore=(255,))
    with pytest.raises(ConfigError, match=r"255 is a value of 'tree \(labels\.table\)' and in"):
        value_to_class(TABLE, twice)


@pytest.mark.parametrize(
    ("values", "ignored", "message"),
    [
        ((255,), (255,), r"^255 is a value of 'c1' and in labels\.ignore: remove it from one"),
        (("255",), (0, 255), r"255 is a value of 'c1'"),
        ((-1, 5), ("-1",), r"-1 is a value of 'c1'"),
        (("W",), ("W",), r"W is a value of 'c1'"),
        (("1.5",), ("1.5",), r"1\.5 is a value of 'c1'"),
        ((7,), ("5..9",), r"7 is a value of 'c1' and in labels\.ignore \(as 5\.\.9\)"),
        (("5..300",), (255,), r"5\.\.300 is a value of 'c1' and in labels\.ignore \(as 255\)"),
        (("*",), ("*",), r"\* is a value of 'c1'"),
    ],
)
def test_a_value_of_a_class_that_is_ignored_on_purpose(values, ignored, message):
    with pytest.raises(ConfigError, match=message):
        value_to_class(classes_of(("x",), values), LabelSettings(ignore=ignored))


def test_the_id_of_a_class_may_be_ignored_on_purpose():
    assert ids_of([0, 1, 1], settings=LabelSettings(ignore=(1,))) == ([0, _, _], {})
    found = decode(np.array([[[1, 1]]]), np.ones((1, 2), bool), TABLE, LabelSettings(ignore=(1,)))
    assert found.tally.ignored == {1: 2}


def covered_ids(values, valid, classes, settings=IDS, nodata=0.0, dtype=np.uint8, where=None):
    raw = np.array([[values]], dtype)
    where = np.ones(raw.shape[1:], bool) if where is None else np.array([where])
    covered = Covered(where, [nodata])
    decoded = decode(raw, np.array([valid]), classes, settings, covered)
    return decoded.ids[0].tolist(), dict(decoded.tally.declared)


@pytest.mark.parametrize(
    ("nodata", "dtype"),
    [(0.0, np.uint8), (255.0, np.uint8), (-1.0, np.int16), (65535.0, np.uint16),
     (-9999.0, np.int32), (-9999.0, np.float32)],
)  # fmt: skip
def test_nodata_that_a_class_names_is_the_class(nodata, dtype):
    classes = classes_of((int(nodata),), (7,))
    assert needs_cover([nodata], classes, IDS)
    values, valid = [int(nodata), 7, int(nodata)], [False, True, False]
    found = covered_ids(values, valid, classes, IDS, nodata, dtype, [True, True, False])
    assert found == ([0, 1, _], {nodata: 1})


def test_nodata_in_a_range_or_a_table_is_the_class(table):
    assert covered_ids([0], [False], classes_of((7,), ("0..5",))) == ([1], {0: 1})
    remapped = LabelSettings(table=table("value,class\n0,tree\n9,ground\n"))
    assert covered_ids([0], [False], TABLE, remapped) == ([1], {0: 1})


def test_nodata_that_is_the_id_of_a_class_is_left_out_and_counted():
    assert covered_ids([0, 1, 0], [False, True, False], TABLE) == ([_, 1, _], {0: 2})
    (said,) = explain_nodata(LabelTally(declared=Counter({0: 1234})), TABLE, IDS)
    assert "1,234 label pixels are 0, which their raster declares as nodata" in said
    assert "the id of 'ground': they are left out" in said
    assert "values = [0]" in said
    ignoring = LabelSettings(ignore=(0,))
    assert not needs_cover([0.0], TABLE, ignoring)


def test_nodata_that_no_class_names_needs_no_word():
    assert not needs_cover([255.0, -1.0, 9.0], TABLE, IDS)
    assert not needs_cover([9.0], classes_of((), ("*",)), IDS)
    assert covered_ids([9, 1], [False, True], classes_of((), ("*",)), nodata=9.0) == ([_, 1], {})


def test_masked_pixels_with_the_value_of_a_class_stay_out():
    assert covered_ids([1, 1], [False, True], classes_of((7,), (1,)), nodata=0.0) == ([_, 1], {})


@pytest.mark.parametrize(
    ("nodata", "color"), [(255.0, "#ffffff"), (0.0, "#000000"), (7.0, "#070707")]
)
def test_nodata_that_is_the_colour_of_a_class(nodata, color):
    classes = ClassTable((LandClass(0, "a", color), LandClass(1, "b", "#ff0000")))
    settings = LabelSettings(encoding="colors")
    assert needs_cover([nodata], classes, settings)
    raw = np.array([[[nodata] * 3, [255, 0, 0], [nodata] * 3]], np.uint8).transpose(2, 0, 1)
    valid, where = np.array([[False, True, False]]), np.array([[True, True, False]])
    found = decode(raw, valid, classes, settings, Covered(where, [nodata]))
    assert found.ids.tolist() == [[0, 1, _]]
    assert found.tally.declared == {color: 1}
    (said,) = explain_nodata(found.tally, classes, settings)
    assert "give to 'a': they count as 'a'" in said
    assert not needs_cover([9.0], classes, settings)


def test_unlabelled_ground_of_a_raster_has_a_class():
    settings = LabelSettings(unlabelled="GROUND")
    valid, where = [True, False, False, True], [True, True, False, True]
    found = covered_ids([1, 99, 99, 255], valid, TABLE, settings, 99.0, where=where)
    assert found == ([1, 0, _, 0], {})
    ignoring = LabelSettings(unlabelled="ground", ignore=(255,))
    assert covered_ids([1, 255], [True, True], TABLE, ignoring) == ([1, _], {})
    with pytest.raises(ConfigError, match=r"labels\.unlabelled is 'gras'.*ground, tree, building"):
        covered_ids([9], [False], TABLE, LabelSettings(unlabelled="gras"))


# --- other values, ranges and names ---------------------------------------------------------------


def test_a_star_is_every_other_value():
    assert ids_of([0, 5, 300, -7], classes_of((0,), ("*",)), dtype=np.int16) == ([0, 1, 1, 1], {})
    assert ids_of([4, 5, 9], classes_of((4,), ("5..6",), ("*",))) == ([0, 1, 2], {})
    assert ids_of([0.5, 0], classes_of((0,), ("*",)), dtype=np.float32) == ([1, 0], {})


def test_a_star_may_ignore_the_rest(table):
    remapped = LabelSettings(table=table("value,class\n5,tree\n*,\n"))
    assert ids_of([5, 6, 255], settings=remapped) == ([1, _, _], {})
    assert ids_of([1, 77], settings=LabelSettings(ignore=("*",))) == ([1, _], {})


def test_a_star_does_not_take_what_is_ignored_by_default_in_silence():
    classes = classes_of((0,), ("*",))
    found = decode(np.array([[[0, 5, 255]]], np.uint8), np.ones((1, 3), bool), classes, IDS)
    assert found.ids.tolist() == [[0, 1, _]]
    (said,) = explain_nodata(found.tally, classes, IDS)
    assert "1 label pixels are 255" in said
    assert "labels.ignore = []" in said
    assert ids_of([255], classes, LabelSettings(ignore=())) == ([1], {})
    ignoring = LabelSettings(ignore=(255,))
    assert not list(explain_nodata(found.tally, classes, ignoring))


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int32, np.float64])
def test_ranges_include_both_ends(dtype):
    classes = classes_of(("10..19",), ("20..29", 40))
    expected = ([_, 0, 0, 1, 1, _, 1], {9: 1, 30: 1})
    assert ids_of([9, 10, 19, 20, 29, 30, 40], classes, dtype=dtype) == expected


def test_ranges_may_be_negative_and_hold_fractions():
    classes = classes_of(("-5..-1",), ("0.5..1.5",), ("2..2",))
    expected = ([0, 1, _, 2], {"0.25": 1})
    assert ids_of([-2, 1.25, 0.25, 2], classes, dtype=np.float32) == expected
    assert ids_of([-5, -1], classes, dtype=np.int8) == ([0, 0], {})


def test_a_fraction_as_text_is_that_of_the_raster():
    assert ids_of([1.1, 2.5], classes_of(("1.1",), ("2.5",)), dtype=np.float32) == ([0, 1], {})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([("1..5",), (3,)], r"label values 1\.\.5 of c0 and 3 of c1 overlap"),
        ([("1..5",), ("5..9",)], r"1\.\.5 of c0 and 5\.\.9 of c1 overlap"),
        ([("0..100", "20..30"), ("50",)], r"0\.\.100 of c0 and 50 of c1 overlap"),
        ([("9..1",), ()], r"9\.\.1 of c0: write the lower number first"),
    ],
)
def test_ranges_that_cannot_be(values, message):
    with pytest.raises(ConfigError, match=message):
        value_to_class(classes_of(*values), IDS)


def test_a_value_beats_the_id_of_another_class():
    assert ids_of([0, 1], classes_of((1,), ())) == ([_, 0], {0: 1})
    assert ids_of([0, 2], classes_of(("1..5",), (), ())) == ([_, 0], {0: 1})


def test_names_match_whatever_their_case_unless_two_do():
    assert [value_to_class(TABLE, IDS).find(n) for n in ("Tree", "BUILDING", "bush")] == [
        1,
        2,
        None,
    ]
    two = ClassTable((LandClass(0, "tree"), LandClass(1, "Tree")))
    assert [value_to_class(two, IDS).find(n) for n in ("tree", "Tree", "TREE")] == [0, 1, None]
    codes = classes_of(("W",), ("w2",))
    assert value_to_class(codes, IDS).find("w") is None


def test_classes_of_tables_match_whatever_their_case(table):
    assert read_table(table("value,class\n5,Tree\n6, BUILDING \n"), TABLE) == {5: 1, 6: 2}


def test_misspelt_names_are_suggested():
    said = explain_unknown(Counter({99: 7, "buildng": 3}), TABLE)
    assert "99 (7 px), buildng (3 px); for buildng, did you mean 'building'?; add" in said
    assert '"*" all other values' in said
