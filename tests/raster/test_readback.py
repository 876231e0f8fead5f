import logging
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio.errors import RasterioIOError

from cafe_cli.errors import OutputError
from cafe_cli.raster import cog, writer
from cafe_cli.raster.readback import check_copy, errors_of_gdal
from cafe_cli.raster.writer import create_cog
from tests.support.rasters import TABLE, grid

WHERE = grid(1100, 1300)
LABELS = np.random.default_rng(0).integers(0, 3, (1300, 1100), np.uint8)


def write(path, values=LABELS, side=512):
    """Write a label map window by window."""
    with create_cog(path, WHERE, False, TABLE) as dataset:
        for row in range(0, WHERE.height, side):
            part = values[row : row + side]
            dataset.write(part, 1, window=((row, row + len(part)), (0, WHERE.width)))


@pytest.fixture
def copies(tmp_path):
    """A map, and a copy of it to damage."""
    write(tmp_path / "a.tif")
    shutil.copy(tmp_path / "a.tif", tmp_path / "b.tif")
    return tmp_path / "a.tif", tmp_path / "b.tif"


def put(path, value, window, **options):
    """Write one value into a window of a map, or of its overview."""
    with rasterio.open(path, "r+", ignore_cog_layout_break="yes", **options) as dataset:
        (top, bottom), (left, right) = window
        dataset.write(np.full((bottom - top, right - left), value, np.uint8), 1, window=window)


def test_a_sound_copy_passes(copies):
    check_copy(*copies)


@pytest.mark.parametrize("window", [((0, 1), (0, 1)), ((1299, 1300), (1099, 1100))])
def test_one_other_pixel_is_noticed(window, copies):
    put(copies[1], 255, window)
    with pytest.raises(RasterioIOError, match="cannot be read back"):
        check_copy(*copies)


@pytest.mark.parametrize("window", [((0, 512), (0, 512)), ((512, 650), (0, 512))])
def test_an_empty_block_of_an_overview_is_noticed(window, copies):
    put(copies[1], 255, window, overview_level=0)
    with rasterio.open(copies[1]) as dataset:
        assert np.array_equal(dataset.read(1), LABELS)
    with pytest.raises(RasterioIOError, match="cannot be read back"):
        check_copy(*copies)


@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_damaged_bytes_are_noticed(share, copies):
    content = bytearray(copies[1].read_bytes())
    middle = int(len(content) * share)
    content[middle : middle + 3000] = bytes(3000)
    copies[1].write_bytes(content)
    with pytest.raises(RasterioIOError):
        check_copy(*copies)


def test_maps_of_nodata_pass(tmp_path):
    write(tmp_path / "a.tif", np.full_like(LABELS, 255))
    values = np.full_like(LABELS, 255)
    values[700, 700] = 1
    write(tmp_path / "b.tif", values)


def lose_a_block(path):
    """Make a map forget its pixels from row 512 to 1024."""
    put(path, 255, ((512, 1024), (0, 512)))


@pytest.mark.parametrize("large", [0, 10**9], ids=["process", "here"])
def test_a_copy_that_lost_a_block_is_no_output(large, tmp_path, monkeypatch):
    def copy_and_lose(source, target, options):
        cog.to_cog(source, target, options)
        lose_a_block(target)

    monkeypatch.setattr(cog, "_LARGE", large)
    monkeypatch.setattr(writer, "to_cog", copy_and_lose)
    with pytest.raises(OutputError, match=r"cannot write .*map.tif: what was written"):
        write(tmp_path / "map.tif")
    assert [*tmp_path.iterdir()] == []


def test_strips_that_lost_a_block_are_no_output(tmp_path, monkeypatch):
    def lose(source, target, options):
        raise AssertionError("copied what cannot be read back")

    closing = writer.CheckedWriter.close

    def close_and_lose(self):
        name, closed = self.name, self.closed
        closing(self)
        if not closed:
            lose_a_block(name)

    monkeypatch.setattr(writer.CheckedWriter, "close", close_and_lose)
    monkeypatch.setattr(writer, "to_cog", lose)
    with pytest.raises(OutputError, match="cannot be read back; the disk is full or failing"):
        write(tmp_path / "map.tif")
    assert [*tmp_path.iterdir()] == []


def test_errors_that_are_only_logged_are_raised():
    with pytest.raises(RasterioIOError, match="disk"), errors_of_gdal():
        logging.getLogger("rasterio._env").error("CPLE_FileIO in %s", "no disk")
    with errors_of_gdal():
        logging.getLogger("rasterio._env").warning("CPLE_AppDefined in a warning")


LIMITED = """
import resource, signal, sys
from pathlib import Path
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
from cafe_cli.errors import OutputError
from cafe_cli.raster import cog
from tests.raster.test_readback import write
cog._LARGE = int(sys.argv[3])
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), resource.RLIM_INFINITY))
try:
    write(Path(sys.argv[1]))
except OutputError as error:
    assert "cannot write" in str(error)
    sys.exit(5)
"""


@pytest.mark.slow
@pytest.mark.parametrize("large", [0, 10**9], ids=["process", "here"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.99, 1.5])
def test_a_disk_that_is_full_at_any_place_leaves_nothing_or_all(share, large, copies, tmp_path):
    size = copies[0].stat().st_size
    words = [sys.executable, "-c", LIMITED, tmp_path / "map.tif", int(size * share), large]
    done = subprocess.run(
        [*map(str, words)], cwd=Path(__file__).parents[2], capture_output=True, text=True
    )
    assert done.returncode == (0 if share > 1 else 5), done.stderr
    if share > 1:
        assert (tmp_path / "map.tif").read_bytes() == copies[0].read_bytes()
    else:
        assert not (tmp_path / "map.tif").exists()
