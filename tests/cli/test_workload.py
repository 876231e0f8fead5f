"""The sum that a dry run of `cafe predict` ends with, as text and as JSON."""

import json
import logging
import shutil
from pathlib import Path

import click
import pytest

from cafe_cli.cli import console
from cafe_cli.cli.workload import print_plans
from cafe_cli.findings import Finding, Report
from cafe_cli.inference.workload import Workload
from tests.support.engines import town, write

pytest_plugins = ["tests.support.fixtures"]

LARGE = Workload(
    scenes=1, pixels=10**10, windows=9048, computed_pixels=14_824_243_200, strips=1566, tasks=1566,
    read_bytes=28 * 10**9, egress_bytes=27 * 10**9, unsized_files=2, strip_bytes=10**10,
    output_bytes=13_333_363_334, worker_hours=10**10 / 2.5e6 / 3600,
)  # fmt: skip


@pytest.fixture
def here(tmp_path, monkeypatch, model) -> Path:
    """A working folder with a model and three images."""
    for name, height in (("a", 64), ("b", 96), ("c", 128)):
        write(tmp_path / f"{name}.tif", town(height, 64)[0])
    shutil.copy(model, tmp_path / "m.safetensors")
    monkeypatch.chdir(tmp_path)
    return tmp_path


WORDS = ["predict", "m.safetensors", "--per-file", "-o", "maps", "--dry-run"]
MANY = [*WORDS, "--optical", "[abc].tif"]


def test_json_is_one_object_with_the_sum(here, invoke):
    code, said = invoke(*MANY, "--json", "--rate", "0.001")
    found = json.loads(said.out)
    assert (code, found["ok"], len(found["scenes"])) == (0, True, 3)
    parts = [Workload.of_facts(scene["facts"]) for scene in found["scenes"]]
    total = found["total"]
    assert total["pixels"] == 64 * (64 + 96 + 128) == sum(part.pixels for part in parts)
    assert total["windows"] == sum(part.windows for part in parts)
    assert (total["scenes"], total["failed"], total["workers"]) == (3, 0, 1)
    assert (total["rate"], total["megapixels_per_second"]) == ("given", pytest.approx(0.001))
    assert total["worker_hours"] == total["hours"] == pytest.approx(64 * 288 / 1000 / 3600)
    assert "Mpx" not in said.err


def test_scenes_with_errors_are_counted_apart(here, invoke):
    (here / "b.tif").write_bytes(b"no raster")
    code, said = invoke(*MANY, "--json")
    found = json.loads(said.out)
    assert (code, found["ok"]) == (1, False)
    assert [scene["ok"] for scene in found["scenes"]] == [True, False, True]
    assert (found["total"]["scenes"], found["total"]["failed"]) == (2, 1)
    code, said = invoke(*MANY)
    assert code == 1
    assert "plan of 2 maps:\n  not counted  1 scene with errors\n" in said.err


def test_one_scene_has_the_same_form(here, invoke):
    words = ["predict", "m.safetensors", "--optical", "a.tif", "-o", "map.tif", "--dry-run"]
    found = json.loads(invoke(*words, "--json")[1].out)
    assert (len(found["scenes"]), found["total"]["pixels"]) == (1, 64 * 64)
    assert (found["total"]["rate"], found["total"]["worker_hours"]) == ("unknown", None)
    assert "plan of 1 map:\n  pixels       0.0041 Mpx" in invoke(*words)[1].err


def test_without_a_plan_there_is_no_sum(here, invoke):
    code, said = invoke(*WORDS, "--optical", "a.tif", "--bbox", "0", "0", "1", "1")
    assert code == 1
    assert "plan of" not in said.err


@pytest.mark.parametrize("given", ["0", "-1", "nan", "inf", "-inf", "fast", ""])
def test_a_rate_is_a_number_above_0(here, invoke, given):
    code, said = invoke(*MANY, f"--rate={given}")
    assert (code, said.err.count("\n")) == (2, 1)
    assert "'--rate'" in said.err


@pytest.mark.parametrize("words", [["--rate", "2"], ["--json"], ["--json", "--rate", "1e-3"]])
def test_what_is_for_dry_runs_only(here, invoke, words):
    code, said = invoke(*MANY[:-3], *MANY[-2:], *words)
    assert code == 2
    assert "is for --dry-run: add that, or leave it out" in said.err
    assert not (here / "maps").exists()


@pytest.fixture
def printed(capsys):
    """Return a function that prints reports: the lines on stderr."""

    def call(reports: list[Report], rate: float | None = None, workers: int = 1) -> list[str]:
        console.set_up_log(0)
        with click.Context(click.Command("predict")):
            print_plans(reports, False, rate, workers)
        return capsys.readouterr().err.splitlines()

    log = logging.getLogger("cafe")
    before = log.level, log.handlers
    yield call
    log.setLevel(before[0])
    log.handlers = before[1]


def test_the_sum_in_words(printed):
    reports = [Report("predict", {"workload": LARGE.as_json()})] * 100
    assert printed(reports, 2.5, 1000)[100:] == [
        "plan of 100 maps:",
        "  pixels       1,000,000 Mpx, of which 904,800 windows make 1,482,424 Mpx to compute",
        "  tasks        156,600 strips",
        "  time         111 h 06 min of one worker, at 2.5 Mpx/s; "
        "6 min 41 s with 1,000 that never wait",
        "  read         about 2.8 TB, 2.7 TB of it from servers (egress); files of unknown size "
        "(200) count uncompressed",
        "  storage      at most 1 TB of strips, until their map is complete, and 1.33 TB of maps "
        "(uncompressed)",
    ]


def test_a_measured_and_an_unknown_rate(printed):
    plan = Report("predict", {"workload": LARGE.as_json()})
    assert "at 2.5 Mpx/s, measured in the network alone" in "\n".join(printed([plan]))
    unknown = {**LARGE.as_json(), "worker_hours": None}
    lines = printed([plan, Report("predict", {"workload": unknown})])
    assert "  time         unknown: give the rate of a worker (--rate), " in "\n".join(lines)


def test_a_report_with_errors_ends_with_1(printed):
    broken = Report("predict", {}, [Finding("error", "no raster")])
    with pytest.raises(click.exceptions.Exit) as caught:
        printed([broken])
    assert caught.value.exit_code == 1


def test_any_number_of_workers_may_be_planned_for(here, invoke):
    code, said = invoke(*MANY, "--json", "--rate", "0.001", "--workers", "2")
    total = json.loads(said.out)["total"]
    assert (code, total["workers"], total["tasks"]) == (0, 2, 3)
    # Three maps of one task each: two workers take two of them one after the other.
    assert total["hours"] == pytest.approx(total["worker_hours"] / 3 * 2)
    assert "with 4,000 that never wait" in invoke(*MANY, "--rate", "1", "--workers", "4000")[1].err
