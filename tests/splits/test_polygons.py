import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from cafe_cli.raster.window import Window
from cafe_cli.splits.polygons import polygon_split

EXTENT = Window(0, 0, 90, 70)
SIZE = 16


def plan(shapes, size=SIZE, step=8, buffer=2, extent=EXTENT, **options):
    """Plan for a list of (split, polygon)."""
    geometries = np.array([g for _, g in shapes], object)
    return polygon_split(geometries, [s for s, _ in shapes], extent, size, step, buffer, **options)


def seen(windows, extent=EXTENT):
    """Count how many of some windows show each pixel of the scene and its surroundings."""
    counts = np.zeros((extent.height + 60, extent.width + 60), int)
    for window in windows:
        counts[window.slices(Window(-30, -30, 1, 1))] += 1
    return counts


def inside(shape, extent=EXTENT):
    """Return which pixel centres a shape holds: as `seen`."""
    rows, cols = np.mgrid[-30 : extent.height + 30, -30 : extent.width + 30] + 0.5
    here = (rows > 0) & (rows < extent.height) & (cols > 0) & (cols < extent.width)
    return shapely.contains_xy(shape, cols, rows) & here


COORDINATES = st.tuples(st.integers(-20, 110), st.integers(-20, 90))
RECTANGLES = st.builds(
    lambda at, sides: shapely.box(*at, at[0] + sides[0], at[1] + sides[1]),
    COORDINATES,
    st.tuples(st.floats(0.2, 60), st.floats(0.2, 60)),
)
WHOLE = st.builds(
    lambda at, sides: shapely.box(*at, at[0] + sides[0], at[1] + sides[1]),
    COORDINATES,
    st.tuples(st.integers(1, 60), st.integers(1, 60)),
)
TRIANGLES = st.lists(COORDINATES, min_size=3, max_size=3).map(shapely.Polygon)
KINDS = st.sampled_from(["train", "validation", "test", None])
DRAWN = st.lists(st.tuples(KINDS, RECTANGLES | TRIANGLES), max_size=8)


@pytest.mark.slow
@settings(max_examples=60)
@given(DRAWN, st.sampled_from([4, 16, 80]), st.integers(0, 5), st.booleans())
def test_splits_share_no_pixel(drawn, size, buffer, only_drawn):
    extent = EXTENT
    windows = plan(drawn, size=size, buffer=buffer, only_drawn=only_drawn).windows
    shown = {split: seen(tile for tile, _ in pairs) for split, pairs in windows.items()}
    assert not (shown["validation"] & shown["test"]).any()
    near = seen(t.expand(buffer) for s in ("validation", "test") for t, _ in windows[s])
    assert not (shown["train"] * near).any()
    for split, pairs in windows.items():
        for tile, scored in pairs:
            assert (tile.width, tile.height) == (size, size)
            assert tile.intersection(scored) == scored
            assert 0 <= tile.col <= max(extent.width - size, 0)
            assert 0 <= tile.row <= max(extent.height - size, 0)
        if split != "train":
            assert seen(scored for _, scored in pairs).max() <= 1
    for split, shape in drawn:
        if split in ("validation", "test"):
            assert not shown["train"][inside(shape)].any()
    if only_drawn or any(split == "train" for split, _ in drawn):
        ground = shapely.union_all([shape for split, shape in drawn if split == "train"])
        assert all(
            ground.intersects(shapely.box(t.col, t.row, t.col + size, t.row + size))
            for t, _ in windows["train"]
        )


@settings(max_examples=60)
@given(st.lists(RECTANGLES | TRIANGLES, max_size=6), st.sampled_from([4, 16, 100]))
def test_polygons_of_one_split_are_scored_once(shapes, size):
    made = plan([("test", shape) for shape in shapes], size=size)
    scored = seen(scored for _, scored in made.windows["test"])
    assert (scored[inside(shapely.union_all(shapes))] == 1).all()
    assert made.lost == {"validation": 0, "test": 0}
    assert made.windows["validation"] == []


@settings(max_examples=60)
@given(st.lists(st.tuples(st.sampled_from(["validation", "test"]), WHOLE), max_size=6))
def test_what_is_lost_is_what_no_tile_scores(drawn):
    made = plan(drawn)
    for split in ("validation", "test"):
        shapes = [shape for kind, shape in drawn if kind == split]
        ground = inside(shapely.union_all(shapes))
        scored = seen(scored for _, scored in made.windows[split]) > 0
        missed = (ground & ~scored).sum()
        # Where polygons overlap, what is lost counts for each.
        assert missed <= made.lost[split] <= missed * len(shapes)


def test_small_neighbours_are_both_scored():
    """Two fields smaller than a tile, side by side: each tile reaches away from the other."""
    made = plan(
        [("validation", shapely.box(30, 30, 38, 36)), ("test", shapely.box(39, 30, 46, 36))]
    )
    assert made.lost == {"validation": 0, "test": 0}
    ((validation, _),), ((test, _),) = made.windows["validation"], made.windows["test"]
    assert not validation.intersection(test)


def test_where_boxes_overlap_little_is_lost_little():
    """A common border that is not quite upright costs a strip, not a row of tiles."""
    left = shapely.Polygon([(0, 0), (40, 0), (43, 64), (0, 64)])
    right = shapely.Polygon([(40, 0), (88, 0), (88, 64), (43, 64)])
    made = plan([("validation", left), ("test", right)])
    assert sum(made.lost.values()) <= 3 * 64
    assert len(made.windows["validation"]) == 12
    assert len(made.windows["test"]) == 12


def test_ground_that_cannot_be_shared_goes_to_the_larger():
    made = plan([("validation", shapely.box(0, 0, 60, 60)), ("test", shapely.box(20, 20, 26, 25))])
    assert made.lost == {"validation": 0, "test": 30}
    assert made.windows["test"] == []


def test_without_polygons_all_trains():
    made = plan([])
    assert seen(tile for tile, _ in made.windows["train"])[30:-30, 30:-30].all()
    assert plan([], only_drawn=True).windows["train"] == []


def test_training_is_where_it_is_drawn():
    tiles = [tile for tile, _ in plan([("train", shapely.box(40, 40, 42, 42))]).windows["train"]]
    assert tiles
    assert all(tile.intersection(Window(40, 40, 2, 2)) for tile in tiles)


def test_odd_geometries_count_as_far_as_they_have_area():
    bowtie = shapely.Polygon([(10, 10), (20, 20), (20, 10), (10, 20)])
    several = shapely.MultiPolygon([shapely.box(60, 5, 70, 15), shapely.box(60, 50, 70, 60)])
    mixed = shapely.GeometryCollection([shapely.Point(5, 5), shapely.box(0, 60, 4, 64)])
    shapes = [bowtie, several, mixed, shapely.Point(40, 40), shapely.LineString([(0, 0), (9, 9)])]
    shapes += [None, shapely.Polygon(), shapely.box(40.6, 40.6, 41.4, 41.4)]
    made = plan([("validation", shape) for shape in shapes])
    scored = seen(scored for _, scored in made.windows["validation"])
    for shape in (shapely.make_valid(bowtie), several, mixed):
        assert (scored[inside(shape)] == 1).all()
    assert len(made.windows["validation"]) == 4
