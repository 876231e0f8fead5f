"""`cafe heights`: the heights of a scene as a GeoTIFF."""

import math
import os
import tomllib
from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine

from cafe_cli.config.schema import HeightSettings
from cafe_cli.errors import BandError, ConfigError, GridError, InputError, OutputError
from cafe_cli.raster.grid import Grid
from cafe_cli.scenes import height_map
from cafe_cli.scenes.height_map import HeightSource, dry_run, write_heights
from cafe_cli.scenes.inspection import inspect_scene
from cafe_cli.scenes.scene import open_scene
from tests.support.rasters import LAMBERT, around, grid, moved, noise, read, scene_files

pytest_plugins = ["tests.support.fixtures"]

WHERE = grid(90, 70)
SLOPE = np.fromfunction(lambda row, col: 200 + 0.02 * row + 0.01 * col, (70, 90), dtype=np.float32)
HOUSE = np.zeros((70, 90), np.float32)
HOUSE[20:40, 30:60] = 6


@pytest.fixture
def files(write):
    """Rasters of one place, by name."""
    surface = SLOPE + HOUSE
    void = surface.copy()
    void[50:68, 5:30] = -32768
    void[10, 10] = -32768
    north, south = surface[:35], surface[35:]
    x, y = 300_022.0, 5_199_982.0
    return {
        "dsm": write("dsm.tif", surface, WHERE),
        "dtm": write("dtm.tif", SLOPE.astype("float64"), WHERE),
        "feet": write("feet.tif", surface / np.float32(0.3048), WHERE, units="ft"),
        "void": write("void.tif", void, WHERE, nodata=-32768),
        "north": write("north.tif", north, grid(90, 35)),
        "south": write("south.tif", south, moved(WHERE, 0, 35, height=35)),
        "decimetres": write("dm.tif", np.round(surface * 10).astype("int16"), WHERE),
        "ortho": write("ortho.tif", noise(3, grid(90, 70)), grid(90, 70)),
        "fine": write("fine.tif", noise(3, grid(80, 64)), grid(80, 64, 0.25, left=300_010)),
        "lambert": write("lambert.tif", noise(3, around(x, y, 20, 0.4, LAMBERT)),
                         around(x, y, 20, 0.4, LAMBERT)),
    }  # fmt: skip


CASES = [
    ({"elevation": ["dsm"], "dtm": ["dtm"]}, {}),
    ({"elevation": ["dsm"]}, {}),
    ({"elevation": ["feet"], "dtm": ["dtm"]}, {"ground": "dtm"}),
    ({"elevation": ["north", "south"]}, {"fill": 0.0}),
    ({"elevation": ["void"], "dtm": ["dtm"]}, {}),
    ({"elevation": ["void"], "optical": ["fine"]}, {"fill": 5.0}),
    ({"elevation": ["north", "south"], "optical": ["lambert"], "dtm": ["dtm"]}, {}),
    ({"elevation": ["decimetres"], "optical": ["ortho"]}, {"unit": "decimetre"}),
    ({"elevation": ["dsm"]}, {"ground": "none"}),
    ({"elevation": ["dsm"]}, {"kind": "ndsm"}),
]


def named(files, rasters):
    return {key: tuple(files[name] for name in names) for key, names in rasters.items()}


@pytest.mark.parametrize(("rasters", "changes"), CASES, ids=str)
def test_heights_are_those_of_a_scene(files, tmp_path, rasters, changes):
    given, settings = named(files, rasters), HeightSettings(**changes)
    out = tmp_path / "made" / "ndsm.tif"
    found = write_heights(HeightSource(**given), out, settings)
    scene = scene_files("s", **{"optical": given["elevation"], **given})
    inspection = inspect_scene(scene, settings)
    with open_scene(inspection) as opened:
        patch = opened.read(inspection.grid.extent)
    with rasterio.open(out) as dataset:
        values, valid = dataset.read(1), dataset.read_masks(1) > 0
        assert (dataset.nodata, dataset.dtypes) == (-9999, ("float32",))
        assert dataset.units == ("metre",)
        assert dataset.descriptions == (found.description,)
        assert dataset.transform == inspection.grid.transform
        assert dataset.crs == inspection.grid.crs
        assert dataset.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
        last = Path(HeightSource(**given).paths[-1]).name
        assert dataset.tags()["CAFE_INPUTS"].split(", ")[-1] == last
        statistics = {key: float(text) for key, text in dataset.tags(1).items()}
    assert np.array_equal(valid, patch.height_valid)
    assert np.array_equal(values[valid], patch.height[valid])
    assert (values[~valid] == -9999).all()
    known = values[valid].astype(float)
    assert statistics == {
        "STATISTICS_MINIMUM": pytest.approx(known.min()),
        "STATISTICS_MAXIMUM": pytest.approx(known.max()),
        "STATISTICS_MEAN": pytest.approx(known.mean(), rel=1e-6, abs=1e-6),
        "STATISTICS_STDDEV": pytest.approx(known.std(), rel=1e-6, abs=1e-6),
        "STATISTICS_VALID_PERCENT": pytest.approx(100 * valid.mean(), abs=0.01),
    }
    assert found.lowest == values[valid].min()
    assert found.highest == values[valid].max()
    assert found.void == pytest.approx((~valid).mean(), abs=1e-12)


def test_heights_above_a_terrain_model_are_those_of_the_house(files, tmp_path):
    source = HeightSource((files["feet"],), (files["dtm"],))
    found = write_heights(source, tmp_path / "n.tif")
    assert np.allclose(read(tmp_path / "n.tif")[0], HOUSE, atol=2e-4)
    assert found.description == "height above the terrain model"
    assert (found.lowest, found.highest) == pytest.approx((0, 6), abs=2e-4)


@pytest.mark.parametrize("size", [0.25, 1.0, 2.0])
def test_heights_without_a_place(write, tmp_path, size):
    where = Grid(None, Affine.identity(), 90, 70)
    surface = write("plain.tif", SLOPE + HOUSE, where)
    write_heights(HeightSource((surface,), pixel_size=size), tmp_path / "n.tif")
    assert read(tmp_path / "n.tif").shape == (1, 70, 90)
    with pytest.raises(GridError, match="--pixel-size"):
        write_heights(HeightSource((surface,)), tmp_path / "other.tif")


@pytest.mark.parametrize("size", [512, 1024])
def test_windows_change_nothing(write, tmp_path, monkeypatch, size):
    where = grid(1100, 40)
    surface = write("dsm.tif", noise(1, where, "float32"), where)
    monkeypatch.setattr(height_map, "_WINDOW", size)
    steps = []
    out = tmp_path / "n.tif"
    write_heights(HeightSource((surface,)), out, progress=lambda *step: steps.append(step))
    monkeypatch.setattr(height_map, "_WINDOW", 2048)
    write_heights(HeightSource((surface,)), tmp_path / "whole.tif")
    assert out.read_bytes() == (tmp_path / "whole.tif").read_bytes()
    count = math.ceil(1100 / size)
    assert steps == [(n, count) for n in range(1, count + 1)]


def test_settings_beside_the_heights(files, tmp_path):
    source = HeightSource((files["dsm"],), crs="EPSG:32632")
    write_heights(source, tmp_path / "n.tif", HeightSettings(cell=1.5))
    said = tomllib.loads((tmp_path / "n.tif.toml").read_text())
    assert said["source"]["elevation"] == [files["dsm"]]
    assert said["height"]["cell"] == 1.5


@pytest.mark.parametrize(
    ("rasters", "changes", "name", "error", "says"),
    [
        ({"elevation": ["dsm"]}, {}, "n.png", ConfigError, "ends in .tif or .tiff: .*n.tif"),
        ({"elevation": ["dsm"]}, {}, "ortho.tif", OutputError, "ortho.tif exists; pass"),
        ({"elevation": ["dsm"]}, {}, "dsm.tif", ConfigError, "dsm.tif is an input too"),
        ({"elevation": ["dsm"]}, {}, ".", OutputError, "is a folder; name a file"),
        ({"elevation": ["dsm"]}, {"ground": "dtm"}, "n.tif", ConfigError, "no terrain model"),
        ({"elevation": ["ortho"]}, {}, "n.tif", BandError, "3 bands, heights have one"),
        ({"elevation": ["far"]}, {}, "n.tif", InputError, "far.tif does not exist"),
        ({"elevation": ["dsm"], "optical": ["other"]}, {}, "n.tif", GridError, "does not overlap"),
    ],
)
def test_what_cannot_be(files, write, tmp_path, rasters, changes, name, error, says):
    files |= {"far": str(tmp_path / "far.tif")}
    files["other"] = write("other.tif", noise(3, grid()), grid(left=400_000))
    source, settings = HeightSource(**named(files, rasters)), HeightSettings(**changes)
    before = sorted(os.listdir(tmp_path))
    with pytest.raises(error, match=says):
        write_heights(source, tmp_path / name, settings)
    report = dry_run(source, tmp_path / name, settings)
    assert [finding.level for finding in report.findings].count("error") == 1
    assert sorted(os.listdir(tmp_path)) == before


def test_overwrite(files, tmp_path):
    (tmp_path / "n.tif").write_text("old")
    write_heights(HeightSource((files["dsm"],)), tmp_path / "n.tif", overwrite=True)
    assert read(tmp_path / "n.tif").shape == (1, 70, 90)


@pytest.mark.parametrize("rasters", [case for case, _ in CASES[:4]], ids=str)
def test_a_dry_run_writes_nothing(files, tmp_path, rasters):
    before = sorted(os.listdir(tmp_path))
    report = dry_run(HeightSource(**named(files, rasters)), tmp_path / "no" / "n.tif")
    assert report.ok
    assert report.facts["estimate"] == {"disk_at_most": 70 * 90 * 4}
    assert sorted(os.listdir(tmp_path)) == before


def test_the_command(files, tmp_path, monkeypatch, invoke):
    monkeypatch.chdir(tmp_path)
    words = ["heights", "--elevation", "[ns]*th.tif", "--dtm", "dtm.tif", "--optical", "ortho.tif"]
    code, said = invoke(*words, "-o", "made/n.tif", "--set", "height.fill=0")
    assert code == 0
    assert said.err.splitlines() == [
        "wrote made/n.tif: height above the terrain model, 0.0 to 6.0 m, 0 % void"
    ]
    code, said = invoke(*words, "-o", "new.tif", "--dry-run")
    assert code == 0
    assert "heights: height above the terrain model" in said.err
    assert not (tmp_path / "new.tif").exists()
    code, said = invoke("heights", "--elevation", "north.tif", "south.tif", "-o", "new.tif")
    assert code == 2
    assert "--elevation takes one value, but south.tif follows it: quote" in said.err
    code, said = invoke("heights", "--elevation", "dsm.tif", "-o", "n.tif", "--pixel-size", "0")
    assert (code, "0.0 is not in the range x>0" in said.err) == (2, True)
    code, said = invoke("heights", "--elevation", "dsm.tif", "-o", "new.asc")
    assert (code, "new.asc: rasters are written as GeoTIFF" in said.err) == (2, True)
