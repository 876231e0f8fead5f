"""`benchmarks/faults`: that faults are injected, and that a loss would be noticed."""

import csv
import json
import random
import shutil
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from tests.support.rasters import grid, write

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT))
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc"),
]
program = pytest.importorskip("benchmarks.faults.__main__", reason="no benchmarks in this copy")
cases = pytest.importorskip("benchmarks.faults.cases")
inject = pytest.importorskip("benchmarks.faults.inject")
outputs = pytest.importorskip("benchmarks.faults.outputs")
process = pytest.importorskip("benchmarks.faults.process")
report = pytest.importorskip("benchmarks.faults.report")
soak = pytest.importorskip("benchmarks.faults.soak")
trials = pytest.importorskip("benchmarks.faults.trial")

MOSAIC = next(case for case in cases.CASES if case.name == "mosaic")


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    return cases.make_inputs(tmp_path_factory.mktemp("faults") / "inputs")


@pytest.fixture
def trial(inputs, tmp_path):
    return trials.Trial(MOSAIC, inputs, tmp_path / "mosaic", random.Random(0))


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "here").mkdir()
    return tmp_path / "here"


def test_kills_of_the_fastest_command(inputs, tmp_path, monkeypatch, capsys):
    shutil.copytree(inputs, tmp_path / "out" / "inputs")
    words = [str(tmp_path / "out"), "--kills", "2", "--only", "mosaic", "--faults", "kill"]
    monkeypatch.setattr(sys, "argv", ["faults", *words])
    assert program.main() == 0
    rows = report.read(tmp_path / "out")
    assert [(row["fault"], row["case"], row["old"], row["lost"]) for row in rows] == [
        ("SIGKILL", "mosaic", False, []),
        ("SIGKILL", "mosaic", True, []),
    ]
    assert "| SIGKILL | mosaic | 2 | 2 | 0 |" in capsys.readouterr().out


def test_a_command_that_fails_without_a_fault_is_no_survivor(trial):
    (trial.inputs / "gone.tif").unlink(missing_ok=True)
    case = cases.Case("mosaic", ("mosaic", "gone.tif", "-o", "map.tif"), MOSAIC.other)
    trial.case = case
    with pytest.raises(trials.BenchmarkError, match=r"mosaic: .*gone\.tif"):
        trial.measure()


@pytest.fixture
def known(trial, folder):
    """A trial whose inputs are ``in.tif``; the old output is ``set/a``, the new ``set/b``."""
    (folder / "in.tif").write_bytes(b"in")
    trial.before = outputs.contents(folder)
    for name, kept in (("a", "old"), ("b", "new")):
        shutil.rmtree(folder / "set", ignore_errors=True)
        (folder / "set").mkdir()
        (folder / "set" / name).write_bytes(name.encode())
        setattr(trial, kept, outputs.contents(folder))
    return trial


def test_what_is_new_is_whole(known, folder):
    assert known.torn(folder, False) == []


@pytest.mark.parametrize("old", [False, True])
def test_what_is_old_is_whole_only_where_it_was(known, folder, old):
    (folder / "set" / "b").rename(folder / "set" / "a")
    (folder / "set" / "a").write_bytes(b"a")
    assert known.torn(folder, old) == ([] if old else ["set is neither old nor new"])


@pytest.mark.parametrize("spoil", ["cut", "mixed", "changed", "removed", "more"])
def test_a_loss_is_noticed(known, folder, spoil):
    told = "set is neither old nor new"
    if spoil == "cut":
        (folder / "set" / "b").write_bytes(b"")
    elif spoil == "mixed":
        (folder / "set" / "a").write_bytes(b"a")
    elif spoil == "changed":
        (folder / "in.tif").write_bytes(b"IN")
        told = "input in.tif changed"
    elif spoil == "removed":
        (folder / "in.tif").unlink()
        told = "input in.tif changed"
    else:
        (folder / "other").touch()
        told = "other is neither old nor new"
    assert known.torn(folder, True) == [told]


def test_litter_is_noticed_but_what_is_needed_to_finish_is_none(known, folder):
    assert known.litter(folder) == []
    (folder / ".map.partial.tif").touch()
    (folder / "set" / ".lock").touch()
    assert known.litter(folder) == [".map.partial.tif is left", "set/.lock is left"]
    (folder / ".map.tif.replacing").touch()
    assert known.litter(folder) == []


def test_differences():
    found = outputs.differences({"a": "1", "b": "2", "c": "3"}, {"a": "1", "b": "0", "d": "4"})
    assert found == ["c is missing", "d is left over", "b differs"]


def write_files(folder: Path, seconds: float) -> None:
    save_file(
        {"w": np.arange(4.0)},
        folder / "m.safetensors",
        {"training": json.dumps({"history": [{"epoch": 1, "seconds": seconds}]})},
    )
    with (folder / "history.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["epoch", "loss", "seconds"], [1, 0.5, seconds]])
    (folder / "a.gpkg").write_text(f"A 2026-01-01T00:00:0{seconds}00Z B")
    (folder / f"events.out.tfevents.{seconds}").write_text(str(seconds))
    (folder / "config.toml").write_text(f'root = "{folder}"')


def test_times_and_the_folder_do_not_count(tmp_path):
    for name, seconds in (("one", 1.0), ("two", 2.0)):
        (tmp_path / name).mkdir()
        write_files(tmp_path / name, seconds)
    one, two = outputs.contents(tmp_path / "one"), outputs.contents(tmp_path / "two")
    assert one == two
    assert len(one) == 5


@pytest.mark.parametrize("name", ["m.safetensors", "history.csv", "config.toml", "a.gpkg"])
def test_all_else_does(folder, name):
    write_files(folder, 1.0)
    before = outputs.contents(folder)
    if name == "m.safetensors":
        save_file({"w": np.arange(1, 5.0)}, folder / name, {"training": "{}"})
    else:
        (folder / name).write_text((folder / name).read_text().replace("o", "a").replace("B", "C"))
    assert outputs.differences(before, outputs.contents(folder)) == [f"{name} differs"]


@pytest.mark.parametrize("name", ["a.tif", "m.safetensors", "s.json", "h.csv", "r.html"])
def test_a_file_that_is_cut_off_does_not_open(folder, name):
    path = folder / name
    if name == "a.tif":
        write(path, np.ones((90, 90), np.uint8), grid(90, 90))
    elif name == "m.safetensors":
        save_file({"w": np.arange(9.0)}, path)
    else:
        path.write_text({"s.json": '{"a": 1}\n', "h.csv": "a,b\n1,2\n"}.get(name, "</html>\n"))
    assert outputs.opens(path)
    path.write_bytes(path.read_bytes()[:-3])
    assert not outputs.opens(path)


def ended(code: int, *lines: str, children: int = 0):
    return process.Ended(code, list(lines), b"", children)


def test_how_a_command_has_to_end():
    assert trials.one_line(ended(1, "Warning: w", "Error: full"), [1]) == []
    assert trials.one_line(ended(0, "wrote a"), [0, 1]) == []
    assert trials.one_line(ended(2, "Error: no"), [1]) == ["exit code 2 instead of 1: Error: no"]
    assert trials.one_line(ended(1, "oh"), [1]) == ["0 error lines: oh"]
    assert trials.one_line(ended(1, "oh"), [1], says=False) == []
    raised = ended(1, "Traceback (most recent call last):", "OSError: no", children=2)
    assert trials.one_line(raised, [1]) == ["a traceback: OSError: no", "2 processes left"]


@pytest.mark.parametrize("group", [False, True])
@pytest.mark.parametrize("anew", [False, True])
def test_a_run_is_killed(trial, anew, group):
    trial.work.mkdir()
    run = process.Run(MOSAIC.words, trial.fresh(False), anew=anew)
    run.send(signal.SIGKILL, group=group)
    found = run.end(60)
    assert (found.code, found.children, run.alive) == (137, 0, False)
    assert list(process.session(run.pid)) == []


def test_table(tmp_path):
    rows = [
        {"case": "tile", "fault": "SIGKILL", "lost": [], "locks": 1},
        {"case": "tile", "fault": "SIGKILL", "lost": ["a is torn"], "locks": 0},
        {"case": "tile", "fault": "SIGINT", "lost": [], "stop": 0.26},
        {"case": "tile", "fault": "EIO", "lost": [], "skipped": "no strace"},
    ]
    for row in rows:
        report.add(tmp_path, row)
    with (tmp_path / report.RESULTS).open("a") as file:
        file.write('{"case": "ti')
    assert report.read(tmp_path) == rows
    assert report.table(rows).splitlines()[2:] == [
        "| SIGKILL | tile | 2 | 1 | 1 | 1 left a lock, taken over |",
        "| SIGINT | tile | 1 | 1 | 0 | stopped after 0.3 s at most |",
        "| EIO | tile | 0 | | | skipped: no strace |",
        "",
        "Lost:",
        "- SIGKILL, tile: a is torn",
    ]


def test_growth_of_memory_after_the_first_third():
    times = [float(s) for s in range(90)]
    samples = soak.Samples(times, [100 + 10 * min(s, 30) + s / 60 for s in times], [9] * 90)
    assert samples.figures() == {
        "seconds": 89.0,
        "peak_mb": 401,
        "slope_mb_per_minute": 1.0,
        "growth_mb": 1.0,
        "files": [9, 9],
    }
