"""What outlines, simplification and smoothing make of arrays: a coverage, whatever the tiles."""

import itertools

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage

from cafe_cli.regions import labelling
from cafe_cli.regions.sieve import merge_small
from cafe_cli.regions.survey import survey
from cafe_cli.vectorization import simplify, smooth
from cafe_cli.vectorization.assemble import assemble, order_chains
from cafe_cli.vectorization.order import order_lists
from cafe_cli.vectorization.outlines import Outlines, join_seams, trace

_ = 255
SHAPES = st.tuples(st.integers(1, 24), st.integers(1, 24))
MAPS = SHAPES.flatmap(lambda shape: arrays(np.uint8, shape, elements=st.sampled_from([0, 1, 2, _])))


def blobs(size=96, seed=0, scale=2.0, classes=4):
    """Regions with winding borders, some nodata among them."""
    noise = np.random.default_rng(seed).normal(size=(classes + 1, size, size))
    best = np.stack([ndimage.gaussian_filter(band, scale) for band in noise]).argmax(axis=0)
    return np.where(best == classes, _, best).astype(np.uint8)


def find_regions(values, limit=0.0, scores=None):
    height, width = values.shape
    found = survey(
        width, height, lambda window: values[window.slices()],
        lambda window: np.ones(window.height), limit,
        (lambda window: scores[:, *window.slices()]) if scores is not None else None,
        0 if scores is None else len(scores),
    )  # fmt: skip
    return merge_small(found, limit) if limit else found.regions


def polygons_of(values, tolerance=0.0, limit=0.0, rounded=False, tile=1024):
    """Return regions and polygons, by the numbers of the regions from 1."""
    height, width = values.shape
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(labelling, "TILE", tile)
        patch.setattr(simplify, "TILE", tile)
        patch.setattr(smooth, "TILE", tile)
        found = find_regions(values, limit)
        seams, first, parts = labelling.Seams(width), 1, []
        for part in labelling.label_tiles(width, height, lambda window: values[window.slices()]):
            after = first + len(part.classes)
            numbers = np.append(np.int32(0), found.number[first:after])
            first = after
            padded = seams.pad(part.window, numbers[part.local])
            padded = np.pad(
                padded, ((0, part.window.bottom == height), (0, part.window.right == width))
            )
            parts.append(simplify.simplify_tile(trace(padded, part.window), part.window, tolerance))
        joined = join_seams(Outlines.joined(parts), width, height)
        chains = order_chains(simplify.simplify_across(joined, tolerance))
        if rounded:
            chains = smooth.smooth(chains, tolerance)
    numbers, polygons = zip(*assemble(chains), strict=True)
    assert np.concatenate(numbers).tolist() == list(range(1, len(found) + 1))
    return found, np.concatenate(polygons)


def check_coverage(polygons):
    assert shapely.is_valid(polygons).all()
    assert shapely.coverage_is_valid(polygons)
    assert shapely.area(polygons).min() > 0


@given(MAPS, st.sampled_from([4, 7, 1024]), st.sampled_from([0, 0.75, 1, 1.5, 4]), st.booleans())
@settings(max_examples=60)
def test_any_map_becomes_a_coverage(values, tile, tolerance, rounded):
    if (values == _).all():
        return
    found, polygons = polygons_of(values, tolerance, rounded=rounded, tile=tile)
    check_coverage(polygons)
    if not tolerance and not rounded:
        assert shapely.area(polygons).tolist() == found.pixels[1:].tolist()


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("tolerance", [1.0, 1.5, 5.0])
@pytest.mark.parametrize("rounded", [False, True])
def test_no_gap_and_no_overlap_in_a_simplified_map(seed, tolerance, rounded):
    values = blobs(seed=seed)
    values[values == _] = 0
    _regions, polygons = polygons_of(values, tolerance, rounded=rounded, tile=32)
    check_coverage(polygons)
    assert shapely.area(polygons).sum() == pytest.approx(values.size, abs=1e-6)
    assert shapely.union_all(polygons).area == pytest.approx(values.size, abs=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_tiles_leave_no_trace_in_outlines_of_pixels(seed):
    values = blobs(seed=seed)
    _, whole = polygons_of(values)
    _, tiled = polygons_of(values, tile=16)
    assert {shapely.normalize(p).wkt for p in whole} == {shapely.normalize(p).wkt for p in tiled}


@pytest.mark.parametrize("slope", [1, 2, 3, 7])
@pytest.mark.parametrize("tile", [512, 700])
def test_the_edges_of_tiles_leave_no_vertices_in_slanting_lines(slope, tile):
    row, column = np.mgrid[:1100, :1100]
    values = (slope * row > column + 16).astype(np.uint8)
    _, whole = polygons_of(values, 1.5)
    _, tiled = polygons_of(values, 1.5, tile=tile)
    counts = [shapely.get_num_coordinates(polygons).sum() for polygons in (whole, tiled)]
    assert counts[1] <= 1.1 * counts[0] + 4


def test_simplification_keeps_the_areas_of_both_sides():
    row, column = np.mgrid[:200, :200]
    values = (np.hypot(row - 100, column - 100) < 80).astype(np.uint8)
    found, polygons = polygons_of(values, 1.5)
    assert shapely.area(polygons) == pytest.approx(found.pixels[1:], rel=0.003)


def test_simplification_takes_as_many_vertices_as_geos_does():
    _, exact = polygons_of(blobs())
    _, polygons = polygons_of(blobs(), tolerance=2.0, tile=32)
    theirs = shapely.get_num_coordinates(shapely.coverage_simplify(exact, 2.0)).sum()
    assert shapely.get_num_coordinates(polygons).sum() == pytest.approx(theirs, rel=0.1)


def test_the_frame_of_a_map_stays():
    values = np.arange(36).reshape(6, 6).astype(np.uint8)
    _, polygons = polygons_of(values, tolerance=50)
    assert shapely.union_all(polygons).equals(shapely.box(0, 0, 6, 6))


@pytest.mark.parametrize(
    ("values", "holes", "counts"),
    [
        ([[1, 1, 1], [1, 2, 1], [1, 1, 1]], [1, 0], [8, 1]),
        ([[1, 1, 1, 1], [1, _, 2, 1], [1, 2, _, 1], [1, 1, 1, 1]], [1, 0, 0], [12, 1, 1]),
        ([[1, 1, 1], [1, _, 1], [1, 1, _]], [1], [7]),  # the hole touches the outside at a corner
        ([[1, 2], [2, 1]], [0, 0, 0, 0], [1, 1, 1, 1]),
        ([[_, 1], [1, _]], [0, 0], [1, 1]),
        ([[1, 1, 1, 1, 1], [1, 2, 2, 2, 1], [1, 2, 1, 2, 1], [1, 2, 2, 2, 1], [1, 1, 1, 1, 1]],
         [1, 0, 1], [16, 1, 8]),
    ],
)  # fmt: skip
def test_holes_and_touching_corners(values, holes, counts):
    found, polygons = polygons_of(np.array(values, np.uint8), tile=2)
    check_coverage(polygons)
    assert sorted(shapely.get_num_interior_rings(polygons)) == sorted(holes)
    assert sorted(shapely.area(polygons)) == sorted(counts)
    assert sorted(found.pixels[1:]) == sorted(counts)


@pytest.mark.parametrize(
    ("limit", "values", "merged"),
    [
        (4, [[0, 0, 0, 2], [0, 1, 2, 2], [0, 0, 2, 2]], [[0, 0, 0, 2], [0, 0, 2, 2], [0, 0, 2, 2]]),
        (2, [[0, 2, 2, 2], [0, 1, 2, 2], [0, 2, 2, 2]], [[0, 2, 2, 2], [0, 2, 2, 2], [0, 2, 2, 2]]),
        (4, [[_, _, _], [_, 1, _], [_, _, _]], [[_, _, _], [_, 1, _], [_, _, _]]),
        (3, [[_, _, _], [_, 1, 2], [_, 2, 2]], [[_, _, _], [_, 2, 2], [_, 2, 2]]),
        (4, [[0, 0, 0], [0, 1, 1], [0, 1, 1]], [[0, 0, 0], [0, 1, 1], [0, 1, 1]]),  # not below
        # The single pixel goes first, to 2, which is large enough then; it would have gone to 0.
        (4, [[0, 0, 0, 0], [0, 2, 2, 0], [0, 2, 1, 0]], [[0, 0, 0, 0], [0, 2, 2, 0], [0, 2, 2, 0]]),
    ],
)  # fmt: skip
@pytest.mark.parametrize("tile", [2, 1024])
def test_small_regions_go_to_the_class_with_the_longest_border(
    monkeypatch, limit, values, merged, tile
):
    monkeypatch.setattr(labelling, "TILE", tile)
    assert paint(np.array(values, np.uint8), limit).tolist() == merged


def paint(values, limit, scores=None):
    """Return the classes of the pixels after small regions were merged."""
    found = find_regions(values, limit, scores)
    out, first = np.empty_like(values), 1
    height, width = values.shape
    for part in labelling.label_tiles(width, height, lambda window: values[window.slices()]):
        after = first + len(part.classes)
        numbers = np.append(np.int32(0), found.number[first:after])
        out[part.window.slices()] = found.classes[numbers[part.local]]
        first = after
    return out


@pytest.mark.parametrize("tile", [2, 3, 1024])
@pytest.mark.parametrize(
    ("probable", "expected"),
    [((10, 0, 60), 2), ((60, 0, 10), 0), ((20, 60, 20), 0), ((0, 0, 0), 0)],
)
def test_small_regions_go_to_the_most_probable_class_around_them(
    monkeypatch, tile, probable, expected
):
    monkeypatch.setattr(labelling, "TILE", tile)
    values = np.array([[0, 0, 0, 2], [0, 1, 1, 2], [0, 0, 0, 2]], np.uint8)
    scores = np.ones((3, 3, 4), np.float32) * np.array(probable, np.float32)[:, None, None]
    assert paint(values, 3, scores)[1].tolist() == [0, expected, expected, 2]


@pytest.mark.parametrize("limit", [2, 5, 20])
def test_merging_leaves_no_small_region_but_islands(limit):
    values = np.random.default_rng(1).choice([0, 1, 2, _], (40, 40), p=[0.4, 0.3, 0.2, 0.1])
    found = find_regions(values.astype(np.uint8), limit)
    out = paint(values.astype(np.uint8), limit)
    assert (out == _).tolist() == (values == _).tolist()
    assert found.pixels.sum() == values.size - (values == _).sum() + found.pixels[0]
    around = ndimage.binary_dilation
    for class_ in range(3):
        label, count = ndimage.label(out == class_)
        for number in range(1, count + 1):
            here = label == number
            if here.sum() < limit:
                assert (out[around(here) & ~here] == _).all()


@given(st.lists(st.integers(1, 6), min_size=1, max_size=8), st.data())
def test_lists_are_put_in_order(sizes, data):
    total = sum(sizes)
    items = data.draw(st.permutations(range(total)))
    previous, expected, start = np.full(total, -1), [], 0
    for size in sizes:
        own = items[start : start + size]
        start += size
        closed = data.draw(st.booleans())
        for before, item in itertools.pairwise(own):
            previous[item] = before
        if closed:
            previous[own[0]] = own[-1]
            cut = own.index(min(own))
            own = own[cut:] + own[:cut]
        expected.append((closed, own))
    order, starts, closed = order_lists(previous)
    found = [
        (bool(c), order[a:b].tolist())
        for c, a, b in zip(closed, starts[:-1], starts[1:], strict=True)
    ]
    assert sorted(found) == sorted(expected)
