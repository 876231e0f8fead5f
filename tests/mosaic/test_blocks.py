"""`cafe mosaic --block-size`: the same map in blocks, resumed, replaced and read again."""

import hashlib
import json
import os
import pickle
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio.crs import CRS
from rasterio.transform import from_origin

from cafe_cli.classes import ClassTable, LandClass
from cafe_cli.config.provenance import read_beside
from cafe_cli.errors import ConfigError, OutputError
from cafe_cli.mosaic import block_folder, block_index, block_runs, blocks
from cafe_cli.mosaic import mosaic as engine
from cafe_cli.mosaic.grid import TargetGrid
from cafe_cli.mosaic.job import MosaicInputs, MosaicOptions, MosaicOutputs
from cafe_cli.mosaic.methods import METHODS
from cafe_cli.mosaic.plan import plan
from cafe_cli.raster.grid import Grid
from cafe_cli.raster.output_files import overviews_path
from cafe_cli.raster.stac import StacOptions
from cafe_cli.raster.window import Window
from cafe_cli.raster.writer import read_classes
from cafe_cli.scenes.discovery import expand_inputs
from cafe_cli.system import output_group
from tests.support import damage
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
SWISS = Grid(CRS.from_epsg(2056), from_origin(2_600_000, 1_200_000, 0.5, 0.5), 1, 1)
SIZE = 48
NODATA = 255


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(block_folder, "STEP", 16)
    monkeypatch.setattr(blocks, "WINDOW", 32)


def write(path: Path, values: np.ndarray, grid: Grid, **tags: str) -> str:
    count, height, width = values.shape
    size = {"width": width, "height": height, "count": count, "dtype": "uint8"}
    place = {"crs": grid.crs, "transform": grid.transform, "nodata": NODATA}
    tiles = {"tiled": True, "blockxsize": 32, "blockysize": 32, "compress": "lzw"}
    with rasterio.open(path, "w", driver="GTiff", **size, **place, **tiles) as dataset:
        dataset.write(values)
        dataset.update_tags(CLASSES=json.dumps(TABLE.as_json()), **tags)
    return str(path)


class Maps:
    """Overlapping maps with confidence and probabilities, and a gap of several blocks."""

    def __init__(self, folder: Path, lattice: Grid = LATTICE) -> None:
        rng = np.random.default_rng(3)
        self.labels, self.confidences, self.probabilities = [], [], []
        for i, (col, row) in enumerate([(0, 0), (50, 20), (30, 60), (220, 10)]):
            grid = lattice.at(Window(col, row, 90, 70))
            values = rng.integers(0, 3, (1, 7, 9)).repeat(10, 1).repeat(10, 2).astype(np.uint8)
            values[rng.random(values.shape) < 0.1] = NODATA
            sure = rng.integers(0, 101, values.shape).astype(np.uint8)
            shares = rng.integers(0, 50, (3, 70, 90)).astype(np.uint8)
            self.labels.append(write(folder / f"m{i}.tif", values, grid, CAFE_MODEL=f"model {i}"))
            self.confidences.append(write(folder / f"c{i}.tif", sure, grid))
            self.probabilities.append(write(folder / f"p{i}.tif", shares, grid))

    def join(self, output: Path, method: str = "majority", **options):
        """Join them, with confidence and sources beside the map."""
        summed = method == "probabilities"
        beside = [output.with_name(f"{kind}_{output.name}") for kind in ("sure", "from")]
        known = Confidences(() if summed else self.confidences, beside[0])
        return mosaic(
            self.labels, output, method=method, confidences=known,
            probabilities=self.probabilities if summed else (),
            sources=None if summed else beside[1], **options,
        )  # fmt: skip


@pytest.fixture
def maps(tmp_path):
    (tmp_path / "in").mkdir()
    return Maps(tmp_path / "in")


def pixels(path: Path) -> np.ndarray:
    with rasterio.open(path) as dataset:
        return dataset.read(1)


def index(folder: Path) -> Path:
    return folder / f"{folder.name}.vrt"


def contents(*folders: Path) -> dict[str, str]:
    """Return the digests of all files, hidden ones included."""
    files = [file for folder in folders for file in sorted(folder.rglob("*")) if file.is_file()]
    return {str(file): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def outputs_of(folder: Path) -> list[Path]:
    return [
        folder,
        folder.with_name(f"sure_{folder.name}"),
        folder.with_name(f"from_{folder.name}"),
    ]


def names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.mark.parametrize(
    ("method", "size", "target"),
    [
        *((method, SIZE, TargetGrid()) for method in METHODS),
        ("majority", 32, TargetGrid()),
        ("distance", 160, TargetGrid(resolution=0.3)),
        ("last", SIZE, TargetGrid(bounds=(500_005, 5_199_980, 500_050, 5_199_999))),
        ("confidence", 1024, TargetGrid()),
    ],
)
def test_blocks_hold_the_pixels_of_the_single_file(tmp_path, maps, method, size, target):
    one = maps.join(tmp_path / "one.tif", method, target=target)
    many = maps.join(tmp_path / "many", method, target=target, block_size=size)
    totals = one.seams.overlap, one.seams.disagreement
    assert (many.seams.overlap, many.seams.disagreement) == totals
    assert np.array_equal(many.seams.inputs, one.seams.inputs)
    kinds = ("", "sure_") if method == "probabilities" else ("", "sure_", "from_")
    for kind in kinds:
        single, folder = tmp_path / f"{kind}one.tif", tmp_path / f"{kind}many"
        with rasterio.open(single) as a, rasterio.open(index(folder)) as b:
            assert np.array_equal(a.read(), b.read())
            assert Grid.of(a).same_pixels(Grid.of(b))
            assert a.tags(1) == b.tags(1)  # statistics
            assert a.tags() == {**b.tags(), "AREA_OR_POINT": "Area"}
            for name in ("nodata", "descriptions", "units", "colorinterp"):
                assert getattr(a, name) == getattr(b, name)
            if kind != "sure_":
                assert a.colormap(1) == b.colormap(1)


def test_warped_maps_in_blocks_are_those_of_the_single_file(tmp_path, maps):
    (tmp_path / "swiss").mkdir()
    place = rasterio.warp.transform(UTM, SWISS.crs, [500_010.0], [5_199_990.0])
    origin = from_origin(round(place[0][0]), round(place[1][0]), 0.17, 0.17)
    others = Maps(tmp_path / "swiss", Grid(SWISS.crs, origin, 1, 1))
    every = [*maps.labels, *others.labels]
    for method in ("first", "distance"):
        mosaic(every, tmp_path / f"{method}.tif", method=method)
        mosaic(every, tmp_path / method, method=method, block_size=SIZE)
        assert np.array_equal(pixels(tmp_path / f"{method}.tif"), pixels(index(tmp_path / method)))
    assert (pixels(tmp_path / "first.tif") != NODATA).any()


def test_each_block_is_a_map_of_cafe(tmp_path, maps):
    result = maps.join(tmp_path / "many", block_size=SIZE)
    whole = pixels(index(tmp_path / "many"))
    files = sorted((tmp_path / "many").glob("*.tif"))
    assert len(files) == result.blocks
    for file in files:
        row, col = map(int, re.fullmatch(r"many_r(\d)_c(\d)", file.stem).groups())
        with rasterio.open(file) as block:
            assert block.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
            assert read_classes(block) == TABLE
            assert block.tags()["CAFE_METHOD"] == "majority"
            assert (block.width, block.height) == (
                min(SIZE, whole.shape[1] - SIZE * col), min(SIZE, whole.shape[0] - SIZE * row)
            )  # fmt: skip
            there = whole[SIZE * row :][:SIZE, SIZE * col :][:, :SIZE]
            assert np.array_equal(block.read(1), there)
            assert (there != NODATA).any()
        for side in (f"{file.name}.aux.xml", f"{file.stem}.qml"):
            assert file.with_name(side).exists()
    covered = {tuple(map(int, re.findall(r"\d", file.stem))) for file in files}
    for row in range(0, whole.shape[0], SIZE):
        for col in range(0, whole.shape[1], SIZE):
            empty = (whole[row : row + SIZE, col : col + SIZE] == NODATA).all()
            assert empty == ((row // SIZE, col // SIZE) not in covered)
    assert len(covered) < -(-whole.shape[0] // SIZE) * -(-whole.shape[1] // SIZE)


def test_a_block_names_the_inputs_that_touch_it(tmp_path, maps):
    maps.join(tmp_path / "many", block_size=SIZE)
    with rasterio.open(tmp_path / "many" / "many_r0_c6.tif") as block:
        assert block.tags()["CAFE_INPUTS"] == "m3.tif"
        assert block.tags()["CAFE_MODEL"] == "model 3"
    with rasterio.open(index(tmp_path / "many")) as dataset:
        assert dataset.tags()["CAFE_INPUTS"] == "m0.tif, m1.tif, m2.tif, m3.tif"
    made = read_beside(index(tmp_path / "many"))
    assert made["block_size"] == SIZE
    assert made["inputs"] == maps.labels


def test_nothing_but_the_folders_is_left(tmp_path, maps):
    maps.join(tmp_path / "many", block_size=SIZE)
    assert names_in(tmp_path) == {"in", "many", "sure_many", "from_many"}
    for folder in outputs_of(tmp_path / "many"):
        assert not list(folder.rglob(".*"))


def test_the_index_has_the_legend_of_the_map(tmp_path, maps):
    maps.join(tmp_path / "one.tif")
    maps.join(tmp_path / "many", block_size=SIZE)
    aux = (tmp_path / "one.tif.aux.xml").read_text()
    legend = aux[aux.index("<CategoryNames>") : aux.index("</PAMRasterBand>")]
    assert legend in index(tmp_path / "many").read_text()
    for kind in ("", "sure_", "from_"):
        style = tmp_path / f"{kind}many" / f"{kind}many.qml"
        assert style.read_bytes() == (tmp_path / f"{kind}one.qml").read_bytes()


@pytest.mark.parametrize(("most", "factor"), [(80, 4), (32, 16), (1000, 1)])
def test_the_index_has_an_overview(tmp_path, maps, monkeypatch, most, factor):
    monkeypatch.setattr(block_index, "_OVERVIEW", most)
    monkeypatch.setattr(block_index, "_DIVISOR", 16)
    maps.join(tmp_path / "many", block_size=SIZE)
    whole = pixels(index(tmp_path / "many"))
    for folder in outputs_of(tmp_path / "many"):
        assert overviews_path(index(folder)).exists() == (factor > 1)
        with rasterio.open(index(folder)) as dataset:
            assert dataset.overviews(1) == ([factor] if factor > 1 else [])
    if factor == 1:
        return
    coarse = pixels(overviews_path(index(tmp_path / "many")))
    height, width = whole.shape
    assert coarse.shape == (-(-height // factor), -(-width // factor))
    for row, col in np.ndindex(coarse.shape):
        cell = whole[row * factor :][:factor, col * factor :][:, :factor]
        known, counts = np.unique(cell[cell != NODATA], return_counts=True)
        if coarse[row, col] == NODATA:
            assert not len(known)
        else:
            assert counts[known == coarse[row, col]] == counts.max()
    assert np.isin(coarse, (0, 1, 2)).sum() > 20


def test_the_folder_can_be_moved(tmp_path, maps):
    maps.join(tmp_path / "many", block_size=SIZE)
    before = pixels(index(tmp_path / "many"))
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "many").rename(tmp_path / "elsewhere" / "here")
    assert np.array_equal(pixels(tmp_path / "elsewhere" / "here" / "many.vrt"), before)


def test_the_folder_is_an_input_and_its_index_is_not_read_twice(tmp_path, maps):
    result = maps.join(tmp_path / "many", block_size=SIZE)
    files = expand_inputs([str(tmp_path / "many")])
    assert len(files) == result.blocks
    assert {Path(file).suffix for file in files} == {".tif"}
    mosaic(files, tmp_path / "again.tif", target=TargetGrid(like=str(index(tmp_path / "many"))))
    mosaic([str(index(tmp_path / "many"))], tmp_path / "whole.tif")
    maps.join(tmp_path / "one.tif")
    assert np.array_equal(pixels(tmp_path / "whole.tif"), pixels(tmp_path / "one.tif"))
    with rasterio.open(tmp_path / "again.tif") as a, rasterio.open(tmp_path / "one.tif") as b:
        inside = rasterio.windows.from_bounds(*a.bounds, b.transform).round()
        assert np.array_equal(a.read(1), b.read(1, window=inside))


class StoppedError(Exception):
    """Stands for whatever ends a run."""


def stop_after(monkeypatch, count: int) -> list[str]:
    """Make every run end once it has made some blocks; return the names of those made."""
    made = []

    def stopping(task):
        if len(made) == count:
            raise StoppedError
        made.append(task.name)
        return blocks.make_block(task)

    monkeypatch.setattr(block_runs, "make_block", stopping)
    return made


@pytest.mark.parametrize("count", [1, 3, 9])
def test_a_run_that_was_stopped_is_resumed_to_the_same_bytes(tmp_path, maps, monkeypatch, count):
    maps.join(tmp_path / "many", block_size=SIZE)
    expected = contents(*outputs_of(tmp_path / "many"))
    for folder in outputs_of(tmp_path / "many"):
        shutil.rmtree(folder)
    with monkeypatch.context() as patch:
        made = stop_after(patch, count)
        with pytest.raises(StoppedError):
            maps.join(tmp_path / "many", block_size=SIZE)
    assert not (tmp_path / "many").exists()
    with monkeypatch.context() as patch:
        again = stop_after(patch, 1000)
        seen = []
        maps.join(
            tmp_path / "many", block_size=SIZE, resume=True,
            progress=lambda done, total: seen.append((done, total)),
        )  # fmt: skip
    assert not set(made) & set(again)
    total = len(made) + len(again)
    assert seen == [(done, total) for done in range(count, total + 1)]
    assert contents(*outputs_of(tmp_path / "many")) == expected
    assert names_in(tmp_path) == {"in", "many", "sure_many", "from_many"}


def test_a_complete_folder_is_left_alone_on_a_resume(tmp_path, maps, monkeypatch, caplog):
    caplog.set_level("INFO", "cafe")
    maps.join(tmp_path / "many", block_size=SIZE, resume=True)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "many").rglob("*")}
    made = stop_after(monkeypatch, 0)
    maps.join(tmp_path / "many", block_size=SIZE, resume=True)
    assert not made
    assert f"{tmp_path / 'many'} is complete" in caplog.messages
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "many").rglob("*")} == before
    for changes in ({"method": "last"}, {"block_size": 2 * SIZE}):
        with pytest.raises(OutputError, match="many exists; pass --overwrite"):
            maps.join(tmp_path / "many", **{"block_size": SIZE, **changes}, resume=True)
    os.utime(maps.labels[0], (1, 1))
    with pytest.raises(OutputError, match="many exists; pass --overwrite"):
        maps.join(tmp_path / "many", block_size=SIZE, resume=True)


def test_a_run_that_was_stopped_at_once_leaves_nothing(tmp_path, maps, monkeypatch):
    stop_after(monkeypatch, 0)
    with pytest.raises(StoppedError):
        maps.join(tmp_path / "many", block_size=SIZE)
    assert names_in(tmp_path) == {"in"}


@pytest.fixture
def stopped(tmp_path, maps, monkeypatch):
    """Maps of which three blocks were made."""
    with monkeypatch.context() as patch:
        stop_after(patch, 3)
        with pytest.raises(StoppedError):
            maps.join(tmp_path / "many", block_size=SIZE)
    return maps


def test_blocks_are_not_thrown_away_without_a_word(tmp_path, stopped):
    said = r"left 3 blocks of .*many; pass --resume to continue it, or --overwrite"
    with pytest.raises(OutputError, match=said):
        stopped.join(tmp_path / "many", block_size=SIZE)
    stopped.join(tmp_path / "many", block_size=SIZE, overwrite=True)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"method": "first"}, 'method was "majority", now "first"'),
        ({"block_size": 2 * SIZE}, "block_size was 48, now 96"),
        ({"target": TargetGrid(resolution=0.4)}, "size has changed|size was"),
    ],
)
def test_blocks_of_another_mosaic_are_refused(tmp_path, stopped, changes, said):
    with pytest.raises(OutputError, match=f"cannot resume .*many: .*(?:{said})"):
        stopped.join(tmp_path / "many", **{"block_size": SIZE, **changes}, resume=True)


def test_blocks_of_an_input_that_has_changed_are_refused(tmp_path, stopped):
    os.utime(stopped.labels[1], (1, 1))
    with pytest.raises(OutputError, match=r"cannot resume .*: input .*m1.tif has changed"):
        stopped.join(tmp_path / "many", block_size=SIZE, resume=True)


@pytest.mark.parametrize("damage", ["cut", "flip", "remove", "side"])
def test_a_damaged_block_is_made_again(tmp_path, stopped, monkeypatch, caplog, damage):
    staged = tmp_path / ".many.blocks"
    file = staged / ("many_r0_c1.tif.aux.xml" if damage == "side" else "many_r0_c1.tif")
    if damage == "cut":
        file.write_bytes(file.read_bytes()[:-1])
    elif damage == "remove":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[:-1] + b"?")
    with monkeypatch.context() as patch:
        again = stop_after(patch, 1000)
        stopped.join(tmp_path / "many", block_size=SIZE, resume=True)
    assert "r0_c1" in again
    assert "r0_c0" not in again
    assert ("is damaged on the disk" in caplog.text) == (damage != "remove")
    stopped.join(tmp_path / "one.tif")
    assert np.array_equal(pixels(tmp_path / "one.tif"), pixels(index(tmp_path / "many")))


def test_a_run_killed_between_two_folders_is_completed(tmp_path, maps, monkeypatch, caplog):
    maps.join(tmp_path / "many", block_size=SIZE)
    before = contents(*outputs_of(tmp_path / "many"))
    usual, renamed = output_group.rename_over, []

    def killed(new, path):
        if new.is_dir() and renamed:
            raise KeyboardInterrupt
        renamed.extend([path] if new.is_dir() else [])
        usual(new, path)

    with monkeypatch.context() as patch:
        patch.setattr(output_group, "rename_over", killed)
        with pytest.raises(KeyboardInterrupt):
            maps.join(tmp_path / "many", "last", block_size=SIZE, overwrite=True)
    with pytest.raises(OutputError, match="many exists"):  # it is complete now
        maps.join(tmp_path / "many", "last", block_size=SIZE)
    assert "completed what a killed run had started" in caplog.text
    after = contents(*outputs_of(tmp_path / "many"))
    assert after != before
    assert names_in(tmp_path) == {"in", "many", "sure_many", "from_many"}
    maps.join(tmp_path / "one.tif", "last")
    for kind in ("", "sure_", "from_"):
        folder = tmp_path / f"{kind}many"
        assert np.array_equal(pixels(tmp_path / f"{kind}one.tif"), pixels(index(folder)))


def test_a_folder_is_replaced_with_all_that_was_in_it(tmp_path, maps):
    maps.join(tmp_path / "many", block_size=16)
    maps.join(tmp_path / "many", block_size=SIZE, overwrite=True)
    assert not list((tmp_path / "many").glob("many_r00*"))
    with pytest.raises(OutputError, match="many exists; pass --overwrite"):
        maps.join(tmp_path / "many", block_size=SIZE)


@pytest.mark.parametrize(
    "name", ["notes.txt", "other_r0_c0.tif", "rows/notes.vrt", "many_r0_c0.gpkg", "more/a.tif"]
)
def test_a_folder_that_holds_something_else_is_not_replaced(tmp_path, maps, name):
    maps.join(tmp_path / "many", block_size=SIZE)
    (tmp_path / "many" / name).parent.mkdir(exist_ok=True)
    (tmp_path / "many" / name).touch()
    with pytest.raises(OutputError, match=f"holds {name} besides the blocks of a mosaic"):
        maps.join(tmp_path / "many", block_size=SIZE, overwrite=True)


def test_a_task_depends_on_nothing_but_its_values(tmp_path, maps):
    inputs = MosaicInputs(tuple(maps.labels), tuple(maps.confidences))
    outputs = MosaicOutputs(tmp_path / "many", tmp_path / "sure", block_size=SIZE)
    planned = plan(inputs, outputs, MosaicOptions())
    results = []
    for copy in ("one", "two"):
        (tmp_path / copy).mkdir()
        (tmp_path / f"{copy}.drafts").mkdir()
        for name, window in blocks.divide(planned, SIZE)[::-1]:
            here, positions = planned.restricted(window)
            products = tuple(
                replace(p, path=tmp_path / copy / f"{p.name}.{name}.tif") for p in planned.products
            )
            task = blocks.BlockTask(
                name, window, here, positions, products, "majority", "fail", None
            )
            sent = pickle.dumps(task)
            assert len(here.inputs) < 4
            result = blocks.make_block(pickle.loads(sent))
            assert blocks.make_block(pickle.loads(sent)) == result  # a second run changes nothing
            assert blocks.BlockResult.from_json(json.loads(json.dumps(result.as_json()))) == result
            results.append(pickle.loads(pickle.dumps(result)))
    half = len(results) // 2
    assert results[:half] == results[half:]
    first, second = (contents(tmp_path / copy) for copy in ("one", "two"))
    assert [*first.values()] == [*second.values()]
    assert names_in(tmp_path / "one") == names_in(tmp_path / "two")


def divided(maps: Maps, folder: Path) -> list[str]:
    outputs = MosaicOutputs(folder, block_size=SIZE)
    planned = plan(MosaicInputs(tuple(maps.labels)), outputs, MosaicOptions())
    return [name for name, _ in blocks.divide(planned, SIZE)]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"block_size": 0}, "--block-size 0 is not a multiple of 16 px, .*: 16$"),
        ({"block_size": 40}, "--block-size 40 is not .*: 32$"),
        ({"block_size": -48}, "--block-size -48 is not .*: 16$"),
        ({"block_size": SIZE, "min_area": 3}, "--min-area needs the whole map at once"),
        ({"block_size": SIZE, "stac": StacOptions()}, "--stac describes one file"),
        ({"resume": True}, "--resume continues a mosaic in blocks: add --block-size"),
    ],
)
def test_what_blocks_cannot_be(tmp_path, maps, options, said):
    with pytest.raises(ConfigError, match=said):
        mosaic(maps.labels, tmp_path / ("many" if "block_size" in options else "a.tif"), **options)
    assert names_in(tmp_path) == {"in"}


def test_folders_that_cannot_be(tmp_path, maps):
    with pytest.raises(ConfigError, match=r"many.tif would be one file, .* such as .*many$"):
        mosaic(maps.labels, tmp_path / "many.tif", block_size=SIZE)
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="file is a file; name a folder"):
        mosaic(maps.labels, tmp_path / "file", block_size=SIZE, overwrite=True)
    with pytest.raises(ConfigError, match=r"sure lies in the folder of another output, .*many"):
        mosaic(
            maps.labels, tmp_path / "many", block_size=SIZE,
            confidences=Confidences(maps.confidences, tmp_path / "many" / "sure"),
        )  # fmt: skip
    with pytest.raises(ConfigError, match="holds the input"):
        mosaic(maps.labels, tmp_path / "in", block_size=SIZE, overwrite=True)


def test_the_dry_run_counts_the_blocks(tmp_path, maps):
    outputs = MosaicOutputs(tmp_path / "many", block_size=SIZE)
    report = engine.dry_run(MosaicInputs(tuple(maps.labels)), outputs)
    assert report.facts["blocks"] == len(divided(maps, tmp_path / "many"))
    assert names_in(tmp_path) == {"in"}


def test_blocks_with_skipped_pixels_are_made_again(tmp_path, maps, monkeypatch):
    damage.overwrite(maps.labels[3], 0, 1)
    with monkeypatch.context() as patch:
        stop_after(patch, len(divided(maps, tmp_path / "many")) - 1)
        with pytest.raises(StoppedError):
            mosaic(maps.labels, tmp_path / "many", block_size=SIZE, on_error="skip")
    with monkeypatch.context() as patch:
        again = stop_after(patch, 1000)
        result = mosaic(
            maps.labels, tmp_path / "many", block_size=SIZE, on_error="skip", resume=True
        )
    assert len(again) > 1
    assert {name.partition("_")[2] for name in again[:-1]} <= {"c4", "c5", "c6"}
    (lost,) = result.skipped
    assert lost.file == maps.labels[3]
    single = mosaic(maps.labels, tmp_path / "one.tif", on_error="skip")
    assert single.skipped == result.skipped
    with rasterio.open(index(tmp_path / "many")) as dataset:
        assert dataset.tags()["CAFE_SKIPPED"] == str(lost)
    assert np.array_equal(pixels(tmp_path / "one.tif"), pixels(index(tmp_path / "many")))
