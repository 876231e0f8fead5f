import os
from collections import Counter

import numpy as np
import pyogrio.raw
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from rasterio.io import MemoryFile

from cafe_cli.classes import NODATA, ClassTable, LandClass
from cafe_cli.config.schema import LabelSettings
from cafe_cli.errors import ConfigError, GridError, InputError, LabelError
from cafe_cli.raster.window import Window, blocks
from cafe_cli.scenes.label_coding import decode, read_table, value_to_class
from cafe_cli.scenes.vector_labels import VectorLabels
from cafe_cli.vector.features import Features
from tests.support.rasters import LAMBERT, TABLE, UTM, grid

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
    with pytest.raises(InputError, match=r"is no CSV text in UTF-8"):
        read_table(table("value,class\n1,Gew\u00e4sser\n", "latin-1"), TABLE)


# --- vectors --------------------------------------------------------------------------------------

SCENE = Window(0, 0, 12, 8)
LEFT, RIGHT = shapely.box(0, 0, 6, 8), shapely.box(4, 0, 12, 8)


def vectors(*pairs):
    """Return the labels of geometries in pixels, each with a value."""
    geometries, values = zip(*pairs, strict=True) if pairs else ((), ())
    return VectorLabels([Features("a", np.array(geometries, object), list(values))], SCENE)


def row_of(labels, settings=IDS, classes=TABLE, window=SCENE):
    """Return the first row of the ids, of which all are alike."""
    decoded = labels.read(window, classes, settings)
    assert decoded.ids.dtype == np.uint8
    assert decoded.ids.shape == (window.height, window.width)
    assert (decoded.ids == decoded.ids[0]).all()
    return decoded.ids[0].tolist(), dict(decoded.unknown_values)


def test_values_of_features_become_ids():
    assert row_of(vectors((LEFT, 0), (RIGHT, 1))) == ([0] * 4 + [1] * 8, {})


@pytest.mark.parametrize("value", [1, "1", "tree", "T"])
def test_values_names_and_numbers_as_text(value):
    classes = ClassTable((LandClass(0, "ground"), LandClass(1, "tree", values=(1, "T"))))
    assert row_of(vectors((LEFT, value)), classes=classes) == ([1] * 6 + [_] * 6, {})


def test_what_has_no_class_is_counted_in_pixels():
    labels = vectors((LEFT, "bush"), (RIGHT, 1), (shapely.box(9, 0, 10, 8), None))
    assert row_of(labels) == (
        [_] * 4 + [1] * 5 + [_] + [1] * 2,
        {"bush": 32, "(none)": 8},
    )
    assert labels.read(Window(3, 0, 2, 5), TABLE, IDS).unknown_values == {"bush": 5}


def test_a_fraction_has_no_class_unless_it_is_named():
    assert row_of(vectors((LEFT, 1.5))) == ([_] * 12, {"1.5": 48})
    named = ClassTable((LandClass(0, "a", values=("1.5",)),))
    assert row_of(vectors((LEFT, 1.5)), classes=named) == ([0] * 6 + [_] * 6, {})


def test_what_is_hidden_is_not_counted():
    assert row_of(vectors((LEFT, "bush"), (LEFT, 1))) == ([1] * 6 + [_] * 6, {})


def test_ignored_features_cover_what_lies_below():
    ignoring = LabelSettings(ignore=("shade", "(none)"))
    labels = vectors((LEFT, 1), (shapely.box(0, 0, 2, 8), "shade"), (shapely.box(2, 0, 4, 8), None))
    assert row_of(labels, ignoring) == ([_] * 4 + [1] * 2 + [_] * 6, {})


def test_tables_hold_for_vectors_too(table):
    remapped = LabelSettings(table=table("value,class\nUrban,building\n30,tree\n,ground\n"))
    labels = vectors((LEFT, "Urban"), (RIGHT, 30), (shapely.box(11, 0, 12, 8), None))
    assert row_of(labels, remapped) == ([2] * 4 + [1] * 7 + [0], {})
    assert row_of(vectors((LEFT, "tree")), remapped) == ([_] * 12, {"tree": 48})


def test_the_later_feature_wins_without_priority():
    assert row_of(vectors((RIGHT, 2), (LEFT, 1)))[0] == [1] * 6 + [2] * 6
    assert row_of(vectors((LEFT, 1), (RIGHT, 2)))[0] == [1] * 4 + [2] * 8


@given(st.permutations([0, 1, 2, 3]))
@settings(max_examples=24)
def test_priority_decides_whatever_the_order(order):
    strips = [(0, 6, "building"), (2, 8, "tree"), (4, 10, "ground"), (5, 12, "shade")]
    drawn = [(shapely.box(a, 0, b, 8), v) for a, b, v in (strips[i] for i in order)]
    first = LabelSettings(priority=("building", "tree", "ground"), ignore=("shade",))
    expected = [2] * 6 + [1] * 2 + [0] * 2 + [_] * 2
    assert row_of(vectors(*drawn), first) == (expected, {})


def test_what_is_not_listed_lies_below_in_its_order():
    labels = vectors((LEFT, 2), (RIGHT, 0), (shapely.box(3, 0, 9, 8), 1))
    assert row_of(labels, LabelSettings(priority=("building",)))[0] == [2] * 6 + [1] * 3 + [0] * 3
    assert row_of(labels, LabelSettings(priority=("ground",)))[0] == [2] * 3 + [1] + [0] * 8


def test_all_touched_reaches_further():
    labels = vectors((shapely.box(2.7, 0, 5.2, 8), 1))
    assert row_of(labels)[0] == [_] * 3 + [1] * 2 + [_] * 7
    assert row_of(labels, LabelSettings(all_touched=True))[0] == [_] * 2 + [1] * 4 + [_] * 6


def test_unlabelled_ground_can_have_a_class():
    filled = LabelSettings(unlabelled="ground", ignore=("shade",))
    labels = vectors((shapely.box(2, 0, 4, 8), 1), (shapely.box(6, 0, 8, 8), "shade"))
    expected = [0, 0, 1, 1, 0, 0, _, _, 0, 0, 0, 0]
    assert row_of(labels, filled) == (expected, {})
    assert row_of(vectors(), filled) == ([0] * 12, {})
    assert row_of(vectors()) == ([_] * 12, {})


def test_outside_the_scene_there_are_no_labels():
    labels = vectors((shapely.box(-5, -5, 20, 20), 1), (shapely.box(-3, -3, 0, 20), "bush"))
    filled = LabelSettings(unlabelled="ground")
    window = Window(-2, -3, 16, 20)
    decoded = labels.read(window, TABLE, filled)
    inside = np.zeros((20, 16), bool)
    inside[SCENE.slices(window)] = True
    assert (decoded.ids == np.where(inside, 1, _)).all()
    assert not decoded.unknown_values
    assert (labels.read(Window(50, 50, 3, 2), TABLE, filled).ids == np.full((2, 3), _)).all()


@given(st.data(), st.booleans())
@settings(max_examples=30)
def test_windows_make_up_the_scene(data, all_touched):
    corners = st.tuples(*[st.integers(-8, 104).map(lambda n: n / 8)] * 2)
    rings = st.lists(corners, min_size=3, max_size=6).map(shapely.Polygon)
    values = st.sampled_from([0, 1, "tree", "bush", None])
    pairs = data.draw(st.lists(st.tuples(rings, values), min_size=1, max_size=5))
    labels = vectors(*pairs)
    chosen = LabelSettings(all_touched=all_touched, priority=("tree",), unlabelled="building")
    whole = labels.read(SCENE, TABLE, chosen)
    parts = [(w, labels.read(w, TABLE, chosen)) for w in blocks(12, 8, 5)]
    assert all((part.ids == whole.ids[w.slices()]).all() for w, part in parts)
    together = sum((part.unknown_values for _, part in parts), start=Counter())
    assert together == whole.unknown_values


def test_features_are_counted_by_value():
    labels = vectors((LEFT, 1), (RIGHT, "1"), (LEFT, "bush"), (LEFT, None), (LEFT, 2.5))
    assert labels.counts == {1: 2, "bush": 1, "(none)": 1, "2.5": 1}


def test_large_features_are_read_in_pieces():
    angle = np.linspace(0, 2 * np.pi, 5000, endpoint=False)
    places = np.stack([500 + 480 * np.cos(angle), 500 + 480 * np.sin(angle)], axis=-1)
    disc = Features("a", np.array([shapely.Polygon(places)], object), ["tree"])
    labels = VectorLabels([disc], Window(0, 0, 1000, 1000))
    ids = labels.read(Window(0, 0, 1000, 1000), TABLE, IDS).ids
    rows, columns = np.mgrid[:1000, :1000] + 0.5
    assert ((ids == 1) == (np.hypot(rows - 500, columns - 500) < 480)).mean() > 0.9999
    assert labels.counts == {"tree": 1}


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        (
            LabelSettings(unlabelled="bush"),
            "unlabelled is 'bush', which is neither 'ignore' nor a class; .*ground, tree, building",
        ),
        (
            LabelSettings(priority=("tree", "bush")),
            "priority names 'bush', which is no class; .*ground, tree, building",
        ),
    ],
)
def test_names_that_are_no_class(chosen, message):
    with pytest.raises(ConfigError, match=rf"labels\.{message}"):
        vectors((LEFT, 1)).read(SCENE, TABLE, chosen)


PLACE = grid(12, 8)


@pytest.fixture
def vector_file(tmp_path):
    def write(name, *pairs, crs=UTM):
        """Write boxes (left, right) in pixels of PLACE, all rows, each with a value."""
        outlines = [PLACE.at(Window(a, 0, b - a, 8)).footprint_in(crs) for (a, b), _ in pairs]
        path = tmp_path / name
        pyogrio.raw.write(
            str(path), shapely.to_wkb(outlines), [np.array([v for _, v in pairs], object)],
            ["kind"], driver="GPKG", geometry_type="Polygon", crs=crs.to_wkt(), layer="labels",
        )  # fmt: skip
        return str(path)

    return write


def test_files_are_read_in_their_order(vector_file):
    first = vector_file("a.gpkg", ((0, 7), "tree"), ((6, 8), "bush"))
    second = vector_file("b.gpkg", ((5, 9), "building"), crs=LAMBERT)
    labels = VectorLabels.of([first, second], PLACE, IDS)
    assert row_of(labels) == ([1] * 5 + [2] * 4 + [_] * 3, {})
    assert labels.counts == {"tree": 1, "bush": 1, "building": 1}
    chosen = LabelSettings(attribute="kind", layer="labels")
    backward = VectorLabels.of([second, first], PLACE, chosen)
    assert row_of(backward) == ([1] * 6 + [_] * 2 + [2] + [_] * 3, {"bush": 16})


def test_attribute_and_layer_are_those_of_the_settings(vector_file):
    path = vector_file("a.gpkg", ((0, 7), "tree"))
    with pytest.raises(LabelError, match="no attribute 'type'"):
        VectorLabels.of([path], PLACE, LabelSettings(attribute="type"))
    with pytest.raises(InputError, match="no layer 'trees'"):
        VectorLabels.of([path], PLACE, LabelSettings(layer="trees"))


def test_one_of_several_files_may_lie_elsewhere(vector_file, caplog):
    here, there = vector_file("a.gpkg", ((0, 7), "tree")), vector_file("b.gpkg", ((50, 60), "tree"))
    labels = VectorLabels.of([here, there], PLACE, IDS, name="x.tif")
    assert labels.counts == {"tree": 1}
    assert caplog.messages == [f"no feature of {there} lies inside x.tif"]


def test_labels_that_all_lie_elsewhere(vector_file):
    paths = [vector_file(f"{n}.gpkg", ((50 + n, 60), "tree")) for n in range(2)]
    for unlabelled in ("ignore", "ground"):
        with pytest.raises(GridError, match=r"0\.gpkg does not overlap x\.tif: in EPSG:32632"):
            VectorLabels.of(paths, PLACE, LabelSettings(unlabelled=unlabelled), name="x.tif")


def test_ground_without_features_is_labelled_only_if_it_has_a_class(vector_file):
    path = vector_file("a.gpkg", ((-9, -5), "tree"), ((20, 25), "tree"))
    with pytest.raises(GridError, match=r"no feature of .*a\.gpkg lies inside the raster"):
        VectorLabels.of([path], PLACE, IDS)
    filled = LabelSettings(unlabelled="ground")
    assert row_of(VectorLabels.of([path], PLACE, filled), filled) == ([0] * 12, {})
