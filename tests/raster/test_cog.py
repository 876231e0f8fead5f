"""Conversion to COGs in a process of its own: the same bytes and errors, and heard interrupts."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio.errors import RasterioIOError

from cafe_cli.raster import cog
from cafe_cli.raster.cog import to_cog
from tests.support.rasters import TABLE, grid, noise, write

pytestmark = pytest.mark.slow
NO_SIGNALS = pytest.mark.skipif(sys.platform == "win32", reason="no signals")
ROOT = Path(__file__).parents[2]
PATIENCE = 300  # seconds until a test gives up; GDAL would take hours for the rasters below

OPTIONS = {"compress": "deflate", "blocksize": 128, "overview_resampling": "mode"}
VALUES = {
    "labels": noise(1, grid(700, 500)) % len(TABLE),
    "percentages": noise(4, grid(300, 300)) % 101,
    "heights": noise(1, grid(200, 700), "float32"),
    "wide": noise(1, grid(2100, 3), "uint16"),
}


@pytest.mark.parametrize("kind", VALUES)
def test_both_ways_make_the_same_bytes(tmp_path, monkeypatch, kind):
    values = VALUES[kind]
    source = write(tmp_path / "a.tif", values, grid(*values.shape[:0:-1]), nodata=255)
    to_cog(Path(source), tmp_path / "here.tif", OPTIONS)
    monkeypatch.setattr(cog, "_LARGE", 0)
    monkeypatch.setattr(cog, "_copy", None)
    to_cog(Path(source), tmp_path / "there.tif", OPTIONS)
    assert (tmp_path / "there.tif").read_bytes() == (tmp_path / "here.tif").read_bytes()
    with rasterio.open(tmp_path / "there.tif") as dataset:
        assert np.array_equal(dataset.read(), values)


def test_the_working_folder_hides_no_module(tmp_path, monkeypatch):
    source = write(tmp_path / "a.tif", noise(1, grid()), grid())
    for name in ("json", "rasterio", "cafe_cli"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit(9)")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cog, "_LARGE", 0)
    to_cog(Path("a.tif"), Path("b.tif"), OPTIONS)
    assert cog_of(tmp_path / "b.tif") == cog_of(Path(source))


def cog_of(path: Path) -> bytes:
    with rasterio.open(path) as dataset:
        return dataset.read().tobytes()


@pytest.mark.parametrize("large", [0, cog._LARGE], ids=["process", "here"])
@pytest.mark.parametrize(
    ("source", "target", "says"),
    [
        ("a.tif", "no/b.tif", "no/b.tif"),
        ("cut.tif", "b.tif", "Cannot read"),
        ("a.tif", ".", "Is a directory|is a directory|failed"),
    ],
)
def test_errors_are_the_same_both_ways(tmp_path, monkeypatch, large, source, target, says):
    whole = write(tmp_path / "a.tif", noise(1, grid(600, 600)), grid(600, 600))
    data = Path(whole).read_bytes()
    (tmp_path / "cut.tif").write_bytes(data[: len(data) // 2])
    before = sorted(os.listdir(tmp_path))
    monkeypatch.setattr(cog, "_LARGE", large)
    with pytest.raises(cog.GDAL_ERRORS, match=says):
        to_cog(tmp_path / source, tmp_path / target, OPTIONS)
    assert set(os.listdir(tmp_path)) - {"b.tif"} == set(before)


@NO_SIGNALS
@pytest.mark.parametrize(("does", "says"), [("kill -9 $$", "code -9"), ("exit 3", "code 3")])
def test_a_process_that_dies_is_an_error(tmp_path, monkeypatch, does, says):
    source = write(tmp_path / "a.tif", noise(1, grid()), grid())
    program = tmp_path / "python"
    program.write_text(f"#!/bin/sh\n{does}\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    monkeypatch.setattr(cog, "_LARGE", 0)
    with pytest.raises(RasterioIOError, match=says):
        to_cog(Path(source), tmp_path / "b.tif", OPTIONS)


# Interrupts, while GDAL converts 40 Gpx without data

MOSAIC = """
import signal, sys
from cafe_cli.cli import main
from cafe_cli.mosaic import mosaic
from cafe_cli.mosaic.seams import sum_seams

signal.signal(signal.SIGINT, signal.default_int_handler)  # background jobs ignore it
mosaic._fill = lambda *_: sum_seams([], 1)
sys.argv = ["cafe", "mosaic", "a.tif", "-o", "m.tif", "--bbox", "300000", "5000000", "400000",
            "5100000"]
main.main()
"""
STORE = """
import signal
from pathlib import Path
from cafe_cli.cli import main
from cafe_cli.inference.job import PredictOutput
from cafe_cli.inference.strip_store import StripStore
from cafe_cli.raster.product import Product
from cafe_cli.raster.window import Window
from cafe_cli.system.interrupts import end_on_signals
from tests.support.rasters import TABLE, grid, noise

signal.signal(signal.SIGINT, signal.default_int_handler)
product = Product("labels", Path("m.tif"), classes=TABLE)
with (
    end_on_signals(main._report_end),
    StripStore([product], grid(200_000, 200_000), {}, PredictOutput(Path("m.tif")), {}) as store,
):
    store.write(Window(0, 0, 8, 6), {"labels": noise(1, grid()) % 3})
    store.finish()
"""


@pytest.fixture
def start(tmp_path):
    """Return a function that starts a script and waits until its COG is being written."""
    write(tmp_path / "a.tif", np.zeros((1, 40, 40), np.uint8), grid(40, 40, top=5_000_020))
    started = []

    def begin(script):
        with (tmp_path / "said").open("w") as said:
            process = subprocess.Popen(
                [sys.executable, "-c", script],
                cwd=tmp_path,
                stderr=said,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
            )
        started.append(process)
        wait_until(lambda: any(tmp_path.glob(".m.partial*")), process)
        return process

    yield begin
    for process in started:
        process.kill()
        process.wait()


def wait_until(happened, process=None):
    end = time.monotonic() + PATIENCE
    while not happened():
        assert process is None or process.poll() is None
        assert time.monotonic() < end
        time.sleep(0.02)


@NO_SIGNALS
@pytest.mark.parametrize(
    ("number", "code", "says"),
    [(signal.SIGINT, 130, "Error: interrupted"), (signal.SIGTERM, 143, "Error: terminated")],
)
def test_a_mosaic_is_interrupted_while_gdal_writes(tmp_path, start, number, code, says):
    process = start(MOSAIC)
    process.send_signal(number)
    assert process.wait(PATIENCE) == code
    assert sorted(os.listdir(tmp_path)) == ["a.tif", "said"]
    assert (tmp_path / "said").read_text().split("\n")[-2] == says


@NO_SIGNALS
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_prediction_keeps_its_strips_when_interrupted_while_gdal_writes(tmp_path, start, number):
    process = start(STORE)
    process.send_signal(number)
    process.wait(PATIENCE)
    assert sorted(os.listdir(tmp_path)) == [".m.tif.strips", "a.tif", "said"]
    assert (tmp_path / ".m.tif.strips" / "0-0-6x8.labels.tif").exists()
    assert "continue with --resume" in (tmp_path / "said").read_text()


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs /proc")
def test_the_process_ends_with_a_killed_parent(tmp_path, start):
    process = start(MOSAIC)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    process.kill()
    assert len(children) == 1
    wait_until(lambda: not running(children[0]))


def running(pid: str) -> bool:
    """Whether a process is there and no zombie: those wait for a parent that adopted them."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
