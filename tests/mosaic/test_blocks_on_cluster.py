"""`cafe mosaic --block-size` on workers: the bytes of one process, whatever happens to workers."""

import os
import sys
from pathlib import Path

import pytest

from cafe_cli.cluster import connection
from cafe_cli.cluster.job import ClusterOptions
from cafe_cli.errors import CafeError, ConfigError
from cafe_cli.mosaic import block_folder
from tests.mosaic.test_blocks import Maps, contents, names_in, outputs_of
from tests.support import damage
from tests.support.dask_cluster import dask_processes
from tests.support.maps import mosaic

pytest.importorskip("distributed")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

SIZE = 48


@pytest.fixture(scope="module")
def processes(tmp_path_factory):
    with dask_processes(2, tmp_path_factory.mktemp("dask")) as started:
        yield started


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(block_folder, "STEP", 16)


@pytest.fixture
def maps(tmp_path, monkeypatch):
    """Maps whose names are relative to a folder in which no worker is."""
    (tmp_path / "in").mkdir()
    monkeypatch.chdir(tmp_path)
    return Maps(Path("in"))


def digests(folder: Path) -> dict[str, str]:
    found = contents(*outputs_of(folder))
    return {os.path.relpath(name, folder.parent): digest for name, digest in found.items()}


def test_workers_write_the_bytes_of_one_process(tmp_path, maps, processes):
    one = maps.join(tmp_path / "one" / "many", block_size=SIZE)
    seen = []
    found = maps.join(
        tmp_path / "two" / "many", block_size=SIZE, cluster=ClusterOptions(processes.address),
        progress=lambda done, total: seen.append((done, total)),
    )  # fmt: skip
    assert digests(tmp_path / "two" / "many") == digests(tmp_path / "one" / "many")
    assert names_in(tmp_path / "two") == names_in(tmp_path / "one")
    assert found.blocks == one.blocks
    assert seen == [(done, len(seen) - 1) for done in range(len(seen))]


def test_a_worker_that_is_killed_loses_nothing(tmp_path, maps, processes):
    maps.join(tmp_path / "one" / "many", block_size=SIZE)

    def kill(done: int, total: int) -> None:
        if done == 2:
            processes.kill_worker(0)

    maps.join(
        tmp_path / "two" / "many", block_size=SIZE, cluster=ClusterOptions(processes.address),
        progress=kill,
    )  # fmt: skip
    assert digests(tmp_path / "two" / "many") == digests(tmp_path / "one" / "many")
    assert names_in(tmp_path / "two") == names_in(tmp_path / "one")


def test_what_one_process_began_workers_complete(tmp_path, maps, processes):
    maps.join(tmp_path / "one" / "many", block_size=SIZE)

    def stop(done: int, total: int) -> None:
        if done == 4:
            raise KeyboardInterrupt

    (tmp_path / "two").mkdir()
    with pytest.raises(KeyboardInterrupt):
        maps.join(tmp_path / "two" / "many", block_size=SIZE, progress=stop)
    maps.join(
        tmp_path / "two" / "many", block_size=SIZE, resume=True,
        cluster=ClusterOptions(processes.address),
    )  # fmt: skip
    assert digests(tmp_path / "two" / "many") == digests(tmp_path / "one" / "many")


def test_what_workers_skip_is_named_as_it_was_given(tmp_path, maps, processes):
    damage.overwrite(maps.labels[3], 0, 1)
    results = [
        mosaic(
            maps.labels, tmp_path / name / "many", block_size=SIZE, on_error="skip",
            cluster=ClusterOptions(processes.address) if name == "two" else None,
        )
        for name in ("one", "two")
    ]  # fmt: skip
    assert [file.file for file in results[0].skipped] == ["in/m3.tif"]
    assert results[0].skipped == results[1].skipped
    one, two = (
        {path.name: path.read_bytes() for path in (tmp_path / name / "many").glob("*.*")}
        for name in ("one", "two")
    )
    assert one == two


def test_an_error_of_a_worker_names_the_file(tmp_path, maps, processes):
    damage.overwrite(maps.labels[1], 1, 1)
    with pytest.raises(CafeError, match=r"cannot read .*/in/m1.tif at column \d+, row \d+"):
        mosaic(
            maps.labels, tmp_path / "many", block_size=SIZE,
            cluster=ClusterOptions(processes.address),
        )  # fmt: skip
    assert not (tmp_path / "many").exists()


def test_a_cluster_is_for_blocks(tmp_path, maps):
    with pytest.raises(ConfigError, match="a cluster makes a mosaic in blocks: add --block-size"):
        mosaic(maps.labels, tmp_path / "a.tif", cluster=ClusterOptions(workers=2))


@pytest.mark.skipif(sys.platform == "win32", reason="no fork")
def test_a_scheduler_that_nobody_runs(tmp_path, maps, monkeypatch):
    monkeypatch.setattr(connection, "_ANSWER", 0.5)
    with pytest.raises(CafeError, match="no Dask scheduler answers"):
        maps.join(tmp_path / "many", block_size=SIZE, cluster=ClusterOptions("tcp://127.0.0.1:9"))
    assert names_in(tmp_path) == {"in"}
