"""Rasterizing and subdividing geometries."""

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from cafe_cli.raster.window import Window, blocks
from cafe_cli.vector.geometry import subdivide
from cafe_cli.vector.rasterize import rasterize, rasterize_indices
from tests.support.rasters import grid

GRID = grid(width=40, height=30)


def array(*geometries):
    return np.array(geometries, object)


coordinates = st.integers(-80, 400).map(lambda n: n / 8)
rings = st.lists(st.tuples(coordinates, coordinates), min_size=3, max_size=8)
geometries = st.one_of(
    rings.map(shapely.Polygon),
    rings.map(shapely.LineString),
    rings.map(shapely.MultiPoint),
    st.lists(rings.map(shapely.Polygon), min_size=2, max_size=3).map(shapely.MultiPolygon),
)


@pytest.mark.slow
@given(st.lists(geometries, min_size=1, max_size=5), st.booleans(), st.integers(5, 17))
@settings(max_examples=50)
def test_windows_make_up_the_whole(drawn, all_touched, size):
    drawn = array(*drawn)
    whole = rasterize_indices(drawn, GRID.extent, all_touched)
    for window in blocks(40, 30, size):
        part = rasterize_indices(drawn, window, all_touched)
        assert (part == whole[window.slices()]).all()


@given(rings.map(shapely.Polygon).filter(lambda polygon: polygon.is_valid))
@settings(max_examples=50)
def test_all_touched_is_all_that_shares_ground(polygon):
    columns, rows = np.meshgrid(np.arange(3, 18), np.arange(2, 14))
    pixels = shapely.box(columns, rows, columns + 1, rows + 1)
    shared = shapely.area(shapely.intersection(pixels, polygon))
    touched = rasterize_indices(array(polygon), Window(3, 2, 15, 12), all_touched=True) >= 0
    assert (touched == (shared > 0))[(shared == 0) | (shared > 1e-9)].all()


def test_what_lies_along_pixels_touches_no_more_of_them():
    aligned = array(shapely.box(4, 5, 9, 8))
    for all_touched in (False, True):
        assert (rasterize_indices(aligned, GRID.extent, all_touched) >= 0).sum() == 15
    larger = array(shapely.box(3.9, 5, 9, 8.1))
    assert (rasterize_indices(larger, GRID.extent, all_touched=True) >= 0).sum() == 6 * 4
    assert (rasterize_indices(larger, GRID.extent) >= 0).sum() == 15


def test_a_line_that_is_touched_has_every_pixel_on_its_way():
    line = array(shapely.LineString([(0.5, 0.2), (3.5, 1.9)]))
    thin = rasterize_indices(line, Window(0, 0, 5, 3)) >= 0
    thick = rasterize_indices(line, Window(0, 0, 5, 3), all_touched=True) >= 0
    assert thick.astype(int).tolist() == [[1, 1, 0, 0, 0], [0, 1, 1, 1, 0], [0] * 5]
    assert (thin <= thick).all()


def test_a_corner_is_no_pixel():
    line = array(shapely.LineString([(0, 0), (5, 5)]))
    assert (rasterize_indices(line, Window(0, 0, 5, 5), all_touched=True) >= 0).sum() == 5
    # Past (2, 2), but for the last digits.
    ends = (0.9020744078524632, 1.1651201303212115), (2.6573447341763985, 2.4998552633514732)
    near = (
        rasterize_indices(array(shapely.LineString(ends)), Window(0, 0, 5, 5), all_touched=True)
        >= 0
    )
    assert near.sum() == 4


@pytest.mark.parametrize("all_touched", [False, True])
def test_later_geometries_win(all_touched):
    below, above = shapely.box(0, 0, 5.8, 5.8), shapely.box(3.2, 3.2, 9, 9)
    one, other = array(below, above), array(above, below)
    window = Window(0, 0, 10, 10)
    assert (rasterize(one, [1, 2], window, all_touched)[3:6, 3:6] == 2).all()
    assert (rasterize(other, [2, 1], window, all_touched)[3:6, 3:6] == 1).all()
    assert rasterize(one, [1, 2], window, all_touched, fill=9)[9, 9] == 9


def test_nothing_to_rasterize():
    window = Window(0, 0, 4, 3)
    for nothing in (np.array([], object), array(None, shapely.Polygon(), shapely.Point())):
        rasterized = rasterize(nothing, [1] * len(nothing), window)
        assert rasterized.dtype == np.uint8
        assert rasterized.shape == (3, 4)
        assert (rasterized == 255).all()
    far = array(shapely.box(50, 50, 60, 60), shapely.LineString([(-9, -9), (-2, -2)]))
    assert (rasterize_indices(far, window, all_touched=True) == -1).all()


def test_geometries_without_place_keep_their_numbers():
    drawn = array(None, shapely.box(0, 0, 2, 2), shapely.Polygon(), shapely.box(2, 0, 4, 2))
    for all_touched in (False, True):
        top = rasterize_indices(drawn, Window(0, 0, 5, 2), all_touched)
        assert top[0].tolist() == [1, 1, 3, 3, -1]


def star(points=6000, size=500.0, teeth=40):
    angle = np.linspace(0, 2 * np.pi, points, endpoint=False)
    radius = size * (0.8 + 0.2 * np.sin(teeth * angle))
    return shapely.Polygon(np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=-1))


@pytest.mark.parametrize("all_touched", [False, True])
def test_pieces_cover_what_the_whole_covers(all_touched):
    drawn = array(star(), shapely.box(5, 5, 9, 9), shapely.MultiPoint([(1, 1), (2, 2)]))
    parts, source = subdivide(drawn)
    assert shapely.get_num_coordinates(parts).max() <= 512
    assert set(source.tolist()) == {0, 1, 2}
    assert (np.diff(source) >= 0).all()
    window = Window(-300, 100, 400, 350)
    found = rasterize_indices(parts, window, all_touched)
    assert (
        np.append(source, -1)[found] == rasterize_indices(drawn, window, all_touched)
    ).mean() > 0.9999


def test_pieces_of_what_overlaps_itself():
    angle = np.linspace(0, 4 * np.pi, 2000, endpoint=False)
    radius = 100 + 30 * np.cos(1.5 * angle)
    loop = shapely.Polygon(np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=-1))
    assert not loop.is_valid
    window = Window(-140, -140, 280, 280)
    parts, _ = subdivide(array(loop))
    assert len(parts) > 1
    whole = rasterize_indices(array(loop), window) >= 0
    assert ((rasterize_indices(parts, window) >= 0) == whole).mean() > 0.9999
    assert 0.1 < whole.mean() < 0.9


def test_parts_that_overlap_are_no_hole():
    twice = shapely.MultiPolygon([shapely.box(0, 0, 6, 6), shapely.box(3, 3, 9, 9)])
    parts, source = subdivide(array(twice))
    assert source.tolist() == [0, 0]
    assert (rasterize_indices(parts, Window(0, 0, 9, 9)) >= 0).sum() == 36 + 36 - 9


def test_pieces_of_nothing():
    parts, source = subdivide(np.array([], object))
    assert len(parts) == len(source) == 0
