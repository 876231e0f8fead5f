"""Command lines that mean something else than what a shell or a hurried person makes of them."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine

from cafe_cli.config.load import load_config
from cafe_cli.errors import ConfigError
from cafe_cli.raster.grid import Grid
from tests.support import rasters
from tests.support.engines import town, write

pytest_plugins = ["tests.support.fixtures"]


@pytest.fixture
def here(tmp_path, monkeypatch, model) -> Path:
    """A working folder with a model and pairs of rasters."""
    image, metres, _ = town(64, 64)
    for name in ("a", "b", "c"):
        for kind, values in (("ortho", image), ("dsm", metres)):
            (tmp_path / kind).mkdir(exist_ok=True)
            write(tmp_path / kind / f"{name}.tif", values)
    shutil.copy(model, tmp_path / "m.safetensors")
    shutil.copy(model, tmp_path / "renamed.model")
    monkeypatch.chdir(tmp_path)
    return tmp_path


ORTHO = ["ortho/a.tif", "ortho/b.tif", "ortho/c.tif"]
DSM = ["dsm/a.tif", "dsm/b.tif"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["predict", "m.safetensors", "--optical", *ORTHO, "-o", "y.tif"], ORTHO[1:]),
        (["predict", "--optical", *ORTHO, "m.safetensors", "-o", "y.tif"], ORTHO[1:]),
        (["predict", "m.safetensors", "-o", "y.tif", f"--optical={ORTHO[0]}", *DSM], DSM),
        (["predict", "-o", "y.tif", "--model", "m.safetensors", "--optical", "a", "dsm"], ["dsm"]),
        (["tile", "--optical", *ORTHO, "--labels", *DSM, "-o", "t"], ORTHO[1:]),
        (["tile", "--optical", "ortho/a.tif", "--elevation", *DSM, "-o", "t"], DSM[1:]),
        (["tile", "--labels", "a.gpkg", "b.gpkg", "--optical", "a.tif", "-o", "t"], ["b.gpkg"]),
        (["check", "--dtm", *DSM, "--optical", "ortho/a.tif"], DSM[1:]),
        (["check", "--optical", "ortho/a.tif", "--dtm", *DSM, "-j", "1"], DSM[1:]),
    ],
    ids=lambda value: " ".join(value[:4]),
)
def test_a_pattern_that_the_shell_expanded(here, invoke, words, says):
    before = sorted(here.iterdir())
    code, said = invoke(*words)
    assert code == 2
    assert f"takes one value, but {', '.join(says)} follow" in said.err
    assert "quote the pattern, so that the shell does not expand it: --" in said.err
    assert said.err.count("\n") == 1
    assert sorted(here.iterdir()) == before


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["evaluate", *ORTHO, "y.tif"], "each, but 4 were {}: cafe evaluate 'ortho/*.tif' y.tif; "),
        (["evaluate", *ORTHO, *DSM], "but 5 were {}: cafe evaluate 'ortho/*.tif' 'dsm/*.tif'; "),
        (["evaluate", *ORTHO, "-c", "c.toml"], "3 were {}: cafe evaluate 'ortho/*.tif'; "),
        (["evaluate", "1.tif", "x/2.tif", "y/3.tif"], "'MAPS/*.tif' 'REFERENCE/*.tif'; "),
        (["areas", *ORTHO, "--json"], "MAP is one name, but 3 were {}: cafe areas 'ortho/*.tif'; "),
        (["sample", *DSM, "-o", "y.gpkg"], "cafe sample 'dsm/*.tif'; "),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_pattern_for_one_name(here, invoke, words, says):
    code, said = invoke(*words)
    assert code == 2
    assert says.format("given: quote the pattern, so that the shell does not expand it") in said.err
    assert said.err.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["predict", "m.safetensors", "--optical", *ORTHO], "--optical 'ortho/*.tif'"),
        (["tile", "--elevation", "1.asc", "2.asc", "--optical", "a.tif"], "--elevation '*.asc'"),
        (["check", "--labels", "x/1.gpkg", "y/1.gpkg", "--optical", "a"], "'FOLDER/*.gpkg'"),
    ],
)
def test_the_pattern_to_quote(here, invoke, words, says):
    output = [] if words[0] == "check" else ["-o", "y.tif"]
    assert says in invoke(*words, *output)[1].err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (
            ["check", "--optical", "a", "--bands", "1", "2", "3"],
            "--bands takes one value, but 2, 3",
        ),
        (["tile", "-o", "t", "u", "--optical", "a"], "-o takes one value, but u follows it"),
        (["tile", "--virtual", "a.tif", "-o", "t"], "--virtual takes no value, but a.tif follows"),
        (["check", "a.tif", "--optical", "a"], "Got unexpected extra arguments (a.tif)"),
    ],
)
def test_other_arguments_too_many(here, invoke, words, says):
    code, said = invoke(*words)
    assert (code, says in said.err) == (2, True)
    assert "quote" not in said.err


@pytest.mark.parametrize("model_name", ["m.safetensors", "renamed.model"])
@pytest.mark.parametrize("height", [[], ["--height-nodata", "-9999"], ["-j1"]])
def test_models_may_follow_options(here, invoke, model_name, height):
    words = ["--optical", "ortho/a.tif", model_name, *height, model_name, "-o", "y.tif"]
    code, said = invoke("predict", *words, "--elevation", "dsm/a.tif", "--device", "cpu")
    assert code == 0, said.err
    assert (here / "y.tif").exists()


# Names of outputs


@pytest.mark.parametrize("flag", ["-o", "--confidence", "--probabilities", "--quality"])
@pytest.mark.parametrize("name", ["y.png", "y.JPG", "y.gpkg", "y", "made/y.vrt"])
@pytest.mark.parametrize("dry", [[], ["--dry-run"]])
def test_maps_are_geotiffs(here, invoke, flag, name, dry):
    output = [] if flag == "-o" else ["-o", "labels.tif"]
    before = sorted(here.iterdir())
    code, said = invoke(
        "predict", "m.safetensors", "--optical", "ortho/a.tif", *output, flag, name, *dry
    )
    assert code == (1 if dry else 2)
    assert f"{name}: rasters are written as GeoTIFF" in said.err
    assert ".tif or .tiff" in said.err
    assert sorted(here.iterdir()) == before


@pytest.mark.parametrize("name", ["y.tif", "y.TIF", "y.tiff", "a.b.Tiff", "made/for/this/y.tif"])
def test_names_of_geotiffs(here, invoke, name):
    code, said = invoke(
        "predict", "m.safetensors", "--optical", "ortho/a.tif", "--elevation", "dsm/a.tif",
        "-o", name, "--confidence", f"made/{name}", "--device", "cpu",
    )  # fmt: skip
    assert code == 0, said.err
    for path in (name, f"made/{name}", f"{name}.toml"):
        assert Path(path).exists()


# Pairs of files


@pytest.fixture
def patches(here) -> Path:
    """Orthophotos and surface models without a place, as benchmarks deliver them."""
    for name in ("1", "2"):
        image, metres, _ = town(64, 96, seed=int(name))
        for kind, values in (("top", image), ("ndsm", metres)):
            place = Grid(None, Affine.identity(), 96, 64)
            rasters.write(here / kind / f"{kind}_{name}.tif", values, place)
    return here


def predicted(invoke, *words: object) -> dict[str, np.ndarray]:
    code, said = invoke("predict", "m.safetensors", *words, "--device", "cpu")
    assert code == 0, said.err
    return {path.name: rasterio.open(path).read() for path in Path("maps").glob("*.tif")}


@pytest.mark.parametrize(
    ("optical", "elevation", "name"),
    [
        ("top/top_{id}.tif", "ndsm/ndsm_{id}.tif", "{}.tif"),
        ("top/top_{n:02}.tif", "ndsm/ndsm_{n}.tif", "{}.tif"),
        ("{kind}/top_{id}.tif", "ndsm/ndsm_{id}.tif", "top_{}.tif"),
    ],
)
def test_pairs_by_id(patches, invoke, optical, elevation, name):
    found = predicted(
        invoke, "--optical", optical, "--elevation", elevation, "--dtm", elevation,
        "--per-file", "-o", "maps",
    )  # fmt: skip
    assert sorted(found) == [name.format(n) for n in "12"]
    for number in "12":
        out = f"one{number}.tif"
        pair = ["--optical", f"top/top_{number}.tif", "--elevation", f"ndsm/ndsm_{number}.tif"]
        terrain = ["--dtm", f"ndsm/ndsm_{number}.tif"]
        code, said = invoke(
            "predict", "m.safetensors", *pair, *terrain, "-o", out, "--device", "cpu"
        )
        assert code == 0, said.err
        assert np.array_equal(found[name.format(number)], rasterio.open(out).read())


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--optical", "top/top_{id}.tif"], "pass --per-file for a map of each"),
        (["--optical", "top/top_1.tif", "--dtm", "d/{id}.tif", "--per-file"], "the same braces"),
        (
            ["--optical", "top/top_{id}.tif", "--elevation", "dsm/{id}.tif", "--per-file"],
            "scene 1 has no elevation: dsm/1.tif does not exist",
        ),
        (
            ["--optical", "top/top_{id}.tif", "--elevation", "dsm/{nr}.tif", "--per-file"],
            "{nr} does not occur in scenes.optical",
        ),
        (
            ["--optical", "none/{id}.tif", "--per-file"],
            "no file matches scenes.optical = none/{id}",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_pairs_that_cannot_be(patches, invoke, words, says):
    code, said = invoke("predict", "m.safetensors", *words, "-o", "maps")
    assert code in (1, 2)
    assert says in said.err
    assert not Path("maps").exists()


def test_braces_may_be_part_of_a_name(here, invoke):
    shutil.copy("ortho/a.tif", "ortho/{id}.tif")
    words = ["predict", "m.safetensors", "--optical", "ortho/{id}.tif", "-o", "y.tif"]
    assert invoke(*words, "--device", "cpu")[0] == 0


# Sizes and overlaps


@pytest.mark.parametrize(
    ("given", "size", "overlap"),
    [
        ({}, 512, 128),
        ({"tile.size": 512}, 512, 128),
        ({"tile.size": 128}, 128, 32),
        ({"tile.size": 100}, 100, 25),
        ({"tile.size": 32}, 32, 8),
        ({"tile.size": 128, "tile.overlap": 0}, 128, 0),
        ({"tile.overlap": 256}, 512, 256),
    ],
)
def test_the_overlap_of_tiles_fits_their_size(given, size, overlap):
    tile = load_config(None, given).tile
    assert (tile.size, tile.overlap) == (size, overlap)


@pytest.mark.parametrize("size", [32, 64, 128])
def test_a_size_alone_is_enough(here, invoke, size):
    code, said = invoke("check", "--optical", "ortho/a.tif", "--size", size)
    assert code == 0, said.err


def test_an_overlap_that_was_asked_for_is_not_changed():
    with pytest.raises(ConfigError, match="overlap 128 is not below the tile size 128"):
        load_config(None, {"tile.size": 128, "tile.overlap": 128})
