"""Work in threads."""

import threading
import time
from contextlib import contextmanager

import pytest

from cafe_cli.system.threads import in_order


class Opened:
    """Counts who opens and closes, and in which thread."""

    def __init__(self, fails=False):
        self.fails, self.inside, self.most, self.closed = fails, 0, 0, 0

    @contextmanager
    def __call__(self):
        if self.fails:
            raise ValueError("cannot be opened")
        thread = threading.get_ident()
        yield self
        assert threading.get_ident() == thread
        self.closed += 1


@pytest.mark.parametrize("jobs", [1, 2, 5])
def test_results_come_in_the_order_of_the_items(jobs):
    opened = Opened()

    def work(_, item):
        time.sleep(0.002 * (item % 3))
        return item * item

    assert list(in_order(opened, work, range(30), jobs)) == [i * i for i in range(30)]
    assert opened.closed == jobs


@pytest.mark.parametrize("jobs", [1, 3])
def test_the_first_failure_ends_all(jobs):
    opened, done = Opened(), []

    def work(_, item):
        done.append(item)
        if item == 4:
            raise ValueError("four")
        return item

    results = []
    with pytest.raises(ValueError, match="four"):
        results.extend(in_order(opened, work, range(1000), jobs))
    assert len(done) < 50
    assert opened.closed == jobs or jobs == 1


@pytest.mark.parametrize("jobs", [1, 3])
def test_what_cannot_be_opened(jobs):
    with pytest.raises(ValueError, match="cannot be opened"):
        list(in_order(Opened(fails=True), lambda _, item: item, range(5), jobs))


def test_little_is_done_ahead():
    done = []
    results = in_order(Opened(), lambda _, item: done.append(item), range(1000), 2)
    next(results)
    time.sleep(0.05)
    assert len(done) <= 6
    results.close()


def test_leaving_early_closes_everything():
    opened, before = Opened(), {*threading.enumerate()}
    results = in_order(opened, lambda _, item: item, range(1000), 3)
    assert next(results) == 0
    results.close()
    assert opened.closed == 3
    assert {*threading.enumerate()} <= before
