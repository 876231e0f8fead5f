from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cafe_cli.config.schema import HeightSettings
from cafe_cli.errors import InputError
from cafe_cli.inference import window_reader
from cafe_cli.inference.tiling import WindowGrid
from cafe_cli.inference.window_reader import WindowReader
from cafe_cli.raster.window import Window, offsets
from cafe_cli.scenes.discovery import SceneFiles
from cafe_cli.scenes.inspection import inspect_scene
from cafe_cli.scenes.scene import Scene, open_scene
from tests.support.engines import write

HEIGHT, WIDTH = 210, 170


@pytest.fixture(scope="module")
def opener(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scene")
    random = np.random.default_rng(0)
    image = random.integers(0, 65535, (3, HEIGHT, WIDTH), dtype=np.uint16)
    metres = random.normal(5, 2, (1, HEIGHT, WIDTH)).astype(np.float32)
    metres[0, 50:90, 40:60] = np.nan
    mask = random.random((HEIGHT, WIDTH)) < 0.9
    blocks = {"tiled": True, "blockxsize": 32, "blockysize": 16, "compress": "deflate"}
    optical = write(folder / "ortho.tif", image, mask=mask, **blocks)
    elevation = write(folder / "dsm.tif", metres, origin=(-7, 5))
    files = SceneFiles("scene", (optical,), (elevation,))
    return partial(open_scene, inspect_scene(files, HeightSettings(kind="ndsm", fill=2)))


@pytest.mark.slow
@settings(max_examples=40, deadline=None)
@given(st.data(), st.integers(1, 4), st.integers(1, 3), st.integers(64, 20_000))
def test_rows_of_windows_are_what_the_scene_holds(opener, data, window, jobs, piece):
    stride = data.draw(st.integers(1, window)) * 32
    windows = WindowGrid(window * 32, stride)
    block = data.draw(st.sampled_from([(32, 16), (170, 1), (64, 64), (512, 512)]))
    columns, rows = (offsets(n, windows.size, stride) for n in (WIDTH, HEIGHT))
    a, b = sorted(data.draw(st.lists(st.integers(0, len(rows) - 1), min_size=2, max_size=2)))
    c, d = sorted(data.draw(st.lists(st.integers(0, len(columns) - 1), min_size=2, max_size=2)))
    columns, rows = columns[c : d + 1], rows[a : b + 1]
    reader = WindowReader(opener, block, windows, jobs)
    with pytest.MonkeyPatch.context() as patch, opener() as scene:
        patch.setattr(window_reader, "_PIECE", piece)
        patch.setattr(window_reader, "_BROAD", data.draw(st.sampled_from([32, 100, 2048])))
        seen = 0
        for row, got in zip(rows, reader.rows(columns, rows), strict=True):
            width = columns[-1] + windows.size - columns[0]
            want = scene.read(Window(columns[0], row, width, windows.size))
            valid = want.optical_valid
            assert np.array_equal(got.optical_valid, valid)
            assert np.array_equal(got.optical[:, valid], want.optical[:, valid])
            assert np.array_equal(got.height_valid, want.height_valid)
            assert np.array_equal(got.height, want.height)
            seen += 1
        assert seen == len(rows)


def test_no_pixel_is_asked_for_twice(opener, monkeypatch):
    asked = np.zeros((HEIGHT + 96, WIDTH + 96), int)
    read = Scene.read

    def spy(self, window):
        asked[window.slices()] += 1
        return read(self, window)

    monkeypatch.setattr(Scene, "read", spy)
    monkeypatch.setattr(window_reader, "_PIECE", 1000)
    monkeypatch.setattr(window_reader, "_BROAD", 64)
    reader = WindowReader(opener, (32, 16), WindowGrid(96, 32), 2)
    columns, rows = (offsets(n, 96, 32) for n in (WIDTH, HEIGHT))
    assert len(list(reader.rows(columns, rows))) == len(rows)
    assert (asked[:HEIGHT, :WIDTH] == 1).all()
    assert asked.max() == 1


def test_what_is_not_wanted_is_not_read(opener, monkeypatch):
    windows, read = [], Scene.read
    monkeypatch.setattr(Scene, "read", lambda self, w: (windows.append(w), read(self, w))[1])
    monkeypatch.setattr(window_reader, "_PIECE", 1000)
    monkeypatch.setattr(window_reader, "_BROAD", 32)
    near = Window(100, 120, 10, 10)
    reader = WindowReader(
        opener, (32, 16), WindowGrid(32, 32), 1,
        lambda window: window.intersection(near) is not None,
    )  # fmt: skip
    columns, rows = (offsets(n, 32, 32) for n in (WIDTH, HEIGHT))
    patches = [p.optical_valid.any() for p in reader.rows(columns, rows)]
    assert windows
    assert all(w.expand(32).intersection(near) for w in windows)
    assert patches[0] is np.False_
    assert any(patches)


def test_nothing_wanted_at_all(opener):
    reader = WindowReader(opener, (32, 16), WindowGrid(64, 32), 1, lambda window: False)
    for patch in reader.rows([0, 32], [0, 32]):
        assert patch.optical_valid.shape == (64, 96)
        assert not patch.optical_valid.any()


def test_memory_does_not_grow_with_the_scene(opener, monkeypatch):
    """Every row of windows lies in the same memory."""
    monkeypatch.setattr(window_reader, "_PIECE", 1000)
    reader = WindowReader(opener, (32, 16), WindowGrid(64, 32), 2)
    places = [
        patch.optical.__array_interface__["data"][0]
        for patch in reader.rows(offsets(WIDTH, 64, 32), offsets(HEIGHT, 64, 32))
    ]
    assert len(places) > 3
    assert len(set(places)) == 1


@pytest.mark.parametrize("jobs", [1, 3])
def test_a_damaged_file_ends_it(opener, monkeypatch, jobs):
    def fail(self, window):
        raise InputError("truncated")

    monkeypatch.setattr(Scene, "read", fail)
    reader = WindowReader(opener, (32, 16), WindowGrid(64, 32), jobs)
    with pytest.raises(InputError, match="truncated"):
        list(reader.rows([0, 32], [0, 32]))
