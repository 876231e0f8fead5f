import logging
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rasterio

from cafe_cli.cluster import checks
from cafe_cli.cluster.job import ClusterOptions
from cafe_cli.cluster.worker import WorkerFacts, check_versions
from cafe_cli.config.schema import PredictSettings
from cafe_cli.errors import (
    CafeError,
    ConfigError,
    InputError,
    ModelFileError,
    OutputError,
    PartialFailureError,
)
from cafe_cli.inference import exchange, on_cluster, on_workers, tiling
from cafe_cli.inference import predict as engine
from cafe_cli.inference.job import ComputeOptions, PredictInput, PredictOutput
from cafe_cli.inference.journal import StripFile
from cafe_cli.inference.on_workers import Place
from cafe_cli.inference.strip_store import (
    WrittenStrip,
    strip_name,
    strips_folder,
    write_strip,
)
from cafe_cli.inference.throughput import Meter
from cafe_cli.raster.product import label_product
from cafe_cli.raster.window import Window
from tests.support.dask_cluster import dask_processes
from tests.support.engines import TABLE, write_town
from tests.support.rasters import grid

pytest.importorskip("distributed")
pytest_plugins = ["tests.support.fixtures", "tests.support.programs"]
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

SETTINGS = PredictSettings(window=64, overlap=32, engine="torch")


@pytest.fixture(scope="module")
def processes(tmp_path_factory):
    with dask_processes(2, tmp_path_factory.mktemp("dask")) as started:
        yield started


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    folder = tmp_path_factory.mktemp("large")
    write_town(folder, "c", 220, 160, seed=3)
    return PredictInput((str(folder / "c_ortho.tif"),), (str(folder / "c_dsm.tif"),))


@pytest.fixture(autouse=True)
def _many_strips(monkeypatch):
    monkeypatch.setattr(tiling, "_STRIP", 1)
    monkeypatch.setattr(tiling, "_MEMORY", 300_000)  # two column bands


def predict(model, source, outputs, address=None, scratch=None, **changes):
    cluster = ClusterOptions(scheduler=address, scratch=scratch) if address else None
    run = engine.predict_per_file if changes.pop("per_file", False) else engine.predict
    settings = SETTINGS.model_copy(update=changes)
    return run(
        [model], source, outputs, settings=settings, compute=ComputeOptions("cpu"), cluster=cluster
    )


def products(folder: Path) -> PredictOutput:
    names = ("labels", "confidence", "probabilities", "quality")
    return PredictOutput(**{name: folder / f"{name}.tif" for name in names})


def test_map_is_the_same_to_the_byte(model, scene, processes, tmp_path):
    meter = predict(model, scene, products(tmp_path / "one"))
    found = predict(model, scene, products(tmp_path / "many"), processes.address)
    one, many = (
        {path.name: path.read_bytes() for path in (tmp_path / folder).iterdir()}
        for folder in ("one", "many")
    )
    assert many == one
    assert len(one) > 8  # with settings, styles and attribute tables
    assert (found.windows, found.pixels, found.written) == (meter.windows, meter.pixels, 1)
    assert found.run >= meter.run  # parts of the scene have windows in common


def test_strips_come_through_a_scratch_folder(model, scene, processes, tmp_path):
    predict(model, scene, PredictOutput(tmp_path / "one.tif"))
    scratch = tmp_path / "scratch"
    predict(model, scene, PredictOutput(tmp_path / "a.tif"), processes.address, str(scratch))
    assert (tmp_path / "a.tif").read_bytes() == (tmp_path / "one.tif").read_bytes()
    assert [*scratch.iterdir()] == []


def test_strips_come_through_an_object_store(model, scene, object_store, tmp_path, monkeypatch):
    import boto3

    environment = {
        "AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": f"http://{object_store}", "NO_PROXY": "127.0.0.1",
    }  # fmt: skip
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    client = boto3.client("s3", region_name="us-east-1")
    client.create_bucket(Bucket="strips")
    predict(model, scene, PredictOutput(tmp_path / "one.tif"))
    with dask_processes(1, tmp_path) as processes:
        outputs = PredictOutput(tmp_path / "two.tif")
        predict(model, scene, outputs, processes.address, "s3://strips/some/prefix")
    assert (tmp_path / "two.tif").read_bytes() == (tmp_path / "one.tif").read_bytes()
    assert client.list_objects_v2(Bucket="strips")["KeyCount"] == 0


def test_object_store_that_refuses_is_one_line(tmp_path, object_store, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{object_store}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    place = exchange.exchange_at("s3://no-such-bucket/x", tmp_path, "run")
    with pytest.raises(OutputError, match="cannot use s3://no-such-bucket/x/run for strips"):
        place.take("a.tif", 1, tmp_path / "a.tif")
    with pytest.raises(OutputError, match="cannot use"), place.writing() as folder:
        (folder / "a.tif").write_bytes(b"x")


def test_object_store_without_its_library_names_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "obstore", None)
    monkeypatch.setitem(sys.modules, "obstore.store", None)
    with pytest.raises(CafeError, match=r"pip install '\.\[dask\]'"):
        exchange.exchange_at("s3://bucket/x", tmp_path, "run").clear()


def test_gdal_name_is_no_scratch(tmp_path):
    with pytest.raises(ConfigError, match="s3://bucket/prefix"):
        exchange.exchange_at("/vsis3/bucket/x", tmp_path, "run")


def test_worker_that_is_killed_costs_nothing(model, scene, processes, tmp_path, monkeypatch):
    predict(model, scene, PredictOutput(tmp_path / "one.tif"))
    taken = []
    take = on_cluster.ClusterPredictor._take

    def kill_after_the_second(self, outcome, progress):
        taken.append(outcome.task.name)
        if len(taken) == 2:
            processes.kill_worker(1)
        take(self, outcome, progress)

    monkeypatch.setattr(on_cluster.ClusterPredictor, "_take", kill_after_the_second)
    predict(model, scene, PredictOutput(tmp_path / "two.tif"), processes.address)
    assert (tmp_path / "two.tif").read_bytes() == (tmp_path / "one.tif").read_bytes()
    assert len(taken) == len(set(taken)) > 2


def test_run_that_was_interrupted_is_resumed(model, scene, processes, tmp_path, monkeypatch):
    predict(model, scene, PredictOutput(tmp_path / "one.tif"))
    take, taken = on_cluster.ClusterPredictor._take, []

    def interrupt(self, outcome, progress):
        take(self, outcome, progress)
        taken.append(outcome)
        if len(taken) == 3:
            raise KeyboardInterrupt

    outputs = PredictOutput(tmp_path / "two.tif")
    with monkeypatch.context() as patch:
        patch.setattr(on_cluster.ClusterPredictor, "_take", interrupt)
        with pytest.raises(KeyboardInterrupt):
            predict(model, scene, outputs, processes.address)
    assert not outputs.labels.exists()
    with pytest.raises(OutputError, match="an interrupted run left"):
        predict(model, scene, outputs, processes.address)
    # Here or there: a run may go on without the cluster, and the other way round.
    meter = predict(model, scene, replace(outputs, resume=True))
    assert meter.pixels < 300 * 200
    assert outputs.labels.read_bytes() == (tmp_path / "one.tif").read_bytes()
    again = predict(model, scene, replace(outputs, resume=True), processes.address)
    assert (again.written, again.run) == (0, 0)


@pytest.mark.parametrize("files", [1, 10**9])  # of the last, two scenes are open at a time
def test_scenes_are_one_graph_and_one_that_fails_leaves_the_others(
    model, scene, scenes, processes, tmp_path, caplog, monkeypatch, files
):
    monkeypatch.setattr(on_cluster, "_FILES", files)
    broken = tmp_path / "broken.tif"
    broken.write_bytes((scenes / "a_ortho.tif").read_bytes()[:20_000])
    optical = (*scene.optical, str(broken), str(scenes / "b_ortho.tif"))
    source = PredictInput(optical, ignore_mismatch=True)
    with pytest.raises(PartialFailureError, match=r"1 of 3 orthophotos failed: .*broken\.tif"):
        predict(model, source, PredictOutput(tmp_path / "here"), per_file=True)
    said = [r.getMessage() for r in caplog.records if r.levelno == logging.ERROR]
    caplog.clear()
    with pytest.raises(PartialFailureError, match=r"1 of 3 orthophotos failed: .*broken\.tif"):
        predict(model, source, PredictOutput(tmp_path / "there"), processes.address, per_file=True)
    assert [r.getMessage() for r in caplog.records if r.levelno == logging.ERROR] == said
    for name in ("c_ortho.tif", "b_ortho.tif"):
        here, there = (tmp_path / folder / name for folder in ("here", "there"))
        assert here.read_bytes() == there.read_bytes()


def test_what_cannot_be_read_is_skipped_and_counted_alike(model, scene, processes, tmp_path):
    broken = tmp_path / "broken.tif"
    with rasterio.open(scene.optical[0]) as source:
        blocks = {"tiled": True, "blockxsize": 64, "blockysize": 64, "compress": "deflate"}
        profile = {**source.profile, **blocks}
        with rasterio.open(broken, "w", **profile) as target:
            target.write(source.read())
    content = bytearray(broken.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 5000] = b"\xff" * 5000
    broken.write_bytes(content)
    source = replace(scene, optical=(str(broken),), on_error="skip", ignore_mismatch=True)
    here = predict(model, source, PredictOutput(tmp_path / "here.tif"))
    there = predict(model, source, PredictOutput(tmp_path / "there.tif"), processes.address)
    assert there.skipped == here.skipped
    assert len(here.skipped) == 1
    assert (tmp_path / "there.tif").read_bytes() == (tmp_path / "here.tif").read_bytes()


def test_folder_that_workers_do_not_see_is_said_at_once(
    model, scene, processes, tmp_path, monkeypatch
):
    monkeypatch.setattr(checks, "write_text", lambda path, text: None)
    with pytest.raises(OutputError, match=r"does not see .*--scratch"):
        predict(model, scene, PredictOutput(tmp_path / "map.tif"), processes.address)
    assert [*tmp_path.iterdir()] == []


def test_input_that_is_another_file_on_a_worker_is_refused(model, scene, tmp_path, monkeypatch):
    plan = planned(model, scene, tmp_path)
    name = scene.optical[0]
    stamps = {**plan.inputs.stamps, name: (1, 1)}
    changed = replace(plan, inputs=replace(plan.inputs, stamps=stamps))
    host = WorkerFacts("0.1", "node7", "3", 2)
    monkeypatch.setattr(on_workers, "describe", lambda: host)
    on_workers._check_inputs(plan)
    monkeypatch.setattr(on_workers, "_checked", set())
    with pytest.raises(InputError, match=r"worker on node7 finds another file as .*c_ortho"):
        on_workers._check_inputs(changed)
    gone = {**plan.inputs.stamps, "/elsewhere/x.tif": (1, 1)}
    with pytest.raises(InputError, match=r"worker on node7 does not find /elsewhere/x\.tif"):
        on_workers._check_inputs(replace(plan, inputs=replace(plan.inputs, stamps=gone)))


def test_worker_that_is_late_does_not_bring_back_the_folder_of_the_strips(tmp_path):
    product = label_product(tmp_path / "map.tif", TABLE)
    extent, gone = Window(0, 0, 64, 64), tmp_path / "gone"
    planes = {"labels": np.zeros((1, 64, 64), np.uint8)}
    with pytest.raises((OutputError, OSError)):
        write_strip(gone, [product], grid(64, 64), extent, planes)
    assert not gone.exists()


@pytest.mark.parametrize(
    ("name", "device"),
    [
        ("0", "cuda:0"),
        ("5", "cuda:1"),
        ("tcp://h:83", "cuda:1"),
        ("tcp://h:83/", "cuda:1"),
        ("SLURMCluster-1", "cuda:1"),  # of dask-jobqueue
        ("SLURMCluster-12", "cuda:0"),
        ("cafe-default-worker-7f3b", "cuda:1"),  # of the operator for Kubernetes
        ("worker", "cuda:0"),
    ],
)
def test_workers_of_a_machine_take_turns_with_its_gpus(name, device, monkeypatch):
    gpus = {"all": ["cuda:0", "cuda:1"], "auto": ["cuda:0"], "cuda:7": ["cuda:7"], "cpu": ["cpu"]}
    monkeypatch.setattr(on_workers, "choose_devices", gpus.__getitem__)
    monkeypatch.setattr(on_workers, "describe", lambda: WorkerFacts("0.1", "h", name, 2))
    assert on_workers._own_device("auto") == on_workers._own_device("all") == device
    assert on_workers._own_device("cuda:7") == "cuda:7"
    assert on_workers._own_device("cpu") == "cpu"


def test_model_that_a_worker_lacks_is_named(model, tmp_path, monkeypatch):
    monkeypatch.setattr(on_workers, "describe", lambda: WorkerFacts("0.1", "node7", "0", 2))
    with pytest.raises(ModelFileError, match=r"worker on node7 does not find .*none\.safetensors"):
        on_workers.look_around([tmp_path / "none.safetensors"], ["0"], "cpu")
    with pytest.raises(ModelFileError, match="another file on the worker on node7"):
        on_workers.look_around([model], ["0"], "cpu")


def test_task_of_a_worker_writes_its_strips_for_the_store_to_take(
    model, scene, tmp_path, monkeypatch
):
    monkeypatch.setattr(on_workers, "describe", lambda: WorkerFacts("0.1", "h", "0", 2))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    on_workers._predictor.cache_clear()
    predict(model, scene, PredictOutput(tmp_path / "one.tif"))
    predictor = engine.Predictor([model], SETTINGS, ComputeOptions("cpu"))
    scene_input = engine.SceneInput.of(scene, predictor.ensemble)
    plan = predictor.plan(scene_input, PredictOutput(tmp_path / "map.tif"))
    hashes = tuple(digest for _, digest in predictor.ensemble.hashes)
    job = on_workers.WorkerJob((model,), hashes, SETTINGS, ComputeOptions("cpu"), 1, 1)
    place = on_workers.look_around((model,), hashes, "cpu")
    assert (place.device, bool(place.versions["numpy"])) == ("cpu", True)
    prepared = on_workers.prepare_scene(job, plan)
    meter = Meter(plan.window_count)
    with predictor.open_store(plan) as store:
        ways = exchange.FolderExchange(strips_folder(plan.outputs.labels))
        for group in tiling.contiguous_groups(plan.strips, 3):
            part = on_workers.run_strips(prepared, job, group, ways)
            assert [strip.window for strip, _ in part.strips] == [
                plan.in_outputs(strip.extent) for strip in group
            ]
            for strip, keep in part.strips:
                store.accept(strip, ways, keep)
            meter.add(part.windows, part.run, part.pixels)
        predictor.complete(plan, store, meter)
    assert (tmp_path / "map.tif").read_bytes() == (tmp_path / "one.tif").read_bytes()
    on_workers._predictor.cache_clear()


def test_strip_that_arrives_damaged_is_refused(model, scene, tmp_path):
    plan = planned(model, scene, tmp_path)
    folder = strips_folder(plan.outputs.labels)
    window = plan.in_outputs(plan.strips[0].extent)
    strip = WrittenStrip(window, {"labels": StripFile(5, 1)}, "mark")
    predictor = engine.Predictor([model], SETTINGS, ComputeOptions("cpu"))
    with predictor.open_store(plan) as store:
        (folder / strip_name("labels", window, "mark")).write_bytes(b"other")
        with pytest.raises(OutputError, match="did not arrive as the worker wrote them"):
            store.accept(strip, exchange.FolderExchange(folder))


def planned(model, scene, folder):
    predictor = engine.Predictor([model], SETTINGS, ComputeOptions("cpu"))
    scene_input = engine.SceneInput.of(scene, predictor.ensemble)
    return predictor.plan(scene_input, PredictOutput(folder / "map.tif"))


def test_workers_of_another_version_are_refused():
    facts = {"a": WorkerFacts("0.0.1", "node7", "0", 4)}
    with pytest.raises(CafeError, match=r"node7 has cafe 0\.0\.1, this is"):
        check_versions(facts)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (Place("cuda", {"torch": "2.5"}), "a computes on cpu, b on cuda"),
        (Place("cpu", {"torch": "2.6"}), r"a has torch 2\.5, b 2\.6"),
        (Place("cpu", {"torch": ""}), r"a has torch 2\.5, b \(none\)"),
    ],
)
def test_workers_that_differ_are_refused(other, message):
    place = Place("cpu", {"torch": "2.5"})
    assert on_cluster.common_place({"a": place, "b": place}) == place
    with pytest.raises(ConfigError, match=message):
        on_cluster.common_place({"a": place, "b": other})


def test_file_that_never_arrives_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(checks, "_ARRIVAL", 0.1)
    with pytest.raises(OutputError, match="all machines have to see"):
        exchange.FolderExchange(tmp_path).take("0.tif", 1, tmp_path / "target.tif")
