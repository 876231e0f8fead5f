"""``cafe check`` and the dry runs, through the command line."""

import json
import shutil

import numpy as np
import pytest
import tomli_w

from cafe_cli.checks.check import check
from cafe_cli.config.load import parse_config
from cafe_cli.errors import ConfigError
from tests.support.engines import SETTINGS, cut, town, write, write_town

pytest_plugins = ["tests.support.fixtures"]


class Result:
    def __init__(self, code, captured):
        self.code, self.out, self.err = code, captured.out, captured.err


@pytest.fixture
def run(invoke):
    """Run a command in this process."""
    return lambda *words: Result(*invoke(*words))


@pytest.fixture
def data(tmp_path, monkeypatch):
    """Two scenes with their config, as the working folder."""
    monkeypatch.chdir(tmp_path)
    write_town(tmp_path, "a", 128, 192, seed=1)
    write_town(tmp_path, "b", 64, 320, seed=2, origin=(0, 1000))
    (tmp_path / "town.toml").write_text(tomli_w.dumps(SETTINGS))
    return tmp_path


def found(report, level="error"):
    return [f.message for f in report.findings if f.level == level]


def checked(data, **changes):
    values = json.loads(json.dumps({"root": str(data), **SETTINGS}))
    for name, section in changes.items():
        values[name] = {**values.get(name, {}), **section} if isinstance(section, dict) else section
    return check(parse_config(values, "test"))


# What it says


def test_scenes_in_order(data):
    report = checked(data)
    assert report.ok
    assert not found(report, "warning")
    facts = report.facts
    assert list(facts["scenes"]) == ["a", "b"]
    assert facts["scenes"]["a"]["elevation"]["overlap_percent"] == 100
    tileset_tiles = {"train": 6, "validation": 5, "test": 0}
    assert {k: facts["tiles"][k] for k in tileset_tiles} == tileset_tiles
    assert facts["tiles"]["shared_ground_m2"] == 0
    assert sum(facts["labels"].values()) == 128 * 192 + 64 * 320
    assert {"seconds", "memory", "disk", "jobs"} == set(facts["estimate"])
    assert facts["estimate"]["seconds"] > 0


def test_the_estimate_of_the_disk_is_near(data):
    """All tiles of scene a and b are cut into a folder, which is thrown away."""
    report = checked(data)
    folder = cut(data, data / "tiles")
    size = sum(p.stat().st_size for p in folder.rglob("*.tif"))
    assert report.facts["estimate"]["disk"] == pytest.approx(size, rel=0.2)


def test_all_that_is_wrong_is_found_at_once(data):
    image, metres, labels = town(64, 64, seed=5)
    write(data / "c_ortho.tif", image, origin=(0, 4000))
    metres[:, :9] = -9999
    write(data / "c_dsm.tif", metres, origin=(0, 4000))
    labels[:, 5, 5:9] = 77
    write(data / "c_labels.tif", labels, origin=(0, 4000))
    write(data / "b_dsm.tif", metres, origin=(9000, 0))
    report = checked(data, height={"kind": "dsm"})
    errors = "\n".join(found(report))
    assert "height.nodata = -9999" in errors
    assert "77 (4 px)" in errors
    assert "does not overlap" in errors
    assert not report.ok
    assert "tiles" not in report.facts


def test_classes_that_no_scene_shows(data):
    classes = [*SETTINGS["classes"], {"id": 3, "name": "water"}]
    report = checked(data, classes=classes)
    assert found(report) == [
        "no scene shows 'water': check the label values of that class, remove it from the "
        "classes, or name it in labels.absent"
    ]
    assert checked(data, classes=classes, labels={"absent": ["water"]}).ok


def test_what_cannot_be_checked(data):
    with pytest.raises(ConfigError, match=r"\[scenes\] has to name at least optical"):
        check(parse_config({"root": str(data)}, "test"))
    (said,) = found(checked(data, scenes={"optical": "none_{id}.tif"}))
    assert "no file matches scenes.optical" in said


def test_a_disk_that_is_too_full(data, monkeypatch):
    full = type("usage", (), {"free": 1000})
    monkeypatch.setattr("cafe_cli.checks.check.shutil.disk_usage", lambda path: full)
    values = json.loads(json.dumps({"root": str(data), **SETTINGS}))
    (said,) = found(check(parse_config(values, "test"), data / "new"))
    assert "MB would be written, 0 MB are free" in said


# The command line


def test_check_is_a_verdict(run, data):
    good = run("check", "-c", "town.toml")
    assert good.code == 0
    assert good.out == ""
    assert "scene a" in good.err
    assert "check: ok (0 errors, 0 warnings" in good.err
    write(data / "a_dsm.tif", np.full((1, 128, 192), 5, np.float32), crs=None, origin=(3, 0))
    bad = run("check", "-c", "town.toml")
    assert bad.code == 1
    assert "a_dsm.tif has no CRS" in bad.err
    assert "check: not ok (" in bad.err
    assert "Traceback" not in bad.err


def test_check_prints_json(run, data):
    result = run("check", "-c", "town.toml", "--json")
    report = json.loads(result.out)
    assert report["ok"]
    assert report["facts"]["scenes"]["a"]["optical"]["rasters"][0]["dtype"] == "uint8"
    assert "scene a" not in result.err
    verbose = run("-v", "check", "-c", "town.toml")
    assert "dtype: uint8" in verbose.err


def test_notes_that_scenes_have_in_common_are_one_line(run, data):
    """Heights of five scenes have voids, in each some more than in the one before."""
    for index in range(5):
        name, place = f"n{index}", (0, 2000 + 500 * index)
        write_town(data, name, 64, 64, seed=index, origin=place)
        metres = town(64, 64, seed=index)[1]
        metres[:, 20:40, 10 : 25 + 5 * index] = -9999
        write(data / f"{name}_dsm.tif", metres, place, nodata=-9999)
    result = run("check", "-c", "town.toml")
    (line,) = [line for line in result.err.splitlines() if "of the image has no height, " in line]
    assert line.startswith("Note: 5 scenes (n4, n3, n2, n1 and 1 more; worst first): ")
    assert "5 notes" in result.err
    report = json.loads(run("check", "-c", "town.toml", "--json").out)
    every = {f["scene"]: f["message"] for f in report["findings"] if f["level"] == "note"}
    assert list(every) == [f"n{index}" for index in range(5)]
    assert line.endswith(every["n4"])
    for name, message in every.items():
        share = report["facts"]["scenes"][name]["elevation"]["without_height_percent"]
        assert float(message.split(" %")[0]) == pytest.approx(share, abs=0.06)
        assert f"{share:g} % of the image without height" in result.err


def test_check_without_labels(run, data):
    result = run("check", "--optical", "a_ortho.tif", "--elevation", "a_dsm.tif")
    assert result.code == 0
    assert "tiles" not in result.err


def test_a_scene_of_two_files_by_options(run, data):
    result = run("check", "--json", "--optical", "a_ortho.tif", "--optical", "b_ortho.tif")
    scenes = json.loads(result.out)["facts"]["scenes"]
    assert [s["optical"]["files"] for s in scenes.values()] == [2]


def names(folder):
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*"))


@pytest.mark.slow
def test_dry_runs_write_nothing(run, data, model):
    shutil.copy(model, data / "m.safetensors")
    write(data / "map.tif", town(64, 64)[2], nodata=255)
    cut(data, data / "tiles")
    config = ["-c", "town.toml"]
    before = names(data)
    for words, says in [
        (["tile", *config, "-o", "new"], "train: 6"),
        (["train", "tiles", *config, "-o", "new"], "steps: 6"),
        (
            ["predict", "m.safetensors", "--optical", "a_ortho.tif", "--elevation", "a_dsm.tif",
             "-o", "new.tif", "--device", "cpu"],
            "windows: 15",
        ),
        (["mosaic", "map.tif", "map.tif", "-o", "new.tif"], "64 x 64 pixels"),
    ]:  # fmt: skip
        result = run(*words, "--dry-run")
        assert result.code == 0, result.err
        assert f"{words[0].replace('tile', 'check')}: ok" in result.err
        assert says in result.err
    assert names(data) == before


def test_dry_runs_find_what_is_wrong(run, data, model):
    shutil.copy(model, data / "m.safetensors")
    (data / "there").mkdir()
    (data / "there/x.tif").write_text("precious")
    write(data / "map.tif", town(64, 64)[2], nodata=255)
    config = ["-c", "town.toml"]
    for words, says in [
        (["tile", *config, "-o", "there"], "there exists; pass --overwrite"),
        (["train", "none", *config, "-o", "new"], "none is not a tile set"),
        (
            ["predict", "m.safetensors", "--optical", "a_ortho.tif", "--bands", "1,2", "-o",
             "new.tif"],
            "the model was trained on 3",
        ),
        (
            ["predict", "m.safetensors", "--optical", "a_ortho.tif", "-o", "map.tif/new.tif"],
            "map.tif is a file, so map.tif/new.tif cannot be in it",
        ),
        (["mosaic", "map.tif", "a_ortho.tif", "-o", "new.tif"], "a label raster has one"),
    ]:  # fmt: skip
        result = run(*words, "--dry-run")
        assert result.code == 1
        assert says in result.err
        assert "Traceback" not in result.err
