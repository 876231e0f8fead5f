from collections import Counter

import numpy as np
import pyogrio.raw
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from cafe_cli.classes import NODATA, ClassTable, LandClass
from cafe_cli.config.schema import LabelSettings
from cafe_cli.errors import ConfigError, GridError, InputError, LabelError
from cafe_cli.raster.window import Window, blocks
from cafe_cli.scenes.vector_labels import VectorLabels
from cafe_cli.vector.features import Features
from tests.support.rasters import LAMBERT, TABLE, UTM, grid

IDS = LabelSettings()
_ = NODATA
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
    return decoded.ids[0].tolist(), dict(decoded.tally.unknown)


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
    assert labels.read(Window(3, 0, 2, 5), TABLE, IDS).tally.unknown == {"bush": 5}


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


def test_tables_hold_for_vectors_too(tmp_path):
    (tmp_path / "table.csv").write_text("value,class\nUrban,building\n30,tree\n,ground\n")
    remapped = LabelSettings(table=str(tmp_path / "table.csv"))
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
    assert not decoded.tally.unknown
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
    together = sum((part.tally.unknown for _, part in parts), start=Counter())
    assert together == whole.tally.unknown


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
            "priority names 'bush', which is not a class; .*ground, tree, building",
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


def test_a_star_is_every_other_feature():
    classes = ClassTable(
        (LandClass(0, "other", values=("shed",)), LandClass(1, "house", values=("*",)))
    )
    labels = vectors(
        (LEFT, "villa"), (shapely.box(6, 0, 8, 8), None), (shapely.box(8, 0, 10, 8), "shed"),
        (shapely.box(10, 0, 12, 8), 3.5),
    )  # fmt: skip
    assert row_of(labels, classes=classes) == ([1] * 8 + [0] * 2 + [1] * 2, {})
    bare = ClassTable((LandClass(0, "other"), LandClass(1, "house", values=("*",))))
    found = row_of(vectors((LEFT, None)), LabelSettings(unlabelled="Other"), bare)
    assert found == ([1] * 6 + [0] * 6, {})


def test_values_of_features_match_ranges_and_names_of_any_case():
    classes = ClassTable((LandClass(0, "Tree"), LandClass(1, "b", values=("10..19", 255))))
    labels = vectors(
        (LEFT, "TREE"), (shapely.box(6, 0, 8, 8), "15"), (shapely.box(8, 0, 10, 8), 255),
        (shapely.box(10, 0, 12, 8), 20),
    )  # fmt: skip
    assert row_of(labels, classes=classes) == ([0] * 6 + [1] * 4 + [_] * 2, {20: 16})


def test_unknown_values_of_all_features():
    labels = vectors((LEFT, "bush"), (LEFT, "rock"), (LEFT, 1), (RIGHT, None), (RIGHT, "shade"))
    assert labels.unknown_values(TABLE, LabelSettings(ignore=("shade",))) == [
        "bush",
        "rock",
        "(none)",
    ]


def test_ignored_features_are_counted():
    labels = vectors((LEFT, "shade"))
    found = labels.read(SCENE, TABLE, LabelSettings(ignore=("shade",)))
    assert found.tally.ignored == {"shade": 48}
