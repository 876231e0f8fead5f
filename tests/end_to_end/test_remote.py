"""Rasters over HTTP and from S3: the same pixels, few requests, errors of one line."""

import itertools
import re
import socket
import subprocess
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from cafe_cli.config.schema import HeightSettings, LabelSettings, SceneSettings
from cafe_cli.errors import CafeError, InputError
from cafe_cli.inference.job import PredictInput
from cafe_cli.raster.reader import open_raster, read_window
from cafe_cli.raster.window import Window
from cafe_cli.scenes.discovery import find_scenes
from cafe_cli.scenes.inspection import inspect_scene
from cafe_cli.scenes.scene import open_scene
from cafe_cli.tilesets.make import tile
from cafe_cli.tilesets.tile_rasters import TileReader, read_tile, tile_path
from cafe_cli.tilesets.tileset import load_tileset
from tests.support.engines import predict, settings, write_town
from tests.support.rasters import grid, noise, read
from tests.support.rasters import write as write_to
from tests.support.running import running

pytest_plugins = ["tests.support.fixtures", "tests.support.programs"]
pytestmark = pytest.mark.slow

HEIGHTS = HeightSettings(kind="ndsm")
LARGE = grid(1024, 1024)
STREAMS = ("ortho", "dsm", "labels")


@dataclass(frozen=True)
class Site:
    """A folder served over HTTP, see ranges_server.py."""

    port: int
    log: Path

    def url(self, folder: str, manner: str = "ranges") -> str:
        return f"http://127.0.0.1:{self.port}/{manner}/{folder}"

    def answers(self) -> list[tuple[int, int]]:
        """Return status and bytes of all answers so far."""
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        return [(int(status), int(sent)) for status, sent in map(str.split, lines)]


@pytest.fixture(autouse=True)
def direct(monkeypatch):
    """Bypass the proxy of this machine, and soon give up where nobody answers."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    # Without keys GDAL also asks the address at which machines of a cloud find theirs.
    monkeypatch.setenv("GDAL_HTTP_CONNECTTIMEOUT", "1")
    monkeypatch.setenv("GDAL_HTTP_RETRY_DELAY", "0.01")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    script = Path(__file__).parents[1] / "support/ranges_server.py"
    log = tmp_path_factory.mktemp("log") / "x"
    folder = tmp_path_factory.getbasetemp()
    with running(script, folder, log, stdout=subprocess.PIPE) as process:
        yield Site(int(process.stdout.readline()), log)


_numbers = itertools.count()


@pytest.fixture
def bucket(object_store, monkeypatch, tmp_path):
    """Return a function that puts a folder into a new bucket and returns the bucket's name."""
    import boto3

    environment = {
        "AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1", "AWS_REGION": "us-east-1",
        "AWS_S3_ENDPOINT": object_store, "AWS_HTTPS": "NO", "AWS_VIRTUAL_HOSTING": "FALSE",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": str(tmp_path / "none"),
        "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "none"),
    }  # fmt: skip
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    client = boto3.client("s3", endpoint_url=f"http://{object_store}")

    def put(folder: Path) -> str:
        name = f"survey-{next(_numbers)}"
        client.create_bucket(Bucket=name)
        for path in folder.iterdir():
            client.upload_file(str(path), name, path.name)
        return name

    return put


@pytest.fixture
def folder(tmp_path) -> Path:
    """A folder to serve, with a name of its own: GDAL caches by URL."""
    here = tmp_path / "survey"
    here.mkdir()
    return here


@pytest.fixture
def url(site, folder, tmp_path_factory):
    """Return a function that returns the URL of the test's folder."""
    return partial(site.url, folder.relative_to(tmp_path_factory.getbasetemp()).as_posix())


@pytest.fixture(params=["http://", "/vsicurl/", "s3://", "/vsis3/"])
def remote(request, folder):
    """Return a function that returns the remote name of the test's folder."""
    if "s3" in request.param:
        put = request.getfixturevalue("bucket")
        return lambda: f"{request.param}{put(folder)}"
    url = request.getfixturevalue("url")
    return lambda: request.param.removeprefix("http://") + url()


def files(where: str, name="{id}", **changes):
    patterns = dict(
        zip(("optical", "elevation", "labels"), (f"{where}/{name}_{s}.tif" for s in STREAMS),
            strict=True)
    )  # fmt: skip
    return SceneSettings(**patterns, **changes)


# What is read


def test_a_scene_from_elsewhere_is_the_same(folder, remote):
    write_town(folder, "a", 96, 130, seed=4)
    window = Window(-5, 20, 100, 90)
    seen = []
    for where in (folder, remote()):
        scene_files = find_scenes(files(where, "a"))[0]
        with open_scene(inspect_scene(scene_files, HEIGHTS)) as scene:
            table = settings().class_table
            labels = scene.read_labels(window, table, LabelSettings())
            seen.append((scene.grid, scene.read(window), labels.ids))
    (own_grid, own, own_labels), (grid_, patch, labels) = seen
    assert grid_ == own_grid
    for name in ("optical", "optical_valid", "height", "height_valid"):
        assert np.array_equal(getattr(patch, name), getattr(own, name)), name
    assert patch.height_valid.any()
    assert np.array_equal(labels, own_labels)


def test_a_window_costs_a_part_of_the_file(site, folder, url):
    path = write_to(
        folder / "large.tif", noise(3, LARGE), LARGE, tiled=True, blockxsize=128, blockysize=128
    )
    before = len(site.answers())
    with open_raster(f"{url()}/large.tif") as dataset:
        opened = sum(sent for _, sent in site.answers()[before:])
        values = read_window(dataset, Window(600, 500, 100, 100), [1, 2, 3])
    assert np.array_equal(values, read(path)[:, 500:600, 600:700])
    answers, size = site.answers()[before:], Path(path).stat().st_size
    assert size > 3_000_000
    assert opened < size / 50
    assert 100 * 100 * 3 < sum(sent for _, sent in answers) < size / 8
    assert sum(status != 404 for status, _ in answers) < 10


def test_a_url_may_have_a_query(folder, url):
    path = write_to(folder / "a.tif", noise(3, grid()), grid())
    name = f"{url()}/a.tif?token=a*b&expires=[1]"
    with open_scene(inspect_scene(find_scenes(SceneSettings(optical=name))[0], HEIGHTS)) as scene:
        assert np.array_equal(scene.read(scene.grid.extent).optical, read(path))


def test_rasters_from_elsewhere_are_joined(folder, remote):
    image = noise(3, grid(24))
    for number in range(3):
        part = grid(24).at(Window(8 * number, 0, 8, 6))
        write_to(folder / f"{number}.tif", image[:, :, 8 * number :][:, :, :8], part)
    where = remote()
    names = tuple(f"{where}/{number}.tif" for number in range(3))
    with open_scene(inspect_scene(find_scenes(SceneSettings(optical=names))[0], HEIGHTS)) as scene:
        assert scene.grid == grid(24)
        assert np.array_equal(scene.read(scene.grid.extent).optical, image)


@pytest.mark.parametrize("remote", ["http://", "/vsis3/"], indirect=True)
def test_the_tile_set_and_the_map_of_remote_rasters_are_those_of_local_ones(
    folder, remote, model, tmp_path
):
    write_town(folder, "a", 128, 192, seed=1)
    write_town(folder, "b", 64, 128, seed=2, origin=(0, 1000))
    where = remote()
    sets, maps = [], []
    for number, place in enumerate((str(folder), where)):
        scenes = files(place, only=("a", "b"))
        sets.append(tmp_path / f"tiles {number}")
        tile(settings().model_copy(update={"scenes": scenes, "root": str(tmp_path)}), sets[-1])
        source = PredictInput((f"{place}/a_ortho.tif",), (f"{place}/a_dsm.tif",))
        maps.append(tmp_path / f"sure {number}.tif")
        labels = tmp_path / f"map {number}.tif"
        predict(model, source, labels, confidence=maps[-1])
    tileset = load_tileset(sets[0])
    assert load_tileset(sets[1]) == tileset
    for kept in tileset.tiles:
        for kind in ("image", "height", "label"):
            local, other = (tile_path(s, kept, kind).read_bytes() for s in sets)
            assert other == local
    assert len(np.unique(read(maps[0]))) > 1
    assert np.array_equal(*map(read, maps))


def test_a_virtual_tile_set_reads_windows_from_elsewhere(folder, url, tmp_path):
    write_town(folder, "a", 128, 192, seed=1)
    write_town(folder, "b", 64, 128, seed=2, origin=(0, 1000))
    config = settings().model_copy(update={"root": str(folder)})
    copied = tile(config, tmp_path / "copied")
    scenes = files(url(), only=("a", "b"))
    virtual = tile(config.model_copy(update={"scenes": scenes}), tmp_path / "seen", virtual=True)
    assert virtual.tiles == copied.tiles
    reader = TileReader(tmp_path / "seen", load_tileset(tmp_path / "seen"))
    for kept in copied.tiles:
        patch, labels = read_tile(tmp_path / "copied", kept, copied.size)
        other, other_labels = reader.read(kept)
        assert np.array_equal(other.optical, patch.optical)
        assert np.array_equal(other.height, patch.height)
        assert np.array_equal(other_labels, labels)


# What goes wrong


def refused(name: str, heights: str | None = None, kind: type[CafeError] = InputError) -> str:
    """Open and read a scene that fails; return the message, which is one line."""
    scene_files = find_scenes(SceneSettings(optical=name, elevation=heights))[0]
    with (
        pytest.raises(CafeError) as caught,
        open_scene(inspect_scene(scene_files, HEIGHTS)) as scene,
    ):
        scene.read(scene.grid.extent)
    assert type(caught.value) is kind
    said = str(caught.value)
    assert "\n" not in said
    return said


@pytest.mark.parametrize("prefix", ["", "/vsicurl/"])
def test_a_url_that_is_not_there_is_named(url, prefix):
    name = f"{prefix}{url()}/none.tif"
    assert re.search(rf"cannot open {re.escape(name)} as a raster: .*404", refused(name))


def test_the_one_of_several_urls_that_is_not_there_is_named(folder, url):
    write_town(folder, "a", 64, 64)
    said = refused(f"{url()}/a_ortho.tif", f"{url()}/none.tif")
    assert f"cannot open {url()}/none.tif as a raster" in said


def test_a_server_that_is_not_there_is_named():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        name = f"http://127.0.0.1:{free.getsockname()[1]}/a.tif"
    assert f"cannot open {name} as a raster" in refused(name)


def test_a_page_instead_of_a_raster_is_said(folder, url):
    (folder / "a.tif").write_text("<html>Please log in.</html>")
    name = f"{url()}/a.tif"
    assert f"cannot open {name} as a raster" in refused(name)


def test_a_server_without_ranges_is_said(folder, url):
    write_to(folder / "a.tif", noise(3, LARGE), LARGE)
    name = f"{url('whole')}/a.tif"
    said = refused(name)
    assert name in said
    assert "range" in said.lower()


@pytest.mark.parametrize("options", [{}, {"tiled": True, "blockxsize": 128, "blockysize": 128}])
def test_a_connection_that_breaks_off_is_said(folder, url, options):
    size = Path(write_to(folder / "a.tif", noise(3, LARGE), LARGE, **options)).stat().st_size
    name = f"{url(f'until-{size // 2}')}/a.tif"
    assert re.match(rf"cannot read {re.escape(name)} at column \d+, row \d+: ", refused(name))


def test_a_surface_model_that_breaks_off_is_said(folder, url):
    write_town(folder, "a", 512, 512)
    middle = (folder / "a_dsm.tif").stat().st_size // 2
    heights = f"{url(f'until-{middle}')}/a_dsm.tif"
    assert f"cannot read {heights} at column" in refused(str(folder / "a_ortho.tif"), heights)


@pytest.mark.parametrize("prefix", ["s3://", "/vsis3/"])
@pytest.mark.parametrize("what", ["bucket", "key"])
def test_a_bucket_or_a_key_that_is_not_there_is_named(folder, bucket, prefix, what):
    write_town(folder, "a", 64, 64)
    name = bucket(folder)
    wrong = {"bucket": f"{prefix}no-{name}/a_ortho.tif", "key": f"{prefix}{name}/none.tif"}[what]
    assert f"cannot open {wrong} as a raster" in refused(wrong)


@pytest.mark.parametrize("prefix", ["s3://", "/vsis3/"])
def test_keys_that_are_not_there_are_said(folder, bucket, monkeypatch, prefix):
    name = f"{prefix}{bucket(folder)}/a_ortho.tif"
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    assert f"cannot open {name} as a raster" in refused(name)


@pytest.fixture
def run(invoke):
    """Return a function that runs a command in this process: exit code and lines on stderr."""

    def call(*words):
        code, captured = invoke(*words)
        return code, [line for line in captured.err.splitlines() if line.strip()]

    return call


@pytest.mark.parametrize("manner", ["ranges", "until"])
@pytest.mark.parametrize("command", ["tile", "predict"])
def test_commands_fail_with_one_line(folder, url, run, model, tmp_path, manner, command):
    write_town(folder, "a", 512, 512)
    labels, heights = folder / "a_labels.tif", folder / "a_dsm.tif"
    output = tmp_path / "out.tif"
    name = f"{url()}/none.tif"
    if manner == "until":
        middle = (folder / "a_ortho.tif").stat().st_size // 2
        name = f"{url(f'until-{middle}')}/a_ortho.tif"
    classes = "classes=[{id=0,name='a'},{id=1,name='b'},{id=2,name='c'}]"
    words = {
        "tile": ["--set", classes, "--labels", labels],
        "predict": [model, "--elevation", heights],
    }[command]
    code, lines = run(command, *words, "--optical", name, "-o", output)
    assert code == 1
    assert len(lines) == 1, lines
    assert re.match(rf"Error: cannot (open|read) {re.escape(name)} ", lines[0])
    assert not output.exists()
