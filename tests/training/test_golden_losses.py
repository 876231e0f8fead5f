"""The losses of a short training run, compared with those that are committed."""

import json
import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from cafe_cli.training import curves, trainer
from cafe_cli.training import step as training_step
from cafe_cli.training.history import EpochRecord
from cafe_cli.training.train import TrainCallbacks, train
from tests.support.engines import settings

pytest_plugins = ["tests.support.fixtures"]

GOLDEN = Path(__file__).with_name("golden_losses.json")
CHANGES = {
    "augment__jpeg": 0,  # the last bit of a sum decides over a step of its table
    "train__epochs": 10, "train__batch_size": 3, "train__dice": 0.5, "train__warmup": 0.25,
    "train__optimizer": "sgd", "train__learning_rate": 5e-3,
}  # fmt: skip


class DiffersError(Exception):
    """A loss is off by more than another CPU explains."""


def losses_of_a_run(
    tileset: Path, output: Path, golden: Sequence[dict[str, float]] = (), **changes
) -> list[dict[str, float]]:
    """Return the means of each epoch: 20 steps in all, two an epoch.

    Raises `DiffersError` after the first epoch that differs from that of `golden`.
    """
    found: list[dict[str, float]] = []

    def keep(record: EpochRecord, best: bool) -> None:
        found.append({name: round(value, 6) for name, value in record.losses.items()})
        if golden and differs(found[-1:], golden[len(found) - 1 : len(found)]):
            raise DiffersError

    report = TrainCallbacks(epoch=keep)
    train(tileset, output, settings(**{**CHANGES, **changes}), device="cpu", report=report)
    return found


def differs(found: Sequence[dict[str, float]], golden: Sequence[dict[str, float]]) -> bool:
    """Whether any loss is off by more than another CPU explains.

    Other CPUs add up in another order. Initial weights that are off by a millionth, ten times the
    rounding of float32, change these losses by 0.3 % at most, and the distillation, a small
    difference of large numbers, by 1 %: with SGD and a low learning rate, that is. AdamW and higher
    rates amplify rounding to several per cent within 20 steps.
    """
    return any(
        row[name] != pytest.approx(value, rel=0.05 if name == "distillation" else 0.01)
        for row, known in zip(found, golden, strict=True)
        for name, value in known.items()
    )


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch):
    monkeypatch.setattr(curves, "draw_curves", lambda *args: None)
    monkeypatch.setattr(curves, "_write_tensorboard", lambda *args: None)
    monkeypatch.setattr(trainer, "write_report", lambda *args, **options: None)


@pytest.mark.slow
def test_golden_losses(tileset, tmp_path):
    """After a change that is meant to alter training, renew the file and commit it with the change.

    ``RENEW_GOLDEN_LOSSES=1 pytest tests/training/test_golden_losses.py`` writes it.
    """
    found = losses_of_a_run(tileset, tmp_path / "run")
    if os.environ.get("RENEW_GOLDEN_LOSSES"):
        GOLDEN.write_text(json.dumps(found, indent=1) + "\n")
    golden = json.loads(GOLDEN.read_text())
    assert not differs(found, golden), f"expected {golden}, found {found}"


@pytest.mark.slow
def test_another_schedule_is_found(tileset, tmp_path, monkeypatch):
    def linear(step, total, settings):
        return settings.learning_rate * (1 - step / total)

    monkeypatch.setattr(training_step, "learning_rate", linear)
    with pytest.raises(DiffersError):
        losses_of_a_run(tileset, tmp_path / "run", json.loads(GOLDEN.read_text()))


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [{"train__warmup": 0.1}, {"train__distill_weight": 0.9}, {"train__dice": 0.45}],
    ids=str,
)
def test_the_tolerance_is_narrow_enough(tileset, tmp_path, changes):
    """Another warm-up, and other weights of the losses, are not taken for rounding."""
    with pytest.raises(DiffersError):
        losses_of_a_run(tileset, tmp_path / "run", json.loads(GOLDEN.read_text()), **changes)
