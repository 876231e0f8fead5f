"""Inputs made to break a run: each meets one line that says what is wrong, at once."""

# ruff: noqa: E501 (a case of a table is a line)

import json
import os
import re
from dataclasses import replace

import numpy as np
import pytest
import rasterio
import torch
from affine import Affine
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from cafe_cli.errors import InputError, ModelFileError
from cafe_cli.model import model_file
from cafe_cli.tilesets.tileset import load_tileset
from cafe_cli.training.state import TrainState
from cafe_cli.vector.layers import list_layers
from tests.support.rasters import grid, noise
from tests.support.rasters import write as write_raster

pytest_plugins = ["tests.support.fixtures"]

GRID = grid(40, 32)
NAN, INF = float("nan"), float("inf")


@pytest.fixture
def refuse(invoke):
    """Run a command that fails; return its error, the only line that begins with ``Error:``."""

    def run(*words, code=1):
        found, captured = invoke(*words)
        lines = [line for line in captured.err.splitlines() if line.startswith("Error: ")]
        assert found == code, captured.err
        assert "Traceback" not in captured.err
        assert len(lines) == 1, captured.err
        return lines[0]

    return run


# --- rasters -------------------------------------------------------------------------------------

PLACES = {
    "NaN": (NAN, 0, 3e5, 0, -0.5, 5e6),
    "infinite origin": (0.5, 0, INF, 0, -0.5, 5e6),
    "minus infinite": (0.5, 0, 3e5, 0, -0.5, -INF),
    "parallel": (0.5, 0.5, 3e5, 0.5, 0.5, 5e6),
    "no size": (0, 0, 3e5, 0, 0, 5e6),
    "no height": (0.5, 0, 3e5, 0, 0, 5e6),
    "tiny": (1e-300, 0, 3e5, 0, 1e-300, 5e6),
    "huge": (1e300, 0, 3e5, 0, 1e300, 5e6),
    "far away": (0.5, 0, 1e300, 0, -0.5, 5e6),
}


@pytest.mark.parametrize("stream", ["optical", "elevation"])
@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES)
def test_geotransforms_that_place_no_pixel(refuse, tmp_path, place, stream):
    where = replace(GRID, transform=Affine(*place))
    words = ["--optical", write_raster(tmp_path / "o.tif", noise(3, GRID), GRID)]
    bad = write_raster(tmp_path / "bad.tif", noise(3 if stream == "optical" else 1, GRID), where)
    words = ["--optical", bad] if stream == "optical" else [*words, "--elevation", bad]
    said = refuse("-q", "check", *words)
    assert "bad.tif has an invalid geotransform: " in said
    assert "gdal_edit.py -a_ullr" in said


@pytest.mark.parametrize("angle", [0, 30, 90, 179.9, 270])
def test_turned_rasters_are_placed(invoke, tmp_path, angle):
    where = replace(GRID, transform=GRID.transform @ Affine.rotation(angle))
    path = write_raster(tmp_path / "o.tif", noise(3, GRID), where)
    assert invoke("-q", "check", "--optical", path)[0] == 0


@pytest.mark.parametrize("dtype", ["complex64", "complex128", "complex_int16"])
def test_complex_pixels(refuse, tmp_path, dtype):
    path = tmp_path / "c.tif"
    profile = {"width": 8, "height": 8, "count": 1, "crs": GRID.crs, "transform": GRID.transform}
    with rasterio.open(path, "w", driver="GTiff", dtype=dtype, **profile):
        pass
    for words in (
        ["--optical", path],
        ["--optical", write_raster(tmp_path / "o.tif", noise(3, GRID), GRID), "--elevation", path],
    ):
        assert "c.tif holds complex numbers" in refuse("-q", "check", *words)


def sparse(path, width, height, count, **more):
    """Write the header of a raster whose blocks are all missing."""
    where = {"crs": GRID.crs, "transform": GRID.transform, "SPARSE_OK": True, "BIGTIFF": "YES"}
    size = {"width": width, "height": height, "count": count, "dtype": "uint8"}
    with rasterio.open(path, "w", driver="GTiff", **size, **where, **more):
        pass
    return path


@pytest.mark.parametrize("count", [4097, 20_000, 65_535])
def test_more_bands_than_any_sensor_has(refuse, tmp_path, count):
    path = sparse(tmp_path / "m.tif", 1, 1, count, interleave="pixel")
    assert f"m.tif has {count:,} bands, at most 4,096 are read" in refuse(
        "-q", "check", "--optical", path
    )


@pytest.mark.parametrize(
    ("width", "height", "layout"),
    [
        (50_000, 50_000, {"tiled": True, "blockxsize": 50_000, "blockysize": 50_000}),
        (65_536, 65_536, {"tiled": True, "blockxsize": 65_536, "blockysize": 65_536}),
        (
            40_000,
            40_000,
            {"tiled": True, "blockxsize": 32_768, "blockysize": 32_768, "interleave": "pixel"},
        ),
    ],
)
def test_blocks_that_memory_cannot_hold(refuse, tmp_path, width, height, layout):
    path = sparse(tmp_path / "b.tif", width, height, 3, **layout)
    said = refuse("-q", "check", "--optical", path)
    assert re.search(r"is stored in blocks of [\d,]+ x [\d,]+ pixels, which take [\d.]+ GB", said)
    assert "gdal_translate -co TILED=YES" in said


@pytest.mark.parametrize("name", ["o.tif", "o.jp2", "o.png", "o"])
@pytest.mark.parametrize("option", ["--optical", "--elevation", "--dtm", "--labels"])
def test_pipes(refuse, tmp_path, name, option):
    os.mkfifo(tmp_path / name)
    image = write_raster(tmp_path / "image.tif", noise(3, GRID), GRID)
    words = [] if option == "--optical" else ["--optical", image]
    words += ["--elevation", image] if option == "--dtm" else []
    said = refuse("-q", "check", *words, option, tmp_path / name)
    assert f"{name} is a pipe, a socket or a device" in said


@pytest.mark.parametrize("name", ["v.gpkg", "v.geojson", "v.shp", "v"])
def test_pipes_in_place_of_vectors(tmp_path, name):
    os.mkfifo(tmp_path / name)
    with pytest.raises(InputError, match=f"{name} is a pipe, a socket or a device"):
        list_layers(str(tmp_path / name))


@pytest.mark.parametrize(
    ("broken", "errors"),
    [("<SimpleSource \udcd1><SourceFilename>a.tif</SourceFilename></SimpleSource>", 1),
     ("<\udcff></\udcfe>", 1),
     # The source is missing, too.
     ("<SimpleSource><SourceFilename>/\udcd1.tif</SourceFilename></SimpleSource>", 2)],
)  # fmt: skip
def test_messages_that_quote_bytes_that_are_no_text(invoke, tmp_path, broken, errors):
    text = (
        '<VRTDataset rasterXSize="8" rasterYSize="6"><VRTRasterBand dataType="Byte" band="1">'
        f"{broken}</VRTRasterBand></VRTDataset>"
    )
    (tmp_path / "a.vrt").write_bytes(text.encode(errors="surrogateescape"))
    image = write_raster(tmp_path / "o.tif", noise(3, GRID), GRID)
    code, captured = invoke("-q", "check", "--optical", image, "--elevation", tmp_path / "a.vrt")
    assert code == 1
    lines = [line for line in captured.err.splitlines() if line.startswith("Error: ")]
    assert len(lines) == errors, captured.err
    assert all("a.vrt" in line for line in lines)
    assert "Unicode" not in captured.err
    assert "Traceback" not in captured.err


# --- configs and lists ---------------------------------------------------------------------------

CONFIGS = {
    "deep list": ("x = " + "[" * 50_000, "is not valid TOML: brackets are nested too deeply"),
    "deep table": ("x = " + "{a=" * 50_000, "is not valid TOML: brackets are nested too deeply"),
    "long key": ("x." * 50_000 + "y = 1", "is not valid TOML: line 1 has a key of many parts"),
    "long table": ("a = 1\n[" + "x." * 50_000 + "y]", "line 2 has a key of many parts"),
    "no UTF-8": (b"root = '\xe9'", "is not valid TOML: 'utf-8' codec can't decode"),
    "binary": (bytes(range(256)), "is not valid TOML"),
    "endless digits": ("tile.size = " + "9" * 5000, "is not valid TOML: Exceeds the limit"),
    "huge": ("#" * 4_000_001, "c.toml is larger than 4 MB: it cannot be the right file"),
    "max_window": ("height.max_window = 1e9", "height.max_window: .*less than or equal to 5000"),
    "max_window inf": ("height.max_window = inf", "height.max_window: .*less than or equal"),
    "max_window NaN": ("height.max_window = nan", "height.max_window: "),
    "small cells": ("height.cell = 0.1", "max_window 160 m is 1,600 cells of 0.1 m, more than"),
    "cell": ("height.cell = 1e-9", "height.cell: .*greater than or equal to 0.01"),
    "slope": ("height.slope = 1e9", "height.slope: .*less than or equal to 100"),
    "fill": ("height.fill = 1000", "height.fill: .*less than or equal to 100 "),
    "fill NaN": ("height.fill = nan", "height.fill: "),
    "tile size": ("tile.size = 1000000000", "tile.size: .*less than or equal to 16384"),
    "tile gsd": ("tile.gsd = 1e-30", "tile.gsd: .*greater than or equal to 0.0001"),
    "tile gsd inf": ("tile.gsd = inf", "tile.gsd: .*less than or equal to 100000"),
    "window": ("predict.window = 65536", "predict.window: .*less than or equal to 16384"),
    "batch size": ("train.batch_size = 10000000", "train.batch_size: .*less than or equal to 65536"),
    "workers": ("train.workers = 1000000000", "train.workers: .*less than or equal to 1024"),
    "devices": ("train.devices = 1000000000", "train.devices: .*less than or equal to 1024"),
    "width": ("model.width = 1000000", "model.width: .*less than or equal to 4096"),
    "escape": (r'classes = [{id = 0, name = "a\u001b[31m"}]', r"classes.0.name: it holds the control character \\x1b"),
    "C1": (r'classes = [{id = 0, name = "a\u009b"}]', r"the control character \\x9b"),
    "bidi": (r'classes = [{id = 0, name = "a\u202eb"}]', r"the control character \\u202e"),
    "line break": (r'classes = [{id = 0, name = "a\nb"}]', r"the control character \\n"),
    "attribute": (r'labels.attribute = "a\u0007"', r"labels.attribute: it holds the control .* \\x07"),
    "crs": ('scenes.crs = "EPSG:25832\\r"', r"scenes.crs: it holds the control character \\r"),
    "endless crs": (f'scenes.crs = "{"x" * 9999}"', "'x{50,80}\\.\\.\\. is not a CRS"),
    "null": (r'scenes.only = ["a\u0000"]', "scenes.only.0: a file name cannot hold a null byte"),
    "wrong type": ("tile = 7", "tile: "),
    "endless value": (f'tile.size = "{"x" * 9999}"', r"tile.size: .*\(got 'x{50,80}\.\.\.\)"),
}  # fmt: skip


@pytest.mark.parametrize("name", CONFIGS)
def test_configs(invoke, tmp_path, name):
    text, says = CONFIGS[name]
    (tmp_path / "c.toml").write_bytes(text if isinstance(text, bytes) else text.encode())
    image = write_raster(tmp_path / "o.tif", noise(3, GRID), GRID)
    code, captured = invoke("-q", "check", "-c", tmp_path / "c.toml", "--optical", image)
    assert code in (1, 2)
    errors = [line for line in captured.err.splitlines() if line.startswith("Error: ")]
    assert len(errors) == 1
    assert re.search(says, errors[0])
    assert len(errors[0]) < 600


def test_a_config_that_is_a_pipe(refuse, tmp_path):
    os.mkfifo(tmp_path / "c.toml")
    said = refuse("check", "-c", tmp_path / "c.toml", code=2)
    assert "c.toml is a pipe, a socket or a device" in said


@pytest.mark.parametrize("content", [b"a\0b.tif\n", b"\0", bytes(range(256)), b"\x89PNG\r\n\xff"])
def test_lists_that_hold_no_names(refuse, tmp_path, content):
    (tmp_path / "l.txt").write_bytes(content)
    said = refuse("check", "--optical", f"@{tmp_path / 'l.txt'}")
    assert "l.txt is not a list of file names, one per line" in said


def test_a_list_that_is_a_pipe(refuse, tmp_path):
    os.mkfifo(tmp_path / "l.txt")
    assert "is a pipe" in refuse("check", "--optical", f"@{tmp_path / 'l.txt'}")


@pytest.mark.parametrize(
    "words", [["check", "--optical", "a\udce9.tif"], ["mosaic", "\udcff.tif", "-o", "m.tif"],
              ["predict", "o.tif", "-o", "b\udc80.tif"], ["train", "\udce9"]],
)  # fmt: skip
def test_names_that_are_no_utf8(refuse, words):
    assert re.search(r"has a name that is not UTF-8 \(it holds the byte \\x\w\w\)", refuse(*words))


@pytest.mark.parametrize("way", ["{folder}", "{folder}/*.tif", "{folder}/{{name}}.tif"])
def test_folders_with_names_that_are_no_utf8(refuse, tmp_path, way):
    image = write_raster(tmp_path / "o.tif", noise(3, GRID), GRID)
    (tmp_path / "f").mkdir()
    os.rename(image, os.fsencode(tmp_path) + b"/f/k\xf6ln.tif")
    said = refuse("-q", "check", "--optical", way.format(folder=tmp_path / "f"))
    assert r"k\xf6ln.tif has a name that is not UTF-8 (it holds the byte \xf6): rename it" in said


@pytest.mark.parametrize("bad", ["\x1b[31m", "\x9b31m", "\x07", "\u202e", "\u2066", "\x7f"])
def test_no_control_character_reaches_the_terminal(invoke, tmp_path, bad):
    _, captured = invoke("check", "--optical", tmp_path / f"a{bad}b.tif")
    assert bad[0] not in captured.err
    assert re.search(r"a\\(x\w\w|u\w{4})(\[?31m)?b\.tif", captured.err)


# --- tile sets -----------------------------------------------------------------------------------


def edit(description, *path, value):
    """Set a value of nested dicts and lists; without it, delete the key."""
    *parents, last = path
    for key in parents:
        description = description[key]
    if value is KeyError:
        del description[last]
    else:
        description[last] = value


TILESETS = {
    "no format": (("format",), "cafe tileset 9", "format"),
    "no size": (("size",), KeyError, "size: Field required"),
    "size 0": (("size",), 0, "size"),
    "size of text": (("size",), "x", "size"),
    "size huge": (("size",), 10**9, "size: .*less than or equal to 16384"),
    "overlap below 0": (("overlap",), -1, "overlap"),
    "no bands": (("band_names",), [], "band_names"),
    "other bands": (("band_names",), ["red"], "optical_statistics are not 1 finite number"),
    "many bands": (("band_names",), ["b"] * 5000, "band_names"),
    "band with an escape": (("band_names", 0), "\x1b[2J", r"band_names.0: .*control character \\x1b"),
    "dtype": (("dtype",), "object", "dtype"),
    "gsd 0": (("gsd",), 0, "gsd"),
    "gsd huge": (("gsd",), 1e300, "gsd"),
    "heights of text": (("has_height",), "maybe", "has_height"),
    "height settings": (("height",), {"kind": "moon"}, "height.kind"),
    "max_window": (("height", "max_window"), 1e9, "height.max_window"),
    "classes": (("classes",), [], "classes"),
    "class with an escape": (("classes", 0, "name"), "\x1b", r"classes: .*control character \\x1b"),
    "class without end": (("classes", 0, "name"), "x" * 9999, "classes: .*9,999 characters"),
    "no pixels": (("pixels",), {}, "pixels of train are missing"),
    "pixels below 0": (("pixels", "train"), {"ground": -1}, "pixels.train"),
    "statistics": (("optical_statistics", "mean"), [1.0], "optical_statistics are not 3 finite"),
    "no deviation": (("optical_statistics", "std"), [], "optical_statistics are not 3 finite"),
    "infinite mean": (("height_statistics", "mean"), [INF], "height_statistics are not 1 finite"),
    "shared ground": (("shared_ground",), -5, "shared_ground"),
    "tiles of text": (("tiles",), "all", "tiles"),
    "name outside": (("tiles", 0, "name"), "../../etc/passwd", "is not a file name within"),
    "absolute name": (("tiles", 0, "name"), "/etc/passwd", "is not a file name within"),
    "null in a name": (("tiles", 0, "name"), "a\0b", "is not a file name within the tile set"),
    "scene outside": (("tiles", 0, "scene"), "../x", "is not a file name within the tile set"),
    "split outside": (("tiles", 0, "split"), "../..", "tiles.0.split"),
    "row below 0": (("tiles", 0, "row"), -7, "tiles.0.row"),
    "column huge": (("tiles", 0, "col"), 10**30, "tiles.0.col"),
    "valid above 1": (("tiles", 0, "valid"), 7, "tiles.0.valid"),
    "one name twice": (("tiles", 1, "name"), "same", "tiles have .* names"),
    "unknown key": (("surprise",), 1, "surprise"),
}  # fmt: skip


@pytest.mark.parametrize("name", TILESETS)
def test_tile_sets(tileset, tmp_path, name):
    path, value, says = TILESETS[name]
    description = json.loads((tileset / "tileset.json").read_text())
    if name == "one name twice":
        edit(description, "tiles", 0, "name", value=value)
    edit(description, *path, value=value)
    (tmp_path / "tileset.json").write_text(json.dumps(description))
    with pytest.raises(
        InputError, match=rf"tileset\.json is damaged: .*{says}.*; run cafe tile"
    ) as caught:
        load_tileset(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "7", "null", "[" * 99_999, '{"a":' * 99_999, "\x00"]
)
def test_tile_sets_that_are_no_json(tmp_path, text):
    (tmp_path / "tileset.json").write_text(text)
    with pytest.raises(InputError, match=r"tileset\.json is damaged: "):
        load_tileset(tmp_path)


# --- models --------------------------------------------------------------------------------------


def rewrite(model, path, change, card=None):
    """Write a model file anew, with other tensors or another description."""
    with safe_open(model, framework="pt") as file:
        metadata = file.metadata()
    description = {**json.loads(metadata["cafe"]), **(card or {})}
    save_file(change(load_file(model)), path, {**metadata, "cafe": json.dumps(description)})


def first_weight(tensors):
    return next(n for n in sorted(tensors) if n.endswith("weight"))


def poisoned(value, everywhere=False, buffer=False):
    def change(tensors):
        name = "optical_mean" if buffer else first_weight(tensors)
        tensors[name] = tensors[name].clone()
        tensors[name].view(-1)[: None if everywhere else 1] = value
        return tensors

    return change


def as_type(dtype, only_weights=True):
    return lambda tensors: {
        n: t.to(dtype) if n.endswith("weight") or not only_weights else t
        for n, t in tensors.items()
    }


@pytest.mark.parametrize(
    "change",
    [poisoned(NAN), poisoned(INF), poisoned(-INF), poisoned(NAN, everywhere=True),
     poisoned(NAN, buffer=True),
     lambda tensors: {n: t.double() * 1e300 if n == first_weight(tensors) else t for n, t in tensors.items()}],
    ids=["NaN", "inf", "-inf", "all NaN", "NaN statistics", "too large for float32"],
)  # fmt: skip
def test_weights_that_are_no_numbers(model, tmp_path, change):
    rewrite(model, tmp_path / "m.safetensors", change)
    with pytest.raises(
        ModelFileError, match=r"m\.safetensors: [\d,]+ of [\d,]+ values of '.*' are NaN or infinite"
    ):
        model_file.load(tmp_path / "m.safetensors")


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64, torch.uint8, torch.bool])
def test_weights_of_whole_numbers(model, tmp_path, dtype):
    rewrite(model, tmp_path / "m.safetensors", as_type(dtype))
    with pytest.raises(ModelFileError, match=r"is stored as \w+ where the network has float32"):
        model_file.load(tmp_path / "m.safetensors")


def test_counters_that_are_no_whole_numbers(model, tmp_path):
    rewrite(model, tmp_path / "m.safetensors", as_type(torch.float32, only_weights=False))
    with pytest.raises(ModelFileError, match=r"is stored as F32 where the network has int64"):
        model_file.load(tmp_path / "m.safetensors")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_another_precision_are_taken(model, tmp_path, dtype):
    rewrite(model, tmp_path / "m.safetensors", as_type(dtype))
    network, _ = model_file.load(tmp_path / "m.safetensors")
    assert {p.dtype for p in network.parameters()} == {torch.float32}


LIES = {
    "gsd": 1e-300, "window": 65_536, "epoch": -1, "dtype": "object", "band_names": ["\x1b", "g", "b"],
    "height": {"max_window": 1e9}, "format": "cafe model 99", "classes": 7,
}  # fmt: skip


@pytest.mark.parametrize("key", LIES)
def test_descriptions_that_lie(model, tmp_path, key):
    rewrite(model, tmp_path / "m.safetensors", dict, {key: LIES[key]})
    with pytest.raises(ModelFileError, match=rf"its description cannot be used: {key}"):
        model_file.load(tmp_path / "m.safetensors")


def test_finite_weights_whose_scores_are_no_numbers(refuse, model, tmp_path):
    def overflow(tensors):
        return {
            n: torch.full_like(t, 3e38) if n.startswith("head.") and n.endswith("weight") else t
            for n, t in tensors.items()
        }

    rewrite(model, tmp_path / "m.safetensors", overflow)
    image = write_raster(tmp_path / "o.tif", noise(3, grid(64, 64)), grid(64, 64))
    heights = write_raster(
        tmp_path / "h.tif", noise(1, grid(64, 64)).astype("float32"), grid(64, 64)
    )
    said = refuse(
        "-q", "predict", "--optical", image, "--elevation", heights, "--model", tmp_path / "m.safetensors", "-o", tmp_path / "map.tif", "--device", "cpu",
        "--ignore-mismatch",
    )  # fmt: skip
    assert "the network returned NaN or infinite scores" in said
    assert not (tmp_path / "map.tif").exists()


GOOD = {"epoch": 1, "batch": 2, "sums": {"loss": 1.5}, "best": 0.5, "stale": 0,
        "history": [{"epoch": 1, "step": 3, "loss": 0.5, "miou": NAN}]}  # fmt: skip
STATES = {
    "epoch": -1, "batch": "x", "sums": [1], "best": 7, "stale": -1, "history": None,
}  # fmt: skip


def test_the_state_of_a_run():
    assert TrainState.from_json(GOOD).batch == 2


@pytest.mark.parametrize("key", STATES)
def test_states_of_runs_that_are_damaged(key):
    with pytest.raises(ValueError, match=key):
        TrainState.from_json({**GOOD, key: STATES[key]})


@pytest.mark.parametrize(
    "values",
    [7, None, [], "x", {}, {**GOOD, "x": 1}, {**GOOD, "epoch": 10**9}, {**GOOD, "epoch": 2},
     {**GOOD, "history": [{"epoch": 1}]}, {**GOOD, "history": [{"epoch": 5, "step": 3}]}],
)  # fmt: skip
def test_states_of_runs_that_are_none(values):
    with pytest.raises(ValueError):  # noqa: PT011 (pydantic's words)
        TrainState.from_json(values)


def test_heights_are_filled_from_a_bounded_distance(refuse, tmp_path):
    where = grid(40, 32, pixel=0.02)
    image = write_raster(tmp_path / "o.tif", noise(3, where), where)
    heights = write_raster(tmp_path / "h.tif", np.float32(noise(1, where)), where)
    (tmp_path / "c.toml").write_text("height.fill = 50")
    said = refuse(
        "-q", "check", "-c", tmp_path / "c.toml", "--optical", image, "--elevation", heights, code=1
    )
    assert "height.fill = 50 m is 2,500 pixels of 0.02 m" in said
    assert "set it to 20.5 m or less" in said
