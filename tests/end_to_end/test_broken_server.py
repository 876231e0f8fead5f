"""Servers that stall, fail, or change a file: bounded time, one line, and nothing mixed."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from cafe_cli.config.load import dump_config
from cafe_cli.errors import InputError
from cafe_cli.raster.input_files import InputFiles
from cafe_cli.raster.reader import open_raster, read_window
from cafe_cli.raster.window import Window
from tests.support.damage import overwrite
from tests.support.engines import settings, write_town
from tests.support.rasters import grid, noise, read
from tests.support.rasters import write as write_to

pytest_plugins = ["tests.support.fixtures"]
pytestmark = pytest.mark.slow

HASTY = {
    "GDAL_HTTP_CONNECTTIMEOUT": "2", "GDAL_HTTP_LOW_SPEED_TIME": "2", "GDAL_HTTP_TIMEOUT": "3",
    "GDAL_HTTP_MAX_RETRY": "1", "GDAL_HTTP_RETRY_DELAY": "0.1",
    "no_proxy": "127.0.0.1", "NO_PROXY": "127.0.0.1",
}  # fmt: skip
"""Small limits, and no proxy."""


@pytest.fixture(scope="module")
def port(tmp_path_factory):
    root = Path(__file__).parents[2]
    words = [tmp_path_factory.getbasetemp(), os.devnull]
    words = [sys.executable, "-m", "tests.support.broken_server", *words]
    with subprocess.Popen(words, text=True, stdout=subprocess.PIPE, cwd=root) as process:
        yield int(process.stdout.readline())
        process.terminate()


@pytest.fixture
def url(port, tmp_path, tmp_path_factory, monkeypatch):
    """Return a function that returns the URL of a file of the test's folder."""
    for name, value in HASTY.items():
        monkeypatch.setenv(name, value)
    where = tmp_path.relative_to(tmp_path_factory.getbasetemp()).as_posix()
    return lambda manner, name, user="": f"http://{user}127.0.0.1:{port}/{manner}/{where}/{name}"


@pytest.fixture
def town(tmp_path):
    """A raster of several blocks, too large for one request."""
    where = grid(1024, 1024)
    values = noise(1, where)
    return Path(
        write_to(tmp_path / "town.tif", values, where, tiled=True, compress="deflate")
    ), values


def run(*words):
    """Run cafe with small limits: exit code and stderr; it has a minute."""
    environment = {**os.environ, **HASTY}
    words = [sys.executable, "-m", "cafe_cli", *map(str, words)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, env=environment)
    return done.returncode, done.stderr


@pytest.mark.parametrize("manner", ["stall", "stall-20000", "error", "until-20000"])
def test_a_failing_server_is_one_line_without_secrets_in_bounded_time(manner, town, url, tmp_path):
    name = url(manner, "town.tif", user="me:s3cr3t@") + "?token=s3cr3t"
    code, said = run("mosaic", name, "-o", tmp_path / "map.tif")
    assert code == 1
    assert [line[:5] for line in said.splitlines() if "no class names" not in line] == ["Error"]
    assert "***@127.0.0.1" in said
    assert "town.tif?***" in said
    assert "s3cr3t" not in said
    assert not (tmp_path / "map.tif").exists()


@pytest.mark.parametrize("manner", ["stall-400000", "until-400000", "ranges"])
def test_what_a_server_does_not_deliver_is_skipped_in_bounded_time(manner, town, url, tmp_path):
    path, values = town
    if manner == "ranges":
        overwrite(str(path), 1, 2)
    output = tmp_path / "map.tif"
    name = url(manner, "town.tif", user="me:s3cr3t@") + "?token=s3cr3t"
    code, said = run("mosaic", name, "-o", output, "--on-error", "skip")
    assert code == 3
    assert "pixels" in said.splitlines()[-1]
    assert "***@127.0.0.1" in said.splitlines()[-1]
    assert "s3cr3t" not in said + Path(f"{output}.toml").read_text()
    written = read(output)[0]
    lost = written == 255
    assert 0 < lost.mean() < 1
    assert np.array_equal(written[~lost], values[0][~lost])
    if manner == "ranges":
        assert lost[512:768, 256:512].all()


def test_a_server_that_fails_from_the_start_is_an_error_all_the_same(town, url, tmp_path):
    for manner in ("error", "stall"):
        code, said = run(
            "mosaic", url(manner, "town.tif"), "-o", tmp_path / "m.tif", "--on-error", "skip"
        )
        assert code == 1
        assert "cannot open" in said
        assert not (tmp_path / "m.tif").exists()


def test_a_busy_server_is_asked_again(town, url):
    with open_raster(url("busy", "town.tif")) as dataset:
        read = read_window(dataset, Window(0, 0, 1024, 1024), [1])
    assert np.array_equal(read, town[1])


def test_wrong_bytes_name_the_window(town, url):
    path = town[0]
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 5000] = bytes(5000)
    path.write_bytes(content)
    with (
        pytest.raises(InputError, match=r"cannot read http.*/town.tif at column 0, row 0"),
        open_raster(url("ranges", "town.tif")) as dataset,
    ):
        read_window(dataset, Window(0, 0, 1024, 1024), [1])


NAMES = [
    ("stamped", "{}"),
    ("dated", "{}"),
    ("stamped", "/vsicurl/{}"),
    ("stamped", "{}?token=1"),
    ("stamped", "/vsicurl?max_retry=1&url={}"),
    ("locked", "{}"),
]


@pytest.mark.parametrize(("manner", "pattern"), NAMES)
def test_a_file_that_changes_on_a_server_is_told(manner, pattern, town, url):
    user = "me:s3cr3t@" if manner == "locked" else ""
    name = pattern.format(url(manner, "town.tif", user))
    files = InputFiles.behind([name])
    files.check_unchanged()
    assert not files.unknown
    changed = town[0].stat().st_mtime_ns + 10**10
    os.utime(town[0], ns=(changed, changed))
    with pytest.raises(InputError, match=r"town.tif.* was changed while it was read"):
        files.check_unchanged()


@pytest.mark.parametrize("manner", ["ranges", "error", "stall", "locked"])
def test_of_a_server_that_does_not_say_it_cannot_be_known(manner, town, url):
    name = url(manner, "town.tif")
    files = InputFiles.behind([name])
    assert files.unknown == (name,)
    files.check_unchanged()


def test_answers_made_anew_are_not_taken_for_changes(town, url):
    assert InputFiles.behind([url("anew", "town.tif") + "?map=1"]).unknown


def test_a_server_that_is_gone_at_the_end_is_no_change(town, url, caplog):
    files = InputFiles.behind([url("stamped", "town.tif")])
    town[0].unlink()
    files.check_unchanged()
    assert "changed in the meantime" in caplog.text


def test_no_output_holds_the_password_or_the_token_of_an_input(url, model, tmp_path, invoke):
    write_town(tmp_path, "a", 128, 192)
    write_town(tmp_path, "b", 64, 320, seed=2, origin=(0, 1000))
    user = "me:s3cr3t@"
    streams = {"optical": "ortho", "elevation": "dsm", "labels": "labels"}
    names = {
        f"scenes.{stream}": url("locked", f"{{id}}_{kind}.tif?token=s3cr3t", user)
        for stream, kind in streams.items()
    }
    out = tmp_path / "out"
    out.mkdir()
    config = tmp_path / "config.toml"
    config.write_text(dump_config(settings(scenes__only=["a", "b"])))
    named = [word for key, name in names.items() for word in ("--set", f"{key}={name}")]
    ortho, dsm = (url("locked", f"a_{kind}.tif?token=s3cr3t", user) for kind in ("ortho", "dsm"))
    said = ""
    for words in (
        ("tile", "-c", config, *named, "-o", out / "tiles"),
        ("predict", model, "--optical", ortho, "--elevation", dsm, "-o", out / "map.tif"),
        ("mosaic", url("locked", "a_labels.tif?token=s3cr3t", user), "-o", out / "mosaic.tif"),
        ("check", "-c", config, *named, "--json"),
    ):
        code, captured = invoke("-v", *words)
        assert code == 0, captured.err
        said += captured.out + captured.err
    assert "s3cr3t" not in said
    written = [path for path in out.rglob("*") if path.is_file()]
    assert len(written) > 10
    assert [path for path in written if b"s3cr3t" in path.read_bytes()] == []
