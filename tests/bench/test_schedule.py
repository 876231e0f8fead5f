"""The simulation of a schedule: what has to hold whatever the figures are."""

import math
from dataclasses import replace

import pytest

schedule = pytest.importorskip("benchmarks.cluster.schedule", reason="no benchmarks in this copy")
simulate = pytest.importorskip("benchmarks.cluster.simulate")
Assumptions, Simulation = schedule.Assumptions, schedule.Simulation

TASK = 16 * 6.6e6  # pixels
IDEAL = Assumptions(pixels=40 * TASK, workers=4, rate=2.0, repeated=0.0)
REAL = replace(
    IDEAL, pixels=60 * TASK, repeated=1.0, scene=700.0, startup=20.0, storage=2e7, overhead=0.5,
    planning=2.0, assembling=50.0,
)  # fmt: skip
"""Everything takes time, but nothing is left to chance."""


def run(given, losses=()):
    return Simulation(given, losses).run()


@pytest.mark.parametrize("workers", [1, 2, 4, 5, 10, 40])
def test_where_nothing_is_lost_the_time_is_the_work_by_the_workers(workers):
    given = replace(IDEAL, workers=workers)
    found = run(given)
    assert found.makespan == pytest.approx(given.ideal)
    assert (found.efficiency, found.busy) == (pytest.approx(1), pytest.approx(1))
    assert (found.reruns, found.copies, found.lost) == (0, 0, 0)


@pytest.mark.parametrize("workers", [3, 7, 39, 41, 1000])
def test_tasks_are_whole(workers):
    given = replace(IDEAL, workers=workers)
    assert run(given).makespan == pytest.approx(math.ceil(40 / workers) * given.task_seconds)


@pytest.mark.parametrize("given", [IDEAL, REAL, replace(REAL, strips_per_task=3)])
def test_more_workers_are_not_slower_by_more_than_a_task(given):
    times = [run(replace(given, workers=n)).makespan for n in range(1, 30)]
    # Scenes may end closer together, so that the last map waits for the one before.
    last_map = given.scene / given.assembling
    assert all(
        later <= earlier + given.task_seconds + last_map
        for n, earlier in enumerate(times)
        for later in times[n:]
    )
    assert times[-1] < times[0] / 2


@pytest.mark.parametrize("when", [0.1, 1.0, 52.7, 100.0, 500.0])
@pytest.mark.parametrize("restart", [0.0, 30.0, math.inf])
def test_a_lost_worker_costs_its_task_and_its_absence(when, restart):
    given = replace(IDEAL, restart=restart, copies=False)
    found = run(given, [(when, 2)])
    assert (found.lost, found.reruns) == (1, 1)
    # Graham's bound: what remains is shared evenly, but for the last task of each.
    work = 41 * given.task_seconds
    away = min(restart, given.ideal - when + 2 * given.task_seconds)
    assert given.ideal <= found.makespan <= (work + away) / 4 + given.task_seconds


def test_all_workers_lost_at_once_repeat_a_task_each():
    given = replace(IDEAL, restart=10.0, startup=5.0)
    found = run(given, [(5.0 + 30.0, n) for n in range(4)])
    assert found.makespan == pytest.approx(5 + 30 + 10 + 5 + given.ideal)
    assert found.reruns == 4


@pytest.mark.parametrize("seed", range(5))
def test_losses_at_random_end_and_repeat(seed):
    given = replace(IDEAL, losses=10.0, restart=60.0, startup=10.0, seed=seed)
    one, two = run(given), run(given)
    assert one == two
    assert one.lost >= one.reruns > 0
    assert one.makespan > given.ideal + 10


def test_a_storage_that_is_too_slow_sets_the_time():
    given = replace(IDEAL, storage=1e6, bytes_per_pixel=3.0)
    assert run(given).makespan == pytest.approx(40 * TASK * 3 / 1e6)
    fast = replace(IDEAL, storage=4 * 2e6 * 3.0, bytes_per_pixel=3.0)  # just as fast as the workers
    assert run(fast).makespan == pytest.approx(fast.ideal)


@pytest.mark.parametrize(("workers", "expected"), [(4, 200), (2, 200), (1, 400)])
def test_transfers_share_the_storage(workers, expected):
    # Four tasks of 100 s, whose transfer takes 50 s alone, and 100 s or 200 s beside one or three.
    given = Assumptions(
        pixels=4 * TASK, workers=workers, rate=TASK / 1e8, repeated=0.0, storage=TASK / 50,
        bytes_per_pixel=1.0,
    )  # fmt: skip
    assert run(given).makespan == pytest.approx(expected)


def test_the_client_does_one_thing_at_a_time():
    given = replace(IDEAL, overhead=60.0)
    assert run(given).makespan >= 40 * 60
    maps = replace(IDEAL, scene=10 * TASK / 1e6, assembling=TASK / 1e6 / 500)
    assert run(maps).makespan == pytest.approx(run(IDEAL).makespan / 4 + 40 * 500, rel=0.02)


def test_second_copies_spare_the_wait_for_slow_workers():
    given = replace(IDEAL, slow_share=0.25, slow_factor=100.0)
    waiting, copied = run(replace(given, copies=False)), run(given)
    assert waiting.makespan == pytest.approx(100 * given.task_seconds)
    assert copied.copies == 1
    # Three workers do 39 tasks, wait until the slow one is conspicuous, and do its task.
    assert copied.makespan == pytest.approx(14 * given.task_seconds)


def test_a_small_number_of_tasks_ahead_leaves_no_worker_idle():
    given = replace(IDEAL, pixels=400 * TASK, overhead=1.0)
    assert run(replace(given, ahead=2)).makespan < 1.02 * run(given).makespan


def test_causes_cost_what_they_take():
    cost = schedule.costs(replace(IDEAL, startup=20.0, repeated=4.0))
    assert cost["start of the workers"] == pytest.approx(20)
    assert cost["windows run twice"] == pytest.approx(IDEAL.ideal / 4)
    assert cost["whole tasks"] == pytest.approx(0, abs=1e-6)
    assert {cost[c] for c in ("slow workers", "lost workers", "storage", "maps")} == {0}


def test_the_command_prints_all_assumptions(capsys):
    simulate.main(["--pixels", "1e11", "--workers", "10", "--rate", "2.5", "--losses", "0.1"])
    said = capsys.readouterr().out
    assert "| pixels | 100,000,000,000 px |" in said
    assert "| rate | 2.5 Mpx/s |" in said
    assert "| storage | no limit |" in said
    assert "| evenly shared | 1 h 06 min |" in said
    for cause in schedule.CAUSES:
        assert f"| {cause} |" in said


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--workers", "4", "--rate", "1"], "--pixels"),
        (["--pixels", "1e9", "--workers", "4"], "--rate"),
        (["--pixels", "1e9", "--workers", "0", "--rate", "1"], "--workers 0 is too small"),
        (["--pixels", "1e9", "--workers", "4", "--rate", "nan"], "--rate nan is too small"),
        (["--pixels", "1e9", "--workers", "4", "--rate", "inf"], "have to be finite"),
        (["--pixels", "0", "--workers", "4", "--rate", "1"], "--pixels 0 is too small"),
        (["--pixels", "1e9", "--workers", "4", "--rate", "1", "--slow-share", "2"], "above 1"),
        (["--pixels", "1e9", "--workers", "4", "--rate", "1", "--losses", "-1"], "--losses -1"),
    ],
)
def test_figures_that_cannot_be(words, says, capsys):
    with pytest.raises(SystemExit) as caught:
        simulate.main(words)
    assert caught.value.code == 2
    assert says in capsys.readouterr().err


@pytest.mark.parametrize("repeated", [0.0, 1.0])
def test_the_last_task_may_be_smaller(repeated):
    given = replace(IDEAL, pixels=1.25 * TASK, workers=1, repeated=repeated)
    own = 1.25 * 16 + 2 * repeated  # strips
    assert run(given).makespan == pytest.approx(own * 6.6 / 2)
