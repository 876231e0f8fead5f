import json
import os
import shutil
import subprocess
import sys
import threading
import tomllib
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pyogrio.raw
import pytest
import rasterio
import tomli_w

from cafe_cli import __version__
from cafe_cli.cli import main as face
from cafe_cli.config.load import dump_config
from cafe_cli.errors import InputError
from cafe_cli.model import model_file
from cafe_cli.raster.grid import Grid
from cafe_cli.raster.window import Window
from cafe_cli.raster.writer import create_cog, read_classes
from cafe_cli.scenes.discovery import expand_inputs
from tests.support.engines import (
    ENCODER,
    SETTINGS,
    TABLE,
    cafe,
    card_of,
    settings,
    tiny_model,
    town,
    write,
)

pytest_plugins = ["tests.support.fixtures"]

COMMANDS = ["tile", "train", "predict", "mosaic", "sample", "evaluate", "heights", "export", "demo"]


class Result:
    """What a command left: exit code, lines on stdout and on stderr."""

    def __init__(self, code, captured) -> None:
        self.code, self.out = code, captured.out
        self.lines = [line for line in captured.err.splitlines() if line.strip()]

    @property
    def error(self) -> str:
        """Return the one line that a failure prints."""
        assert len(self.lines) == 1, self.lines
        assert self.lines[0].startswith("Error: ")
        assert self.out == ""
        return self.lines[0].removeprefix("Error: ")


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    """An empty working folder."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


@pytest.fixture
def run(invoke):
    """Return a function that runs a command in this process, through `main`."""
    return lambda *words: Result(*invoke(*words))


def listing(folder: Path) -> dict[str, int]:
    return {str(p): p.stat().st_mtime_ns for p in folder.rglob("*")}


# --- help --------------------------------------------------------------------------------------

HELP = """
import sys
from contextlib import nullcontext
from cafe_cli.cli.main import main
for words in ([], *([name] for name in {names})):
    sys.argv = ["cafe", *words, "--help"]
    try:
        main()
    except SystemExit as stop:
        assert not stop.code, words
heavy = ("torch", "numpy", "rasterio", "pydantic", "matplotlib", "shapely", "scipy")
print(*(name for name in heavy if name in sys.modules), file=sys.stderr)
"""


def test_help_is_light():
    code = HELP.format(names=COMMANDS)
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=600
    )
    assert done.stderr.strip() == ""
    assert done.stdout.count("Usage: cafe") == 1 + len(COMMANDS)
    for name in COMMANDS:
        assert f"Usage: cafe {name}" in done.stdout


@pytest.mark.parametrize("name", COMMANDS)
def test_help_says_what_options_do(run, name):
    result = run(name, "--help")
    assert result.code == 0
    assert result.lines == []
    assert "-o, --output" in result.out or name == "evaluate"
    assert all(len(line) <= 100 for line in result.out.splitlines())


def test_version(run):
    assert run("--version").out.strip() == f"cafe, version {__version__}"


def test_no_command(run):
    result = run()
    assert result.code == 2
    assert any(line.split()[:2] == ["predict", "Predict"] for line in result.lines)


# --- errors of use -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["bake"], "No such command 'bake'; see cafe --help"),
        (["predict"], "Missing option '--optical'; see cafe predict --help"),
        (["predict", "--optical", "a", "-o", "x"], "Missing argument 'MODEL'; see cafe predict"),
        (["predict", "m", "--optical", "a.tif"], "Missing option '-o' / '--output'"),
        (
            ["predict", "m", "-o", "x", "--optical", "a", "--bands", "1;2"],
            "'1;2' is not a list like",
        ),
        (["predict", "m", "-o", "x", "--optical", "a", "--gsd", "2"], "'2' is not one of 'own'"),
        (["predict", "m", "-o", "x", "--optical", "a", "--window", "8"], "predict.window"),
        (["predict", "m", "-o", "x", "--optical", "a", "--batch-size", "0"], "predict.batch_size"),
        (["predict", "m", "-o", "x", "--optical", "a", "--ovrlap", "3"], "--ovrlap"),
        (["mosaic", "-o", "x"], "Missing argument 'INPUTS...'"),
        (["mosaic", "a.tif", "-o", "x", "--method", "best"], "'best' is not one of 'first'"),
        (["mosaic", "a.tif", "-o", "x", "--datetime", "2024"], "--datetime is for --stac"),
        (["train", "t", "-o", "x", "--epochs", "0"], "train.epochs"),
        (["train", "t", "-o", "x", "--epochs", "many"], "'many' is not a valid integer"),
        (["train", "t", "-o", "x", "--resume", "--overwrite"], "choose one"),
        (["train", "t", "-o", "x", "--time-limit", "soon"], "'soon' is not a time: write 90s, 30m"),
        (["train", "t", "-o", "x", "--batch-size", "most"], "train.batch_size: input should be"),
        (["train", "t", "-o", "x", "--precision", "8"], "'8' is not one of 'auto', '32-true'"),
        (["train", "t", "-o", "x", "--set", "train.epocs=3"], "did you mean 'epochs'?"),
        (["train", "t", "-o", "x", "--set", "epochs"], "not of the form section.key=value"),
        (["tile", "-o", "x", "-c", "no.toml"], "cannot read config no.toml: No such file"),
        (["tile", "-o", "x"], "[scenes] has to name at least optical and labels"),
        (["evaluate", "a.tif"], "Missing argument 'REFERENCE'"),
        (["demo", "-c", "no.toml"], "cannot read config no.toml"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_usage(run, here, words, says):
    result = run(*words)
    assert says in result.error
    assert result.code == 2
    assert listing(here) == {}


@pytest.mark.parametrize("key", ["optical_encodr", "moon"])
def test_unknown_key_of_a_config(run, here, key):
    (here / "c.toml").write_text(f'[model]\n{key} = "resnet18"\n')
    result = run("tile", "-c", "c.toml", "-o", "tiles")
    assert result.code == 2
    near = "did you mean 'optical_encoder'?" if key != "moon" else "known: optical_encoder, "
    assert f"c.toml: unknown key 'model.{key}', {near}" in result.error
    assert os.listdir(here) == ["c.toml"]


def test_config_that_is_no_toml(run, here):
    (here / "c.toml").write_text("[model\n")
    result = run("train", "tiles", "-c", "c.toml", "-o", "run")
    assert result.code == 2
    assert "c.toml is not valid TOML" in result.error


# --- errors of the inputs ----------------------------------------------------------------------


@pytest.fixture
def scene(here, model) -> Path:
    """A scene, a model, and everything that can be wrong with them."""
    image, metres, labels = town(64, 96)
    write(here / "ortho.tif", image)
    write(here / "dsm.tif", metres)
    write(here / "labels.tif", labels, nodata=255)
    write(here / "no_crs.tif", metres, origin=(3, 0), crs=None)
    write(here / "far.tif", metres, origin=(9000, 0))
    write(here / "two.tif", image[:2])
    (here / "text.tif").write_text("no raster")
    shutil.copy(model, here / "m.safetensors")
    (here / "text.safetensors").write_text("no model")
    network = tiny_model(optical_bands=4)
    model_file.save(here / "four.safetensors", network, card_of(network))
    (here / "there.tif").write_text("precious")
    shutil.copy(here / "ortho.tif", here / "broken.tif")
    os.truncate(here / "broken.tif", 3000)
    return here


PREDICT = [
    ("no.safetensors", "ortho.tif", [], "no.safetensors does not exist"),
    ("text.safetensors", "ortho.tif", [], "text.safetensors is not a cafe model"),
    (".", "ortho.tif", [], "is a folder; name the model in it"),
    ("four.safetensors", "ortho.tif", [], "has 3 bands, the model was trained on 4 (red, green"),
    ("m.safetensors", "two.tif", [], "two.tif has 2 bands, the model was trained on 3"),
    ("m.safetensors", "no.tif", [], "no.tif does not exist"),
    ("m.safetensors", "text.tif", [], "cannot open text.tif as a raster"),
    ("m.safetensors", "broken.tif", [], "broken.tif"),
    ("m.safetensors", "ortho.tif", ["--bands", "1,2,9"], "there is no band 9"),
    ("m.safetensors", "ortho.tif", ["--bands", "1,2"], "choose them with --bands"),
    ("m.safetensors", "ortho.tif", ["--elevation", "no.tif"], "no.tif does not exist"),
    (
        "m.safetensors",
        "ortho.tif",
        ["--elevation", "far.tif"],
        "far.tif does not overlap ortho.tif",
    ),
    ("m.safetensors", "ortho.tif", ["--elevation", "no_crs.tif"], "no_crs.tif has no CRS"),
    ("m.safetensors", "ortho.tif", ["-o", "there.tif"], "there.tif exists; pass --overwrite"),
    ("m.safetensors", "ortho.tif", ["--confidence", "there.tif"], "there.tif exists; pass"),
    ("m.safetensors", "ortho.tif", ["-o", "dsm.tif/map.tif"], "dsm.tif is a file, so dsm.tif/map"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "optical", "more", "says"), PREDICT)
def test_predict_fails(run, scene, name, optical, more, says):
    before = listing(scene)
    heights = [] if "--elevation" in more else ["--elevation", "dsm.tif"]
    result = run("predict", name, "--optical", optical, *heights, "-o", "map.tif", *more)
    assert says in result.error
    assert result.code == 1
    assert listing(scene) == before


@pytest.mark.parametrize(
    ("device", "says"),
    [
        ("cuda:99", "there is no device 'cuda:99': "),
        ("tpu", "unknown device 'tpu': use auto, cpu, cuda, cuda:N, a list"),
        ("meta", "unknown device 'meta'"),
    ],
)
def test_devices(run, scene, device, says):
    before = listing(scene)
    words = ["m.safetensors", "--optical", "ortho.tif", "-o", "map.tif", "--device", device]
    result = run("predict", *words)
    assert says in result.error
    assert result.code == 2
    assert listing(scene) == before


def test_output_that_is_an_input(run, scene):
    before = listing(scene)
    words = ["m.safetensors", "--optical", "ortho.tif", "-o", "ortho.tif", "--overwrite"]
    result = run("predict", *words)
    assert "choose another name" in result.error
    assert result.code == 2
    assert listing(scene) == before


CLASSES = ["-c", "classes.toml"]
OPTICAL, LABELS = ["--optical", "ortho.tif"], ["--labels", "labels.tif"]
TILE = [
    ([*OPTICAL, *LABELS], 2, "no classes: the config needs one [[classes]] row per class"),
    ([*CLASSES, *OPTICAL], 2, "[scenes] has to name at least optical and labels"),
    ([*CLASSES, "--optical", "none_{id}.tif", *LABELS], 1, "none_{id}.tif"),
    ([*CLASSES, "--optical", "no.tif", *LABELS], 1, "no.tif does not exist"),
    ([*CLASSES, *OPTICAL, "--labels", "no.tif"], 1, "no.tif does not exist"),
    ([*CLASSES, *OPTICAL, "--labels", "text.tif"], 1, "text.tif as a raster"),
    ([*CLASSES, *OPTICAL, *LABELS, "--elevation", "far.tif"], 1, "far.tif does not overlap"),
    ([*CLASSES, *OPTICAL, *LABELS, "--elevation", "no_crs.tif"], 1, "no_crs.tif has no CRS"),
    ([*CLASSES, *OPTICAL, *LABELS, "--bands", "1,7"], 1, "there is no band 7"),
    ([*CLASSES, *OPTICAL, *LABELS, "-o", "there.tif"], 1, "there.tif is a file; name a folder"),
    ([*CLASSES, *OPTICAL, *LABELS, "--size", "8"], 2, "tile.size"),
    ([*CLASSES, *OPTICAL, *LABELS, "--overlap", "512"], 2, "overlap 512 is not below the tile"),
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(("words", "code", "says"), TILE, ids=[row[2] for row in TILE])
def test_tile_fails(run, scene, words, code, says):
    classes = tomli_w.dumps({"classes": SETTINGS["classes"]})
    (scene / "classes.toml").write_text(classes)
    before = listing(scene)
    result = run("tile", "-o", "tiles", *words)
    assert says in result.error
    assert ".partial" not in result.error
    assert result.code == code
    assert listing(scene) == before


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["no tiles"], 1, "no tiles is not a tile set"),
        (["TILES", "-o", "there.tif"], 1, "there.tif exists; pass --resume to continue it, or"),
        (["TILES", "--encoder", "resnet81"], 2, "did you mean one of resnet18"),
        (["TILES", "--device", "cuda:99"], 2, "there is no device 'cuda:99'"),
        (["TILES", "--weights", "no.pth"], 1, "weights no.pth cannot be read"),
        (["TILES", "-o", ".", "--resume"], 1, "cannot resume: . holds no last.safetensors"),
        (["TILES", "--accumulate", "9"], 2, "train.accumulate is 9, but a step has 6 tile(s)"),
        (["TILES", "--num-nodes", "2"], 2, "train.num_nodes is 2: start the command on each node"),
    ],
    ids=str,
)
def test_train_fails(run, scene, tileset, words, code, says):
    before = listing(scene)
    words = [tileset if word == "TILES" else word for word in words]
    model = ["--set", f"model.optical_encoder={ENCODER}", "--set", "model.height_encoder=same"]
    weights = [] if "--weights" in words else ["--weights", "none"]
    result = run("train", "-o", "run", *model, *weights, *words)
    assert says in result.error
    assert result.code == code
    assert listing(scene) == before


def test_only_the_first_process_speaks(run, scene, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    result = run("train", "no tiles", "-o", "run")
    assert (result.code, result.lines) == (1, [])


@pytest.fixture
def maps(here) -> Path:
    """Two label rasters side by side, a little overlapping, and what they should be."""
    truth = np.random.default_rng(0).integers(0, 3, (40, 100), dtype=np.uint8)
    whole = Path(write(here / "truth.tif", truth[None], nodata=255))
    with rasterio.open(whole) as dataset:
        grid = Grid.of(dataset)
    for name, first, last in (("a", 0, 60), ("b", 50, 100)):
        window = Window(first, 0, last - first, 40)
        with create_cog(here / f"{name}.tif", grid.at(window), False, TABLE) as dataset:
            dataset.write(truth[:, first:last], 1)
    return here


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["no.tif", "-o", "m.tif"], "no.tif does not exist"),
        (["no*.tif", "-o", "m.tif"], "no*.tif matches no file"),
        (["@no.txt", "-o", "m.tif"], "cannot read the list no.txt: No such file"),
        (["@a.tif", "-o", "m.tif"], "a.tif is not a list of file names"),
        (["a.tif", "b.tif", "-o", "truth.tif"], "truth.tif exists; pass --overwrite"),
    ],
    ids=str,
)
def test_mosaic_fails(run, maps, words, says):
    before = listing(maps)
    result = run("mosaic", *words)
    assert says in result.error
    assert result.code == 1
    assert listing(maps) == before


def test_mosaic(run, maps):
    result = run("mosaic", "a.tif", "b.tif", "-o", "m.tif")
    assert result.code == 0
    overlap = "where rasters overlap (400 px), 0.0 % disagree"
    assert result.lines == ["joined 2 rasters into m.tif", overlap]
    with rasterio.open("m.tif") as joined, rasterio.open("truth.tif") as truth:
        assert np.array_equal(joined.read(), truth.read())
        assert joined.transform == truth.transform
        assert read_classes(joined) == TABLE


# --- evaluate ----------------------------------------------------------------------------------


def test_evaluate_json(run, maps):
    result = run("evaluate", "a.tif", "truth.tif", "--json")
    assert result.code == 0
    assert result.lines == []
    scores = json.loads(result.out)
    assert scores["miou"] == 1
    assert (scores["pixels"], scores["unpredicted"]) == (60 * 40, 40 * 40)
    assert list(scores["classes"]) == list(TABLE.names)


def test_evaluate_table(run, maps):
    result = run("evaluate", "a.tif", "truth.tif")
    assert result.code == 0
    assert result.out == ""
    text = "\n".join(result.lines)
    assert all(name in text for name in TABLE.names)
    assert "1,600 labelled pixels have no prediction" in text


def test_class_names_are_no_markup(run, maps):
    rows = [{**c, "name": f"[red]{c['name']}[/]"} for c in TABLE.as_json()]
    with rasterio.open("a.tif", "r+", IGNORE_COG_LAYOUT_BREAK="YES") as dataset:
        dataset.update_tags(CLASSES=json.dumps(rows))
    assert any("[red]tree[/]" in line for line in run("evaluate", "a.tif", "truth.tif").lines)


@pytest.mark.parametrize(("least", "code"), [(0.9, 0), (1.0, 0), (1.1, 1)])
def test_min_miou(run, maps, least, code):
    result = run("evaluate", "a.tif", "truth.tif", "--min-miou", least, "--json")
    assert result.code == code
    assert json.loads(result.out)["miou"] == 1
    said = ["Error: mean IoU 1.0000 is below --min-miou 1.1"] if code else []
    assert result.lines == said


def test_ignore_adds_to_the_config(run, maps):
    with rasterio.open("truth.tif", "r+") as dataset:
        labels = dataset.read()
        labels[:, :5, :9], labels[:, 5:10, :7] = 7, 9
        dataset.write(labels)
    (maps / "c.toml").write_text("[labels]\nignore = [7]\n")
    words = ["evaluate", "a.tif", "truth.tif", "--json", "-c", "c.toml"]
    assert "holds values that no class has: 9 (35 pixels)" in run(*words).error
    scores = json.loads(run(*words, "--ignore", 9).out)
    assert (scores["pixels"], scores["miou"]) == (60 * 40 - 45 - 35, 1)


def test_evaluate_fails(run, maps):
    result = run("evaluate", "no.tif", "truth.tif")
    assert (result.error, result.code) == ("no.tif does not exist", 1)
    assert "a.tif has the classes ground, building, tree, the config has x" in run(
        "evaluate", "a.tif", "truth.tif", "--set", 'classes=[{id=0, name="x"}]'
    ).error  # fmt: skip


@pytest.fixture
def two_scenes(maps) -> Path:
    """A config of two scenes with maps, of which the second tests."""
    for name in ("a", "b"):
        for kind in ("ortho", "labels"):
            Path(f"{name}_{kind}.tif").symlink_to(f"{name}.tif")
    Path("maps").mkdir()
    for name in ("a", "b"):
        Path(f"maps/{name}_ortho.tif").symlink_to(f"../{name}.tif")
    rows = ", ".join(f'{{id={c.id}, name="{c.name}"}}' for c in TABLE)
    Path("c.toml").write_text(
        f"classes = [{rows}]\n"
        '[scenes]\noptical = "{id}_ortho.tif"\nlabels = "{id}_labels.tif"\n'
        '[split]\ntest_scenes = ["b"]\n'
    )
    return maps


def test_evaluate_scenes(run, two_scenes):
    everything = json.loads(run("evaluate", "maps", "-c", "c.toml", "--json").out)
    assert [row["scene"] for row in everything["scenes"]] == ["a", "b"]
    assert everything["pixels"] == 40 * (60 + 50)
    tested = json.loads(run("evaluate", "maps", "-c", "c.toml", "--split", "test", "--json").out)
    assert [row["scene"] for row in tested["scenes"]] == ["b"]
    assert (tested["pixels"], tested["miou"]) == (40 * 50, 1)
    shown = "\n".join(run("evaluate", "maps", "-c", "c.toml", "--split", "test").lines)
    assert "against the test ground of the scenes" in shown
    assert "by scene, worst first" in shown
    pairs = json.loads(run("evaluate", "maps/{id}_ortho.tif", "{id}_labels.tif", "--json").out)
    assert pairs == everything


def test_evaluate_scenes_fails(run, two_scenes):
    assert "1 of 1 scenes" not in run("evaluate", "maps", "-c", "c.toml", "-q").lines
    Path("maps/b_ortho.tif").unlink()
    result = run("evaluate", "maps", "-c", "c.toml", "--split", "test")
    assert (result.code, "none of 1 scenes has a map there" in result.error) == (1, True)
    result = run("evaluate", "maps", "truth.tif", "-c", "c.toml", "--split", "test")
    assert (result.code, "leave out REFERENCE" in result.error) == (2, True)


def test_areas(run, maps):
    result = run("evaluate", "a.tif", "--areas", "areas.csv")
    assert result.code == 0
    assert any("ha" in line and "share" in line for line in result.lines)
    assert Path("areas.csv").read_text().splitlines()[0].startswith("id,class,pixels,square_metres")
    assert (
        "areas.csv exists; pass --overwrite"
        in run("evaluate", "a.tif", "--areas", "areas.csv").error
    )
    words = ["evaluate", "a.tif", "truth.tif", "--areas", "areas.json", "--json"]
    both = json.loads(run(*words).out)
    assert both["miou"] == 1
    assert both["areas"] == json.loads(Path("areas.json").read_text())
    assert sum(row["pixels"] for row in both["areas"]["classes"].values()) == 60 * 40
    assert "name a .csv or .json file" in run("evaluate", "a.tif", "--areas", "areas.xlsx").error


def test_sample_and_evaluate_by_its_points(run, maps):
    result = run("sample", "a.tif", "-n", 200, "--min-per-class", 20, "-o", "points.gpkg")
    assert result.code == 0
    assert result.lines[-1] == "wrote points.gpkg: 200 points; fill in the column reference"
    assert "points.gpkg exists" in run("sample", "a.tif", "-o", "points.gpkg").error
    assert "no point of" in run("evaluate", "a.tif", "points.gpkg").error
    fill_in("points.gpkg")
    result = run("evaluate", "a.tif", "points.gpkg", "--json", "--areas", "a.csv", "--kappa")
    values = json.loads(result.out)
    assert (values["miou"], values["kappa"], values["points"]) == (1, 1, 200)
    assert values["sample"]["overall_accuracy"] == {
        "estimate": 1, "standard_error": 0, "low": 1, "high": 1,
    }  # fmt: skip
    assert (
        Path("a.csv")
        .read_text()
        .splitlines()[0]
        .endswith("estimated_hectares,standard_error,low,high")
    )
    shown = "\n".join(run("evaluate", "a.tif", "points.gpkg", "--compare", "b.tif").lines)
    assert "b.tif minus a.tif" in shown
    assert "1.000 ± 0.000" in shown
    assert run("evaluate", "a.tif", "points.gpkg", "--min-miou", 0.5).code == 0
    assert "is not a sample of b.tif" in run("evaluate", "b.tif", "points.gpkg").error


def fill_in(path):
    """Write the class of the map into the column for the class that was seen."""
    meta, _, wkb, data = pyogrio.raw.read(path)
    columns = dict(zip(meta["fields"], data, strict=True))
    columns["reference"] = columns["map_class"]
    Path(path).unlink()
    pyogrio.raw.write(
        path, wkb, list(columns.values()), list(columns), driver="GPKG", geometry_type="Point",
        crs=meta["crs"],
    )  # fmt: skip


def test_evaluate_in_detail(run, maps):
    shutil.copy("a.tif", "c.tif")
    words = ["evaluate", "a.tif", "truth.tif", "--by-distance", "1,3", "--by-height", "truth.tif"]
    words += ["--compare", "c.tif", "--kappa", "--block", "10", "--height-limits", "1"]
    values = json.loads(run(*words, "--json").out)
    assert list(values["by_distance"]) == ["up to 1 px", "1 to 3 px"]
    assert list(values["by_height"]) == ["up to 1 m", "over 1 m"]
    assert (values["kappa"], values["intervals"]["blocks"]) == (1, 24)
    assert values["compared"][0]["difference"]["miou"] == {"estimate": 0, "low": 0, "high": 0}
    shown = "\n".join(run(*words).lines)
    for text in ("24 blocks of 10 pixels", "by distance to boundaries", "by height", "kappa 1.000"):
        assert text in shown
    assert "c.tif minus a.tif" in shown
    left = json.loads(run("evaluate", "a.tif", "truth.tif", "--ignore-class", "tree", "--json").out)
    assert left["classes"]["tree"]["pixels"] == 0
    assert left["pixels"] < values["pixels"]
    result = run("evaluate", "a.tif", "truth.tif", "--erode", 5)
    assert (result.code, "--erode" in result.error) == (1, True)
    run("sample", "a.tif", "-n", 90, "--min-per-class", 20, "-o", "points.gpkg")
    result = run("evaluate", "a.tif", "points.gpkg", "--erode", 3)
    assert (result.code, "points.gpkg holds points" in result.error) == (2, True)
    assert run("evaluate", "a.tif", "truth.tif", "--by-distance", "3,1").code == 2


def test_sample_fails(run, maps):
    assert "name a .gpkg file" in run("sample", "a.tif", "-o", "points.csv").error
    assert run("sample", "a.tif", "-n", 9, "-o", "p.gpkg").code == 2
    result = run("sample", "a.tif", "-o", "p.gpkg", "--stratum", "lava", "--dry-run")
    assert (result.code, "'lava', which is not a class" in "\n".join(result.lines)) == (1, True)
    assert list(Path().glob("p.gpkg*")) == []


# --- talk --------------------------------------------------------------------------------------


def test_verbose_shows_the_traceback(run, maps):
    result = run("-v", "evaluate", "no.tif", "truth.tif")
    assert result.code == 1
    assert "Traceback (most recent call last):" in result.lines
    assert result.lines[-1] == "Error: no.tif does not exist"


def test_quiet(run, maps):
    assert run("-q", "mosaic", "a.tif", "b.tif", "-o", "m.tif").lines == []
    assert run("-q", "evaluate", "a.tif", "truth.tif").lines == []
    assert run("-q", "evaluate", "no.tif", "truth.tif").error == "no.tif does not exist"
    result = run("-q", "evaluate", "a.tif", "truth.tif", "--json")
    assert (result.lines, json.loads(result.out)["miou"]) == ([], 1)


def test_messages_are_whole_lines(run, here):
    name = "[bold]" + "long name " * 20 + "[/bold].tif"
    assert run("evaluate", name, "b.tif").error == f"{name} matches no file"


@pytest.mark.parametrize(
    ("error", "code", "says"),
    [
        (KeyboardInterrupt(), 130, "interrupted"),
        (MemoryError(), 1, "out of memory; lower the batch size"),
        (RuntimeError("CUDA out of memory. Tried to allocate\n2 GiB"), 1, "out of memory; lower"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), 1, "out of memory; lower"),
        (
            OSError(28, "No space left on device", "/x/map.tif"),
            1,
            "No space left on device: /x/map",
        ),
        (InputError("two\nlines"), 1, "two lines"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else None,
)
def test_failures_on_the_way(run, maps, monkeypatch, error, code, says):
    def fail(*args, **kwargs):
        raise error

    monkeypatch.setattr("cafe_cli.evaluation.evaluate.evaluate_in_detail", fail)
    result = run("evaluate", "a.tif", "truth.tif")
    assert says in result.error
    assert result.code == code


def test_faults_of_cafe_are_not_hidden(maps, monkeypatch):
    def fail(*args, **kwargs):
        raise RuntimeError("a bug")

    monkeypatch.setattr("cafe_cli.evaluation.evaluate.evaluate_in_detail", fail)
    monkeypatch.setattr(sys, "argv", ["cafe", "evaluate", "a.tif", "truth.tif"])
    monkeypatch.setattr(face, "end_on_signals", lambda report: nullcontext())  # pytest goes on
    with pytest.raises(RuntimeError, match="a bug"):
        face.main()


@pytest.mark.parametrize("terminal", [False, True])
def test_ctrl_c_is_one_line(maps, monkeypatch, capsys, terminal):
    """On a terminal a new one, below the ``^C`` that it shows."""

    def fail(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("cafe_cli.evaluation.evaluate.evaluate_in_detail", fail)
    monkeypatch.setattr(sys, "argv", ["cafe", "evaluate", "a.tif", "truth.tif"])
    monkeypatch.setattr(face, "end_on_signals", lambda report: nullcontext())  # pytest goes on
    monkeypatch.setattr(face, "_reported", threading.Event())
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
    with pytest.raises(SystemExit) as ended:
        face.main()
    said = capsys.readouterr().err
    assert ended.value.code == 130
    assert said.endswith("\nError: interrupted\n") if terminal else said == "Error: interrupted\n"


@pytest.mark.slow
def test_exit_codes_of_the_process(here):
    missing = cafe("evaluate", "no.tif", "truth.tif")
    assert (missing.returncode, missing.stderr) == (1, "Error: no.tif does not exist\n")
    unused = cafe("evaluate", "no.tif")
    assert unused.returncode == 2
    assert unused.stderr == (
        "Error: Missing argument 'REFERENCE', or a config with [scenes] (-c), or --areas FILE "
        "alone; see cafe evaluate --help\n"
    )


# --- inputs ------------------------------------------------------------------------------------


def test_expand_inputs(here):
    for name in ("b.tif", "a.TIFF", "c.txt", ".c.partial.tif", "odd[1].tif", "deep/d.tif"):
        (here / name).parent.mkdir(exist_ok=True)
        (here / name).touch()
    (here / "list.txt").write_text("b.tif\n\n  /vsizip/x.zip/c.tif \n")
    assert expand_inputs(["b.tif", "a.TIFF"]) == ["b.tif", "a.TIFF"]
    assert expand_inputs(["."]) == ["a.TIFF", "b.tif", "odd[1].tif"]
    assert expand_inputs(["*.tif"]) == ["b.tif", "odd[1].tif"]
    assert expand_inputs(["**/*.tif"]) == ["b.tif", "deep/d.tif", "odd[1].tif"]
    assert expand_inputs(["odd[1].tif"]) == ["odd[1].tif"]
    assert expand_inputs(["@list.txt", "a.TIFF"]) == ["b.tif", "/vsizip/x.zip/c.tif", "a.TIFF"]
    for name in ("s3://bucket/x*.tif", "https://host/a.tif?b=[1]", "/vsicurl/http://host/*.tif"):
        assert expand_inputs([name]) == [name]
    assert expand_inputs(["missing.tif"]) == ["missing.tif"]  # whoever opens it says so
    assert expand_inputs([]) == []


@pytest.mark.parametrize("name", ["x*.tif", "empty", "@empty.txt", "@no.txt", "@empty"])
def test_inputs_that_name_nothing(here, name):
    (here / "empty").mkdir()
    (here / "empty.txt").touch()
    with pytest.raises(InputError, match=name.removeprefix("@").replace("*", r"\*")):
        expand_inputs([name])


# --- the whole path ----------------------------------------------------------------------------


@pytest.mark.slow
def test_whole_path(run, here, scenes):
    (here / "data").mkdir()
    for path in scenes.iterdir():
        shutil.copy(path, here / "data")
    (here / "data" / "town.toml").write_text(
        dump_config(settings(train__learning_rate=1e-2)).replace(f'root = "{here}"\n', "")
    )
    made = run("tile", "-c", "data/town.toml", "-o", "tiles")
    assert (made.code, made.lines[-1]) == (0, "wrote tiles")
    assert made.lines[0].startswith("train: 6 tiles: ground ")

    words = ["-c", "data/town.toml", "-o", "run", "--device", "cpu", "--batch-size", 3]
    trained = run("train", "tiles", *words, "--epochs", 8)
    assert (trained.code, trained.lines[-1]) == (
        0,
        "wrote run/best.safetensors and, of the last epoch, run/final.safetensors",
    )
    assert sum(line.lstrip()[:3] in {f"{n}/8" for n in range(1, 9)} for line in trained.lines) == 8
    again = run("-q", "train", "tiles", "-o", "run", "--device", "cpu", "--resume")
    assert (again.code, again.lines) == (0, [])
    assert run("train", "tiles", "-o", "run").error.startswith("run exists; pass --resume")

    with rasterio.open("data/b_ortho.tif") as whole, rasterio.open("data/b_dsm.tif") as dsm:
        image, metres = whole.read(), dsm.read()
    for name, first, last in (("west", 0, 200), ("east", 150, 320)):
        place = (first, 1000)
        write(here / f"{name}_ortho.tif", image[..., first:last], place)
        predicted = run(
            "predict", "run/best.safetensors", "--optical", f"{name}_ortho.tif",
            "--elevation", "data/b_dsm.tif", "-o", f"{name}.tif",
            "--confidence", f"{name}_confidence.tif", "--device", "cpu",
        )  # fmt: skip
        assert predicted.code == 0
        (line,) = predicted.lines
        assert line.startswith(f"wrote {name}.tif and {name}_confidence.tif: ")
    assert metres.shape[1:] == image.shape[1:]

    joined = run(
        "mosaic", "west.tif", "east.tif", "-o", "map.tif", "--method", "confidence",
        "--confidence", "west_confidence.tif", "--confidence", "east_confidence.tif",
    )  # fmt: skip
    assert (joined.code, joined.lines[0]) == (0, "joined 2 rasters into map.tif")
    assert "where rasters overlap (3,200 px)" in joined.lines[1]
    with rasterio.open("map.tif") as dataset:
        assert dataset.shape == (64, 320)
        assert (dataset.read(1) != 255).all()

    judged = run("evaluate", "map.tif", "data/b_labels.tif", "--json", "--min-miou", 0.4)
    assert judged.code == 0, judged.lines
    scores = json.loads(judged.out)
    assert scores["pixels"] == 64 * 320
    best = json.loads((here / "run" / "scores.json").read_text())
    assert abs(scores["miou"] - best["miou"]) < 0.15
    assert tomllib.loads((here / "tiles" / "config.toml").read_text())["tile"]["size"] == 64


@pytest.mark.slow
def test_demo(run, here, scenes):
    for path in scenes.iterdir():
        shutil.copy(path, here)
    image, metres, labels = town(100, 160, seed=5)
    write(here / "town_dsm.tif", metres)
    write(here / "town_labels.tif", labels, nodata=255)
    for number, first, last in ((1, 0, 100), (2, 60, 160)):
        write(here / f"town_{number}_ortho.tif", image[..., first:last], (first, 0))
    only = settings(scenes__only=["a", "b"], train__epochs=1)
    (here / "sample.toml").write_text(dump_config(only))
    words = ["demo", "-c", "sample.toml", "--device", "cpu", "-o"]
    shown = run(*words, "out")
    assert (shown.code, shown.lines[-1]) == (0, "wrote out/demo.png: look at it")
    assert [line.split()[1] for line in shown.lines if line.startswith("cafe ")] == [
        "tile", "train", "predict", "predict", "mosaic", "evaluate",
    ]  # fmt: skip
    assert json.loads((here / "out" / "scores.json").read_text())["pixels"] == 100 * 160
    assert (here / "out" / "demo.png").stat().st_size > 20_000
    assert run(*words, "out").error == "out exists; pass --overwrite to replace it"
    assert "is not the folder of a demo" in run(*words, ".", "--overwrite").error
    assert (here / "sample.toml").exists()
