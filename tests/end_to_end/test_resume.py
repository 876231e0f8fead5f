"""Runs of `cafe predict` that are killed or interrupted, and how they are resumed.

The moments are system calls on files, of which Python's audit hooks are notified beforehand. Every
command is a process forked from a server that has imported everything already.
"""

import importlib
import multiprocessing
import os
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import rasterio

from cafe_cli.cli import main
from cafe_cli.inference import tiling
from cafe_cli.model import model_file
from tests.support import warm_cafe
from tests.support.engines import card_of, tiny_model, write_town

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform == "win32", reason="no fork, no signals"),
]

PREDICT = ("predict", "m.safetensors", "--optical", "a_ortho.tif", "--elevation", "a_dsm.tif")
MAP = ("-o", "map.tif", "--confidence", "sure.tif")
HOW = ("--device", "cpu", "--engine", "torch", "-j", "2", "--overlap", "0")
WORDS = (*PREDICT, *MAP, *HOW)
STRIPS = ".map.tif.strips"
CALLS = ("open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "shutil.rmtree")


@dataclass(frozen=True)
class Moment:
    """The `count`-th system call of this kind on a path with this end, and what happens then.

    Attributes
    ----------
    happens : str
        Name of a signal that the process gets; ``wait``: it writes a file `here` and continues
        once that is removed; or the size in bytes that no file may exceed from then on.
    """

    call: str
    path: str
    happens: str = "SIGKILL"
    count: int = 1


def watch(moment: Moment) -> None:
    """Install an audit hook that acts at a moment of this process."""
    met = []

    def hook(call, arguments):
        if call != moment.call or not str(arguments[0]).endswith(moment.path):
            return
        met.append(call)
        if len(met) == moment.count:
            happen(moment.happens)

    sys.addaudithook(hook)


def happen(what: str) -> None:
    if what == "wait":
        Path("here").touch()
        while Path("here").exists():
            time.sleep(0.01)
    elif what.isdecimal():
        import resource

        resource.setrlimit(resource.RLIMIT_FSIZE, (int(what), int(what)))
    else:
        os.kill(os.getpid(), signal.Signals[what])


def child(folder, words, said, moment) -> None:
    """Run the command in this process, with one row of windows per strip."""
    # A shell starts background jobs with SIGINT ignored, which processes hand on to their children.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.chdir(folder)
    os.dup2(os.open(said, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666), 2)
    tiling._STRIP = 1
    if moment:
        watch(moment)
    sys.argv = ["cafe", *words]
    main.main()


class Command:
    """A command in a process of its own."""

    def __init__(self, folder: Path, words, moment: Moment | None) -> None:
        context = multiprocessing.get_context("forkserver")
        # This module, too, in which a process looks for `child`: torch in each would take seconds.
        context.set_forkserver_preload([*warm_cafe.MODULES, "tests.end_to_end.test_resume"])
        self._said = folder.parent / f"said{time.monotonic_ns()}"
        # By its full name, under which the other process can import it.
        run = importlib.import_module("tests.end_to_end.test_resume").child
        self._process = context.Process(target=run, args=(folder, words, self._said, moment))
        self._process.start()

    def end(self) -> tuple[int, list[str]]:
        """Return the exit code and the lines on stderr."""
        self._process.join(600)
        lines = self._said.read_text().splitlines()
        return self._process.exitcode, [line for line in lines if line]


def run(folder: Path, *words, moment: Moment | None = None) -> tuple[int, list[str]]:
    return Command(folder, words, moment).end()


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p): (folder / p).read_bytes() for p in names(folder)}


def names(folder: Path) -> list[Path]:
    return [p.relative_to(folder) for p in sorted(folder.rglob("*")) if p.is_file()]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory) -> Path:
    """A folder with a scene of 150 x 200 pixels and a model: four strips of three windows."""
    folder = tmp_path_factory.mktemp("inputs") / "here"
    folder.mkdir()
    write_town(folder, "a", 200, 150, seed=1)
    save_model(folder / "m.safetensors", 0)
    return folder


@pytest.fixture(scope="module")
def whole(inputs) -> dict[str, bytes]:
    """The files of a run without interruption."""
    folder = copy(inputs)
    assert run(folder, *WORDS)[0] == 0
    return contents(folder)


@pytest.fixture(scope="module")
def begun(inputs) -> Path:
    """The folder of a run killed while it wrote the third of four strips."""
    folder = copy(inputs)
    assert run(folder, *WORDS, moment=THIRD)[0] == -signal.SIGKILL
    return folder


@pytest.fixture
def folder(inputs, tmp_path) -> Path:
    return copy(inputs, tmp_path)


@pytest.fixture
def left(begun, tmp_path) -> Path:
    """A copy of `begun`."""
    return copy(begun, tmp_path)


def copy(folder: Path, into: Path | None = None) -> Path:
    into = into or folder.parent / f"{time.monotonic_ns()}"
    return Path(shutil.copytree(folder, into / "here"))


def save_model(path: Path, seed: int) -> None:
    network = tiny_model(seed)
    model_file.save(path, network, card_of(network))


def in_strip(number: int, happens: str = "SIGKILL") -> Moment:
    """Return the moment before the label file of a strip, from 1, is renamed."""
    row, height = 64 * (number - 1), 8 if number == 4 else 64
    path = f"{STRIPS}/.{row}-0-{height}x150.labels.partial.tif"
    return Moment("os.rename", path, happens)


THIRD = in_strip(3)


@contextmanager
def untouched(folder: Path) -> Iterator[None]:
    """Assert that nothing in a folder changes, except that locks of a killed process go."""

    def seen():
        every = {p: (folder / p).stat() for p in names(folder) if p.suffix != ".lock"}
        return {path: (stat.st_ino, stat.st_mtime_ns, stat.st_size) for path, stat in every.items()}

    before = seen()
    yield
    assert seen() == before


def refused(folder: Path, *words, says: str, code: int = 1) -> None:
    """Assert that a command prints one line and changes nothing."""
    with untouched(folder):
        ended, lines = run(folder, *words)
    assert (ended, len(lines)) == (code, 1)
    assert says in lines[0]


# --- killed ------------------------------------------------------------------------------------

MOMENTS = {
    "before anything": Moment("os.mkdir", STRIPS),
    "before the journal": Moment("os.rename", "/.journal.partial.jsonl"),
    "first strip": in_strip(1),
    "between the files of a strip": Moment("open", "/.64-0-64x150.confidence.partial.tif"),
    "last strip": in_strip(4),
    "before the COGs": Moment("open", "/labels.vrt"),
    "between the COGs": Moment("open", "/confidence.vrt"),
    "before the names": Moment("os.rename", "/.sure.partial.tif"),
    "between the names": Moment("os.rename", "/.map.partial.tif"),
    "after the names": Moment("os.rename", "/.map.tif.aux.partial.xml"),
    "before the strips go": Moment("os.rename", STRIPS),
    "while the strips go": Moment("os.remove", "labels.tif"),
    "before the settings": Moment("os.rename", "/.map.tif.partial.toml"),
    "the last call": Moment("os.remove", "/.map.tif.partial.toml", count=2),
}


@pytest.mark.parametrize("moment", MOMENTS.values(), ids=MOMENTS)
def test_killed(folder, whole, moment):
    assert run(folder, *WORDS, moment=moment)[0] == -signal.SIGKILL
    code, lines = run(folder, *WORDS, "--resume")
    assert (code, len(lines)) == (0, 1), lines
    assert contents(folder) == whole


def test_killed_again_and_again(left, whole):
    for number, done in (3, 2), (4, 3):
        code, _ = run(left, *WORDS, "--resume", moment=in_strip(number))
        assert code == -signal.SIGKILL
        assert len((left / STRIPS / "journal.jsonl").read_text().splitlines()) == 1 + done
    code, lines = run(left, *WORDS, "--resume")
    assert (code, len(lines)) == (0, 1)
    assert "3 of 12 windows run" in lines[0]
    assert contents(left) == whole


@pytest.mark.parametrize("name", ["before the names", "between the names", "before the strips go"])
def test_killed_while_another_map_is_replaced(folder, whole, name):
    assert run(folder, *WORDS, "--tta", "flips")[0] == 0
    code, _ = run(folder, *WORDS, "--overwrite", moment=MOMENTS[name])
    assert code == -signal.SIGKILL
    assert run(folder, *WORDS, "--resume", "--overwrite")[0] == 0
    assert contents(folder) == whole


def test_what_is_killed_is_not_taken_for_the_map_that_it_replaces(folder):
    assert run(folder, *WORDS)[0] == 0
    code, _ = run(
        folder, *WORDS, "--tta", "flips", "--overwrite", moment=MOMENTS["before the settings"]
    )
    assert code == -signal.SIGKILL
    refused(folder, *WORDS, "--resume", says='cannot resume map.tif: tta was "flips", now "none"')


# --- interrupted -------------------------------------------------------------------------------


def test_ctrl_c(folder, whole):
    code, lines = run(folder, *WORDS, moment=in_strip(3, "SIGINT"))
    assert code == 130
    assert [line for line in lines if "--resume" in line] == lines[:1]
    assert lines[0].endswith("of map.tif kept; continue with --resume")
    assert lines[1:] == ["Error: interrupted"]
    assert run(folder, *WORDS, "--resume")[0] == 0
    assert contents(folder) == whole


def test_ctrl_c_while_the_map_is_put_together(folder, whole):
    code, lines = run(folder, *WORDS, moment=Moment("open", "/labels.vrt", "SIGINT"))
    assert (code, lines[1:]) == (130, ["Error: interrupted"])
    assert lines[0] == "Warning: 4 strips (100%) of map.tif kept; continue with --resume"
    assert run(folder, *WORDS, "--resume")[0] == 0
    assert contents(folder) == whole


def test_ctrl_c_before_there_is_anything_to_keep(folder):
    with untouched(folder):
        code, lines = run(folder, *WORDS, moment=Moment("open", "/.map.tif.lock", "SIGINT"))
    assert (code, lines) == (130, ["Error: interrupted"])


# --- what is left, and other things ------------------------------------------------------------


def test_leftovers_are_told(left):
    says = "an interrupted run left 2 strips (64%) of map.tif; pass --resume to continue it"
    refused(left, *WORDS, says=says)


def test_overwrite_starts_again(left, whole):
    code, lines = run(left, *WORDS, "--overwrite")
    assert (code, len(lines)) == (0, 1)
    assert "12 of 12 windows run" in lines[0]
    assert contents(left) == whole


CHANGES = {
    "window": ((*WORDS, "--window", "96"), "window was 64, now 96"),
    "overlap": ((*WORDS[:-1], "32"), "overlap was 0, now 32"),
    "tta": ((*WORDS, "--tta", "flips"), 'tta was "none", now "flips"'),
    "blend": ((*WORDS, "--blend", "gaussian"), 'blend was "hann", now "gaussian"'),
    "engine": ((*WORDS, "--engine", "onnx"), 'engine was "torch", now "onnx"'),
    "bands": ((*WORDS, "--bands", "1,2,3"), "bands was none, now [1, 2, 3]"),
    "outputs": ((*WORDS, "--quality", "ok.tif"), "outputs.quality was none, now 1"),
}


@pytest.mark.parametrize(("words", "says"), CHANGES.values(), ids=CHANGES)
def test_other_settings_are_told(left, words, says):
    says = f"cannot resume map.tif: {says}; pass --overwrite without --resume to start again"
    refused(left, *words, "--resume", says=says)


def touch(folder: Path) -> None:
    os.utime(folder / "a_dsm.tif")


def paint(folder: Path) -> None:
    with rasterio.open(folder / "a_dsm.tif", "r+") as dataset:
        dataset.write(dataset.read() + np.float32(3))


def train(folder: Path) -> None:
    save_model(folder / "m.safetensors", 1)


@pytest.mark.parametrize(
    ("change", "what"),
    [(touch, "input a_dsm.tif"), (paint, "input a_dsm.tif"), (train, "model m.safetensors")],
)
def test_other_inputs_are_told(left, change, what):
    change(left)
    refused(left, *WORDS, "--resume", says=f"cannot resume map.tif: {what} ")
    refused(left, *WORDS, says="pass --resume to continue it, or --overwrite to start again")


def test_an_area_that_another_version_described_is_told(left):
    """Its key is a hash of the wanted pixels; how it is made may change."""
    journal = left / STRIPS / "journal.jsonl"
    text = journal.read_text()
    assert '"area": "whole"' in text
    journal.write_text(text.replace('"area": "whole"', f'"area": "{"5e" * 32}"'))
    says = "cannot resume map.tif: area has changed; pass --overwrite without --resume"
    refused(left, *WORDS, "--resume", says=says)


def test_models_of_one_name(folder):
    """Models of cross-validation folds have the same name in different folders."""
    words = [*WORDS[:1], "1/best.safetensors", "2/best.safetensors", *WORDS[2:]]
    for seed, fold in enumerate("12"):
        (folder / fold).mkdir()
        save_model(folder / fold / "best.safetensors", seed)
    assert run(folder, *words, moment=THIRD)[0] == -signal.SIGKILL
    save_model(folder / "1/best.safetensors", 2)
    refused(folder, *words, "--resume", says="best.safetensors has changed; pass --overwrite")


def test_a_complete_map_is_left_alone(folder):
    assert run(folder, *WORDS)[0] == 0
    with untouched(folder):
        code, lines = run(folder, *WORDS, "--resume")
    assert (code, lines) == (0, ["map.tif is complete"])
    says = "map.tif exists and was made of other inputs or with other settings; pass --overwrite"
    refused(folder, *WORDS, "--resume", "--tta", "flips", says=says)


def test_two_at_once(left, whole):
    first = Command(left, (*WORDS, "--resume"), in_strip(4, "wait"))
    while not (left / "here").exists():
        time.sleep(0.01)
    says = "is writing map.tif; wait for it, or name another output"
    refused(left, *WORDS, "--resume", says=says)
    refused(left, *WORDS, "--overwrite", says=says)
    (left / "here").unlink()
    assert first.end()[0] == 0
    assert contents(left) == whole


@pytest.mark.parametrize(
    ("call", "path", "most"),
    [("open", "/.128-0-64x150.labels.partial.tif", 500), ("open", "/confidence.vrt", 1000)],
)
def test_a_full_disk(folder, whole, call, path, most):
    code, lines = run(folder, *WORDS, moment=Moment(call, path, str(most)))
    assert (code, len(lines)) == (1, 2)
    assert lines[0].endswith("of map.tif kept; continue with --resume")
    assert lines[1].startswith("Error: cannot write ")
    assert run(folder, *WORDS, "--resume")[0] == 0
    assert contents(folder) == whole


# --- file by file ------------------------------------------------------------------------------


@pytest.fixture
def several(folder) -> tuple[str, ...]:
    """Three orthophotos, the second one truncated; the words of the command for all of them."""
    for name in "abc":
        write_town(folder, name, 100, 90, seed=ord(name))
    os.truncate(folder / "b_ortho.tif", 9000)
    optical = [word for name in "abc" for word in ("--optical", f"{name}_ortho.tif")]
    return *PREDICT[:2], *optical, "--per-file", "-o", "maps", *HOW


def made(folder: Path) -> dict[str, tuple[int, int]]:
    stats = {path.name: path.stat() for path in (folder / "maps").glob("*.tif")}
    return {name: (stat.st_ino, stat.st_mtime_ns) for name, stat in stats.items()}


def test_one_of_three_is_broken(folder, several):
    code, lines = run(folder, *several)
    assert code == 3
    assert lines[-1] == "Error: 1 of 3 orthophotos failed: b_ortho.tif; 2 maps are in maps"
    assert sum("b_ortho.tif" in line for line in lines) == 2
    assert sorted(made(folder)) == ["a_ortho.tif", "c_ortho.tif"]
    assert not [path for path in (folder / "maps").iterdir() if path.name.startswith(".")]


def test_only_what_is_missing(folder, several):
    assert run(folder, *several)[0] == 3
    before = made(folder)
    write_town(folder, "b", 100, 90)
    code, lines = run(folder, *several, "--resume")
    assert code == 0
    assert [line for line in lines if "complete" in line] == [
        "maps/a_ortho.tif is complete",
        "maps/c_ortho.tif is complete",
    ]
    after = made(folder)
    assert {name: after.pop(name) for name in before} == before
    assert list(after) == ["b_ortho.tif"]
