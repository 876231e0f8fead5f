"""How commands end: asked to by a signal, by a reader that has left, or in the middle of a wait."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest
import tomli_w

from cafe_cli.raster.writer import create_cog
from tests.end_to_end.test_resume import save_model
from tests.support.engines import SETTINGS, TABLE, settings, write_town
from tests.support.rasters import grid, noise

pytest_plugins = ["tests.support.fixtures"]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform == "win32", reason="no such signals, no such pipes"),
]

SIGNALS = {"SIGINT": 130, "SIGTERM": 143, "SIGHUP": 129}
HANGS = 120  # seconds, after which a command counts as hanging


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Two scenes, a config, a model and a map."""
    folder = tmp_path_factory.mktemp("inputs")
    write_town(folder, "a", 128, 192, seed=1)
    write_town(folder, "b", 64, 320, seed=2, origin=(0, 1000))
    (folder / "c.toml").write_text(tomli_w.dumps(SETTINGS))
    save_model(folder / "m.safetensors", 0)
    place = grid(70, 50)
    with create_cog(folder / "1.tif", place, False, TABLE) as dataset:
        dataset.write((noise(1, place, seed=1) % 3)[0].astype("uint8"), 1)
    return folder


def start(folder: Path, *words: object, ignored: str = "", **streams) -> "subprocess.Popen[str]":
    """Start cafe; signals have their usual effect, but for one that is ignored."""

    def set_up() -> None:
        for name in SIGNALS:
            usual = signal.default_int_handler if name == "SIGINT" else signal.SIG_DFL
            signal.signal(signal.Signals[name], signal.SIG_IGN if name == ignored else usual)

    # For good: limits that the tests do not wait for.
    limits = {"GDAL_HTTP_LOW_SPEED_TIME": "900", "GDAL_HTTP_TIMEOUT": "900"}
    return subprocess.Popen(
        [sys.executable, "-m", "cafe_cli", *map(str, words)],
        cwd=folder, text=True, preexec_fn=set_up,
        env={**os.environ, **limits, "PYTHONPATH": os.getcwd(), "no_proxy": "*", "NO_PROXY": "*"},
        **{"stderr": subprocess.PIPE, "stdout": subprocess.PIPE, **streams},
    )  # fmt: skip


def hidden(folder: Path) -> list[str]:
    return [path.name for path in folder.rglob(".*") if path.name != ".cache.lock"]


# --- a server that does not answer -------------------------------------------------------------


@pytest.fixture
def silent_server():
    """A server that takes connections and says nothing; its URL, and an event: it was asked."""
    asked = threading.Event()
    kept = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            with suppress(OSError):
                while True:
                    kept.append(server.accept()[0])
                    asked.set()

        thread = threading.Thread(target=serve)
        thread.start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}", asked
        server.shutdown(socket.SHUT_RDWR)
        thread.join()
    for connection in kept:
        connection.close()


OPENING = {
    "predict": ("predict", "m.safetensors", "--optical", "{url}/a.tif", "-o", "{out}/map.tif"),
    "mosaic": ("mosaic", "{url}/a.tif", "-o", "{out}/map.tif"),
    "evaluate": ("evaluate", "{url}/a.tif", "1.tif"),
    "evaluate vectors": ("evaluate", "1.tif", "{url}/a.gpkg"),
    "evaluate areas": ("evaluate", "{url}/a.tif", "--areas", "{out}/areas.csv"),
    "check": ("check", "--optical", "{url}/a.tif", "--elevation", "{url}/b.tif"),
    "tile": ("tile", "-c", "c.toml", "--optical", "{url}/{{id}}_ortho.tif", "--set",
             'scenes.only=["a"]', "-o", "{out}/set"),
    "heights": ("heights", "--optical", "{url}/a.tif", "--elevation", "{url}/b.tif", "-o",
                "{out}/heights.tif"),
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "number"), [*((name, "SIGINT") for name in OPENING), ("mosaic", "SIGTERM")]
)
def test_a_stalled_server_holds_up_no_signal(folder, tmp_path, silent_server, name, number):
    url, asked = silent_server
    process = start(folder, *(word.format(url=url, out=tmp_path) for word in OPENING[name]))
    assert asked.wait(HANGS), process.communicate()
    process.send_signal(signal.Signals[number])
    said = process.communicate(timeout=HANGS)[1]
    assert process.returncode == SIGNALS[number], said
    verb = "interrupted" if number == "SIGINT" else "terminated"
    assert said.strip().splitlines()[-1].startswith(f"Error: {verb}")
    assert "Traceback" not in said
    assert list(tmp_path.iterdir()) == []


def test_a_second_ctrl_c_ends_at_once(folder, tmp_path, silent_server):
    url, asked = silent_server
    process = start(folder, "mosaic", f"{url}/a.tif", "-o", tmp_path / "map.tif")
    assert asked.wait(HANGS), process.communicate()
    process.send_signal(signal.SIGINT)
    time.sleep(0.1)  # or the system makes one of two
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=HANGS)[1]
    assert (process.returncode, said.count("\n")) == (130, 1), said
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("ignored", SIGNALS)
def test_an_ignored_signal_stays_ignored(folder, tmp_path, silent_server, ignored):
    """SIGHUP under nohup, SIGINT in the background of a script."""
    url, asked = silent_server
    process = start(folder, "mosaic", f"{url}/a.tif", "-o", tmp_path / "m.tif", ignored=ignored)
    assert asked.wait(HANGS), process.communicate()
    process.send_signal(signal.Signals[ignored])
    with pytest.raises(subprocess.TimeoutExpired):
        process.communicate(timeout=2)
    other = next(name for name in SIGNALS if name != ignored)
    process.send_signal(signal.Signals[other])
    process.communicate(timeout=HANGS)
    assert process.returncode == SIGNALS[other]


# --- training ----------------------------------------------------------------------------------


def started_training(tileset: Path, tmp_path: Path, *more: object) -> "subprocess.Popen[str]":
    """Start a training of many epochs, and return when the first is over."""
    (tmp_path / "c.toml").write_text(
        tomli_w.dumps(settings(train__epochs=5000).model_dump(exclude_none=True, mode="json"))
    )
    words = ("train", tileset, "-c", "c.toml", "-o", "run", "--device", "cpu")
    process = start(tmp_path, *words, *more)
    until = time.monotonic() + 10 * HANGS
    while not (tmp_path / "run" / "best.safetensors").exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until
        time.sleep(0.05)
    return process


@pytest.mark.parametrize("number", ["SIGINT", "SIGTERM"])
def test_training_ends_with_a_checkpoint(tileset, tmp_path, number, invoke):
    process = started_training(tileset, tmp_path)
    process.send_signal(signal.Signals[number])
    said = process.communicate(timeout=HANGS)[1]
    assert process.returncode == SIGNALS[number], said
    assert "stopped at step" in said.splitlines()[-1]
    assert "continue with --resume -o run" in said.splitlines()[-1]
    assert "Traceback" not in said
    more = ("--resume", "--time-limit", "1s", "--device", "cpu")
    code, captured = invoke("train", tileset, "-o", tmp_path / "run", *more)
    assert code == 0, captured.err


@pytest.mark.parametrize("number", ["SIGHUP"])
def test_training_in_two_processes_ends_with_a_checkpoint(tileset, tmp_path, number, monkeypatch):
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    process = started_training(tileset, tmp_path, "--devices", 2)
    process.send_signal(signal.Signals[number])  # of the first process only
    said = process.communicate(timeout=HANGS)[1]
    assert process.returncode == SIGNALS[number], said
    assert "continue with --resume -o run" in said
    assert "Traceback" not in said


# --- readers that leave ------------------------------------------------------------------------

PRINTING = {
    "check": ("check", "-c", "c.toml", "--json"),
    "evaluate": ("evaluate", "1.tif", "1.tif", "--areas", "{out}/areas.csv", "--json"),
    "help": ("tile", "--help"),
    "version": ("--version",),
}


def closed_pipe() -> int:
    """Return the end of a pipe that nobody reads."""
    reader, writer = os.pipe()
    os.close(reader)
    return writer


@pytest.mark.parametrize("name", PRINTING)
def test_a_closed_stdout(folder, tmp_path, name):
    words = [word.format(out=tmp_path) for word in PRINTING[name]]
    process = start(folder, *words, stdout=closed_pipe())
    said = process.communicate(timeout=HANGS)[1]
    assert process.returncode == 141
    assert [line for line in said.splitlines() if not line.startswith("Warning")] == []
    if name == "evaluate":
        assert len((tmp_path / "areas.csv").read_text().splitlines()) == 1 + len(TABLE)


@pytest.mark.parametrize("name", PRINTING)
@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no such device")
def test_a_full_disk_below_stdout(folder, tmp_path, name):
    words = [word.format(out=tmp_path) for word in PRINTING[name]]
    with open("/dev/full", "w") as full:
        process = start(folder, *words, stdout=full)
        said = process.communicate(timeout=HANGS)[1]
    assert process.returncode == 1
    last = said.splitlines()[-1]
    assert last == "Error: cannot write to standard output: No space left on device"
    assert "Traceback" not in said


WORKING = {
    "mosaic": ("mosaic", "1.tif", "-o", "{out}/map.tif"),
    "tile": ("tile", "-c", "c.toml", "-o", "{out}/set"),
    "check": ("check", "-c", "c.toml"),
    "predict": ("predict", "m.safetensors", "--optical", "a_ortho.tif", "--elevation", "a_dsm.tif",
                "-o", "{out}/map.tif", "--device", "cpu"),
    "areas": ("evaluate", "1.tif", "--areas", "{out}/areas.csv"),
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "how"),
    [*((name, "nobody reads") for name in WORKING), ("mosaic", "full"), ("mosaic", "closed")],
)
def test_work_goes_on_without_stderr(folder, tmp_path, name, how):
    words = [word.format(out=tmp_path) for word in WORKING[name]]
    if how == "closed":
        command = [sys.executable, "-m", "cafe_cli", *words]
        process = subprocess.Popen(
            ["sh", "-c", 'exec "$@" 2>&-', "sh", *command],
            cwd=folder, env={**os.environ, "PYTHONPATH": os.getcwd()},
        )  # fmt: skip
    else:
        to = closed_pipe() if how == "nobody reads" else os.open("/dev/full", os.O_WRONLY)
        process = start(folder, *words, stderr=to)
    process.communicate(timeout=HANGS)
    assert process.returncode == 0
    assert name == "check" or [p for p in tmp_path.iterdir() if not p.name.startswith(".")]
    assert hidden(tmp_path) == []


def test_no_output_gets_the_number_of_a_closed_stream(folder, tmp_path):
    """What libraries print to stderr would land in it."""
    command = [sys.executable, "-m", "cafe_cli", "evaluate", "1.tif", "1.tif", "--json"]
    done = subprocess.run(
        ["sh", "-c", 'exec "$@" 2>&- <&-', "sh", *command], capture_output=True, text=True,
        cwd=folder, env={**os.environ, "PYTHONPATH": os.getcwd()}, timeout=HANGS, check=True,
    )  # fmt: skip
    assert json.loads(done.stdout)["miou"] == 1
