"""What runs on workers, in this process."""

import logging
import os
from types import SimpleNamespace

import pytest

from cafe_cli.cluster import worker
from cafe_cli.errors import ConfigError
from tests.support import cluster_tasks as tasks

HERE = SimpleNamespace(address="tcp://10.0.0.7:4711", name="node-3")


def test_call_returns_value_lines_and_worker():
    found = worker.call(tasks.warn, (7,), dask_worker=HERE)
    assert (found.value, found.error, found.worker) == (7, None, HERE.address)
    assert found.lines == ((logging.WARNING, "7 is a number"),)
    assert found.seconds >= 0


def test_shared_value_comes_first_with_its_lines():
    shared = worker.call(tasks.warn, (7,), dask_worker=HERE)
    found = worker.call(tasks.add, (3,), shared, dask_worker=HERE)
    assert found.value == 10
    assert found.lines == shared.lines


def test_shared_value_that_failed_is_the_error_of_the_task():
    shared = worker.call(tasks.refuse, ("no",), dask_worker=HERE)
    found = worker.call(tasks.add, (3,), shared, dask_worker=HERE)
    assert found.value is None
    assert isinstance(found.error, ConfigError)


def test_error_of_the_program_becomes_one_line():
    found = worker.call(tasks.stumble, (), dask_worker=HERE)
    assert str(found.error) == "ZeroDivisionError: by nought"


def test_worker_is_described():
    found = worker.call(worker.describe, (), dask_worker=HERE).value
    assert (found.host, found.name) == ("10.0.0.7", "node-3")


@pytest.mark.parametrize(
    ("own", "machine", "peers", "expected"),
    [(16, 16, 4, 4), (2, 2, 4, 1), (8, 64, 4, 8), (16, 16, 1, 16)],
)
def test_workers_share_the_cores_that_no_scheduler_has_shared(
    own, machine, peers, expected, monkeypatch
):
    monkeypatch.setattr(worker, "cores", lambda: own)
    monkeypatch.setattr(os, "cpu_count", lambda: machine)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert worker.share_cores(peers) == expected
    assert os.environ["OMP_NUM_THREADS"] == str(expected)
