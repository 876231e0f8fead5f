"""Batches run in threads, and give their results in the order of their items."""

import threading
from contextlib import contextmanager

import pytest

from cafe_cli.system.batches import Batch, run_batch, run_in_threads


@contextmanager
def opened(log, name):
    log.append(("open", name, threading.get_ident()))
    yield name
    log.append(("close", name, threading.get_ident()))


def described(name, item):
    return f"{name}{item}"


@pytest.mark.parametrize("jobs", [1, 3, 9])
def test_items_come_with_their_results_in_order(jobs):
    log = []
    batches = [
        Batch(lambda name=name: opened(log, name), described, items, jobs)
        for name, items in (("a", range(7)), ("b", []), ("c", [5]))
    ]
    found = [list(results) for results in run_in_threads(batches)]
    assert found == [[(i, f"a{i}") for i in range(7)], [], [(5, "c5")]]
    opens = [(name, thread) for what, name, thread in log if what == "open"]
    closes = [(name, thread) for what, name, thread in log if what == "close"]
    assert sorted(opens) == sorted(closes)
    assert [name for name, _ in opens].count("a") == min(jobs, 7)


def test_batches_are_made_when_the_one_before_is_done():
    log = []

    def make():
        for name in "ab":
            log.append(("make", name, 0))
            yield Batch(lambda name=name: opened(log, name), described, [1, 2])

    for results in run_in_threads(make()):
        assert len(list(results)) == 2
    assert [entry[:2] for entry in log] == [
        (what, name) for name in "ab" for what in ("make", "open", "close")
    ]


def test_an_error_of_an_item_is_raised_where_its_result_is_due():
    def fail(_, item):
        if item == 2:
            raise ValueError("item 2")
        return item

    results = run_batch(run_in_threads, Batch(lambda: opened([], ""), fail, range(5), 2))
    assert [next(results), next(results)] == [(0, 0), (1, 1)]
    with pytest.raises(ValueError, match="item 2"):
        next(results)
