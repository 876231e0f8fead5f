"""The test bed in `benchmarks/unseen`: that it scores what was not trained on, and says so."""

import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from cafe_cli.classes import NODATA
from cafe_cli.config.load import load_config
from cafe_cli.errors import ConfigError, InputError
from cafe_cli.evaluation.metrics import Confusion
from cafe_cli.model import stored
from cafe_cli.scenes.scene import Patch
from tests.support.engines import town
from tests.support.rasters import grid, read, write

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT))
records = pytest.importorskip("benchmarks.unseen.records", reason="no benchmarks in this copy")
bed = pytest.importorskip("benchmarks.unseen.__main__")
features = pytest.importorskip("benchmarks.unseen.features")
forest = pytest.importorskip("benchmarks.unseen.forest")
report = pytest.importorskip("benchmarks.unseen.report")
runs = pytest.importorskip("benchmarks.unseen.runs")
scoring = pytest.importorskip("benchmarks.unseen.scoring")
sites = pytest.importorskip("benchmarks.unseen.sites")
variants = pytest.importorskip("benchmarks.unseen.variants")

CONFIG = """
classes = [
  { id = 0, name = "ground" }, { id = 1, name = "building" },
  { id = 2, name = "tree" }, { id = 3, name = "water" },
]
[labels]
ignore = [255, 4]
[tile]
size = 64
overlap = 0
[split]
validation = 0.0
[model]
optical_encoder = "tu-test_resnet"
weights = "none"
width = 8
[train]
epochs = 1
batch_size = 2
dice = 0.5
workers = 0
"""


@pytest.fixture
def data(tmp_path):
    """Return a folder with two sites and one of two plots."""
    for seed, place in enumerate(("here", "there", "woods/p1", "woods/p2")):
        image, metres, labels = town(64, 96, seed)
        labels[:, :2] = 4  # the first two rows
        where = grid(96, 64)
        folder = tmp_path / "data" / place
        write(folder / "ortho.tif", image, where)
        write(folder / "dsm.tif", metres + 300, where, nodata=-9999)
        write(folder / "labels.tif", labels, where, nodata=NODATA)
    (tmp_path / "data" / "notes").mkdir()
    return tmp_path / "data"


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(CONFIG)
    return path


def row(variant="base", seed=0, train="here", unpredicted=0, **miou):
    return {
        "train": train, "variant": variant, "seed": seed, "identity": "abc", "training": [train],
        "seconds": 9.0, "commit": None, "finished": "",
        "sites": {
            name: {"miou": value, "iou": {"ground": value + 0.1, "tree": value - 0.1},
                   "pixels": 90, "unpredicted": unpredicted, "confusion": []}
            for name, value in miou.items()
        },
    }  # fmt: skip


# ------------------------------------------------------------------ the sites


def test_sites_of_one_scene_and_of_several_plots(data):
    found = {site.name: [plot.id for plot in site.plots] for site in sites.find_sites(data)}
    assert found == {
        "here": ["here"], "there": ["there"], "woods": ["woods_p1", "woods_p2"],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("train", "expected"),
    [
        ("here", ["here"]),
        ("woods,here", ["here", "woods"]),
        ("all-but-here", ["there", "woods"]),
        ("all", ["here", "there", "woods"]),
    ],
)
def test_what_trains_is_not_scored(data, train, expected):
    training, scored = sites.divide(sites.find_sites(data), train)
    assert [site.name for site in training] == expected
    assert {site.name for site in scored} == {"here", "there", "woods"} - set(expected)


def test_sites_that_cannot_be_used_are_refused(data, tmp_path):
    found = sites.find_sites(data)
    for train in ("nowhere", "all-but-nowhere"):
        with pytest.raises(InputError, match="'nowhere', the sites are here, there, woods"):
            sites.divide(found, train)
    with pytest.raises(InputError, match="leaves no site to train on"):
        sites.divide(found[:1], "all-but-here")
    with pytest.raises(InputError, match="holds no site"):
        sites.find_sites(tmp_path / "nothing")
    (data / "woods" / "p2" / "labels.tif").unlink()
    with pytest.raises(InputError, match=r"p2 has ortho.tif but not labels.tif"):
        sites.find_sites(data)


# ------------------------------------------------------------------ scores


def test_classes_that_only_the_map_shows_have_no_iou_but_cost(config):
    counts = np.zeros((4, 4), np.int64)
    counts[0, :] = 6, 0, 0, 4  # four pixels of ground taken for water
    counts[1, 1] = 10
    found = scoring.summarise(Confusion.of(counts, unpredicted=3), load_config(config))
    assert found["iou"] == {"ground": 0.6, "building": 1.0}
    assert (found["miou"], found["pixels"], found["unpredicted"]) == (0.8, 20, 3)


def test_plots_of_a_site_are_scored_together(data, config, tmp_path):
    woods = sites.find_sites(data)[-1]
    for plot in woods.plots:
        values = read(plot.labels[0])
        values[values == 4] = 0
        if plot.id == "woods_p1":
            values[:] = NODATA
            values[:, 2:4] = 0
        write(scoring.map_path(tmp_path, plot.id), values, grid(96, 64), nodata=NODATA)
    found = scoring.score_site(woods, tmp_path, load_config(config))
    assert found["pixels"] == (62 + 2) * 96
    assert found["unpredicted"] == 60 * 96
    assert np.sum(found["confusion"]) == found["pixels"]


# ------------------------------------------------------------------ the forest


def patch(height, **changes):
    shape = height.shape
    image = np.full((3, *shape), 90, np.uint8)
    known = np.ones(shape, bool)
    return Patch(image, known, height[None].astype(np.float32), known)._replace(**changes)


def test_features_do_not_depend_on_the_level_of_the_surface():
    height = np.random.default_rng(0).random((40, 50)) * 8
    low, high = (features.compute(patch(height + level), 0.5) for level in (0, 2048))
    np.testing.assert_allclose(low, high, atol=2e-3)


def test_voids_do_not_count():
    height = np.full((40, 50), 7.0)
    known = np.ones(height.shape, bool)
    known[10:20, 10:30] = False
    height[~known] = -500
    found = features.compute(patch(height, height_valid=known), 0.5)
    flat = features.compute(patch(np.full(height.shape, 7.0)), 0.5)
    np.testing.assert_allclose(found[:-1], flat[:-1], atol=1e-4)
    assert np.array_equal(found[-1], known)


def test_blurring_is_normalised():
    values = np.random.default_rng(0).random((30, 30)).astype(np.float32)
    known = np.zeros(values.shape, bool)
    assert not features.blur(values, known, 3.0).any()
    known[:, :4] = True
    values[:, :4] = 5
    assert features.blur(values, known, 3.0)[:, :8] == pytest.approx(5, abs=1e-4)


def test_blocks_do_not_show_in_the_features(data, config, monkeypatch):
    monkeypatch.setattr(features, "RELIEF_METRES", (2.0, 4.0))
    here = sites.find_sites(data)[0]
    with forest._open(here.plots[0]) as scene:
        whole = forest.features_of(scene, scene.grid.extent)
        monkeypatch.setattr(forest, "_BLOCK", 50)
        for window in forest._windows(scene):
            part = forest.features_of(scene, window)
            np.testing.assert_allclose(part, whole[:, *window.slices()], atol=1e-3)


def test_the_sample_holds_as_many_pixels_of_every_class_and_site():
    counts = np.array([[1000, 0, 50], [4000, 400, 0]])
    shares = forest._shares(counts, 600)
    drawn = shares[:, :3] * counts
    # Two hundred for each class: halves where both sites have it, all there is where that is less.
    np.testing.assert_allclose(drawn, [[100, 0, 50], [100, 200, 0]])
    assert not shares[:, NODATA].any()


def test_the_sample_leaves_out_what_has_no_label(data, config):
    here = sites.find_sites(data)[:1]
    made = load_config(config)
    pixels, ids = forest.sample(here, made, 10**6, seed=0)
    assert len(pixels) == len(ids) == 62 * 96
    assert set(ids) == {0, 1, 2}


def test_a_forest_learns_the_town(data, config, tmp_path, monkeypatch):
    pytest.importorskip("sklearn")
    monkeypatch.setattr(forest, "SAMPLE", 600)
    training, scored = sites.divide(sites.find_sites(data), "here")
    folder = tmp_path / "maps"
    found = forest.run(training, scored, load_config(config), folder, seed=0, threads=1)
    assert {name: site["pixels"] for name, site in found["sites"].items()} == {
        "there": 62 * 96, "woods": 2 * 62 * 96,
    }  # fmt: skip
    assert all(site["miou"] > 0.8 for site in found["sites"].values())


def test_without_scikit_learn_there_is_a_remedy(data, config, monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.ensemble", None)
    with pytest.raises(ConfigError, match=r"pip install -e '.\[benchmarks\]'"):
        forest.train(sites.find_sites(data), load_config(config), 0, 1)


# ------------------------------------------------------------------ the runs


def test_all_variants_can_be_built(data, config):
    division = sites.divide(sites.find_sites(data), "here")
    identities = set()
    for name, variant in variants.VARIANTS.items():
        run = runs.plan("here", division, config, name, 3, {})
        made = run.config.model_dump()
        for key, value in variant.config.items():
            section, setting = key.split(".")
            assert made[section][setting] == value
        assert made["train"]["seed"] == 3
        identities.add(run.key.identity)
    # The config of the test has random weights already, and no valleys.
    assert len(identities) == len(variants.VARIANTS) - 2


def test_seeds_and_variants_that_only_train_share_tiles(data, config, tmp_path):
    division = sites.divide(sites.find_sites(data), "here")
    made = {
        runs.make_tiles(runs.plan("here", division, config, name, seed, {}), tmp_path, 1)
        for name, seed in (("base", 0), ("base", 1), ("dice_0", 0))
    }
    assert len(made) == 1
    other = runs.plan("here", division, config, "absolute", 0, {})
    assert runs.make_tiles(other, tmp_path, 1) not in made


def test_variants_that_only_make_other_maps_share_a_training(data, config):
    division = sites.divide(sites.find_sites(data), "here")
    base, tta, larger, dice = (
        runs.plan("here", division, config, name, 0, {})
        for name in ("base", "tta", "larger", "dice_0")
    )
    assert base.trained == tta.trained == larger.trained != dice.trained
    assert len({run.key for run in (base, tta, larger, dice)}) == 4


@pytest.fixture
def call(monkeypatch):
    """Return a function that runs the bed in this process."""

    def bed_of(*words):
        monkeypatch.setattr(sys, "argv", ["unseen", *map(str, words)])
        return bed.main()

    threads = torch.get_num_threads()  # the bed sets them; sums depend on them
    yield bed_of
    torch.set_num_threads(threads)


def test_the_last_weights_are_scored_recorded_once_and_reported(
    data, config, tmp_path, call, capsys
):
    out = tmp_path / "out"
    words = ("run", data, out, "--train", "here", "--config", config, "--threads", 1)
    words += ("--variant", "distill")
    assert call(*words) == 0
    (done,) = records.read(out)
    assert done["training"] == ["here"]
    assert {name: site["pixels"] for name, site in done["sites"].items()} == {
        "there": 62 * 96, "woods": 2 * 62 * 96,
    }  # fmt: skip
    capsys.readouterr()
    assert call(*words) == 0
    assert records.read(out) == [done]
    said = capsys.readouterr().out
    assert "is there already" in said
    assert "| distill | 1 |" in said
    assert (out / "report.md").read_text() in said
    (folder,) = (out / "trainings").glob("here-*")
    card = stored.read_card(folder / "final.safetensors")
    assert card.architecture.guidance == "none"


def test_probabilities_are_held_against_the_labels_of_other_sites(
    data, config, tmp_path, call, capsys
):
    words = (data, tmp_path / "out", "--train", "here", "--config", config, "--threads", 1)
    words += ("--set", "split.validation=0.5", "--set", "split.block=32", "--set", "tile.size=32")
    words += ("--set", "split.buffer=0")
    with pytest.raises(InputError, match=r"final.safetensors is not there: do the run first"):
        call("calibration", *words)
    assert call("run", *words) == 0
    capsys.readouterr()
    assert call("calibration", *words) == 0
    title, _, _, _, own, *others, _ = capsys.readouterr().out.splitlines()
    assert title.startswith("## here-base")
    (training,) = (tmp_path / "out" / "trainings").glob("here-*")
    card = stored.read_card(training / "final.safetensors")
    assert card.calibration.temperature != 1
    said = f"| own validation blocks, temperature {card.calibration.temperature:g} |"
    assert own.startswith(said)
    assert own.endswith(
        f"| {100 * card.calibration.before.error:.1f} | {100 * card.calibration.after.error:.1f} |"
    )
    (done,) = records.read(tmp_path / "out")
    for line, (name, site) in zip(others, sorted(done["sites"].items()), strict=True):
        _, said, before, after, right, *errors, _ = line.split("|")
        assert said.strip() == name
        # The maps are those that were scored, and the same with and without the temperature.
        accuracy = np.trace(site["confusion"]) / np.sum(site["confusion"])
        assert float(right) == pytest.approx(100 * accuracy, abs=0.06)
        assert float(before) != float(after)
        for sure, error in zip((before, after), errors, strict=True):
            assert abs(float(sure) - float(right)) <= float(error) + 0.15


def test_a_run_that_fails_is_told_and_not_recorded(data, config, tmp_path, call, capsys):
    out = tmp_path / "out"
    words = ("run", data, out, "--train", "here", "--config", config, "--seed", 1)
    assert call(*words, "--set", "scenes.exclude=['here']") == 3
    assert records.read(out) == []
    assert re.search("seed1 failed: .*leave no scene", capsys.readouterr().err)


# ------------------------------------------------------------------ the report


def test_results_come_back_and_damage_is_told(tmp_path):
    rows = [row(seed=seed, a=0.5) for seed in (0, 1)]
    for one in rows:
        records.add(tmp_path, one)
    assert records.read(tmp_path) == rows
    with (tmp_path / "results.jsonl").open("a") as file:
        file.write('{"train": "he')
    with pytest.raises(InputError, match="line 3 is damaged"):
        records.read(tmp_path)


def test_the_worst_site_comes_first():
    rows = [row(seed=0, easy=0.9, hard=0.4), row(seed=1, easy=0.8, hard=0.6)]
    assert report.worst_first(rows) == ["hard", "easy"]
    text = list(report.markdown(rows))
    assert "|  | seeds | hard | easy | mean | worst site | worst class | s |" in text
    assert (
        "| base | 2 | 50.0 ± 14.1 | 85.0 ± 7.1 | 67.5 ± 3.5 | hard 50.0 | tree, hard 40.0 | 9 |"
        in text
    )
    assert "| hard | tree | 40.0 |" in text


def test_only_pairs_of_a_seed_are_compared():
    rows = [row(seed=seed, a=0.5 + seed / 10) for seed in (0, 1)]
    rows += [row("long", seed, a=0.6 + seed / 5) for seed in (0, 1, 2)]
    text = list(report.markdown(rows))
    assert "| long | 2 | +15.0 ± 5.0 | +15.0 ± 5.0 |" in text
    assert report.paired({5: 1.0}, {0: 1.0}) == "no pair"


def test_training_sites_are_not_mixed():
    rows = [row(train="a", b=0.5), row(train="b", a=0.7), row(train="all")]
    text = "\n".join(report.markdown(rows))
    assert text.count("## Trained on") == 3
    assert "no site is left to be scored" in text


def test_pixels_without_a_prediction_are_told():
    (note,) = [line for line in report.markdown([row(unpredicted=10, a=0.5)]) if "no pred" in line]
    assert note.startswith("- base, seed 0: 10 % of the labelled pixels of a")
    assert not any("no pred" in line for line in report.markdown([row(a=0.5)]))


def test_rows_are_plain_json():
    key = records.Key("here", "base", 0, "abc")
    made = records.make_row(key, ["here"], {}, 1.234)
    assert records.key(json.loads(json.dumps(made))) == key
    assert made["seconds"] == 1.2
