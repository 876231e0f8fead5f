import json
import logging
import socket
import sys
import time

import pytest

from cafe_cli.cluster import connection
from cafe_cli.cluster.cluster import Cluster
from cafe_cli.cluster.job import ClusterOptions, Shared, Task
from cafe_cli.cluster.worker import describe
from cafe_cli.errors import CafeError, ConfigError
from tests.support import cluster_tasks as tasks
from tests.support.dask_cluster import dask_processes, wait_until

pytest.importorskip("distributed")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


@pytest.fixture(scope="module")
def processes(tmp_path_factory):
    with dask_processes(2, tmp_path_factory.mktemp("dask")) as started:
        yield started


@pytest.fixture
def cluster(processes):
    with Cluster(ClusterOptions(processes.address), slow=2.0, least=0.5) as entered:
        wait_until(lambda: len(entered.workers) == 2)
        yield entered


def test_results_come_with_their_tasks(cluster):
    work = [Task(f"square-{n}", tasks.square, (n,), owner=f"owner {n}") for n in range(50)]
    found = {o.task.owner: o.result() for o in cluster.run(work)}
    assert found == {f"owner {n}": n * n for n in range(50)}
    assert cluster.incidents.retried == 0


def test_only_some_tasks_are_with_the_scheduler_at_a_time(cluster):
    taken = []

    def work():
        for n in range(40):
            taken.append(n)
            yield Task(f"square-{n}", tasks.square, (n,))

    ahead = [len(taken) - done for done, _ in enumerate(cluster.run(work()), 1)]
    assert len(ahead) == 40
    assert max(ahead) <= 6  # two for each worker, and one


def test_there_may_be_no_task_at_the_moment(cluster):
    done = []

    def work():
        for n in range(3):
            while len(done) < n:  # each needs the one before
                yield None
            yield Task(f"square-{n}", tasks.square, (n,))

    for outcome in cluster.run(work()):
        done.append(outcome.result())
    assert done == [0, 1, 4]


def test_shared_value_is_computed_once_and_passed_first(cluster, tmp_path):
    shared = Shared("process", tasks.note, (tmp_path, "shared"))
    work = [Task(f"add-{n}", tasks.add, (n,), shared) for n in range(10)]
    found = sorted(o.result() for o in cluster.run(work))
    assert [value - found[0] for value in found] == list(range(10))
    assert len(list(tmp_path.glob("shared.*"))) == 1


def test_each_worker_is_asked(cluster):
    facts = cluster.ask(describe)
    assert sorted(fact.name for fact in facts.values()) == ["0", "1"]
    assert {fact.host for fact in facts.values()} == {"127.0.0.1"}


def test_error_that_a_worker_answers_with_is_raised(cluster):
    with pytest.raises(ConfigError, match="not so"):
        cluster.ask(tasks.refuse, "not so")


def test_result_that_cannot_be_sent_is_an_error_after_three_times(cluster):
    (outcome,) = cluster.run([Task("lock", tasks.return_a_lock)])
    with pytest.raises(CafeError, match=r"^lock: "):
        outcome.result()
    assert cluster.incidents.retried == 2


def test_lines_that_workers_log_appear_here(cluster, caplog):
    with caplog.at_level(logging.WARNING, "cafe"):
        assert [o.result() for o in cluster.run([Task("warn", tasks.warn, (7,))])] == [7]
    assert "7 is a number" in caplog.messages


def test_task_that_fails_runs_again(cluster, tmp_path):
    (outcome,) = cluster.run([Task("server", tasks.fail_at_first, (tmp_path, 2))])
    assert outcome.result() == "done"
    assert cluster.incidents.retried == 2


def test_task_that_fails_three_times_has_failed(cluster, tmp_path):
    (outcome,) = cluster.run([Task("server", tasks.fail_at_first, (tmp_path, 3))])
    with pytest.raises(CafeError, match="the server is away"):
        outcome.result()
    assert len(list(tmp_path.glob("try.*"))) == 3


def test_wrong_setting_is_not_tried_again(cluster):
    (outcome,) = cluster.run([Task("refused", tasks.refuse, ("never",))])
    assert isinstance(outcome.error, ConfigError)
    assert cluster.incidents.retried == 0


def test_error_of_the_program_is_one_line_too(cluster):
    (outcome,) = cluster.run([Task("stumbles", tasks.stumble)])
    assert str(outcome.error) == "ZeroDivisionError: by nought"


def test_task_of_a_worker_that_dies_runs_on_another(cluster, tmp_path):
    work = [Task("dies", tasks.die_once, (tmp_path,))]
    work += [Task(f"square-{n}", tasks.square, (n,)) for n in range(10)]
    found = {o.task.name: o.result() for o in cluster.run(work)}
    assert found["dies"] == "done"
    assert len(found) == 11
    wait_until(lambda: len(cluster.workers) == 2)


def test_last_task_that_takes_long_runs_twice_and_the_first_result_counts(cluster, tmp_path):
    work = [Task(f"square-{n}", tasks.square, (n,)) for n in range(5)]
    work += [Task("lingers", tasks.linger_once, (tmp_path, 20.0))]
    start = time.monotonic()
    found = {o.task.name: o.result() for o in cluster.run(work)}
    assert found["lingers"] == "second"
    assert len(found) == 6
    assert cluster.incidents.copied == 1
    assert time.monotonic() - start < 20


def test_tasks_go_to_a_scheduler_that_was_restarted(tmp_path):
    with (
        dask_processes(2, tmp_path) as processes,
        Cluster(ClusterOptions(processes.address)) as cluster,
    ):
        work = [Task(f"note-{n}", tasks.note, (tmp_path, f"note-{n}", 0.2)) for n in range(20)]
        done = []
        for outcome in cluster.run(work):
            done.append(outcome.task.name)
            assert isinstance(outcome.result(), int)
            if len(done) == 5:
                processes.restart_scheduler()
    assert sorted(done) == sorted(task.name for task in work)
    assert cluster.incidents.reconnected >= 1


def test_cluster_waits_for_its_first_worker(tmp_path, caplog):
    with dask_processes(0, tmp_path) as processes:

        class Start(logging.Handler):
            def emit(self, record):
                if "waiting for one" in record.getMessage():
                    processes.add_worker()

        caplog.set_level(logging.INFO, "cafe")
        logging.getLogger("cafe").addHandler(handler := Start())
        try:
            with Cluster(ClusterOptions(processes.address)) as cluster:
                assert len(cluster.workers) == 1
        finally:
            logging.getLogger("cafe").removeHandler(handler)


def test_scheduler_that_does_not_come_back_ends_the_run(tmp_path, monkeypatch):
    with (
        dask_processes(1, tmp_path) as processes,
        Cluster(ClusterOptions(processes.address)) as cluster,
    ):
        monkeypatch.setattr(connection, "PATIENCE", 1.0)
        monkeypatch.setattr(connection, "_ANSWER", 1.0)
        processes.scheduler.kill()
        work = [Task(f"note-{n}", tasks.note, (tmp_path, f"note-{n}")) for n in range(5)]
        with pytest.raises(CafeError, match=r"has not answered for 1 s: start it.*--resume"):
            list(cluster.run(work))


def test_workers_of_this_machine_are_processes_of_their_own():
    with Cluster(ClusterOptions(workers=2)) as cluster:
        facts = cluster.ask(describe)
        assert sorted(fact.name for fact in facts.values()) == ["0", "1"]
        assert [o.result() for o in cluster.run([Task("square", tasks.square, (3,))])] == [9]


def test_no_scheduler_is_one_line_within_ten_seconds(monkeypatch):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{probe.getsockname()[1]}"
    monkeypatch.setattr(connection, "_ANSWER", 0.5)
    with pytest.raises(CafeError, match=f"no Dask scheduler answers at {address} within"):
        Cluster(ClusterOptions(address)).__enter__()


@pytest.mark.parametrize("address", ["nonsense://x", "tcp://", "::::", "tcp://127.0.0.1:x"])
def test_address_that_is_none_is_refused(address):
    with pytest.raises(ConfigError, match="is neither an address, such as tcp://host:8786, nor"):
        Cluster(ClusterOptions(address)).__enter__()


def test_scheduler_is_found_by_its_file_too(processes, tmp_path):
    path = tmp_path / "scheduler.json"
    path.write_text(json.dumps({"address": processes.address, "type": "Scheduler", "workers": {}}))
    with Cluster(ClusterOptions(str(path))) as cluster:
        assert [o.result() for o in cluster.run([Task("square", tasks.square, (3,))])] == [9]


@pytest.mark.parametrize("text", ["", "{}", "[]", "not json"])
def test_file_without_address_is_refused(text, tmp_path):
    (tmp_path / "scheduler.json").write_text(text)
    with pytest.raises(ConfigError, match="has no address"):
        Cluster(ClusterOptions(str(tmp_path / "scheduler.json"))).__enter__()


@pytest.mark.parametrize("options", [{}, {"scheduler": "tcp://a", "workers": 1}, {"workers": 0}])
def test_options_that_do_not_name_one_cluster_are_refused(options):
    with pytest.raises(ConfigError):
        Cluster(ClusterOptions(**options))


def test_without_dask_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(CafeError, match=r"pip install '\.\[dask\]'"):
        Cluster(ClusterOptions(workers=1)).__enter__()
