import math
import signal
import time
from contextlib import nullcontext
from pathlib import Path

import pytest
from safetensors.torch import load_file

from cafe_cli.errors import RunInterruptedError
from cafe_cli.evaluation import metrics
from cafe_cli.model import model_file
from cafe_cli.training import curves, trainer, validation
from cafe_cli.training.plan import LAST
from cafe_cli.training.report.run import BEST, SCORES
from cafe_cli.training.signals import StopReason, watch_for_stop
from cafe_cli.training.train import TrainCallbacks, train
from tests.support.engines import settings

pytest_plugins = ["tests.support.fixtures"]
pytestmark = pytest.mark.slow

STEPS = 3  # of an epoch
ROUNDS = 3  # batches of a validation


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch):
    monkeypatch.setattr(curves, "draw_curves", lambda *args: None)
    monkeypatch.setattr(curves, "_write_tensorboard", lambda *args: None)


@pytest.fixture
def reports(monkeypatch) -> list[str]:
    """How runs have ended, according to their reports."""
    ends = []

    def write(folder, tileset, *, device, ended):
        ends.append(ended)

    monkeypatch.setattr(trainer, "write_report", write)
    return ends


def run(tileset: Path, output: Path, changes=None, **options):
    return train(tileset, output, settings(**(changes or {})), device="cpu", **options)


@pytest.fixture(scope="module")
def whole(tileset, tmp_path_factory):
    """The folder of a run that nothing has stopped."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    run(tileset, folder)
    return folder


def same_weights(one: Path, other: Path) -> bool:
    first, second = load_file(one), load_file(other)
    return all((first[name] == second[name]).all() for name in first)


# --- reasons -----------------------------------------------------------------------------------


def test_no_reason():
    with watch_for_stop(None, time.monotonic()) as reason:
        assert reason() == StopReason.NONE


@pytest.mark.parametrize(("age", "expected"), [(0, StopReason.NONE), (61, StopReason.TIME_LIMIT)])
def test_time(age, expected):
    with watch_for_stop(60, time.monotonic() - age) as reason:
        assert reason() == expected


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGUSR1", "SIGHUP"])
def test_signals(name):
    number = getattr(signal, name)
    before = signal.getsignal(number)
    with watch_for_stop(1, time.monotonic() - 9) as reason:
        signal.raise_signal(number)
        assert reason() == StopReason[name]  # rather than time
        assert reason().signal == number
    assert signal.getsignal(number) is before


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGUSR1", "SIGHUP"])
def test_an_ignored_signal_stays_ignored(name):
    number = getattr(signal, name)
    before = signal.signal(number, signal.SIG_IGN)
    try:
        with watch_for_stop(None, 0) as reason:
            signal.raise_signal(number)
            assert reason() == StopReason.NONE
        assert signal.getsignal(number) == signal.SIG_IGN
    finally:
        signal.signal(number, before)


def test_launcher_and_terminal_stop_together():
    with watch_for_stop(None, 0) as reason:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
        assert reason() == StopReason.SIGINT
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_sigterm_saves(tileset, tmp_path, reports):
    def terminate(done, total, loss):
        if done == 2:
            signal.raise_signal(signal.SIGTERM)

    with pytest.raises(RunInterruptedError, match="stopped at step 2 of 6; continue with --resume"):
        run(tileset, tmp_path / "run", report=TrainCallbacks(terminate))
    assert model_file.load_training(tmp_path / "run" / LAST)[2]["progress"]["batch"] == 2
    assert reports == []


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP", "SIGINT"])
def test_a_validation_ends_at_once_and_is_repeated(
    name, tileset, whole, tmp_path, reports, monkeypatch
):
    count = validation._count

    def signalled(*args):
        signal.raise_signal(getattr(signal, name))
        count(*args)

    output, number = tmp_path / "run", getattr(signal, name)
    with monkeypatch.context() as patch:
        patch.setattr(validation, "_count", signalled)
        with pytest.raises(RunInterruptedError, match="stopped at step 3 of 6") as caught:
            run(tileset, output)
    assert caught.value.exit_code == 128 + number
    assert model_file.load_training(output / LAST)[2]["progress"]["batch"] == STEPS
    run(tileset, output, resume=True)
    for file in (LAST, BEST):
        assert same_weights(output / file, whole / file)


def test_a_signal_ends_the_validation_after_a_time_limit(tileset, tmp_path, monkeypatch):
    """The run says that it was stopped, since it leaves no model."""
    monkeypatch.setattr(validation, "_count", lambda *args: signal.raise_signal(signal.SIGTERM))
    with pytest.raises(RunInterruptedError, match="stopped at step 1 of 6") as caught:
        run(tileset, tmp_path / "run", {"train__time_limit": 1e-3})
    assert caught.value.exit_code == 143


# --- time limit --------------------------------------------------------------------------------


@pytest.fixture
def clock(monkeypatch):
    """Make the time be up after a number of calls, one per step, validation batch and epoch."""

    def after(calls: int):
        count = 0

        def handed(limit, started):
            def reason():
                nonlocal count
                count += 1
                return StopReason.TIME_LIMIT if count >= calls else StopReason.NONE

            return nullcontext(reason)

        monkeypatch.setattr("cafe_cli.training.train.watch_for_stop", handed)

    return after


def test_time_is_up(tileset, whole, tmp_path, reports):
    """In earnest, with a limit that every step exceeds; a model is there all the same."""
    output = tmp_path / "run"
    card = run(tileset, output, {"train__time_limit": 1e-3})
    assert model_file.load_training(output / LAST)[2]["progress"]["batch"] == 1
    assert card.epoch == 0
    assert card.scores["miou"] >= 0
    assert (output / SCORES).exists()
    assert reports == []  # no epoch to report
    run(tileset, output, resume=True)
    for name in (LAST, BEST):
        assert same_weights(output / name, whole / name)


def test_time_is_up_in_a_later_epoch(tileset, tmp_path, reports, clock, caplog):
    caplog.set_level("INFO", "cafe")
    output = tmp_path / "run"
    clock(STEPS + ROUNDS + 1 + 2)
    card = run(tileset, output)
    assert card.epoch == 1  # the best so far is that of the whole epoch
    assert f"time limit reached at step 5 of 6; continue with --resume -o {output}" in caplog.text
    assert reports == ["the time limit was reached at step 5 of 6"]


def test_time_is_up_between_epochs(tileset, tmp_path, reports, clock):
    clock(STEPS + ROUNDS + 1)
    assert run(tileset, tmp_path / "run").epoch == 1
    progress = model_file.load_training(tmp_path / "run" / LAST)[2]["progress"]
    assert (progress["epoch"], progress["batch"]) == (1, 0)


def test_time_is_up_at_the_end(tileset, tmp_path, reports, clock):
    clock(2 * (STEPS + ROUNDS + 1))
    run(tileset, tmp_path / "run")
    assert reports == [""]


# --- early stopping ----------------------------------------------------------------------------


def test_patience(tileset, tmp_path, reports, monkeypatch, caplog):
    caplog.set_level("INFO", "cafe")
    mious = iter([0.2, 0.5, math.nan, 0.5, 0.9, 0.1, 0.1, 0.1])
    real = metrics.compute_scores

    def scripted(confusion, classes):
        return metrics.Scores(**{**vars(real(confusion, classes)), "miou": next(mious)})

    monkeypatch.setattr(trainer, "compute_scores", scripted)
    output, changes = tmp_path / "run", {"train__epochs": 9, "train__patience": 2}
    changes["train__batch_size"] = 6
    assert run(tileset, output, changes).epoch == 2
    words = "stopped early: no better mIoU than 0.5000, of epoch 2, for 2 epochs"
    assert words in caplog.text
    assert reports == [words]
    assert run(tileset, output, changes, resume=True).epoch == 2  # it has ended
    assert run(tileset, output, {**changes, "train__patience": 3}, resume=True).epoch == 5
