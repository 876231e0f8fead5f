"""Batches on a cluster: tile sets, scores and areas are those of one process."""

import json
from functools import partial

import numpy as np
import pytest

from cafe_cli.cluster import connection
from cafe_cli.cluster.batches import ClusterExecutor
from cafe_cli.cluster.cluster import Cluster
from cafe_cli.cluster.job import ClusterOptions
from cafe_cli.config.load import parse_config
from cafe_cli.errors import CafeError, InputError, LabelError, OutputError
from cafe_cli.evaluation import reference
from cafe_cli.evaluation.areas import measure_areas
from cafe_cli.evaluation.counting import CountSettings
from cafe_cli.evaluation.pooled import evaluate_pairs, evaluate_scenes
from cafe_cli.system.batches import Batch, run_batch
from cafe_cli.tilesets.make import tile
from tests.support import cluster_tasks as tasks
from tests.support.damage import overwrite
from tests.support.rasters import TABLE, grid, noise, write

pytest.importorskip("distributed")
pytest_plugins = ["tests.support.fixtures"]
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

PLACES = {name: grid(160, 128, left=300_000 + 1000 * i) for i, name in enumerate("abc")}


@pytest.fixture(scope="module")
def cluster():
    with Cluster(ClusterOptions(workers=2)) as entered:
        yield entered


@pytest.fixture
def town(tmp_path, monkeypatch):
    """Three scenes with maps, in the working folder of this process and not of the workers."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "maps").mkdir()
    for seed, (name, where) in enumerate(PLACES.items()):
        random = np.random.default_rng(seed)
        labels = np.kron(random.integers(0, 3, (16, 20)), np.ones((8, 8))).astype(np.uint8)
        image = noise(3, where, "uint16", seed=seed)
        write(tmp_path / f"{name}_ortho.tif", image, where, compress="deflate")
        heights = noise(1, where, "float32", seed=seed)[0] / 10
        write(tmp_path / f"{name}_dsm.tif", heights, where, nodata=-9999, compress="deflate")
        write(tmp_path / f"{name}_labels.tif", labels, where, nodata=255)
        wrong = random.random(labels.shape) < 0.1 + 0.1 * seed
        write(
            tmp_path / "maps" / f"{name}_ortho.tif",
            np.where(wrong, (labels + 1) % 3, labels),
            where,
        )
    return tmp_path


def config(**sections):
    values = {
        "root": ".",
        "scenes": {
            "optical": "{id}_ortho.tif", "elevation": "{id}_dsm.tif", "labels": "{id}_labels.tif"
        },
        "classes": [{"id": c.id, "name": c.name, "color": c.color} for c in TABLE],
        "height": {"kind": "dsm"},
        "tile": {"size": 32, "overlap": 16},
        "split": {"validation": 0.25, "buffer": 4, "block": 32},
        **sections,
    }  # fmt: skip
    return parse_config(values, "test")


def contents(folder):
    """The bytes of all files, but for the date in a GeoPackage."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.suffix != ".gpkg")
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_results_come_in_order_and_what_all_need_is_prepared_once(cluster, tmp_path):
    prepared = partial(tasks.note, tmp_path, "prepared")
    batches = [
        Batch(tasks.opened_with, tasks.add_slowly, range(9), prepare=prepared),
        Batch(tasks.opened_with, tasks.add_slowly, []),
        Batch(partial(tasks.opened_with, 100), tasks.add_slowly, [5, 3]),
    ]
    first, none, last = map(list, ClusterExecutor(cluster)(batches))
    (process,) = {total - item for item, total in first}
    assert first == [(item, item + process) for item in range(9)]
    assert len(list(tmp_path.glob("prepared.*"))) == 1
    assert none == []
    assert last == [(5, 105), (3, 103)]


def test_results_that_nobody_takes_are_passed_over(cluster):
    batches = [Batch(partial(tasks.opened_with, i), tasks.add_slowly, range(5)) for i in (10, 20)]
    found = [next(results) for results in ClusterExecutor(cluster)(batches)]
    assert found == [(0, 10), (0, 20)]


@pytest.mark.parametrize("virtual", [False, True])
def test_a_tile_set_is_that_of_one_process(cluster, town, virtual):
    made = tile(config(), town / "here", virtual=virtual)
    run = ClusterExecutor(cluster)
    assert tile(config(), town / "there", virtual=virtual, run=run) == made
    assert made.scenes_of("train") == {"a", "b", "c"}
    assert contents(town / "there") == contents(town / "here")
    assert not list(town.glob(".*"))


def test_tiles_that_cannot_be_read_are_left_out_on_a_cluster_too(cluster, town):
    overwrite(str(town / "b_ortho.tif"), 0, 3)
    made = tile(config(), town / "here", on_error="skip")
    assert made.skipped
    assert tile(config(), town / "there", on_error="skip", run=ClusterExecutor(cluster)) == made


def test_a_scene_that_fails_is_named_and_nothing_is_left(cluster, town):
    labels = np.zeros((128, 160), np.uint8)
    labels[5, :7] = 99
    write(town / "b_labels.tif", labels, PLACES["b"])
    before = {path.name for path in town.iterdir()}
    for run in ({}, {"run": ClusterExecutor(cluster)}):
        with pytest.raises(LabelError, match=r"99 \(7 px\).* is in scene b"):
            tile(config(), town / "tiles", **run)
    overwrite(str(town / "c_dsm.tif"), 0, 1)
    write(town / "b_labels.tif", labels * 0, PLACES["b"])
    with pytest.raises(InputError, match=r"c_dsm\.tif"):
        tile(config(), town / "tiles", run=ClusterExecutor(cluster))
    assert {path.name for path in town.iterdir()} == before


def test_scores_are_those_of_one_process(cluster, town, monkeypatch):
    monkeypatch.setattr(reference, "_BLOCK", 50)
    run, settings = ClusterExecutor(cluster), CountSettings(erode=1, distances=(2, 3), block=32)
    for options in ({}, {"split": "validation"}, {"settings": settings}):
        here = evaluate_scenes("maps", config(), **options).as_json(True)
        there = evaluate_scenes("maps", config(), **options, run=run).as_json(True)
        assert json.dumps(there) == json.dumps(here)
    names = "maps/{id}_ortho.tif", "{id}_labels.tif"
    here = evaluate_pairs(*names, classes=TABLE).as_json()
    assert evaluate_pairs(*names, classes=TABLE, run=run).as_json() == here
    areas = measure_areas("maps", classes=TABLE)
    assert measure_areas("maps", classes=TABLE, run=run) == areas


def test_a_map_that_cannot_be_scored_is_named(cluster, town):
    write(town / "maps" / "b_ortho.tif", np.full((128, 160), 7, np.uint8), PLACES["b"])
    with pytest.raises(LabelError, match=r"b_ortho.tif holds the value 7"):
        evaluate_scenes("maps", config(), run=ClusterExecutor(cluster))


def test_what_a_worker_does_not_see_is_named(cluster, town, monkeypatch):
    run = ClusterExecutor(cluster)
    run.check(["a_ortho.tif", "/vsicurl/http://nowhere/x.tif"], town)
    monkeypatch.setattr(run, "_folder", "/nowhere")
    with pytest.raises(InputError, match=r"worker tcp://.* does not see /nowhere: .* share"):
        run.check(["a_ortho.tif"])
    monkeypatch.setattr("cafe_cli.cluster.checks._sees", tasks.sees_nothing)
    monkeypatch.setattr(run, "_folder", str(town))
    with pytest.raises(OutputError, match=rf"worker tcp://.* does not see {town}: write to"):
        run.check([], town)


def test_an_error_of_an_item_is_raised(cluster):
    batch = Batch(partial(tasks.opened_with, "text"), tasks.add_slowly, [1])
    with pytest.raises(CafeError, match="TypeError"):
        list(run_batch(ClusterExecutor(cluster), batch))


@pytest.mark.parametrize("command", ["tile", "evaluate"])
def test_commands_run_on_local_workers(town, command, invoke):
    (town / "site.toml").write_text(json_as_toml())
    words = {
        "tile": ["tile", "-c", "site.toml", "-o", "tiles"],
        "evaluate": ["evaluate", "maps", "-c", "site.toml", "--json", "--areas", "areas.csv",
                     "--min-miou", "0.1"],
    }[command]  # fmt: skip
    code, said = invoke(*words, "--workers", "2")
    assert code == 0, said.err
    if command == "evaluate":
        assert json.loads(said.out)["pixels"] == 3 * 160 * 128
        assert (town / "areas.csv").exists()
    else:
        assert (town / "tiles" / "tileset.json").exists()


def json_as_toml():
    classes = "".join(f'[[classes]]\nid = {c.id}\nname = "{c.name}"\n' for c in TABLE)
    return (
        'root = "."\n[scenes]\noptical = "{id}_ortho.tif"\nlabels = "{id}_labels.tif"\n'
        f"[tile]\nsize = 32\noverlap = 0\n{classes}"
    )


@pytest.mark.parametrize(
    "words", [["tile", "-o", "tiles"], ["evaluate", "maps"]], ids=["tile", "evaluate"]
)
def test_no_scheduler_is_one_line(town, words, monkeypatch, invoke):
    (town / "site.toml").write_text(json_as_toml())
    monkeypatch.setattr(connection, "_ANSWER", 0.5)
    code, said = invoke(*words, "-c", "site.toml", "--scheduler", "tcp://127.0.0.1:9")
    assert code == 1
    assert "no Dask scheduler answers at tcp://127.0.0.1:9" in said.err
