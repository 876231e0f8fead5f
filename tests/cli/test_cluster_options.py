"""The options of a cluster, of every command that has them."""

import pytest

from cafe_cli.cluster import connection

pytest_plugins = ["tests.support.fixtures"]


@pytest.fixture
def command(model, scenes, tmp_path):
    inputs = ("--optical", scenes / "a_ortho.tif", "--elevation", scenes / "a_dsm.tif")
    return ("predict", model, *inputs, "-o", tmp_path / "map.tif")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--scheduler", "tcp://h:1", "--workers", "2"), "exclude each other"),
        (("--scratch", "s3://bucket"), "--scratch is for clusters"),
        (("--workers", "0"), "0 is not in the range x>=1"),
        (("--scheduler", "nonsense://x"), "is neither an address"),
        (("--workers", "1", "--scratch", "/vsis3/b"), "s3://bucket/prefix"),
    ],
)
def test_options_that_do_not_fit_are_one_line(command, words, message, invoke, tmp_path):
    pytest.importorskip("distributed")
    code, said = invoke(*command, *words)
    assert code == 2
    assert message in said.err
    assert said.err.count("\n") == 1
    assert not (tmp_path / "map.tif").exists()


def test_scheduler_that_is_not_there_is_one_line(command, invoke, monkeypatch, tmp_path):
    pytest.importorskip("distributed")
    monkeypatch.setattr(connection, "_ANSWER", 0.5)
    code, said = invoke(*command, "--scheduler", "tcp://127.0.0.1:1")
    assert code == 1
    assert "no Dask scheduler answers at tcp://127.0.0.1:1 within" in said.err
    assert said.err.count("\n") == 1
    assert not (tmp_path / "map.tif").exists()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_workers_of_this_machine_make_a_map(command, invoke, tmp_path):
    pytest.importorskip("distributed")
    code, said = invoke(*command, "--workers", 1)
    assert code == 0, said.err
    assert (tmp_path / "map.tif").exists()
    assert "1 workers" not in said.err
