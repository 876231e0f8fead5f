"""What the engine finishes is a function of scene, network and area only."""

import threading
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from cafe_cli.config.schema import HeightSettings
from cafe_cli.inference import pipeline, tiling, window_reader
from cafe_cli.inference.blending import window_weights
from cafe_cli.inference.pipeline import Inference
from cafe_cli.inference.throughput import Meter
from cafe_cli.inference.tiling import WindowGrid, divide
from cafe_cli.inference.window_reader import WindowReader
from cafe_cli.raster.window import Window
from cafe_cli.scenes.discovery import SceneFiles
from cafe_cli.scenes.inspection import inspect_scene
from cafe_cli.scenes.scene import open_scene
from cafe_cli.vector.area_of_interest import Area
from tests.support.engines import tiny_model, torch_forward, town, write

HEIGHT, WIDTH = 230, 190
ALL = frozenset({"labels", "confidence", "probabilities", "quality"})
DEPTH = {"labels": 1, "confidence": 1, "probabilities": 3, "quality": 1}


@pytest.fixture(scope="module")
def opener(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scene")
    image, metres, _ = town(HEIGHT, WIDTH)
    metres[0, 100:140, 20:90] = np.nan
    mask = np.ones((HEIGHT, WIDTH), bool)
    mask[:70, 64:140] = False
    blocks = {"tiled": True, "blockxsize": 32, "blockysize": 32}
    optical = write(folder / "ortho.tif", image, mask=mask, **blocks)
    files = SceneFiles("scene", (optical,), (write(folder / "dsm.tif", metres),))
    return partial(open_scene, inspect_scene(files, HeightSettings(kind="ndsm", fill=0)))


@pytest.fixture(scope="module")
def network():
    network = tiny_model()
    with torch.no_grad():
        network.head[-1].weight *= 100  # labels that change from pixel to pixel
    return network


class Predicted:
    """Rasters of an area, put together from strips."""

    def __init__(self, extent: Window) -> None:
        self.extent, self.lock = extent, threading.Lock()
        self.planes = {
            name: np.full((DEPTH[name], extent.height, extent.width), 200, np.uint8) for name in ALL
        }
        self.times = np.zeros((extent.height, extent.width), int)

    def write(self, window, planes) -> None:
        place = window.slices(self.extent)
        with self.lock:
            for name, values in planes.items():
                self.planes[name][:, *place] = values
            self.times[place] += 1


def run(
    opener,
    networks,
    windows,
    *,
    area=None,
    strips=None,
    jobs=2,
    batch=1,
    blend="hann",
    products=ALL,
):
    with opener() as scene:
        grid = scene.grid
    area = area or Area.whole(grid)
    strips = strips or divide(grid.extent, area.extent, windows, 3)
    meter = Meter(sum(strip.window_count for strip in strips))
    reader = WindowReader(opener, (32, 32), windows, jobs, area.touches)
    weights = window_weights(windows.size, blend, windows.overlap)
    inference = Inference(reader, area, windows, weights, 3, products, meter)
    got = Predicted(area.extent)
    inference.run(strips, [torch_forward([n], batch) for n in networks], got.write)
    return got, meter


@pytest.fixture(scope="module")
def whole(opener, network):
    return run(opener, [network], WindowGrid(64, 32))


def same(a: Predicted, b: Predicted, inside=...) -> None:
    for name, values in b.planes.items():
        assert np.array_equal(a.planes[name][inside], values[inside]), name


def test_every_pixel_is_written_once(whole):
    got, meter = whole
    assert (got.times == 1).all()
    assert meter.windows == meter.total
    assert meter.pixels == HEIGHT * WIDTH
    assert 0 < meter.run < meter.total
    labels = got.planes["labels"][0]
    assert len(set(np.unique(labels)) - {255}) > 1
    assert (labels[:70, 64:140] == 255).all()
    assert (labels == 255).sum() == 70 * 76


def test_products_belong_together(whole):
    planes = whole[0].planes
    labels, probabilities = planes["labels"][0], planes["probabilities"].astype(int)
    known = labels != 255
    assert (probabilities[:, known].sum(axis=0) >= 98).all()
    assert (probabilities[:, known].sum(axis=0) <= 102).all()
    assert np.array_equal(planes["confidence"][0], np.where(known, probabilities.max(axis=0), 255))
    highest = np.take_along_axis(probabilities, np.where(known, labels, 0)[None].astype(int), 0)[0]
    assert np.array_equal(highest[known], probabilities.max(axis=0)[known])
    assert all((values[:, ~known] == 255).all() for values in planes.values())
    quality = planes["quality"][0]
    assert (quality[100:140, 20:90] == 1).all()
    assert (quality == 1).sum() == 40 * 70


@pytest.mark.slow
@settings(max_examples=12, deadline=None)
@given(
    st.integers(1, 60_000), st.sampled_from([1, 200_000, 10**9]), st.integers(1, 3),
    st.integers(1, 3), st.integers(64, 30_000),
)  # fmt: skip
def test_strips_bands_readers_and_devices_change_nothing(
    opener, network, whole, strip, scores, jobs, devices, piece
):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiling, "_STRIP", strip)
        patch.setattr(tiling, "_MEMORY", scores)
        patch.setattr(window_reader, "_PIECE", piece)
        got, _ = run(opener, [network] * devices, WindowGrid(64, 32), jobs=jobs)
    assert (got.times == 1).all()
    same(got, whole[0])


@pytest.mark.slow
@settings(max_examples=8, deadline=None)
@given(st.data())
def test_what_was_done_before_changes_nothing(opener, network, whole, data):
    """Any part of the strips can be missing, as after a kill."""
    with pytest.MonkeyPatch.context() as patch, opener() as scene:
        patch.setattr(tiling, "_STRIP", 1)
        patch.setattr(tiling, "_MEMORY", 200_000)
        strips = divide(scene.grid.extent, scene.grid.extent, WindowGrid(64, 32), 3)
    left = data.draw(st.lists(st.sampled_from(strips), min_size=1, unique=True))
    got, meter = run(opener, [network], WindowGrid(64, 32), strips=[s for s in strips if s in left])
    redone = got.times == 1
    assert redone.sum() == sum(s.extent.width * s.extent.height for s in left) == meter.pixels
    same(got, whole[0], (slice(None), redone))


@pytest.mark.slow
@settings(max_examples=10, deadline=None)
@given(st.data())
def test_an_area_is_cut_out_of_the_whole(opener, network, whole, data):
    with opener() as scene:
        grid = scene.grid
    left, right = sorted(
        data.draw(st.lists(st.integers(0, WIDTH), min_size=2, max_size=2, unique=True))
    )
    top, bottom = sorted(
        data.draw(st.lists(st.integers(0, HEIGHT), min_size=2, max_size=2, unique=True))
    )
    x, y = grid.transform @ (left, bottom)
    x2, y2 = grid.transform @ (right, top)
    area = Area.from_bbox((x, y, x2, y2), grid)
    assert area.extent == Window(left, top, right - left, bottom - top)
    got, meter = run(opener, [network], WindowGrid(64, 32), area=area)
    assert (got.times == 1).all()
    for name, values in whole[0].planes.items():
        assert np.array_equal(got.planes[name], values[:, top:bottom, left:right]), name
    assert meter.run <= whole[1].run


@pytest.mark.parametrize("blend", ["hann", "gaussian", "crop"])
def test_batches_change_next_to_nothing(opener, network, blend):
    one, more = (
        run(opener, [network], WindowGrid(96, 64), batch=size, blend=blend)[0].planes["labels"]
        for size in (1, 5)
    )
    assert (one != more).mean() < 1e-4


def test_only_what_is_asked_for(opener, network):
    got, _ = run(opener, [network], WindowGrid(64, 64), products=frozenset({"labels"}))
    assert (got.planes["confidence"] == 200).all()
    assert (got.planes["labels"] != 200).all()


@pytest.mark.parametrize("devices", [1, 2])
def test_an_error_ends_it(opener, network, devices, monkeypatch):
    calls, before = [], {*threading.enumerate()}

    def fails(*inputs):
        calls.append(1)
        if len(calls) > 5:
            raise RuntimeError("the network broke")
        return network(*inputs)

    monkeypatch.setattr(tiling, "_STRIP", 1)
    with pytest.raises(RuntimeError, match="broke"):
        run(opener, [fails] * devices, WindowGrid(64, 32))
    assert {*threading.enumerate()} <= before


@pytest.mark.parametrize("devices", [1, 2])
def test_a_full_disk_ends_it(opener, network, devices, monkeypatch):
    monkeypatch.setattr(tiling, "_STRIP", 1)

    def full(self, window, planes):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Predicted, "write", full)
    with pytest.raises(OSError, match="No space"):
        run(opener, [network] * devices, WindowGrid(64, 32))


class _Waits(TorchDispatchMode):
    """Takes note of operations whose result the host has to wait for."""

    waiting = frozenset(
        {"_local_scalar_dense", "nonzero", "masked_select", "_unique2", "is_nonzero"}
    )

    def __init__(self):
        super().__init__()
        self.seen, self.calls = [], 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        self.calls += 1
        if name in self.waiting:
            self.seen.append(name)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("batch", [1, 3])
def test_nothing_in_a_row_of_windows_waits_for_a_gpu(opener, network, monkeypatch, batch):
    waits, row = _Waits(), pipeline._BandRunner.row

    def watched(runner, *arguments):
        with waits:
            return row(runner, *arguments)

    monkeypatch.setattr(pipeline._BandRunner, "row", watched)
    run(opener, [network], WindowGrid(64, 32), batch=batch)
    assert waits.calls > 1000
    assert waits.seen == []
    with waits:
        assert bool(torch.ones(1) > 0)
    assert waits.seen == ["_local_scalar_dense"]
