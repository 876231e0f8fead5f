"""`benchmarks/gpu.sh`: every part runs, so that the first call on a GPU does not fail on a typo.

Parts run on the CPU with tiny numbers. Where the code asks for a GPU, functions of `torch.cuda` are
replaced: what they return is nothing to measure, but every line for GPUs is executed.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT))
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="a shell script"),
]
program = pytest.importorskip("benchmarks.gpu.__main__", reason="no benchmarks in this copy")
agreement = pytest.importorskip("benchmarks.gpu.agreement")
parts = pytest.importorskip("benchmarks.gpu.part")
summary = pytest.importorskip("benchmarks.gpu.summary")
timing = pytest.importorskip("benchmarks.gpu.timing")
training = pytest.importorskip("benchmarks.gpu.training")


def read(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def files(folder):
    return {path for path in folder.rglob("*") if "__pycache__" not in path.parts}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Call the script as a user does, for the part that makes what all others need."""
    folder = tmp_path_factory.mktemp("gpu")
    words = [str(folder / "out"), "--device", "cpu", "--tiny", "--budget", "900"]
    words += ["--parts", "scenes", "--work", str(folder / "work")]
    before = files(ROOT / "benchmarks") | files(ROOT / "sample_data")
    done = subprocess.run(
        ["bash", str(ROOT / "benchmarks" / "gpu.sh"), *words],
        env={**os.environ, "PYTHON": sys.executable}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "| scenes | done |" in done.stdout
    assert files(ROOT / "benchmarks") | files(ROOT / "sample_data") == before
    return folder


@pytest.fixture
def run(made, tmp_path):
    """Return a function that does a part in this process and returns its measurements."""

    def run(name):
        part = parts.Part(
            name, "cpu", tmp_path, made / "work", parts.TINY, time.monotonic() + 10_000
        )
        module = program.PARTS[name].module
        getattr(__import__(f"benchmarks.gpu.{module}", fromlist=[name]), name)(part)
        return read(tmp_path / f"{name}.jsonl")

    return run


@pytest.fixture
def pretended(monkeypatch):
    """Make the benchmark, not cafe, take the CPU for a GPU; return the memory fractions set."""
    numbers = {
        "max_memory_allocated": 3_000_000, "max_memory_reserved": 4_000_000,
        "memory_allocated": 1_000_000, "memory_reserved": 2_000_000,
        "mem_get_info": (50_000_000_000, 80_000_000_000),
        "synchronize": None, "empty_cache": None, "reset_peak_memory_stats": None,
    }  # fmt: skip
    for name, value in numbers.items():
        monkeypatch.setattr(torch.cuda, name, lambda *_, value=value: value)
    fractions = []
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", fractions.append)
    monkeypatch.setattr(timing, "is_gpu", lambda device: True)
    monkeypatch.setattr(parts.Part, "on_gpu", property(lambda part: True))
    return fractions


def test_scenes_are_those_that_were_asked_for(made):
    whats = [row["what"] for row in read(made / "out" / "scenes.jsonl")]
    assert whats == ["town drawn", "scenes written", "cafe tile --virtual"]
    assert read(made / "out" / "scenes.jsonl")[1]["side"] == 160


def test_predict(run, pretended):
    rows = run("predict")
    whole = [row for row in rows if row["what"] == "cafe predict"]
    assert [row.get("run") for row in whole] == [1, 2, 3, None, None, None]
    assert whole[3]["jobs"] == 1
    assert whole[4]["cuda_graphs"]
    assert whole[5]["ground"] == "estimate"
    assert {row["windows"] for row in whole} == {16}
    assert all(row["of_forward"] > 0 and row["used_mb"] == 3 for row in whole)
    forward = [row["batch"] for row in rows if row["what"] == "forward pass"]
    assert forward == [1, 1, 1, 4, 16, 64]
    assert any(row["what"] == "the whole command" for row in rows)


def test_heavy(run, pretended):
    rows = run("heavy")
    assert [row["encoder"] for row in rows] == ["resnet18"] * 3


def test_train(run, pretended):
    rows = run("train")
    trained = [row for row in rows if row["what"] == "cafe train"]
    assert [row["asked"] for row in trained] == [2, "auto"]
    assert trained[1]["batch"] == 8  # what "auto" is on a CPU
    assert all(row["of_bare_step"] > 0 and row["data_wait"] >= 0 for row in trained)
    assert [row["what"] for row in rows].count("bare step") == 3


def test_compile(run, pretended, monkeypatch):
    compiled = []
    monkeypatch.setattr(training, "compile_encoders", compiled.append)
    rows = run("compile")
    assert [(row["batch"], row["compiled"]) for row in rows] == [(2, False), (2, True)]
    assert len(compiled) == 1


def test_same(run):
    rows = run("same")
    trained = [row for row in rows if row["what"] == "training on sample_data"]
    assert [row["precision"] for row in trained] == ["32-true", "auto"]
    assert trained[1]["losses_apart"] == [0]
    maps = {row["what"]: row["equal"] for row in rows if "map" in row["what"]}
    assert maps == {"map of sample_data": 1, "map by the network trained on the GPU": 1}


def test_same_in_two_precisions(monkeypatch, tmp_path):
    """A GPU with bf16 maps twice, once as cafe does and once without."""
    import numpy as np

    seen = []

    def draw(part, model, device, name):
        seen.append((device, name, agreement.arrays.has_native_bf16(torch.device("cpu"))))
        image = np.full((2, 5), name == "float32", np.uint8)
        return image, image

    monkeypatch.setattr(agreement, "sample_map", draw)
    monkeypatch.setattr(agreement, "has_native_bf16", lambda device: True)
    monkeypatch.setattr(agreement.arrays, "has_native_bf16", lambda device: True)
    part = parts.Part("same", "cpu", tmp_path, tmp_path, parts.TINY, time.monotonic() + 100)
    agreement.record_maps(part, tmp_path, tmp_path)
    names = ["wanted", "bf16", "float32", "other"]
    assert seen == [("cpu", name, name != "float32") for name in names]
    rows = read(tmp_path / "same.jsonl")
    assert [row["equal"] for row in rows] == [1, 0, 1]
    assert rows[1]["confidence_apart"] == 1


def test_a_training_that_fails_is_said(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", "raise SystemExit(3)"])
    failed = agreement.Trained("cuda", "auto", tmp_path, process)
    with pytest.raises(RuntimeError, match="cafe train on cuda failed with exit code 3"):
        failed.history()


def test_memory_on_a_cpu(run):
    rows = {row["what"]: row for row in run("memory")}
    assert rows["cafe predict, batch too large"] == {
        "what": "cafe predict, batch too large", "asked": 64, "batch": 4, "windows": 16,
        "handled": True, "error": "",
    }  # fmt: skip
    assert rows["cafe train, batch too large"]["handled"]


def test_memory_on_a_gpu(run, pretended, monkeypatch):
    monkeypatch.setattr(timing, "CDLL", Driver())
    rows = {row["what"]: row for row in run("memory")}
    assert rows["a window"]["mb"] == 2
    # Six windows of 2 MB more than the 2 MB that torch has, of 80 GB.
    assert pretended == [pytest.approx(14 / 80_000), 1.0]
    assert rows["cafe predict, GPU nearly full"]["handled"]
    assert not rows["cafe train, batch too large"]["handled"]  # there is memory after all
    assert rows["cafe train, GPU nearly full"]["batch"] == 8


def test_devices(run, pretended, monkeypatch):
    from cafe_cli.inference import predictor

    asked = []
    choose = predictor.choose_devices

    def choose_cpu(names):
        asked.append(names)
        return choose(names.replace("all", "cpu"))

    monkeypatch.setattr(predictor, "choose_devices", choose_cpu)
    rows = run("devices")
    assert asked == ["cpu", "cpu:0,cpu:0", "all"]
    assert [row["equal"] for row in rows] == [None, 1, 1]


class Driver:
    """The functions of libcuda that take and give back memory."""

    def __init__(self, code=0):
        self.code, self.taken, self.given_back = code, [], []

    def __call__(self, name):
        assert name == "libcuda.so.1"
        return self

    def cuMemAlloc_v2(self, pointer, size):  # noqa: N802
        self.taken.append(size.value)
        pointer._obj.value = 7
        return self.code

    def cuMemFree_v2(self, pointer):  # noqa: N802
        self.given_back.append(pointer.value)


@pytest.fixture
def driver(monkeypatch):
    driver = Driver()
    monkeypatch.setattr(timing, "CDLL", driver)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (900, 1000))
    return driver


def test_what_is_taken_of_a_gpu_leaves_what_was_asked_for(driver):
    with timing.nearly_full(200):
        assert driver.given_back == []
    with timing.nearly_full(2000):  # less is free already
        pass
    assert driver.taken == [700, 1]
    assert driver.given_back == [7, 7]


def test_a_gpu_that_cannot_be_filled_is_an_error(driver):
    driver.code = 2
    with pytest.raises(RuntimeError, match="no 700 bytes: CUDA error 2"), timing.nearly_full(200):
        pass


def options(tmp_path, *words):
    (tmp_path / "out").mkdir()
    return program.parse([str(tmp_path / "out"), "--device", "cpu", "--tiny", *words])


def test_a_part_that_fails_or_hangs_does_not_stop_the_next(tmp_path):
    asked = options(tmp_path)
    failed = program.start(asked, "devices", tmp_path, 600)  # there is no scene
    assert failed.startswith("failed: ")
    assert "model.safetensors" in failed
    assert program.start(asked, "devices", tmp_path, 0.2) == "cut off after 0 s"
    text = summary.renew(tmp_path / "out", {"devices": failed, "memory": "done"})
    assert f"| devices | {failed} |" in text
    assert text == (tmp_path / "out" / "summary.md").read_text()


def test_the_budget_ends_the_call(tmp_path, monkeypatch):
    now, given = [0.0], []

    def start(options, name, work, seconds):
        given.append((name, seconds))
        now[0] += seconds
        return "done"

    monkeypatch.setattr(program.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(program, "start", start)
    asked = program.parse([str(tmp_path), "--budget", "200"])
    ended = program.run_all(asked, tmp_path)
    # 60 s for the first, 110 for the second, and what is left but for 10 s for the third.
    assert given == [("scenes", 60), ("predict", 110), ("train", 20)]
    assert [*ended] == [*program.PARTS]
    assert ended["heavy"] == "no time was left"


def test_limits_of_parts_add_up(tmp_path):
    """What matters most fits into the budget, however long each part takes."""
    names = ("scenes", "predict", "train", "same", "memory", "devices")
    assert sum(program.PARTS[name].seconds for name in names) < 480 - 2 * program.GRACE


def test_measurements_without_time_are_left_out(tmp_path):
    part = parts.Part("predict", "cpu", tmp_path, tmp_path, parts.TINY, time.monotonic() + 5)
    assert part.has_time("a look", 1)
    assert not part.has_time("a long run", 60)
    assert read(tmp_path / "predict.jsonl")[0]["left_out"].endswith("s were left of 60")


def test_summary_says_which_goals_were_met(tmp_path):
    rows = {
        "predict": [
            {"what": "cafe predict", "of_forward": 1.4, "run": 1},
            {"what": "cafe predict", "of_forward": 1.1, "run": 3},
        ],
        "train": [
            {"what": "cafe train", "asked": 8, "of_bare_step": 0.9},
            {"what": "cafe train", "asked": "auto", "of_bare_step": 0.97},
        ],
        "same": [{"what": "map of sample_data", "equal": 0.9995, "precision": "bf16"}],
        "memory": [{"what": "cafe predict, batch too large", "handled": False}],
    }
    for name, values in rows.items():
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(v) + "\n" for v in values))
    text = summary.renew(tmp_path, dict.fromkeys(rows, "done"))
    lines = {line.split(" | ")[0].strip("| "): line for line in text.splitlines()}
    assert lines["predict: whole over forward pass"].endswith("| 1.1 | met |")
    assert lines["train: crops/s over the bare step, batch 8"].endswith("| 0.9 | **not met** |")
    assert lines["train: crops/s over the bare step, batch 32"].endswith("|  | not measured |")
    assert lines["train: crops/s over the bare step, batch auto"].endswith("| 0.97 | met |")
    assert lines["map on the GPU: labels as on the CPU"].endswith("| 0.9995 | met |")
    assert lines["predict: batch too large"].endswith("| False | **not met** |")
    assert "- cafe predict: of_forward 1.4, run 1" in text


def test_processes_that_draw_import_little():
    """Spawned ones import the main module again: torch would take most of the time."""
    code = "import sys, benchmarks.gpu.__main__, benchmarks.gpu.town\n"
    code += "sys.exit(any(name in sys.modules for name in ('torch', 'cafe_cli')))"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_goals_name_measurements_that_are_made():
    """A goal whose measurement is called otherwise would never be met."""
    sources = {work.module for work in program.PARTS.values()}
    text = "".join((ROOT / "benchmarks" / "gpu" / f"{name}.py").read_text() for name in sources)
    for goal in summary.GOALS:
        assert goal.part in program.PARTS
        assert f'"{goal.what}"' in text
        assert f"{goal.key}=" in text
