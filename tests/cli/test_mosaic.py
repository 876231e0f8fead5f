"""The command line of `cafe mosaic` with blocks."""

import numpy as np
import pytest
import rasterio

from cafe_cli.classes import ClassTable, LandClass
from cafe_cli.raster.writer import create_cog
from tests.support.rasters import grid

pytest_plugins = ["tests.support.fixtures"]

TABLE = ClassTable((LandClass(0, "ground", "#808080"), LandClass(1, "tree", "#00ff00")))


@pytest.fixture
def maps(tmp_path):
    """A folder with a map of 700 x 520 pixels."""
    (tmp_path / "maps").mkdir()
    values = np.zeros((520, 700), np.uint8)
    values[:, 350:] = 1
    with create_cog(tmp_path / "maps" / "a.tif", grid(700, 520), False, TABLE) as dataset:
        dataset.write(values, 1)
    return tmp_path / "maps"


def test_a_folder_of_blocks(maps, tmp_path, invoke):
    output = tmp_path / "country"
    words = ("mosaic", maps, "-o", output, "--block-size", "512", "--resume")
    code, captured = invoke(*words)
    assert code == 0
    assert f"joined 1 rasters into {output} in 4 blocks" in captured.err
    with rasterio.open(output / "country.vrt") as dataset:
        assert dataset.shape == (520, 700)
        assert np.bincount(dataset.read(1).ravel()).tolist() == [520 * 350, 520 * 350]
    code, captured = invoke(*words)
    assert code == 0
    assert "joined" not in captured.err
    assert f"{output} is complete" in captured.err.replace("\n", " ")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--block-size", "500"), "--block-size 500 is not a multiple of 512 px"),
        (("--block-size", "512", "--min-area", "5"), "--min-area needs the whole map at once"),
        (("--workers", "2"), "add --block-size"),
        (("--block-size", "512", "--workers", "2", "--scheduler", "a"), "exclude each other"),
    ],
)
def test_one_line_says_what_is_wrong(maps, tmp_path, invoke, words, said):
    suffix = "" if "--block-size" in words else ".tif"
    code, captured = invoke("mosaic", maps, "-o", tmp_path / f"country{suffix}", *words)
    assert code in (1, 2)
    assert said in captured.err
    assert {path.name for path in tmp_path.iterdir()} == {"maps"}
