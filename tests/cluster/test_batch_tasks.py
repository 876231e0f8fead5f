"""The tasks of batches, as a worker runs them, in this process."""

import os
from contextlib import contextmanager

from cafe_cli.cluster import batches
from cafe_cli.system.batches import Batch


@contextmanager
def opened(value=10):
    yield value


def add(own, item):
    return own + item


def test_items_of_a_part_are_worked_on_in_the_folder_of_the_command(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.chdir("/")
    assert batches._run_part(Batch(opened, add, [1, 2]), str(tmp_path)) == [11, 12]
    assert os.getcwd() == str(tmp_path)


def test_prepared_value_is_passed_to_what_opens(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert batches._prepare(lambda: 7, str(tmp_path)) == 7
    assert batches._run_prepared(7, Batch(opened, add, [1, 2]), str(tmp_path)) == [8, 9]


def test_first_name_that_a_worker_does_not_see_is_returned(tmp_path):
    (tmp_path / "a").touch()
    assert batches._unseen(str(tmp_path), ["a"]) is None
    assert batches._unseen(str(tmp_path), ["a", "b", "c"]) == str(tmp_path / "b")
    assert batches._unseen(str(tmp_path / "none"), []) == str(tmp_path / "none")
