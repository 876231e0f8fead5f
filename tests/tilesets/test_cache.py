import errno
import logging
import os
import resource
import shutil
import threading
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
import torch

from cafe_cli.config.schema import AugmentSettings, Config, TrainSettings
from cafe_cli.errors import InputError
from cafe_cli.tilesets import cache
from cafe_cli.tilesets.cache import HEIGHT_VALID, OPTICAL_VALID, pack, prepare
from cafe_cli.tilesets.make import tile
from cafe_cli.tilesets.tile_rasters import TileReader, read_tile
from cafe_cli.tilesets.tileset import load_tileset, save_tileset
from cafe_cli.training.data.dataset import TileDataset
from cafe_cli.training.data.loader import Loader
from cafe_cli.training.data.sampler import SampleKey
from tests.support.engines import equal, settings, town, write

CPU = torch.device("cpu")

pytest_plugins = ["tests.support.fixtures"]


def survey(folder: Path, dtype="uint8", heights=True) -> None:
    """Write scene `a` for training and `b` for validation, with holes in the image and heights."""
    for name, seed, corner in (("a", 1, (0, 0)), ("b", 2, (0, 1000))):
        image, metres, labels = town(128, 128, seed, dtype=dtype)
        mask = np.full(labels.shape[1:], 255, np.uint8)
        mask[10:50, 20:100] = 0
        metres[:, 30:90, 40:60] = -1
        write(folder / f"{name}_ortho.tif", image, corner, mask=mask)
        write(folder / f"{name}_labels.tif", labels, corner, nodata=255)
        if heights:
            write(folder / f"{name}_dsm.tif", metres, corner, nodata=-1)


def made(folder: Path, virtual=False, heights=True, **kind) -> Path:
    """Make a tile set of four tiles for training and four for validation."""
    survey(folder, heights=heights, **kind)
    config = settings(height__fill=0, **({} if heights else {"scenes__elevation": None}))
    tile(config.model_copy(update={"root": str(folder)}), folder / "tiles", virtual=virtual)
    return folder / "tiles"


@pytest.fixture
def own(tileset, tmp_path) -> Path:
    """A copy of the tile set, without a cache."""
    shutil.copytree(tileset, tmp_path / "own", ignore=lambda *_: {"cache", ".cache.lock"})
    return tmp_path / "own"


@pytest.fixture
def decoded(monkeypatch):
    """Return the list of the names of the tiles that are decoded from now on."""
    names, read = [], TileReader.read

    def noting(self, tile):
        names.append(tile.name)
        return read(self, tile)

    monkeypatch.setattr(TileReader, "read", noting)
    return names


@pytest.mark.parametrize(
    "kind",
    [{}, {"dtype": "uint16"}, {"heights": False}, {"virtual": True}],
    ids=["uint8", "uint16", "no heights", "virtual"],
)
def test_samples_are_those_of_the_tiles(tmp_path, kind):
    folder = made(tmp_path, **kind)
    info = load_tileset(folder)
    kept = prepare(folder, info)
    cropped = Config(train=TrainSettings(crop=40), augment=AugmentSettings(height_dropout=0.5))
    for split in ("train", "validation"):
        for config in (None, cropped):
            keys = [[SampleKey(number, 7) for number in range(4)]]
            read, mapped = (
                Loader(TileDataset(folder, info, split, config, c), CPU) for c in (None, kept)
            )
            for one, other in zip(read.batches(keys), mapped.batches(keys), strict=True):
                assert equal(one.sample, other.sample)
    flags = kept.planes.flags
    assert 0.5 < ((flags & OPTICAL_VALID) > 0).mean() < 1
    share = ((flags & HEIGHT_VALID) > 0).mean()
    assert 0.5 < share < 1 if kind.get("heights", True) else share == 0


def test_files_can_be_read_without_cafe(own):
    info = load_tileset(own)
    assert prepare(own, info) is not None
    names = {path.stem for path in (own / "cache").glob("*.npy")}
    assert names == {"optical", "flags", "height", "labels"}
    kept = [*info.of("train"), *info.of("validation")]
    for number, one in enumerate(kept):
        planes = pack(*read_tile(own, one, info.size))
        for name in names:
            stored = np.load(own / "cache" / f"{name}.npy")
            assert len(stored) == len(kept)
            assert stored.dtype == getattr(planes, name).dtype
            assert np.array_equal(stored[number], getattr(planes, name))


def test_tiles_are_decoded_once(own, decoded):
    info = load_tileset(own)
    told = []
    assert prepare(own, info, progress=lambda *numbers: told.append(numbers)) is not None
    assert sorted(decoded) == sorted(t.name for t in info.tiles)
    assert told == [(n + 1, len(info.tiles)) for n in range(len(info.tiles))]
    assert prepare(own, info) is not None
    assert len(decoded) == len(info.tiles)


def test_test_tiles_are_not_kept(own):
    assert prepare(own, load_tileset(own)).of("test") is None


def touch(folder):
    path = next((folder / "validation" / "label").glob("*.tif"))
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))


def shorten(folder):
    path = folder / "cache" / "labels.npy"
    path.write_bytes(path.read_bytes()[:-1])


def lose_heights(folder):
    (next((folder / "train" / "height").iterdir())).unlink()


def garble(folder):
    (folder / "cache" / "cache.json").write_text("{")


def describe_otherwise(folder):
    info = load_tileset(folder)
    save_tileset(folder, info.model_copy(update={"tiles": info.tiles[::-1]}))


def forget(folder):
    (folder / "cache" / "flags.npy").unlink()


@pytest.mark.parametrize(
    "change", [touch, lose_heights, describe_otherwise, shorten, garble, forget]
)
def test_what_is_stale_or_damaged_is_made_again(own, decoded, change):
    prepare(own, load_tileset(own))
    change(own)
    decoded.clear()
    info = load_tileset(own)
    kept = prepare(own, info)
    assert sorted(decoded) == sorted(t.name for t in info.tiles)
    patch, _ = read_tile(own, info.of("train")[1], info.size)
    assert np.array_equal(kept.of("train").height[1], patch.heights)


def test_virtual_tiles_whose_rasters_changed(tmp_path):
    folder = made(tmp_path, virtual=True)
    info = load_tileset(folder)
    assert prepare(folder, info) is not None
    with (tmp_path / "a_dsm.tif").open("ab") as file:
        file.write(b" ")
    with pytest.raises(InputError, match=r"a_dsm\.tif was changed or moved after the virtual"):
        prepare(folder, info)


def test_a_damaged_tile_is_named(own):
    path = sorted((own / "train" / "image").iterdir())[2]
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(InputError, match=path.name):
        prepare(own, load_tileset(own))
    assert not list(own.glob("*cache")) + list(own.glob(".cache.partial"))


def test_a_moved_tile_set_keeps_its_cache(own, decoded, tmp_path):
    prepare(own, load_tileset(own))
    decoded.clear()
    own.rename(tmp_path / "moved")
    assert prepare(tmp_path / "moved", load_tileset(tmp_path / "moved")) is not None
    assert not decoded


# How large it may be


def disk(monkeypatch, free: float) -> None:
    usage = namedtuple("usage", "total used free")(1e15, 0, int(free))
    monkeypatch.setattr("cafe_cli.tilesets.cache.shutil.disk_usage", lambda path: usage)


SIZE = 11 * 64 * 64 * (3 + 1 + 4 + 1)  # bytes of the eleven tiles


@pytest.mark.parametrize(
    ("limit", "free", "fits"),
    [
        ("auto", 2 * SIZE, True),
        ("auto", 2 * SIZE - 2, False),
        (SIZE / 1e9, 2 * SIZE, True),
        (SIZE / 1e9 - 1e-9, 1e12, False),
        (1, SIZE, True),
        (1, SIZE - 1, False),
        ("none", 1e12, False),
    ],
)
def test_bounds(own, monkeypatch, limit, free, fits):
    disk(monkeypatch, free)
    assert (prepare(own, load_tileset(own), limit) is not None) == fits
    assert (own / "cache").exists() == fits


@pytest.mark.parametrize(
    ("limit", "free", "words"),
    [
        ("auto", 500e3, "train.cache = auto allows 250 kB (50 GB or half of what is free: 500 kB)"),
        (0.0001, 5e9, "train.cache = 0.0001 allows 100 kB (free: 5 GB)"),
    ],
)
def test_why_there_is_none(own, monkeypatch, caplog, limit, free, words):
    disk(monkeypatch, free)
    assert prepare(own, load_tileset(own), limit) is None
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    start = "the tiles are not cached, and every epoch decodes them again: it would take 406 kB, "
    assert record.getMessage() == start + words


def test_at_most_50_gb(own, monkeypatch):
    disk(monkeypatch, 1e15)
    info = load_tileset(own)
    monkeypatch.setattr("cafe_cli.tilesets.cache._bytes", lambda *kind: 12.6e9)
    assert prepare(own, info) is None
    monkeypatch.setattr("cafe_cli.tilesets.cache._bytes", lambda *kind: 12.4e9)
    assert prepare(own, info) is not None


def test_what_is_there_is_used_unless_asked_not_to(own, decoded):
    info = load_tileset(own)
    prepare(own, info)
    assert prepare(own, info, 1e-9) is not None
    assert prepare(own, info, "none") is None
    assert (own / "cache").exists()
    assert len(decoded) == len(info.tiles)


def test_a_stale_one_makes_room(own):
    info = load_tileset(own)
    prepare(own, info)
    touch(own)
    assert prepare(own, info, 1e-9) is None
    assert not (own / "cache").exists()


# What can go wrong


def test_disk_full(own, caplog):
    """A limit of the size of files, which the system reports as it does a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        assert prepare(own, load_tileset(own)) is None
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert f"cannot write {own / 'cache'}: File too large" in caplog.text
    assert not (own / "cache").exists()
    assert not (own / ".cache.partial").exists()


@pytest.mark.parametrize("code", [errno.EROFS, errno.EACCES, errno.ENOLCK])
def test_folder_that_is_not_writable(own, monkeypatch, caplog, code):
    def fail(*_):
        raise OSError(code, os.strerror(code), str(own / ".cache.lock"))

    monkeypatch.setattr("cafe_cli.system.locks._try_lock", fail)
    assert prepare(own, load_tileset(own)) is None
    (record,) = caplog.records
    assert os.strerror(code) in record.getMessage()
    assert not (own / "cache").exists()


@pytest.mark.parametrize("limit", ["auto", 1e-9])
def test_what_a_killed_process_left_behind(own, limit):
    (own / ".cache.partial").mkdir()
    (own / ".cache.partial" / "optical.npy").write_bytes(b"half")
    assert (prepare(own, load_tileset(own), limit) is None) == (limit != "auto")
    assert not (own / ".cache.partial").exists()


def test_several_at_once(own, decoded):
    """Each has a lock of its own, as several processes would."""
    info = load_tileset(own)
    found = []
    threads = [threading.Thread(target=lambda: found.append(prepare(own, info))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(decoded) == len(info.tiles)
    assert len(found) == 3
    assert all(np.array_equal(kept.planes.optical, found[0].planes.optical) for kept in found)


def test_tile_replaces_it(scenes, own):
    prepare(own, load_tileset(own))
    tile(settings().model_copy(update={"root": str(scenes)}), own, overwrite=True)
    assert load_tileset(own).tiles
    assert not (own / "cache").exists()


def test_no_tiles(own):
    info = load_tileset(own)
    assert prepare(own, info.model_copy(update={"tiles": ()})) is None
    assert cache.Cache(prepare(own, info).planes, 6).of("train").labels.shape == (6, 64, 64)
