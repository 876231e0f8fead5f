import json
import os
import signal
import subprocess
import sys
import tempfile
import zlib
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import rasterio
from hypothesis import given, settings
from hypothesis import strategies as st
from rasterio.enums import ColorInterp

from cafe_cli.errors import ConfigError, OutputError
from cafe_cli.inference import strip_store
from cafe_cli.inference.job import PredictOutput
from cafe_cli.inference.strip_store import StripStore
from cafe_cli.raster.product import Product
from cafe_cli.raster.window import Window, blocks
from cafe_cli.raster.writer import create_cog, read_classes
from cafe_cli.system import locks
from tests.support.rasters import TABLE, grid, noise, read

FINGERPRINT = {"model": "aa" * 32, "window": 512, "height": {"unit": "metre"}, "bands": (1, 2)}
GRID = grid(70, 50)


def label_values(where=GRID, seed=0):
    """Return labels (1, height, width) with a third of nodata."""
    values = noise(1, where, seed=seed) % 4
    return np.where(values == 3, 255, values).astype(np.uint8)


def store_in(folder, where=GRID, fingerprint=FINGERPRINT, products=None, tags=None, **allowed):
    products = products or [Product("labels", folder / "map.tif", classes=TABLE)]
    outputs = PredictOutput(folder / "map.tif", **allowed)
    return StripStore(products, where, fingerprint, outputs, tags or {"CAFE": "x"})


def write(store, window, values) -> None:
    store.write(window, {"labels": values[:, *window.slices()]})


def make(folder, windows, values, where=GRID, **kwargs) -> Path:
    """Make a map of labels from strips."""
    with store_in(folder, where, **kwargs) as store:
        for window in windows:
            if window not in store.done:
                write(store, window, values)
        store.finish()
    return folder / "map.tif"


def interrupted(folder, windows, values, where=GRID, **kwargs) -> None:
    """Leave some strips behind."""
    with suppress(KeyboardInterrupt), store_in(folder, where, **kwargs) as store:
        for window in windows:
            write(store, window, values)
        raise KeyboardInterrupt


def refused(folder, says, error=OutputError, **kwargs) -> None:
    """A store is not entered, and nothing changes."""
    before = contents(folder)
    with pytest.raises(error, match=says) as caught, store_in(folder, **kwargs):
        pass
    assert "\n" not in str(caught.value)
    assert contents(folder) == before


def contents(folder) -> dict[str, bytes]:
    return {str(p): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def work(folder) -> Path:
    return folder / ".map.tif.strips"


ROWS = list(blocks(70, 50, 20))


@pytest.fixture
def values():
    return label_values()


# --- the maps ----------------------------------------------------------------------------------


def reference(folder, values, where) -> bytes:
    """Return the map as it is when written in one go."""
    with create_cog(folder / "whole.tif", where, False, TABLE, CAFE="x") as dataset:
        dataset.write(values)
    return (folder / "whole.tif").read_bytes()


@cache
def whole_map() -> bytes:
    with tempfile.TemporaryDirectory() as name:
        return reference(Path(name), label_values(), GRID)


@pytest.mark.slow
@pytest.mark.parametrize("size", [(1, 1), (1, 97), (97, 1), (3000, 1), (700, 513)])
@pytest.mark.parametrize("side", [64, 10_000])
def test_a_map_is_that_of_one_go(tmp_path, size, side):
    where = grid(*size)
    values = label_values(where)
    path = make(tmp_path, blocks(*size, side), values, where)
    assert np.array_equal(read(path), values)
    assert path.read_bytes() == reference(tmp_path, values, where)


@pytest.mark.parametrize("size", [(20_000, 1), (1, 20_000), (20_000, 2)])
def test_long_maps(tmp_path, size):
    where = grid(*size)
    values = label_values(where)
    windows = [Window(0, row, size[0], min(15_000, size[1] - row))
               for row in range(0, size[1], 15_000)]  # fmt: skip
    assert np.array_equal(read(make(tmp_path, windows, values, where)), values)


@st.composite
def divisions(draw) -> list[Window]:
    """Divide the map at random, again and again, and shuffle."""
    windows = [GRID.extent]
    for _ in range(draw(st.integers(0, 6))):
        window = windows.pop(draw(st.integers(0, len(windows) - 1)))
        columns, length = draw(st.booleans()), (window.width, window.height)
        longest = length[0 if columns else 1]
        cut = draw(st.integers(0, longest - 1))
        if cut == 0:
            windows.append(window)
        elif columns:
            windows.append(Window(window.col, window.row, cut, window.height))
            right = (window.col + cut, window.row, window.width - cut, window.height)
            windows.append(Window(*right))
        else:
            windows.append(Window(window.col, window.row, window.width, cut))
            lower = (window.col, window.row + cut, window.width, window.height - cut)
            windows.append(Window(*lower))
    return draw(st.permutations(windows))


@given(divisions())
@settings(max_examples=25)
def test_the_division_does_not_matter(windows):
    with tempfile.TemporaryDirectory() as name:
        folder, values = Path(name), label_values()
        path = make(folder, windows, values)
        assert path.read_bytes() == whole_map()


def test_what_is_never_written_is_nodata(tmp_path, values):
    part, empty = Window(0, 0, 20, 50), Window(20, 0, 20, 50)
    values[:, *empty.slices()] = 255
    read_back = read(make(tmp_path, [part, empty], values))[0]
    assert np.array_equal(read_back[:, :20], values[0, :, :20])
    assert (read_back[:, 20:] == 255).all()


def test_a_map_of_nothing(tmp_path):
    path = make(tmp_path, [], label_values())
    assert (read(path) == 255).all()
    assert sorted(os.listdir(tmp_path)) == ["map.qml", "map.tif", "map.tif.aux.xml"]


def test_several_products(tmp_path, values):
    names = ("one", "two & a half", "<three>", "four")
    products = [
        Product("labels", tmp_path / "map.tif", classes=TABLE),
        Product("probabilities", tmp_path / "probabilities.tif", 4, descriptions=names),
    ]
    probabilities = noise(4, GRID)
    with store_in(tmp_path, products=products, tags={"A": '<"&>'}) as store:
        for window in ROWS:
            rows, columns = window.slices()
            store.write(
                window,
                {
                    "labels": values[:, rows, columns],
                    "probabilities": probabilities[:, rows, columns],
                },
            )
        assert not (tmp_path / "map.tif").exists()
        store.finish()
    assert sorted(os.listdir(tmp_path)) == [
        "map.qml",
        "map.tif",
        "map.tif.aux.xml",
        "probabilities.tif",
    ]
    with rasterio.open(tmp_path / "probabilities.tif") as dataset:
        assert np.array_equal(dataset.read(), probabilities)
        assert dataset.descriptions == names
        assert dataset.scales == (1,) * 4
        assert dataset.nodatavals == (255,) * 4
        assert ColorInterp.alpha not in dataset.colorinterp
        assert dataset.tags()["A"] == '<"&>'
        assert "CLASSES" not in dataset.tags()
    with rasterio.open(tmp_path / "map.tif") as dataset:
        assert read_classes(dataset) == TABLE
        assert dataset.colormap(1)[1] == (0, 255, 0, 255)


def test_strips_from_several_threads(tmp_path, values):
    with store_in(tmp_path) as store, ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda window: write(store, window, values), ROWS))
        store.finish()
    assert np.array_equal(read(tmp_path / "map.tif"), values)


def test_creation_options(tmp_path, values):
    options = {"COMPRESS": "lzw", "blocksize": "128"}
    path = make(tmp_path, ROWS, values, options=options)
    with rasterio.open(path) as dataset:
        assert dataset.compression.value.lower() == "lzw"
        assert dataset.block_shapes == [(128, 128)]
        assert np.array_equal(dataset.read(), values)
    refused(tmp_path, "--co A=B", ConfigError, overwrite=True, options={"A": "B"})


def test_strips_that_are_no_strips(tmp_path, values):
    with store_in(tmp_path) as store:
        with pytest.raises(ValueError, match="is not within"):
            store.write(Window(60, 0, 20, 20), {"labels": values[:, :20, :20]})
        with pytest.raises(ValueError, match=r"labels of .* \(1, 50, 70\)"):
            store.write(Window(0, 0, 20, 20), {"labels": values})


# --- interrupted -------------------------------------------------------------------------------


def test_resume(tmp_path, values, caplog):
    interrupted(tmp_path, ROWS[:4], values)
    assert f"4 strips (40%) of {tmp_path / 'map.tif'} kept; continue with --resume" in caplog.text
    with store_in(tmp_path, resume=True) as store:
        assert store.done == set(ROWS[:4])
        for window in ROWS[4:]:
            write(store, window, values)
        store.finish()
    assert np.array_equal(read(tmp_path / "map.tif"), values)
    assert sorted(os.listdir(tmp_path)) == ["map.qml", "map.tif", "map.tif.aux.xml"]


def test_resume_without_anything_to_resume(tmp_path, values):
    assert np.array_equal(read(make(tmp_path, ROWS, values, resume=True)), values)


def test_an_interruption_before_the_first_strip_leaves_nothing(tmp_path, values):
    interrupted(tmp_path, [], values)
    assert list(tmp_path.iterdir()) == []


def test_strips_are_not_thrown_away(tmp_path, values):
    interrupted(tmp_path, ROWS[:4], values)
    says = (
        r"an interrupted run left 4 strips \(40%\) of .*map.tif; pass --resume .*, or --overwrite"
    )
    refused(tmp_path, says)
    with store_in(tmp_path, overwrite=True) as store:
        assert store.done == frozenset()
        assert list(work(tmp_path).glob("*.tif")) == []


def test_resume_and_replace(tmp_path, values):
    interrupted(tmp_path, ROWS[:4], values)
    (tmp_path / "map.tif").write_text("old")
    refused(tmp_path, "exists; pass --overwrite", resume=True)
    with store_in(tmp_path, resume=True, overwrite=True) as store:
        assert len(store.done) == 4
    assert (tmp_path / "map.tif").read_text() == "old"
    assert np.array_equal(read(make(tmp_path, ROWS, values, resume=True, overwrite=True)), values)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"window": 256}, "window was 512, now 256"),
        ({"model": "bb" * 32}, "model has changed"),
        ({"height": {"unit": "foot"}}, 'height.unit was "metre", now "foot"'),
        ({"tta": "d4"}, 'tta was none, now "d4"'),
        ({"window": 1, "bands": [1], "a": 1, "b": 2, "c": 3},
         r"window was 512, now 1; bands was \[1, 2\], now \[1\]; a was none, now 1; and 2 more"),
    ],
)  # fmt: skip
def test_strips_of_something_else(tmp_path, values, changes, says):
    interrupted(tmp_path, ROWS[:1], values)
    says = f"cannot resume .*map.tif: {says}; pass --overwrite without --resume to start again"
    refused(tmp_path, says, fingerprint=FINGERPRINT | changes, resume=True)
    with store_in(tmp_path, fingerprint=FINGERPRINT | changes, overwrite=True) as store:
        assert store.done == frozenset()


def test_strips_of_other_outputs(tmp_path, values):
    interrupted(tmp_path, ROWS[:1], values)
    says = r"size was \[70, 50\], now \[70, 51\]"
    refused(tmp_path, says, where=grid(70, 51), resume=True)
    more = [Product("labels", tmp_path / "map.tif"), Product("sure", tmp_path / "sure.tif")]
    refused(tmp_path, r"outputs\.sure was none, now 1", products=more, resume=True)


@pytest.mark.slow
@given(st.data())
@settings(max_examples=20)
def test_killed_at_any_moment(data):
    """The journal ends anywhere; files may be lost, cut off, or half-written and not listed."""
    values, count = label_values(), data.draw(st.integers(0, len(ROWS)))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        interrupted(folder, ROWS[:count], values)
        if count:
            listed = work(folder) / "journal.jsonl"
            end = data.draw(st.integers(0, listed.stat().st_size))
            listed.write_bytes(listed.read_bytes()[:end])
            files = sorted(work(folder).glob("*.tif"))
            for file in data.draw(st.lists(st.sampled_from(files), unique=True, max_size=3)):
                os.truncate(file, data.draw(st.integers(0, file.stat().st_size - 1)))
            files[0].with_name(".0-0-20x20.labels.partial.tif").write_bytes(b"II*")
        path = make(folder, ROWS, values, resume=True)
        assert path.read_bytes() == whole_map()
        assert sorted(os.listdir(folder)) == ["map.qml", "map.tif", "map.tif.aux.xml"]


@pytest.mark.parametrize("line", [b"\x00\xff\x00", b"[]", b'{"format": "other"}', b"{}", b"7"])
def test_a_damaged_journal(tmp_path, values, line):
    interrupted(tmp_path, ROWS[:2], values)
    listed = work(tmp_path) / "journal.jsonl"
    listed.write_bytes(b"\n".join([line, *listed.read_bytes().split(b"\n")[1:]]))
    says = r"journal.jsonl is damaged, or of another version .*--overwrite without --resume"
    refused(tmp_path, says, resume=True)
    refused(tmp_path, says)
    assert np.array_equal(read(make(tmp_path, ROWS, values, overwrite=True)), values)


@pytest.mark.parametrize("content", [b"", b"{", b"\x00" * 100])
def test_a_journal_that_lists_nothing(tmp_path, values, content):
    work(tmp_path).mkdir()
    (work(tmp_path) / "journal.jsonl").write_bytes(content)
    assert np.array_equal(read(make(tmp_path, ROWS, values)), values)


@pytest.mark.parametrize("line", [b"\xff", b"[]", b'{"strip": [1], "files": {}}', b"null",
                                  b'{"strip": [0, 0, 0, 5], "files": {}}',
                                  b'{"strip": [0, 0, 5, 5], "files": {"labels": 3}}'])  # fmt: skip
def test_lines_that_say_nothing(tmp_path, values, line):
    interrupted(tmp_path, ROWS[:2], values)
    listed = work(tmp_path) / "journal.jsonl"
    first, *others = listed.read_bytes().split(b"\n")
    listed.write_bytes(b"\n".join([first, line, *others]))
    with store_in(tmp_path, resume=True) as store:
        assert store.done == set(ROWS[:2])


@pytest.mark.parametrize("place", [0, 200, -1])
def test_a_strip_that_was_damaged_on_the_disk_is_made_again(tmp_path, values, place, caplog):
    interrupted(tmp_path, ROWS[:2], values)
    path = work(tmp_path) / "0-0-20x20.labels.tif"
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)
    with store_in(tmp_path, resume=True) as store:
        assert store.done == {ROWS[1]}
    assert "in rows 0 to 20 are damaged on the disk and are computed again" in caplog.text
    assert len(caplog.messages) == 2  # and what is kept
    assert np.array_equal(read(make(tmp_path, ROWS, values, resume=True)), values)


def test_a_killed_process(tmp_path, values):
    code = """
import os, signal, sys
from pathlib import Path
from tests.inference.test_strip_store import ROWS, label_values, store_in, write
with store_in(Path(sys.argv[1])) as store:
    for window in ROWS[:3]:
        write(store, window, label_values())
    os.kill(os.getpid(), signal.SIGKILL)
"""
    assert run(code, tmp_path).returncode == -signal.SIGKILL
    with store_in(tmp_path, resume=True) as store:
        assert store.done == set(ROWS[:3])
    assert np.array_equal(read(make(tmp_path, ROWS, values, resume=True)), values)


def run(code: str, *args: object) -> "subprocess.CompletedProcess[str]":
    paths = str(Path(__file__).parents[2])
    command = [sys.executable, "-c", code, *map(str, args)]
    environment = {**os.environ, "PYTHONPATH": paths}
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


# --- two at once, full disks, outputs that cannot be -------------------------------------------


@pytest.mark.skipif(sys.platform == "win32", reason="no locks")
@pytest.mark.parametrize("allowed", [{}, {"resume": True}, {"overwrite": True}])
def test_two_at_once(tmp_path, values, allowed):
    with store_in(tmp_path) as store:
        write(store, ROWS[0], values)
        refused(
            tmp_path,
            r"another process \(pid \d+ on .+\) is writing .*map.tif; wait for it, or name",
            **allowed,
        )
        store.finish()
    assert np.array_equal(read(make(tmp_path, ROWS, values, overwrite=True)), values)


@pytest.mark.skipif(sys.platform == "win32", reason="no locks")
def test_a_lock_that_went(tmp_path, monkeypatch):
    """Between opening the lock and locking it, the other process removes it, being done."""
    flock, times = locks.fcntl.flock, []

    def late(descriptor, how):
        times.append(descriptor)
        if len(times) == 1:
            (tmp_path / ".map.tif.lock").unlink()
        flock(descriptor, how)

    monkeypatch.setattr(locks.fcntl, "flock", late)
    with store_in(tmp_path):
        assert (tmp_path / ".map.tif.lock").exists()
    assert len(times) == 3  # the map twice, its style once
    assert contents(tmp_path) == {}


def test_a_full_disk_while_a_strip_is_written(tmp_path, values, monkeypatch):
    def full(path, *_, **__):
        raise OutputError(f"cannot write {path}: No space left on device")

    with ExitStack() as stack:
        stack.enter_context(pytest.raises(OutputError, match=r"cannot write .*No space left"))
        store = stack.enter_context(store_in(tmp_path))
        write(store, ROWS[0], values)
        monkeypatch.setattr(strip_store, "write_geotiff", full)
        write(store, ROWS[1], values)
    assert not list(work(tmp_path).glob(".*"))
    monkeypatch.undo()
    with store_in(tmp_path, resume=True) as store:
        assert store.done == {ROWS[0]}


FULL = """
import resource, signal, sys
from pathlib import Path
from tests.support.rasters import grid, noise
from tests.inference.test_strip_store import store_in, write
from cafe_cli.errors import OutputError
from cafe_cli.raster.window import Window

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
where = grid(600, 600)
window, limit = Window(0, 0, 600, 300), int(sys.argv[2])
try:
    with store_in(Path(sys.argv[1]), where) as store:
        write(store, window, noise(1, where) % 3)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        if limit < 20_000:
            write(store, Window(0, 300, 600, 300), noise(1, where) % 3)
        store.finish()
except OutputError as error:
    sys.exit(str(error))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="no such limit")
@pytest.mark.parametrize("limit", [10_000, 40_000])
def test_a_full_disk_is_noticed(tmp_path, limit):
    """Of 600 x 600 labels, a half takes more than 10 kB as a strip and than 40 kB as a COG."""
    done = run(FULL, tmp_path, limit)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("cannot write ")
    assert os.listdir(tmp_path) == [".map.tif.strips"]
    with store_in(tmp_path, grid(600, 600), resume=True) as store:
        assert store.done == {Window(0, 0, 600, 300)}


def test_all_products_or_none(tmp_path, values, monkeypatch):
    products = [Product(n, tmp_path / f"{n}.tif") for n in ("labels", "sure")]
    (tmp_path / "labels.tif").write_text("old")

    def failing(vrt, cog, *_):
        if "sure" in cog.name:
            raise OutputError("disk full")
        cog.write_text("new")

    monkeypatch.setattr(strip_store, "convert_to_cog", failing)
    with ExitStack() as stack:
        stack.enter_context(pytest.raises(OutputError, match="disk full"))
        store = stack.enter_context(store_in(tmp_path, products=products, overwrite=True))
        part = values[:, *ROWS[0].slices()]
        store.write(ROWS[0], {"labels": part, "sure": part})
        store.finish()
    assert sorted(os.listdir(tmp_path)) == [".labels.tif.strips", "labels.tif"]
    assert (tmp_path / "labels.tif").read_text() == "old"


def test_outputs_that_cannot_be(tmp_path):
    (tmp_path / "map.tif").mkdir()
    refused(tmp_path, "map.tif is a folder; name a file", overwrite=True)
    (tmp_path / "map.tif").rmdir()
    (tmp_path / "file").touch()
    refused(tmp_path, "file is a file, so .*map.tif cannot be in it",
            products=[Product("labels", tmp_path / "file" / "map.tif")])  # fmt: skip
    work(tmp_path).write_text("a file")
    refused(tmp_path, "cannot write .*strips: File exists")


def test_the_journal_can_be_read_by_people(tmp_path, values):
    values[:, *ROWS[1].slices()] = 255
    interrupted(tmp_path, ROWS[:2], values)
    header, first, second = map(
        json.loads, (work(tmp_path) / "journal.jsonl").read_text().splitlines()
    )
    assert header["made_of"]["height.unit"] == "metre"
    assert first["strip"] == [0, 0, 20, 20]
    content = (work(tmp_path) / "0-0-20x20.labels.tif").read_bytes()
    assert first["files"]["labels"] == [len(content), zlib.crc32(content)]
    assert second == {"strip": [20, 0, 20, 20], "files": {"labels": [0, 0]}}
