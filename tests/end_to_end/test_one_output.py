"""Two runs on one output, signals, and outputs that are inputs: nothing of a user is lost."""

import json
import os
import shutil
import signal
import sys
import time
from pathlib import Path

import pytest
import rasterio
import rasterio.shutil
import tomli_w

from cafe_cli.raster.writer import create_cog
from tests.end_to_end.test_resume import Command, Moment, contents, run, save_model
from tests.support.engines import SETTINGS, TABLE, cut, write_town
from tests.support.maps import mosaic
from tests.support.rasters import grid, noise

pytest_plugins = ["tests.support.fixtures"]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform == "win32", reason="no fork, no signals, no file locks"),
]

COMMANDS = {
    "tile": ("tile", "-c", "c.toml", "-o", "set"),
    "train": ("train", "tiles", "-c", "c.toml", "-o", "run", "--device", "cpu", "--epochs", "1"),
    "mosaic": (
        "mosaic", "1.tif", "2.tif", "--confidence", "3.tif", "--confidence", "4.tif",
        "-o", "map.tif", "--confidence-output", "sure.tif",
    ),
    "evaluate": ("evaluate", "1.tif", "--areas", "areas.csv"),
    "predict": (
        "predict", "m.safetensors", "--optical", "a_ortho.tif", "--elevation", "a_dsm.tif",
        "-o", "map.tif", "--device", "cpu",
    ),
}  # fmt: skip
MIDST = {
    "tile": Moment("os.rename", "/.tileset.partial.json", "wait"),
    "train": Moment("os.mkdir", "/.last.partial", "wait"),
    "mosaic": Moment("os.remove", "/.map.partial.tif.ovr.tmp", "wait"),
    "evaluate": Moment("os.remove", "/.areas.partial.csv", "wait"),
    "predict": Moment("open", "/labels.vrt", "wait"),
}
"""When a command has begun to write."""


@pytest.fixture(scope="module")
def inputs(tmp_path_factory) -> Path:
    """A folder with scenes, a tile set, a model, and two maps with their confidences."""
    folder = tmp_path_factory.mktemp("inputs") / "here"
    folder.mkdir()
    write_town(folder, "a", 128, 192, seed=1)
    write_town(folder, "b", 64, 320, seed=2, origin=(0, 1000))
    (folder / "c.toml").write_text(tomli_w.dumps(SETTINGS))
    cut(folder, folder / "tiles")
    save_model(folder / "m.safetensors", 0)
    place = grid(70, 50)
    for number in range(1, 5):
        values = noise(1, place, seed=number) % (3 if number < 3 else 100)
        classes = TABLE if number < 3 else None
        with create_cog(folder / f"{number}.tif", place, False, classes) as dataset:
            dataset.write(values[0].astype("uint8"), 1)
    return folder


@pytest.fixture
def folder(inputs, tmp_path) -> Path:
    return Path(shutil.copytree(inputs, tmp_path / "here"))


def stable(folder: Path) -> dict[str, bytes]:
    """Return the files whose bytes depend on nothing but the inputs, and the names of all."""
    found = contents(folder)
    unlike = ("run/", "set/index.gpkg", "set/config.toml")
    kept = {name: b for name, b in found.items() if not name.startswith(unlike)}
    return {**kept, "names": "\n".join(n for n in found if "tfevents" not in n).encode()}


# --- two runs ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", COMMANDS)
def test_the_second_of_two_runs_is_refused(inputs, folder, tmp_path, name):
    alone = Path(shutil.copytree(inputs, tmp_path / "alone" / "here"))
    assert run(alone, *COMMANDS[name])[0] == 0
    first = Command(folder, COMMANDS[name], MIDST[name])
    while not (folder / "here").exists():
        time.sleep(0.01)
    for more in (), ("--overwrite",):
        seen = contents(folder)
        code, lines = run(folder, *COMMANDS[name], *more)
        assert code == 1
        assert contents(folder) == seen
        if more or name != "train":  # without it, the folder of a run is refused before
            assert "is writing" in lines[-1]
            assert lines[-1].startswith("Error: another process (pid ")
    (folder / "here").unlink()
    assert first.end()[0] == 0
    assert stable(folder) == stable(alone)


def test_a_second_output_is_locked_too(folder):
    first = Command(folder, COMMANDS["mosaic"], MIDST["mosaic"])
    while not (folder / "here").exists():
        time.sleep(0.01)
    for words in (
        ("mosaic", "1.tif", "2.tif", "-o", "sure.tif"),
        (*COMMANDS["predict"], "--confidence", "sure.tif", "-o", "other.tif"),
    ):
        code, lines = run(folder, *words)
        assert code == 1
        assert "is writing sure.tif; wait for it, or name another output" in lines[-1]
    (folder / "here").unlink()
    assert first.end()[0] == 0


@pytest.mark.parametrize("name", COMMANDS)
def test_the_lock_of_a_killed_run_is_no_obstacle(folder, name):
    moment = Moment(MIDST[name].call, MIDST[name].path)
    assert run(folder, *COMMANDS[name], moment=moment)[0] == -signal.SIGKILL
    again = {"predict": ("--resume",), "train": ("--overwrite",)}.get(name, ())
    assert run(folder, *COMMANDS[name], *again)[0] == 0
    assert [
        path for path in contents(folder) if "/." in f"/{path}" and ".cache.lock" not in path
    ] == []


# --- signals -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["tile", "mosaic", "evaluate"])
@pytest.mark.parametrize(
    ("number", "code", "says"),
    [
        ("SIGTERM", 143, "Error: terminated"),
        ("SIGINT", 130, "Error: interrupted"),
        ("SIGHUP", 129, "Error: hung up: the terminal was closed"),
    ],
)
def test_a_signal_leaves_nothing_behind(folder, name, number, code, says):
    seen = contents(folder)
    moment = Moment(MIDST[name].call, MIDST[name].path, number)
    ended, lines = run(folder, *COMMANDS[name], moment=moment)
    assert (ended, lines[-1]) == (code, says)
    assert contents(folder) == seen


def test_predict_keeps_its_strips_after_sigterm(folder):
    moment = Moment("open", "/labels.vrt", "SIGTERM")
    code, lines = run(folder, *COMMANDS["predict"], moment=moment)
    assert (code, lines[-1]) == (143, "Error: terminated")
    assert "kept; continue with --resume" in lines[-2]
    assert run(folder, *COMMANDS["predict"], "--resume")[0] == 0


# --- a map and its confidence ------------------------------------------------------------------

RENAMES = [
    Moment("os.rename", "/.map.tif.replacing.partial"),
    Moment("os.rename", "/.map.partial.tif"),
    Moment("os.rename", "/.sure.partial.tif"),
    Moment("os.rename", "/.map.partial.qml"),
    Moment("os.rename", "/.map.tif.aux.partial.xml"),
    Moment("os.rename", "/.map.tif.partial.toml"),
    Moment("os.remove", "/.map.tif.replacing"),
]
PAIR = ("map.qml", "map.tif", "map.tif.aux.xml", "map.tif.toml", "sure.qml", "sure.tif")


@pytest.mark.parametrize("moment", RENAMES, ids=lambda moment: moment.path)
def test_a_killed_mosaic_is_old_or_new(folder, moment):
    other = [*COMMANDS["mosaic"], "--overwrite", "--method", "last"]
    assert run(folder, *other)[0] == 0
    new = {name: (folder / name).read_bytes() for name in PAIR}
    assert run(folder, *COMMANDS["mosaic"], "--overwrite")[0] == 0
    old = {name: (folder / name).read_bytes() for name in PAIR}
    assert run(folder, *other, moment=moment)[0] == -signal.SIGKILL
    ended, lines = run(folder, *COMMANDS["mosaic"])
    assert (ended, lines[-1]) == (
        1, "Error: map.tif exists; pass --overwrite to replace it"
    )  # fmt: skip
    now = {name: (folder / name).read_bytes() for name in PAIR}
    assert now in (old, new)
    told = "Warning: completed what a killed run had started: the replacement of map.tif"
    assert (told in lines) == (now == new)
    assert run(folder, *other)[0] == 0
    assert {name: (folder / name).read_bytes() for name in PAIR} == new
    assert [
        path for path in contents(folder) if Path(path).name.startswith((".map", ".sure"))
    ] == []


# --- side files --------------------------------------------------------------------------------

SIDES = [
    ("mosaic", "map.tif.toml"),
    ("mosaic", "map.tif.aux.xml"),
    ("mosaic", "map.qml"),
    ("mosaic", "sure.qml"),
    ("mosaic", "map.tif.vat.dbf"),
    ("mosaic", "sure.tif.ovr"),
    ("mosaic", "sure.tif.msk"),
    ("predict", "map.tif.toml"),
    ("predict", "map.tif.aux.xml"),
    ("predict", "map.qml"),
    ("predict", "map.tif.ovr"),
    ("predict", "map.tif.msk"),
]


@pytest.fixture
def cafe(invoke, folder, monkeypatch):
    monkeypatch.chdir(folder)
    return invoke


@pytest.mark.parametrize(("name", "side"), SIDES)
def test_a_side_file_is_an_output(cafe, folder, name, side):
    (folder / side).write_text("mine")
    seen = contents(folder)
    code, said = cafe(*COMMANDS[name])
    assert code == 1
    assert f"{side} exists, and would be replaced with " in said.err
    assert contents(folder) == seen
    assert cafe(*COMMANDS[name], "--overwrite")[0] == 0
    if side.endswith((".toml", ".xml", ".qml")):
        assert (folder / side).read_text() != "mine"
    else:
        assert not (folder / side).exists()  # GDAL would read it with the new map


@pytest.mark.parametrize("name", ["map.tif.toml", "map.tif.aux.xml", "map.qml", "map.tif"])
def test_two_outputs_of_one_name(cafe, folder, name):
    (folder / "sure.tif").symlink_to(folder / name)
    (folder / "map.tif").touch()
    (folder / name).touch()
    seen = contents(folder)
    code, said = cafe(*COMMANDS["mosaic"], "--overwrite")
    assert code == 2
    assert "choose another name" in said.err
    assert contents(folder) == seen


def test_a_side_file_that_is_an_input(cafe, folder):
    rasterio.shutil.copy(folder / "1.tif", folder / "map.tif.ovr", driver="GTiff")
    seen = contents(folder)
    code, said = cafe("mosaic", "map.tif.ovr", "-o", "map.tif", "--overwrite")
    assert code == 2
    assert "map.tif.ovr is an input, and is written beside another output, map.tif" in said.err
    assert contents(folder) == seen


# --- outputs that are inputs -------------------------------------------------------------------


def write_vrt(folder: Path, name: str, source: str) -> None:
    rasterio.shutil.copy(folder / "1.tif", folder / name, driver="VRT")
    text = (folder / name).read_text()
    kept = text.replace('relativeToVRT="1">1.tif', f'relativeToVRT="0">{folder / source}')
    (folder / name).write_text(kept)
    assert source in kept


NAMED = {
    "itself": "1.tif",
    "a longer way": "./tiles/../1.tif",
    "VRT": "one.vrt",
    "VRT of a VRT": "two.vrt",
    "subfile": "/vsisubfile/0_{size},1.tif",
    "absolute subfile": "/vsisubfile/0_{size},{here}/1.tif",
    "directory": "GTIFF_DIR:1:1.tif",
    "connection": "vrt://1.tif?bands=1",
    "symbolic link": "soft.tif",
    "hard link": "hard.tif",
    "@list": "@list.txt",
    "glob": "[1].tif",
}


@pytest.fixture
def named(folder):
    """Other ways to 1.tif."""
    write_vrt(folder, "one.vrt", "1.tif")
    write_vrt(folder, "two.vrt", "one.vrt")
    (folder / "soft.tif").symlink_to("1.tif")
    os.link(folder / "1.tif", folder / "hard.tif")
    (folder / "list.txt").write_text("one.vrt\n")
    return folder


@pytest.mark.parametrize("how", NAMED)
def test_a_map_that_is_an_input_is_not_replaced(cafe, named, how):
    name = NAMED[how].format(size=(named / "1.tif").stat().st_size, here=named)
    seen = contents(named)
    code, said = cafe("mosaic", name, "2.tif", "-o", "1.tif", "--overwrite")
    assert code == 2
    assert "1.tif is an input too; choose another name to write to" in said.err
    assert contents(named) == seen


@pytest.mark.parametrize("how", ["itself", "VRT of a VRT", "hard link"])
def test_so_is_a_raster_that_gives_the_grid(cafe, named, how):
    seen = contents(named)
    code, said = cafe("mosaic", "2.tif", "--like", NAMED[how], "-o", "1.tif", "--overwrite")
    assert (code, "is an input too" in said.err) == (2, True)
    assert contents(named) == seen


@pytest.mark.parametrize("stream", ["optical", "elevation", "confidence"])
def test_predict_replaces_no_input(cafe, folder, stream):
    write_town(folder, "m", 64, 64)
    for kind in ("ortho", "dsm"):
        rasterio.shutil.copy(folder / f"m_{kind}.tif", folder / f"{kind}.vrt", driver="VRT")
    target = {"optical": "m_ortho.tif"}.get(stream, "m_dsm.tif")
    outputs = ("-o", "x.tif", "--confidence", target) if stream == "confidence" else ("-o", target)
    words = ("predict", "m.safetensors", "--optical", "ortho.vrt", "--elevation", "dsm.vrt")
    seen = contents(folder)
    code, said = cafe(*words, *outputs, "--overwrite", "--device", "cpu")
    assert (code, f"{target} is an input too" in said.err) == (2, True)
    assert contents(folder) == seen


@pytest.mark.parametrize("output", ["1.json", "soft.json", "hard.json"])
def test_evaluate_replaces_no_reference(cafe, folder, output):
    (folder / "1.json").write_text(json.dumps({"type": "FeatureCollection", "features": []}))
    (folder / "soft.json").symlink_to("1.json")
    os.link(folder / "1.json", folder / "hard.json")
    seen = contents(folder)
    code, said = cafe("evaluate", "1.tif", "1.json", "--areas", output, "--overwrite")
    assert (code, f"{output} is an input too" in said.err) == (2, True)
    assert contents(folder) == seen


def test_a_hole_in_the_list_of_inputs_is_none(cafe, folder):
    """An output that no input refers to is replaced as before."""
    write_vrt(folder, "one.vrt", "2.tif")
    assert cafe("mosaic", "one.vrt", "-o", "1.tif", "--overwrite")[0] == 0


# --- devices and folders of others -------------------------------------------------------------


@pytest.mark.parametrize("kind", ["pipe", "device", "link to a device"])
@pytest.mark.parametrize("name", ["mosaic", "predict", "evaluate"])
def test_a_device_is_not_replaced(cafe, folder, name, kind):
    output = COMMANDS[name][COMMANDS[name].index("--areas" if name == "evaluate" else "-o") + 1]
    if kind == "pipe":
        os.mkfifo(folder / output)
    elif kind == "device":
        try:
            os.mknod(folder / output, 0o666 | 0o020000, os.makedev(1, 3))
        except PermissionError:
            pytest.skip("only root makes devices")
    else:
        (folder / output).symlink_to("/dev/null")
    code, said = cafe(*COMMANDS[name], "--overwrite")
    assert code == 1
    assert "is a device or a pipe and cannot be replaced; name a file" in said.err
    assert not (folder / output).is_file()


@pytest.mark.parametrize(
    "name",
    [
        "train/mine.txt",
        "train/image/mine.tif",
        "notes.md",
        "cache/mine.csv",
        ".git/HEAD",
        "train/l",
    ],
)
def test_tile_replaces_no_files_of_others(cafe, folder, name):
    path = folder / "tiles" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(folder) if name == "train/l" else path.write_text("mine")
    seen = contents(folder)
    code, said = cafe("tile", "-c", "c.toml", "-o", "tiles", "--overwrite")
    assert (code, f"tiles holds {name} besides a tile set; move it away" in said.err) == (1, True)
    assert contents(folder) == seen


def test_tile_replaces_what_belongs_to_a_tile_set(cafe, folder):
    tile = next((folder / "tiles" / "train" / "image").iterdir())
    for name in (f"{tile}.aux.xml", "index.gpkg-wal", ".cache.lock", "train/.DS_Store"):
        (folder / "tiles" / name).touch()
    (folder / "tiles" / "cache").mkdir(exist_ok=True)
    (folder / "tiles" / "cache" / "labels.npy").touch()
    assert cafe("tile", "-c", "c.toml", "-o", "tiles", "--overwrite")[0] == 0
    (folder / "tiles" / "tileset.json").write_text("damaged")
    assert cafe("tile", "-c", "c.toml", "-o", "tiles", "--overwrite")[0] == 0
    (folder / "tiles" / "tileset.json").write_text("damaged")
    (folder / "tiles" / "train" / "image" / "mine.tif").touch()
    assert cafe("tile", "-c", "c.toml", "-o", "tiles", "--overwrite")[0] == 1


def test_tile_does_not_replace_the_folder_of_its_inputs(cafe, folder):
    (folder / "tiles" / "ground").mkdir()
    for name in ("a_labels.tif", "b_labels.tif"):
        (folder / name).rename(folder / "tiles" / "ground" / name)
    seen = contents(folder)
    labels = ("--labels", "tiles/ground/{id}_labels.tif")
    code, said = cafe("tile", "-c", "c.toml", *labels, "-o", "tiles", "--overwrite")
    assert (code, "tiles holds the input" in said.err) == (2, True), said.err
    assert contents(folder) == seen


@pytest.mark.parametrize("name", ["map.tif", "tensorboard/notes.txt", "data/a.tif"])
def test_train_replaces_no_files_of_others(cafe, folder, name):
    path = folder / "run" / name
    path.parent.mkdir(parents=True)
    path.write_text("mine")
    (folder / "run" / "config.toml").touch()
    seen = contents(folder)
    code, said = cafe(*COMMANDS["train"], "--overwrite")
    assert (code, f"run holds {name} besides a run; move it away" in said.err) == (1, True)
    assert contents(folder) == seen


def test_train_replaces_its_own_run_but_not_its_weights(cafe, folder):
    assert cafe(*COMMANDS["train"])[0] == 0
    assert cafe(*COMMANDS["train"], "--overwrite")[0] == 0
    weights = str(folder / "run" / "best.safetensors")
    code, said = cafe(*COMMANDS["train"], "--overwrite", "--weights", weights)
    assert (code, "run holds the input" in said.err) == (2, True)


def test_mosaic_as_a_function_claims_its_outputs(folder):
    inputs = [str(folder / "1.tif")]
    mosaic(inputs, folder / "map.tif")
    assert sorted(p.name for p in folder.glob("*map.tif*")) == [
        "map.tif", "map.tif.aux.xml", "map.tif.toml"
    ]  # fmt: skip
