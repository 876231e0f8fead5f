"""The command line of ``cafe vectorize``."""

import numpy as np
import pyogrio
import pytest

from cafe_cli.raster.writer import create_cog
from tests.support.rasters import TABLE, grid

pytest_plugins = ["tests.support.fixtures"]


@pytest.fixture
def map_(tmp_path):
    values = np.zeros((20, 30), np.uint8)
    values[5:12, 6:20], values[15, 3] = 1, 2
    with create_cog(tmp_path / "map.tif", grid(30, 20), True, TABLE) as dataset:
        dataset.write(values, 1)
    return tmp_path / "map.tif"


def test_polygons_are_written_and_counted(invoke, map_, tmp_path):
    code, said = invoke("vectorize", map_, "-o", tmp_path / "a.gpkg", "--min-area", 1)
    assert code == 0
    assert "wrote 2 polygons" in said.err
    assert "1 small polygon was merged into a neighbour" in said.err
    assert pyogrio.read_info(tmp_path / "a.gpkg", layer="a")["features"] == 2


def test_statistics_become_attributes(invoke, map_, tmp_path):
    words = ("--stats", f"one={map_}", "--stats", f"two={map_}", "--simplify", 0)
    code, _said = invoke("vectorize", map_, "-o", tmp_path / "a.fgb", *words)
    assert code == 0
    fields = pyogrio.read_info(tmp_path / "a.fgb")["fields"].tolist()
    assert fields[3:] == ["one_mean", "one_min", "one_max", "two_mean", "two_min", "two_max"]


def test_a_dry_run_writes_nothing(invoke, map_, tmp_path):
    code, said = invoke("vectorize", map_, "-o", tmp_path / "a.gpkg", "--dry-run")
    assert (code, (tmp_path / "a.gpkg").exists()) == (0, False)
    assert "vectorize: ok" in said.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--stats", "dsm.tif"], "is not NAME=RASTER"),
        (["--stats", "=dsm.tif"], "is not NAME=RASTER"),
        (["--stats", "z="], "is not NAME=RASTER"),
        (["--stats", "z=a.tif", "--stats", "z=b.tif"], "given twice"),
        (["--min-area", "-1"], "--min-area"),
        (["--simplify", "-0.5"], "--simplify"),
        (["--pixel-size", "0"], "--pixel-size"),
    ],
)
def test_wrong_words_are_usage_errors(invoke, map_, tmp_path, words, message):
    code, said = invoke("vectorize", map_, "-o", tmp_path / "a.gpkg", *words)
    assert code == 2
    assert message in said.err
