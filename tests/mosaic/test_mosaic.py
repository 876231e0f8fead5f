import hashlib
import json
import logging
import shutil
import subprocess
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import rasterio
from hypothesis import given, settings
from hypothesis import strategies as st
from rasterio.crs import CRS
from rasterio.enums import Resampling
from rasterio.transform import from_origin

from cafe_cli.classes import ClassTable, LandClass
from cafe_cli.config.provenance import provenance_tags, read_beside
from cafe_cli.errors import (
    BandError,
    CafeError,
    ConfigError,
    GridError,
    InputError,
    LabelError,
    OutputError,
)
from cafe_cli.inference.job import PredictInput
from cafe_cli.mosaic import merge
from cafe_cli.mosaic import mosaic as engine
from cafe_cli.mosaic import sources as planning
from cafe_cli.mosaic.grid import TargetGrid
from cafe_cli.mosaic.job import MosaicInputs, MosaicOutputs
from cafe_cli.mosaic.methods import METHODS, Method
from cafe_cli.raster import reader, warp, writer
from cafe_cli.raster.grid import Grid
from cafe_cli.raster.reader import open_raster
from cafe_cli.raster.stac import StacOptions
from cafe_cli.raster.warp import open_warped, read_warped
from cafe_cli.raster.window import Window
from cafe_cli.raster.writer import _to_cog, class_tags, create_cog, read_classes, write_geotiff
from cafe_cli.regions import labelling
from tests.support.engines import predict, town
from tests.support.engines import write as write_scene
from tests.support.maps import Confidences, mosaic

pytest_plugins = ["tests.support.fixtures"]

UTM = CRS.from_epsg(32632)
TABLE = ClassTable(
    (
        LandClass(0, "ground", "#808080"),
        LandClass(1, "tree", "#00ff00"),
        LandClass(2, "building", "#0000ff"),
    )
)
LATTICE = Grid(UTM, from_origin(500_000.1, 5_200_000.3, 0.2, 0.2), 1, 1)
_ = 255


def at(col: int, row: int, array) -> Grid:
    """Place an array at a pixel of the common lattice."""
    return LATTICE.at(Window(col, row, array.shape[1], array.shape[0]))


def write(path: Path, array, grid: Grid, classes: ClassTable | None = TABLE) -> str:
    with create_cog(path, grid, True, classes) as dataset:
        dataset.write(array, 1)
    return str(path)


def write_quickly(path: Path, array, grid: Grid) -> str:
    """Write what `write` does, less overviews and colours: for tests with many inputs."""
    profile = {"crs": grid.crs, "transform": grid.transform, "nodata": 255, "dtype": "uint8"}
    size = {"width": grid.width, "height": grid.height, "count": 1}
    with rasterio.open(path, "w", driver="GTiff", **profile, **size) as dataset:
        dataset.write(array, 1)
        dataset.update_tags(CLASSES=json.dumps(TABLE.as_json()))
    return str(path)


def write_row(path: Path, col: int, *values: int, classes: ClassTable | None = TABLE) -> str:
    array = np.array([values], np.uint8)
    return write(path, array, at(col, 0, array), classes)


def read(path: Path):
    with rasterio.open(path) as dataset:
        return dataset.read(1)


def grid_of(path: Path) -> Grid:
    with rasterio.open(path) as dataset:
        return Grid.of(dataset)


def random_labels(seed: int, height: int, width: int):
    rng = np.random.default_rng(seed)
    return np.array([0, 1, 2, 255], np.uint8)[rng.integers(0, 4, (height, width))]


@pytest.fixture
def rows(tmp_path):
    """Three inputs that overlap: columns 0 to 5, 2 to 7 and 2 to 8."""
    return [
        write_row(tmp_path / "a.tif", 0, 0, 0, 0, 1, _, 2),
        write_row(tmp_path / "b.tif", 2, 1, 1, 1, _, 1, 0),
        write_row(tmp_path / "c.tif", 2, 2, 2, 1, _, 2, _, 2),
    ]


@pytest.fixture
def confidences(tmp_path):
    return (
        write_row(tmp_path / "ca.tif", 0, 90, 10, 50, 30, 99, 20, classes=None),
        write_row(tmp_path / "cb.tif", 2, 50, 60, 70, 99, _, 0, classes=None),
        write_row(tmp_path / "cc.tif", 2, 40, 61, 80, 99, 0, 55, _, classes=None),
    )


@pytest.mark.parametrize(
    ("method", "expected", "confidence"),
    [
        ("first", [0, 0, 0, 1, 1, 2, 1, 0, 2], [90, 10, 50, 60, 80, 20, _, 0, _]),
        ("last", [0, 0, 2, 2, 1, 2, 2, 0, 2], [90, 10, 40, 61, 80, 20, 0, 0, _]),
        ("majority", [0, 0, 0, 1, 1, 2, 1, 0, 2], [90, 10, 50, 60, 80, 20, _, 0, _]),
        ("confidence", [0, 0, 0, 2, 1, 2, 2, 0, 2], [90, 10, 50, 61, 80, 20, 0, 0, _]),
    ],
)
def test_each_method_by_hand(tmp_path, rows, confidences, method, expected, confidence):
    output, beside = tmp_path / "out.tif", tmp_path / "out_confidence.tif"
    mosaic(rows, output, method=method, confidences=Confidences(confidences, beside))
    assert read(output)[0].tolist() == expected
    assert read(beside)[0].tolist() == confidence
    assert grid_of(output).same_pixels(LATTICE.at(Window(0, 0, 9, 1)))
    assert grid_of(beside).same_pixels(grid_of(output))


def test_a_majority_of_later_inputs_wins_and_ties_go_to_the_first(tmp_path):
    inputs = [
        write_row(tmp_path / "a.tif", 0, 2, 2, _, _),
        write_row(tmp_path / "b.tif", 0, 1, 1, 1, _),
        write_row(tmp_path / "c.tif", 0, 1, 0, 0, _),
        write_row(tmp_path / "d.tif", 0, _, 0, 0, _),
    ]
    mosaic(inputs, tmp_path / "out.tif")
    assert read(tmp_path / "out.tif")[0].tolist() == [1, 0, 0, _]
    mosaic(inputs[::-1], tmp_path / "reversed.tif", method="majority")
    assert read(tmp_path / "reversed.tif")[0].tolist() == [1, 0, 0, _]
    mosaic([inputs[2], inputs[0]], tmp_path / "tie.tif")
    assert read(tmp_path / "tie.tif")[0].tolist() == [1, 0, 0, _]
    mosaic([inputs[0], inputs[2]], tmp_path / "tie_reversed.tif")
    assert read(tmp_path / "tie_reversed.tif")[0].tolist() == [2, 2, 0, _]


def brute_force(pieces, shape, method):
    """Return labels and confidence pixel by pixel from (col, row, labels, confidence)."""
    labels, confidence = np.full(shape, 255, np.uint8), np.full(shape, 255, np.uint8)
    for row, col in np.ndindex(shape):
        votes = [
            (
                int(a[row - r, col - c]),
                -1 if k[row - r, col - c] == 255 else int(k[row - r, col - c]),
            )
            for c, r, a, k in pieces
            if 0 <= row - r < a.shape[0] and 0 <= col - c < a.shape[1]
        ]
        votes = [vote for vote in votes if vote[0] != 255]
        if not votes:
            continue
        count = Counter(label for label, _ in votes)
        winner = {
            "first": votes[0],
            "last": votes[-1],
            "majority": max(votes, key=lambda vote: count[vote[0]]),
            "confidence": max(votes, key=lambda vote: vote[1]),
        }[method][0]
        best = max(known for label, known in votes if label == winner)
        labels[row, col], confidence[row, col] = winner, 255 if best < 0 else best
    return labels, confidence


@st.composite
def placed_pieces(draw):
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    pieces = []
    for _i in range(draw(st.integers(1, 6))):
        height, width = draw(st.integers(1, 23)), draw(st.integers(1, 23))
        labels = np.array([0, 1, 2, 255], np.uint8)[rng.integers(0, 4, (height, width))]
        confidence = rng.integers(0, 5, (height, width)).astype(np.uint8) * 25
        confidence[rng.random((height, width)) < 0.1] = 255
        pieces.append((draw(st.integers(-9, 20)), draw(st.integers(-9, 20)), labels, confidence))
    return pieces


@pytest.mark.slow
@settings(max_examples=30, deadline=None)
@given(
    pieces=placed_pieces(),
    method=st.sampled_from(["first", "last", "majority", "confidence"]),
    window=st.sampled_from([5, 16, 1024]),
    samples=st.sampled_from([100, 10**6]),
)
def test_every_method_agrees_with_looking_at_each_pixel(
    tmp_path_factory, pieces, method, window, samples
):
    folder = tmp_path_factory.mktemp("pieces")
    left, top = min(p[0] for p in pieces), min(p[1] for p in pieces)
    shape = (
        max(r + a.shape[0] for _c, r, a, _k in pieces) - top,
        max(c + a.shape[1] for c, _r, a, _k in pieces) - left,
    )
    inputs = [
        write_quickly(folder / f"{i}.tif", a, at(c, r, a)) for i, (c, r, a, _k) in enumerate(pieces)
    ]
    known = tuple(
        write_quickly(folder / f"c{i}.tif", k, at(c, r, k))
        for i, (c, r, _a, k) in enumerate(pieces)
    )
    output, beside = folder / "out.tif", folder / "confidence.tif"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine, "WINDOW", window)
        patch.setattr(merge, "_SAMPLES", samples)
        mosaic(inputs, output, method=method, confidences=Confidences(known, beside))
    moved = [(c - left, r - top, a, k) for c, r, a, k in pieces]
    labels, confidence = brute_force(moved, shape, method)
    assert np.array_equal(read(output), labels)
    assert np.array_equal(read(beside), confidence)
    assert grid_of(output).same_pixels(LATTICE.at(Window(left, top, shape[1], shape[0])))
    shutil.rmtree(folder)


@settings(max_examples=15, deadline=None)
@given(
    height=st.integers(1, 150),
    width=st.integers(1, 150),
    step=st.integers(20, 70),
    overlap=st.integers(0, 25),
    order=st.randoms(use_true_random=False),
    method=st.sampled_from(["first", "last", "majority"]),
)
def test_what_was_cut_up_is_put_together_again(
    tmp_path_factory, height, width, step, overlap, order, method
):
    folder = tmp_path_factory.mktemp("cuts")
    whole = random_labels(height * 1000 + width, height, width)
    inputs = []
    for row in range(0, height, step):
        for col in range(0, width, step):
            piece = whole[row : row + step + overlap, col : col + step + overlap]
            inputs.append(write_quickly(folder / f"{row}_{col}.tif", piece, at(col, row, piece)))
    order.shuffle(inputs)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine, "WINDOW", 64)
        mosaic(inputs, folder / "out.tif", method=method)
    assert np.array_equal(read(folder / "out.tif"), whole)
    assert grid_of(folder / "out.tif").same_pixels(at(0, 0, whole))
    shutil.rmtree(folder)


@pytest.mark.slow
def test_bytes_do_not_depend_on_the_windows(tmp_path, monkeypatch):
    a, b = random_labels(1, 700, 900), random_labels(2, 600, 300)
    b[:, :64] = 255
    inputs = [
        write(tmp_path / "a.tif", a, at(0, 0, a)),
        write(tmp_path / "b.tif", b, at(1300, 500, b)),
    ]
    results = []
    for window, samples in ((1024, 10**9), (512, 10**9), (2048, 50_000), (200, 10**9)):
        monkeypatch.setattr(engine, "WINDOW", window)
        monkeypatch.setattr(merge, "_SAMPLES", samples)
        mosaic(inputs, tmp_path / "out.tif", overwrite=True)
        results.append((tmp_path / "out.tif").read_bytes())
    assert len(set(results)) == 1


def test_an_input_in_another_crs_is_brought_over_by_nearest_neighbour(tmp_path, monkeypatch):
    monkeypatch.setattr(engine, "WINDOW", 64)
    base, other = random_labels(3, 50, 60), random_labels(4, 120, 130)
    swiss = CRS.from_epsg(2056)
    grid = Grid(swiss, from_origin(2_600_000, 1_200_000, 0.5, 0.5), 130, 120)
    west, _s, _e, north = Grid(UTM, *_warped(grid)).bounds
    place = Grid(UTM, from_origin(west + 9.7, north - 9.3, 0.4, 0.4), 60, 50)
    inputs = [write(tmp_path / "a.tif", base, place), write(tmp_path / "b.tif", other, grid)]
    mosaic(inputs, tmp_path / "out.tif", method="first")
    result = grid_of(tmp_path / "out.tif")
    with (
        open_raster(inputs[1]) as dataset,
        open_warped(dataset, result, Resampling.nearest) as view,
    ):
        values, valid = read_warped(view, result.extent)
    expected = np.where(valid, values[0], np.uint8(255))
    col, row = (round(v) for v in ~result.transform @ (place.transform.c, place.transform.f))
    inside = (slice(row, row + 50), slice(col, col + 60))
    expected[inside] = np.where(base == 255, expected[inside], base)
    assert result.crs == UTM
    assert np.array_equal(read(tmp_path / "out.tif"), expected)
    labelled = (expected != 255).sum() * 0.4**2
    assert labelled == pytest.approx((other != 255).sum() * 0.5**2, rel=0.05)
    # Nothing was cut off, nothing added: the corners of the turned raster are at the edges.
    for edge in (expected[:3], expected[-3:], expected[:, :3], expected[:, -3:]):
        assert (edge != 255).any()


def _warped(grid: Grid):
    from rasterio.warp import calculate_default_transform

    return calculate_default_transform(grid.crs, UTM, grid.width, grid.height, *grid.bounds)


def test_pieces_in_another_crs_leave_no_seams(tmp_path):
    whole = random_labels(5, 300, 300)
    whole[whole == 255] = 0
    lattice = Grid(CRS.from_epsg(2056), from_origin(2_600_000, 1_200_000, 0.5, 0.5), 300, 300)
    inputs = []
    for row in range(0, 300, 100):
        for col in range(0, 300, 100):
            window = Window(col, row, 100, 100)
            piece = whole[window.slices()]
            inputs.append(write(tmp_path / f"{row}_{col}.tif", piece, lattice.at(window)))
    like = write(tmp_path / "like.tif", whole, Grid(UTM, *_warped(lattice)))
    mosaic(inputs, tmp_path / "pieces.tif", target=TargetGrid(like=like))
    mosaic(
        [write(tmp_path / "whole.tif", whole, lattice)],
        tmp_path / "out.tif",
        target=TargetGrid(like=like),
    )
    assert np.array_equal(read(tmp_path / "pieces.tif"), read(tmp_path / "out.tif"))


def test_without_crs_pixel_coordinates_are_the_plane(tmp_path):
    a, b = random_labels(6, 8, 9), random_labels(7, 8, 9)
    plane = Grid(None, from_origin(0, 0, 1, 1), 9, 8)
    inputs = [write(tmp_path / "a.tif", a, plane)]
    inputs.append(write(tmp_path / "b.tif", b, plane.at(Window(9, 0, 9, 8))))
    half = Grid(None, from_origin(18, 0, 0.5, 0.5), 9, 8)
    inputs.append(write(tmp_path / "c.tif", a, half))
    mosaic(inputs, tmp_path / "out.tif")
    result = read(tmp_path / "out.tif")
    assert result.shape == (8, 23)
    assert np.array_equal(result[:, :18], np.hstack([a, b]))
    assert (result[4:, 18:] == 255).all()


def test_resolution_bounds_and_like_choose_the_grid(tmp_path):
    a = random_labels(8, 40, 50)
    path = write(tmp_path / "a.tif", a, at(0, 0, a))
    left, bottom, right, top = at(0, 0, a).bounds

    mosaic([path], tmp_path / "fine.tif", target=TargetGrid(resolution=0.1))
    assert np.array_equal(read(tmp_path / "fine.tif"), a.repeat(2, 0).repeat(2, 1))

    inner = TargetGrid(bounds=(left + 1.05, bottom + 1.0, right - 1.0, top - 0.95))
    mosaic([path], tmp_path / "inner.tif", target=inner)
    assert np.array_equal(read(tmp_path / "inner.tif"), a[4:35, 5:45])

    outer = TargetGrid(bounds=(left - 0.4, bottom, right, top + 0.2))
    mosaic([path], tmp_path / "outer.tif", target=outer)
    assert np.array_equal(
        read(tmp_path / "outer.tif"), np.pad(a, ((1, 0), (2, 0)), constant_values=255)
    )

    like = write(
        tmp_path / "like.tif", a, Grid(UTM, from_origin(500_000.1, 5_200_000.3, 0.4, 0.4), 50, 40)
    )
    mosaic([path], tmp_path / "coarse.tif", target=TargetGrid(like=like))
    assert grid_of(tmp_path / "coarse.tif").same_pixels(
        Grid(UTM, from_origin(500_000.1, 5_200_000.3, 0.4, 0.4), 25, 20)
    )


def test_maps_far_apart_are_refused_unless_an_extent_is_chosen(tmp_path, caplog):
    values = np.ones((2, 2), np.uint8)
    near = write_quickly(tmp_path / "near.tif", values, at(0, 0, values))
    lost = Grid(UTM, from_origin(0, 0, 0.2, 0.2), 2, 2)
    far = write_quickly(tmp_path / "far.tif", values, lost)
    with pytest.raises(GridError, match=r"far\.tif has a corner at 0, 0: .*; --bbox chooses"):
        mosaic([near, far], tmp_path / "m.tif")
    bounds = at(0, 0, values).bounds
    mosaic([near, far], tmp_path / "m.tif", target=TargetGrid(bounds=bounds))
    assert np.array_equal(read(tmp_path / "m.tif"), values)
    coarse = TargetGrid(resolution=1000)
    with caplog.at_level(logging.WARNING, "cafe"):
        mosaic([near, far], tmp_path / "coarse.tif", target=coarse)
    assert "far.tif has a corner at 0, 0" in caplog.text


def test_a_grid_off_by_half_a_pixel_is_snapped_to_the_first(tmp_path):
    a = np.array([[0, 1, 2, 0]], np.uint8)
    first = write(tmp_path / "a.tif", a, at(0, 0, a))
    off = Grid(UTM, from_origin(500_000.1 + 0.2 * 4.4, 5_200_000.3, 0.2, 0.2), 4, 1)
    second = write(tmp_path / "b.tif", a, off)
    mosaic([first, second], tmp_path / "out.tif")
    assert read(tmp_path / "out.tif")[0].tolist() == [0, 1, 2, 0, 0, 1, 2, 0, 255]


def test_other_nodata_than_255_is_understood(tmp_path):
    path = tmp_path / "a.tif"
    write_geotiff(path, np.array([[[9, 0, 1]]], np.uint8), LATTICE.at(Window(0, 0, 3, 1)), nodata=9)
    mosaic([str(path)], tmp_path / "out.tif")
    assert read(tmp_path / "out.tif")[0].tolist() == [255, 0, 1]


def test_nodata_that_is_a_class_is_refused(tmp_path):
    path, place = tmp_path / "a.tif", LATTICE.at(Window(0, 0, 3, 1))
    tags = class_tags(TABLE)
    for nodata in (0, 2):
        write_geotiff(path, np.array([[[2, 0, 1]]], np.uint8), place, nodata=nodata)
        with rasterio.open(path, "r+") as dataset:
            dataset.update_tags(**tags)
        name = TABLE.names[nodata]
        with pytest.raises(LabelError, match=rf"declares {nodata} as nodata.*class '{name}'"):
            mosaic([str(path)], tmp_path / "out.tif")


def gdalinfo(*arguments: object) -> str:
    command = ["gdalinfo", *map(str, arguments)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@pytest.mark.skipif(shutil.which("gdalinfo") is None, reason="gdalinfo is not installed")
def test_gdalinfo_sees_a_self_explaining_cog(tmp_path):
    a, b = random_labels(9, 700, 700), random_labels(10, 700, 700)
    inputs = [
        write(tmp_path / "a.tif", a, at(0, 0, a)),
        write(tmp_path / "b.tif", b, at(600, 0, b)),
    ]
    mosaic(inputs, tmp_path / "out.tif")
    info = json.loads(gdalinfo("-json", tmp_path / "out.tif"))
    band = info["bands"][0]
    assert info["size"] == [1300, 700]
    assert info["geoTransform"] == pytest.approx([500_000.1, 0.2, 0, 5_200_000.3, 0, -0.2])
    assert 'ID["EPSG",32632]' in info["coordinateSystem"]["wkt"]
    assert info["metadata"]["IMAGE_STRUCTURE"]["LAYOUT"] == "COG"
    assert info["metadata"]["IMAGE_STRUCTURE"]["COMPRESSION"] == "DEFLATE"
    assert (band["type"], band["noDataValue"], band["block"]) == ("Byte", 255, [512, 512])
    assert band["overviews"]
    assert [c[:3] for c in band["colorTable"]["entries"][:3]] == [list(c.rgb) for c in TABLE]
    text = " ".join(gdalinfo(tmp_path / "out.tif").split())
    assert "Categories: 0: ground 1: tree 2: building" in text


def test_overviews_hold_classes_even_without_a_class_table(tmp_path, caplog):
    a = np.zeros((1100, 1100), np.uint8)
    a[:, ::3] = 200
    path = write(tmp_path / "a.tif", a, at(0, 0, a), None)
    with caplog.at_level(logging.WARNING, "cafe"):
        mosaic([path], tmp_path / "out.tif")
    assert "no class names" in caplog.text
    with rasterio.open(tmp_path / "out.tif") as dataset:
        assert dataset.nodata == 255
        assert read_classes(dataset) is None
        assert np.array_equal(dataset.read(1), a)
    with rasterio.open(tmp_path / "out.tif", overview_level=0) as overview:
        assert set(np.unique(overview.read(1))) <= {0, 200}


def count_opening(monkeypatch, counting):
    for module in (planning, warp, reader):
        if hasattr(module, "open_raster"):
            monkeypatch.setattr(module, "open_raster", counting)


@pytest.mark.slow
@pytest.mark.parametrize("jobs", [1, 3])
def test_hundreds_of_inputs_are_never_open_at_once(tmp_path, monkeypatch, jobs):
    whole = random_labels(11, 200, 160)
    inputs = []
    for row in range(0, 200, 10):
        for col in range(0, 160, 16):
            piece = whole[row : row + 13, col : col + 20]
            inputs.append(write_quickly(tmp_path / f"{row}_{col}.tif", piece, at(col, row, piece)))
    assert len(inputs) == 200
    state, opened, original = Counter(), Counter(), open_raster

    @contextmanager
    def counting(path, view=None):
        with original(path, view) as dataset:
            opened[path] += 1
            state["open"] += 1
            state["most"] = max(state["most"], state["open"])
            yield dataset
            state["open"] -= 1

    count_opening(monkeypatch, counting)
    monkeypatch.setattr(engine, "WINDOW", 64)
    mosaic(inputs, tmp_path / "out.tif", jobs=jobs)
    assert np.array_equal(read(tmp_path / "out.tif"), whole)
    assert state["open"] == 0
    assert state["most"] <= 64
    assert max(opened.values()) <= 5  # once to look, and once per window it touches at worst


def test_rasters_stay_open_between_windows(tmp_path, monkeypatch):
    a = random_labels(12, 300, 300)
    path = write(tmp_path / "a.tif", a, at(0, 0, a))
    opened, original = Counter(), open_raster

    def counting(path, view=None):
        opened[path] += 1
        return original(path, view)

    count_opening(monkeypatch, counting)
    monkeypatch.setattr(engine, "WINDOW", 64)
    mosaic([path], tmp_path / "out.tif", jobs=1)
    assert opened[path] == 2


def test_what_is_in_memory_does_not_grow_with_the_inputs(tmp_path, monkeypatch):
    labels = [random_labels(seed, 40, 50) for seed in range(20)]
    inputs = [write_quickly(tmp_path / f"{i}.tif", a, at(0, 0, a)) for i, a in enumerate(labels)]
    sizes, first = [], METHODS["first"].choose

    def spying(stack, confidence):
        sizes.append(stack.size)
        return first(stack, confidence)

    monkeypatch.setitem(METHODS, "first", Method(spying))
    monkeypatch.setattr(merge, "_SAMPLES", 3000)
    mosaic(inputs, tmp_path / "out.tif", method="first")
    assert sum(sizes) == 20 * 40 * 50
    assert max(sizes) <= 3000


def test_progress_ends_at_the_total(tmp_path, rows, monkeypatch):
    monkeypatch.setattr(engine, "WINDOW", 4)
    seen = []
    mosaic(rows, tmp_path / "out.tif", progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 3), (2, 3), (3, 3)]


# Errors: one line that names the files, and nothing left behind.


@contextmanager
def refused(folder: Path, error: type[CafeError], match: str):
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    with pytest.raises(error, match=match) as caught:
        yield
    assert "\n" not in str(caught.value)
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before


def table(*names: str) -> ClassTable:
    return ClassTable(tuple(LandClass(i, name) for i, name in enumerate(names)))


@pytest.mark.parametrize(
    ("other", "match"),
    [
        (table("ground", "water", "building"), "a.tif.*d.tif.*1 is 'tree' in the first, 'water'"),
        (table("ground", "tree"), "a.tif.*d.tif.*first has 3, the second 2"),
        (None, "d.tif has no class table, .*a.tif has one"),
    ],
)
def test_differing_classes_are_refused(tmp_path, rows, other, match):
    rows.append(write_row(tmp_path / "d.tif", 0, 0, 0, classes=other))
    with refused(tmp_path, LabelError, match):
        mosaic(rows, tmp_path / "out.tif")


def test_other_colours_are_the_same_classes(tmp_path, rows):
    rows.append(write_row(tmp_path / "d.tif", 9, 2, classes=table("ground", "tree", "building")))
    mosaic(rows, tmp_path / "out.tif")
    with rasterio.open(tmp_path / "out.tif") as dataset:
        assert read_classes(dataset) == TABLE


def test_rasters_that_hold_no_labels_are_refused(tmp_path, rows):
    grid = LATTICE.at(Window(0, 0, 4, 4))
    write_geotiff(tmp_path / "rgb.tif", np.zeros((3, 4, 4), np.uint8), grid)
    with refused(tmp_path, BandError, "rgb.tif has 3 bands"):
        mosaic([*rows, str(tmp_path / "rgb.tif")], tmp_path / "out.tif")
    write_geotiff(tmp_path / "dsm.tif", np.zeros((1, 4, 4), np.float32), grid)
    with refused(tmp_path, InputError, "dsm.tif is float32"):
        mosaic([str(tmp_path / "dsm.tif"), *rows], tmp_path / "out.tif")


def test_values_beyond_the_class_table_are_refused(tmp_path, rows):
    rows.append(write_row(tmp_path / "d.tif", 0, 0, 3))
    with refused(tmp_path, LabelError, r"d.tif holds the value 3, but its classes are 0 to 2"):
        mosaic(rows, tmp_path / "out.tif")


def test_options_that_do_not_fit_are_refused(tmp_path, rows, confidences):
    output = tmp_path / "out.tif"
    with refused(tmp_path, ConfigError, "no inputs"):
        mosaic([], output)
    with refused(tmp_path, ConfigError, "'mode'; known: first, last, majority, confidence"):
        mosaic(rows, output, method="mode")
    with refused(tmp_path, ConfigError, "a.tif needs its confidence raster"):
        mosaic(rows, output, method="confidence")
    with refused(tmp_path, ConfigError, "2 confidence rasters for 3 label rasters"):
        mosaic(rows, output, method="confidence", confidences=Confidences(confidences[:2]))
    with refused(tmp_path, ConfigError, "nothing uses the confidence rasters"):
        mosaic(rows, output, method="first", confidences=Confidences(confidences))
    with pytest.raises(ConfigError, match="resolution 0"):
        TargetGrid(resolution=0)
    with pytest.raises(ConfigError, match="left bottom right top"):
        TargetGrid(bounds=(1, 0, 0, 1))


def test_confidences_have_to_lie_on_their_labels(tmp_path, rows, confidences):
    swapped = Confidences((confidences[1], confidences[0], confidences[2]))
    with refused(tmp_path, GridError, r"cb.tif \(6 x 1 pixels.*a.tif \(6 x 1 pixels.* order"):
        mosaic(rows, tmp_path / "out.tif", method="confidence", confidences=swapped)


def test_confidences_above_100_are_refused(tmp_path, rows, confidences):
    wrong = write_row(tmp_path / "wrong.tif", 2, 0, 0, 0, 0, 173, 0, classes=None)
    known = Confidences((confidences[0], wrong, confidences[2]))
    with refused(tmp_path, InputError, "wrong.tif holds the value 173"):
        mosaic(rows, tmp_path / "out.tif", method="confidence", confidences=known)


def test_an_output_must_not_be_an_input_nor_exist(tmp_path, rows, confidences):
    known = Confidences(confidences, tmp_path / "out.tif")
    with refused(tmp_path, ConfigError, r"b.tif is an input too"):
        mosaic(rows, tmp_path / "b.tif", overwrite=True)
    with refused(tmp_path, ConfigError, r"cb.tif is an input too"):
        mosaic(rows, tmp_path / "cb.tif", confidences=known, overwrite=True)
    with refused(tmp_path, ConfigError, r"out.tif is an output too"):
        mosaic(rows, tmp_path / "out.tif", confidences=known)
    (tmp_path / "out.tif").write_text("mine")
    with refused(tmp_path, OutputError, "out.tif exists; pass --overwrite"):
        mosaic(rows, tmp_path / "out.tif")
    with refused(tmp_path, OutputError, "out.tif exists; pass --overwrite"):
        mosaic(rows, tmp_path / "new.tif", confidences=known)
    with refused(tmp_path, OutputError, "out.tif is a file, so .*new.tif cannot be in it"):
        mosaic(rows, tmp_path / "out.tif" / "new.tif")
    mosaic(rows, tmp_path / "made" / "for" / "new.tif")
    assert read(tmp_path / "made" / "for" / "new.tif").shape == (1, 9)
    mosaic(rows, tmp_path / "out.tif", overwrite=True)
    assert read(tmp_path / "out.tif").shape == (1, 9)


@pytest.mark.parametrize("name", ["out.png", "out.gpkg", "out", "out.tif.jpg", "out.vrt"])
def test_an_output_is_named_like_a_geotiff(tmp_path, rows, confidences, name):
    with refused(tmp_path, ConfigError, rf"{name}: .* ends in .tif or .tiff"):
        mosaic(rows, tmp_path / name)
    known = Confidences(tuple(confidences), tmp_path / name)
    with refused(tmp_path, ConfigError, rf"{name}: .* ends in .tif or .tiff"):
        mosaic(rows, tmp_path / "out.tif", confidences=known)


def test_a_missing_or_truncated_input_leaves_nothing_behind(tmp_path, rows, confidences):
    known = Confidences((*confidences, confidences[0]), tmp_path / "confidence.tif")
    with refused(tmp_path, InputError, "gone.tif does not exist"):
        mosaic([*rows, str(tmp_path / "gone.tif")], tmp_path / "out.tif", confidences=known)
    noise = np.random.default_rng(0).integers(0, 3, (1500, 1500)).astype(np.uint8)
    path = write(tmp_path / "noise.tif", noise, at(0, 0, noise))
    whole = Path(path).read_bytes()
    Path(path).write_bytes(whole[: len(whole) * 2 // 3])
    with refused(tmp_path, InputError, "noise.tif at column .* truncated or damaged"):
        mosaic([*rows, path], tmp_path / "out.tif")


def test_inputs_without_common_grid_are_refused(tmp_path, rows):
    a = np.zeros((4, 4), np.uint8)
    plane = write(tmp_path / "plane.tif", a, Grid(None, from_origin(0, 0, 1, 1), 4, 4))
    with refused(tmp_path, GridError, r"plane.tif is in pixel coordinates .*EPSG:32632.*a_srs"):
        mosaic([*rows, plane], tmp_path / "out.tif")
    with refused(tmp_path, GridError, r"a.tif is in EPSG:32632, .*pixel coordinates"):
        mosaic([plane, *rows], tmp_path / "out.tif")
    far = write(tmp_path / "far.tif", a, Grid(UTM, from_origin(9e5, 9e6, 0.2, 0.2), 4, 4))
    with refused(tmp_path, GridError, r"far.tif lies 3,821 km from .* 2000004 x 19000000 pixels"):
        mosaic([*rows, far], tmp_path / "out.tif")
    with refused(tmp_path, GridError, "bounds 0 0 1 1 hold nothing: .* 500000.1 .*EPSG:32632"):
        mosaic(rows, tmp_path / "out.tif", target=TargetGrid(bounds=(0, 0, 1, 1)))


@pytest.mark.parametrize("victim", ["out", "confidence"])
def test_both_outputs_appear_or_none(tmp_path, rows, confidences, monkeypatch, victim):
    original = _to_cog

    def failing(source, target, overviews):
        if victim in target.name:
            raise OutputError(f"cannot write {target}: disk full")
        original(source, target, overviews)

    monkeypatch.setattr(writer, "_to_cog", failing)
    known = Confidences(confidences, tmp_path / "confidence.tif")
    with refused(tmp_path, OutputError, "disk full"):
        mosaic(rows, tmp_path / "out.tif", confidences=known)
    (tmp_path / "confidence.tif").write_text("older")
    with refused(tmp_path, OutputError, "disk full"):
        mosaic(rows, tmp_path / "out.tif", confidences=known, overwrite=True)


# Provenance


def made_of(path: Path) -> dict[str, str]:
    with rasterio.open(path) as dataset:
        tags = dataset.tags()
    return {
        k: v
        for k, v in tags.items()
        if k.startswith("CAFE_") and k[5:] not in ("VERSION", "PRODUCT")
    }


def write_from(path: Path, **tags: str) -> str:
    with create_cog(path, at(0, 0, np.zeros((1, 1))), True, TABLE, **tags) as dataset:
        dataset.write(np.zeros((1, 1), np.uint8), 1)
    return str(path)


@pytest.mark.parametrize(
    ("models", "expected"),
    [
        ([("m", "1"), ("m", "1")], ("m", "1")),
        ([("m", "1"), ("m", "2")], ("m, m", "1, 2")),
        ([("m", "1"), ("", "")], ("m", "1")),
        ([("old", ""), ("m", "1")], ("old, m", "1")),
        ([("", ""), ("", "")], (None, None)),
    ],
)
def test_a_mosaic_says_what_it_was_made_of(tmp_path, models, expected):
    names = ("CAFE_MODEL", "CAFE_MODEL_SHA256")
    paths = []
    for number, model in enumerate(models):
        known = {name: text for name, text in zip(names, model, strict=True) if text}
        paths.append(write_from(tmp_path / f"{number}.tif", **known))
    sure = [write_from(tmp_path / f"sure{n}.tif") for n in range(2)]
    given = Confidences(tuple(sure), tmp_path / "sure.tif")
    mosaic(paths, tmp_path / "map.tif", method="first", confidences=given)
    name, digest = expected
    tags = {
        "CAFE_INPUTS": "0.tif, 1.tif", "CAFE_METHOD": "first", "CAFE_MODEL": name,
        "CAFE_MODEL_SHA256": digest,
    }  # fmt: skip
    tags = {key: value for key, value in tags.items() if value}
    assert made_of(tmp_path / "map.tif") == made_of(tmp_path / "sure.tif") == tags


def test_the_item_of_a_mosaic(tmp_path):
    path = write_row(tmp_path / "a.tif", 0, 0, 1, 2, 2)
    (tmp_path / "a.stac.json").write_text('{"properties": {"datetime": "2020-01-02T03:04:05Z"}}')
    mosaic([path], tmp_path / "map.tif", stac=StacOptions())
    item = json.loads((tmp_path / "map.stac.json").read_text())
    assert item["properties"]["datetime"] == "2020-01-02T03:04:05Z"
    assert item["properties"]["cafe:method"] == "majority"
    labels = item["assets"]["labels"]
    assert [row["count"] for row in labels["classification:classes"]] == [1, 1, 2]
    digest = hashlib.sha256((tmp_path / "map.tif").read_bytes()).hexdigest()
    assert labels["file:checksum"] == f"1220{digest}"
    assert "stac_extensions" in item
    assert not any("mlm" in name for name in item["stac_extensions"])
    mosaic([path], tmp_path / "map.tif", overwrite=True)
    assert not (tmp_path / "map.stac.json").exists()


def test_a_mosaic_of_maps_without_a_date(tmp_path):
    path = write_row(tmp_path / "a.tif", 0, 0, 1)
    with pytest.raises(ConfigError, match=r"a\.tif has no acquisition time"):
        mosaic([path], tmp_path / "map.tif", stac=StacOptions())
    outputs = MosaicOutputs(tmp_path / "map.tif", stac=StacOptions())
    report = engine.dry_run(MosaicInputs((path,)), outputs)
    assert "a.tif has no acquisition time" in report.findings[0].message
    assert sorted(p.name for p in tmp_path.glob("map*")) == []


def test_names_of_inputs_hold_no_secret_and_no_folder(tmp_path):
    many = [write_from(tmp_path / f"{n:03}.tif") for n in range(60)]
    mosaic(many, tmp_path / "map.tif")
    named = made_of(tmp_path / "map.tif")["CAFE_INPUTS"]
    assert named.startswith("000.tif, 001.tif, ")
    assert named.endswith("049.tif and 10 more")
    tags = provenance_tags(["/vsicurl/https://a:b@host/x.tif?token=c", "dir/a\x1bb.tif"], [])
    assert tags["CAFE_INPUTS"] == "x.tif, a\\x1bb.tif"


# Rasters beside the maps


@pytest.fixture
def folder(tmp_path, model):
    """Two maps of one scene that overlap, each with its confidence, quality and probabilities."""
    image, metres, _ = town(70, 130)
    for name, left in (("west", 0), ("east", 50)):
        part = (slice(None), slice(None), slice(left, left + 80))
        optical = write_scene(tmp_path / f"{name}.tif", image[part], (left, 0))
        heights = write_scene(tmp_path / f"{name}_h.tif", metres[part], (left, 0))
        kinds = ("confidence", "probabilities", "quality")
        beside = {kind: tmp_path / "maps" / f"{name}_{kind}.tif" for kind in kinds}
        source = PredictInput((optical,), (heights,))
        predict(model, source, tmp_path / "maps" / f"{name}.tif", **beside)
    return tmp_path / "maps"


def files_in(folder: Path) -> list[str]:
    return sorted(str(path) for path in folder.glob("*.tif"))


def beside(folder: Path, kind: str) -> list[str]:
    return [str(folder / f"{name}_{kind}.tif") for name in ("east", "west")]


MAPS = ("east", "west")


def test_a_folder_of_maps_and_what_lies_beside_them(folder, tmp_path, caplog):
    maps = [str(folder / f"{name}.tif") for name in MAPS]
    with caplog.at_level(logging.INFO, "cafe"):
        result = mosaic(files_in(folder), tmp_path / "all.tif", method="confidence")
    assert result.labels == tuple(maps)
    assert "2 of confidence, 2 of probabilities, 2 of quality" in caplog.text
    given = Confidences(beside(folder, "confidence"))
    mosaic(maps, tmp_path / "named.tif", method="confidence", confidences=given)
    assert np.array_equal(read(tmp_path / "all.tif"), read(tmp_path / "named.tif"))


def test_summed_probabilities(folder, tmp_path):
    output = Confidences((), tmp_path / "confidence.tif")
    for name, files in (("found", files_in(folder)), ("given", files_in(folder)[::4])):
        assert len(files) in (8, 2)
        more = beside(folder, "probabilities") if name == "given" else ()
        mosaic(
            files, tmp_path / f"{name}.tif", method="probabilities", probabilities=more,
            confidences=output, overwrite=True,
        )  # fmt: skip
    total, count = np.zeros((3, 70, 130)), np.zeros((70, 130))
    for name, left in (("west", 0), ("east", 50)):
        with rasterio.open(folder / f"{name}_probabilities.tif") as dataset:
            total[:, :, left : left + 80] += dataset.read()
            count[:, left : left + 80] += 1
    want = total.argmax(axis=0)
    assert np.array_equal(read(tmp_path / "found.tif"), want)
    assert np.array_equal(read(tmp_path / "given.tif"), want)
    assert np.array_equal(
        read(tmp_path / "confidence.tif"), np.rint(total.max(axis=0) / count).astype(int)
    )


def test_of_a_raster_beside_a_map_there_has_to_be_one(folder, tmp_path):
    files = files_in(folder)
    short = [name for name in files if not name.endswith("east_confidence.tif")]
    with refused(tmp_path, ConfigError, "east.tif needs its confidence raster, and none among"):
        mosaic(short, tmp_path / "all.tif", method="confidence")
    shutil.copy(folder / "east_confidence.tif", folder / "copy.tif")
    with refused(tmp_path, ConfigError, "east.tif needs its confidence raster, and 2 fit"):
        mosaic(files_in(folder), tmp_path / "all.tif", method="confidence")
    with refused(tmp_path, InputError, "none of the 2 inputs is a label raster, .* of quality"):
        mosaic(beside(folder, "quality"), tmp_path / "all.tif")
    with refused(tmp_path, ConfigError, "nothing uses the probabilities"):
        mosaic(files, tmp_path / "all.tif", probabilities=beside(folder, "probabilities"))
    with refused(tmp_path, BandError, "east_confidence.tif has 1 bands, .* has 3"):
        mosaic(
            [str(folder / f"{name}.tif") for name in MAPS], tmp_path / "all.tif",
            method="probabilities", probabilities=beside(folder, "confidence"),
        )  # fmt: skip


# Distance to the edge, sources, seams


def test_the_label_of_the_input_whose_edge_is_farthest(tmp_path):
    left, right = np.zeros((40, 60), np.uint8), np.ones((40, 60), np.uint8)
    left[:, :10] = 255  # its data end here, not at the edge of the raster
    inputs = [
        write(tmp_path / "l.tif", left, at(0, 0, left)),
        write(tmp_path / "r.tif", right, at(30, 0, right)),
    ]
    mosaic(inputs, tmp_path / "out.tif", method="distance", sources=tmp_path / "from.tif")
    got = read(tmp_path / "out.tif")
    assert (got[:, :10] == 255).all()
    assert (got[18:22, 10:44] == 0).all()  # nearer to the top and bottom, both are as far
    assert (got[18:22, 46:] == 1).all()
    assert np.array_equal(read(tmp_path / "from.tif"), got)  # here, ids are positions


def test_distance_works_across_crs(tmp_path):
    a, b = np.zeros((60, 90), np.uint8), np.ones((60, 90), np.uint8)
    here = at(0, 0, a)
    inputs = [
        write(tmp_path / "a.tif", a, here),
        write(tmp_path / "b.tif", b, Grid(UTM, *_warped(at(45, 0, b)))),
    ]
    mosaic(inputs, tmp_path / "out.tif", method="distance", target=TargetGrid(like=inputs[0]))
    got = read(tmp_path / "out.tif")[20:40]
    assert (got[:, :60] == 0).all()
    assert (got[:, 75:100] == 1).all()


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        ("first", [0, 0, 0, 0, 1, 0, 1, 1, 2]),
        ("last", [0, 0, 2, 2, 2, 0, 2, 1, 2]),
        ("majority", [0, 0, 0, 0, 1, 0, 1, 1, 2]),
    ],
)
def test_sources_by_hand(tmp_path, rows, method, expected):
    mosaic(rows, tmp_path / "out.tif", method=method, sources=tmp_path / "from.tif")
    assert read(tmp_path / "from.tif")[0].tolist() == expected
    with rasterio.open(tmp_path / "from.tif") as dataset:
        assert read_classes(dataset).names == ("a.tif", "b.tif", "c.tif")


def test_sources_that_cannot_be_are_refused(tmp_path, rows):
    with refused(tmp_path, ConfigError, "'probabilities' combines all inputs"):
        mosaic(rows, tmp_path / "out.tif", method="probabilities", sources=tmp_path / "from.tif")
    many = [rows[0]] * 256
    with refused(tmp_path, ConfigError, "at most 255 inputs, but there are 256"):
        mosaic(many, tmp_path / "out.tif", sources=tmp_path / "from.tif")


@pytest.mark.parametrize("window", [2, 1024])
def test_seams_by_hand(tmp_path, rows, monkeypatch, window):
    monkeypatch.setattr(engine, "WINDOW", window)
    result = mosaic(rows, tmp_path / "out.tif", method="first")
    # Columns 2 to 7: a 0 1 _ 2 - - / b 1 1 1 _ 1 0 / c 2 2 1 _ 2 _
    assert (result.seams.overlap, result.seams.disagreement) == (4, 3)
    assert result.seams.inputs.tolist() == [[2, 0], [4, 1], [4, 3]]
    assert result.seams.worst() == (2, 0.75)
    stored = read_beside(tmp_path / "out.tif")["seams"]
    assert stored["overlap_pixels"] == 4
    assert stored["inputs"][2] == {
        "input": "c.tif", "overlap_pixels": 4, "differs_pixels": 3,
    }  # fmt: skip


def test_without_overlap_there_are_no_seams(tmp_path):
    inputs = [write_row(tmp_path / "a.tif", 0, 0, 1), write_row(tmp_path / "b.tif", 2, 1, 2)]
    seams = mosaic(inputs, tmp_path / "out.tif").seams
    assert (seams.overlap, seams.share, seams.worst()) == (0, 0, None)


# Small regions


def bumpy_map(height: int, width: int):
    labels = np.zeros((height, width), np.uint8)
    labels[:, width // 2 :] = 1
    labels[5:8, 5:8] = 2  # 9 pixels in class 0
    labels[5, width - 4 :] = 0  # 4 pixels in class 1
    labels[10:20, 10:20] = 2  # large enough
    labels[15, 15] = 255  # no class stays no class
    labels[30:32, :2] = 255
    return labels


@pytest.mark.parametrize("tile", [7, 16, 1024])
def test_small_regions_are_given_to_their_neighbours(tmp_path, monkeypatch, tile):
    monkeypatch.setattr(labelling, "TILE", tile)
    labels = bumpy_map(40, 60)
    inputs = [write(tmp_path / "a.tif", labels, at(0, 0, labels))]
    mosaic(inputs, tmp_path / "out.tif", min_area=10 * 0.2**2)
    want = labels.copy()
    want[5:8, 5:8], want[5, -4:] = 0, 1
    assert np.array_equal(read(tmp_path / "out.tif"), want)
    assert sorted(path.suffix for path in tmp_path.glob(".*")) == []
    with rasterio.open(tmp_path / "out.tif") as dataset:
        assert dataset.overviews(1) == []
        assert read_classes(dataset).names == TABLE.names
    mosaic(inputs, tmp_path / "out.tif", min_area=9 * 0.2**2, overwrite=True)
    want[5:8, 5:8] = 2  # of just that area
    assert np.array_equal(read(tmp_path / "out.tif"), want)


def test_a_region_that_inputs_cut_is_one(tmp_path):
    labels = bumpy_map(40, 60)
    parts = [labels[:, :6], labels[:, 6:]]
    inputs = [
        write(tmp_path / f"{c}.tif", part, at(c, 0, part))
        for c, part in zip((0, 6), parts, strict=True)
    ]
    mosaic(inputs, tmp_path / "out.tif", min_area=9 * 0.2**2)
    assert (read(tmp_path / "out.tif")[5:8, 5:8] == 2).all()


def test_a_negative_area_is_refused(tmp_path, rows):
    with refused(tmp_path, ConfigError, "min area -1 is below 0"):
        mosaic(rows, tmp_path / "out.tif", min_area=-1)
