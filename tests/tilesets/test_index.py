import sys
from types import SimpleNamespace

import pytest

from cafe_cli.errors import OutputError
from cafe_cli.raster.window import Window
from cafe_cli.tilesets.index import shared_ground, write_index
from cafe_cli.tilesets.tileset import Tile
from tests.support.rasters import LAMBERT, UTM, around, grid

SIZE = 32


def tile_at(split, scene, row, col):
    return Tile(name="", split=split, scene=scene, row=row, col=col, valid=1, labelled=1)


def test_ground_that_splits_share_is_measured(caplog):
    where = grid(160, 128)
    grids = {"a": where, "b": where.at(Window(100, 40, 160, 128))}
    apart = [tile_at("train", "a", 0, 0), tile_at("validation", "b", 0, 0)]
    assert shared_ground(apart, grids, SIZE) == 0
    assert not caplog.text
    both = [*apart, tile_at("train", "a", 50, 110), tile_at("test", "b", 30, 30)]
    # 22 x 22 pixels with the validation tile, 12 x 12 with the test tile, 2 x 2 with both.
    assert shared_ground(both, grids, SIZE) == pytest.approx((22 * 22 + 12 * 12 - 2 * 2) * 0.25)
    assert "tiles of two splits share 156 m² of ground" in caplog.text


def test_shared_ground_of_scenes_in_several_crs():
    where, other = (around(300_000, 5_200_000, 16, 0.5, crs) for crs in (UTM, LAMBERT))
    tiles_there = [tile_at("train", "a", 0, 0), tile_at("validation", "b", 0, 0)]
    shared = shared_ground(tiles_there, {"a": where, "b": other}, SIZE)
    assert 0.85 * 256 < shared < 256


@pytest.mark.skipif(sys.platform == "win32", reason="no limit of the size of files")
def test_an_index_that_cannot_be_written_to_its_end_is_an_error(tmp_path):
    """SQLite tells GDAL of a failed write, which closed the file without a word."""
    import resource

    where = grid(160, 128)
    tiles = [tile_at(split, "a", 0, col) for split, col in (("train", 0), ("validation", 64))]
    tileset = SimpleNamespace(tiles=tiles, size=SIZE)
    path = tmp_path / "index.gpkg"
    write_index(tmp_path, tileset, {"a": where})
    size = path.stat().st_size
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    for limit in (0, 4096, size // 2, size - 4096, size - 1):
        path.unlink(missing_ok=True)
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
            with pytest.raises((OSError, OutputError)):
                write_index(tmp_path, tileset, {"a": where})
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
