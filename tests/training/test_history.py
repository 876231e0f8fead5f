import errno
import math
import os

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.summary.writer import event_file_writer

from cafe_cli.errors import InputError, OutputError
from cafe_cli.training import curves
from cafe_cli.training.curves import write_history
from cafe_cli.training.history import HISTORY_FILE, EpochRecord, read_history, to_csv
from tests.support.rasters import TABLE

PICTURE = np.full((8, 40, 3), 128, np.uint8)


def row(epoch: int, **more) -> EpochRecord:
    start = {"epoch": epoch, "step": 3 * epoch, "loss": 1 / epoch, "miou": 0.5}
    return EpochRecord.from_row(start | more)


@pytest.fixture(autouse=True)
def drawn(monkeypatch):
    """Return how often curves were drawn; nobody looks at them here."""
    calls = []
    monkeypatch.setattr(curves, "draw_curves", lambda *args: calls.append(args))
    return calls


@pytest.fixture(autouse=True)
def in_order(monkeypatch):
    """Count event files from 0: within a second they are read in the order of their names.

    So ``.10`` comes before ``.9``, if tests before this one have written that many.
    """
    monkeypatch.setattr(event_file_writer, "_global_uid", event_file_writer.AtomicCounter(0))


def board(folder) -> EventAccumulator:
    events = EventAccumulator(str(folder / "tensorboard"), {"scalars": 0, "images": 0})
    return events.Reload()


def test_csv_takes_columns_that_come_later(tmp_path):
    rows = [row(1), row(2, data_wait=0.25), row(3, miou=math.nan)]
    path = tmp_path / "h.csv"
    path.write_text(to_csv(rows))
    assert path.read_text().splitlines()[:3] == [
        "epoch,step,loss,miou,data_wait", "1,3,1.0,0.5,", "2,6,0.5,0.5,0.25",
    ]  # fmt: skip
    found = read_history(path)
    assert found[:2] == rows[:2]
    assert math.isnan(found[2].miou)


def test_a_record_is_read_and_written_as_its_row():
    """In the order of ``history.csv``, which whoever reads the files of a run relies on."""
    values = {
        "epoch": 1, "step": 3, "learning_rate": 0.1, "loss": 2.0, "student": 1.5, "a_dice": 0.5,
        "miou": 0.5, "mean_f1": 0.6, "overall_accuracy": 0.7, "iou_seconds": 0.1, "f1_seconds": 0.2,
        "iou_loss": 0.3, "f1_loss": 0.4, "data_wait": 0.01, "crops_per_second": 9.5, "seconds": 2.0,
    }  # fmt: skip
    record = EpochRecord.from_row(values)
    assert list(record.as_row().items()) == list(values.items())
    assert record.losses == {"loss": 2.0, "student": 1.5, "a_dice": 0.5}
    assert record.iou == {"seconds": 0.1, "loss": 0.3}
    assert EpochRecord.from_row({"epoch": 1.0, "step": 3.0}) == EpochRecord(1, 3)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epoch\n1\n", "an epoch without step"),
        ("a\nb\n", "could not convert"),
        ("a,b\n1\n", "line 2: 1 values below 2"),
        ("a\n1,2\n", "line 2: 2 values below 1"),
    ],
)
def test_no_history(tmp_path, text, message):
    (tmp_path / "h.csv").write_text(text)
    with pytest.raises(InputError, match=f"is not the history of a run: .*{message}"):
        read_history(tmp_path / "h.csv")


def test_board(tmp_path):
    rows = []
    for epoch in (1, 2):
        rows.append(row(epoch, seconds=2.5, iou_tree=math.nan, learning_rate=0.1))
        write_history(tmp_path, rows, TABLE, {"b_0_64": PICTURE} if epoch == 1 else {})
    events = board(tmp_path)
    assert sorted(events.Tags()["scalars"]) == [
        "engine/seconds", "train/learning_rate", "train/loss", "validation/miou",
    ]  # fmt: skip
    assert [(e.step, e.value) for e in events.Scalars("train/loss")] == [(3, 1.0), (6, 0.5)]
    assert [(e.step, e.width) for e in events.Images("validation/b_0_64")] == [(3, 40)]


def test_an_epoch_written_again_is_there_once(tmp_path, drawn):
    rows = [row(1), row(2)]
    for count in (1, 2, 2):
        write_history(tmp_path, rows[:count], TABLE, {"b": PICTURE})
    assert len(drawn) == 2
    (tmp_path / HISTORY_FILE).write_text(to_csv(rows[:1]))  # killed before the CSV
    write_history(tmp_path, rows, TABLE, {"b": PICTURE})
    events = board(tmp_path)
    assert [e.step for e in events.Scalars("train/loss")] == [3, 6]
    assert [e.step for e in events.Images("validation/b")] == [3, 6]


def test_epochs_after_the_checkpoint_are_taken_back(tmp_path):
    rows = [row(1), row(2), row(3)]
    for count in (1, 2, 3):
        write_history(tmp_path, rows[:count], TABLE)
    write_history(tmp_path, [*rows[:1], row(2, miou=0.75)], TABLE)
    events = board(tmp_path)
    assert [(e.step, e.value) for e in events.Scalars("validation/miou")] == [(3, 0.5), (6, 0.75)]


def test_the_csv_is_written_last(tmp_path, monkeypatch):
    def fail(*args):
        raise OSError("disk")

    monkeypatch.setattr(curves, "_write_tensorboard", fail)
    with pytest.raises(OSError, match="disk"):
        write_history(tmp_path, [row(1)], TABLE)
    assert HISTORY_FILE not in os.listdir(tmp_path)


def test_a_full_disk_is_told_by_the_folder(tmp_path, monkeypatch):
    def full(*args, **options):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("torch.utils.tensorboard.SummaryWriter.add_scalar", full)
    with pytest.raises(OutputError, match=r"cannot write .*tensorboard: No space left on device"):
        write_history(tmp_path, [EpochRecord(epoch=1, step=3, losses={"loss": 0.5})], TABLE)
    assert not (tmp_path / "history.csv").exists()
