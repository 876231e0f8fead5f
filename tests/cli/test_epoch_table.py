import logging
import math

from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from cafe_cli.cli import console
from cafe_cli.cli.epoch_table import EpochTable
from cafe_cli.training.history import EpochRecord, columns, group, loss_names

CLASSES = ("ground", "vegetation", "building", "water")


def row(epoch: int, miou: float = 0.5, classes=CLASSES, **more) -> EpochRecord:
    start = {"epoch": epoch, "step": 10 * epoch, "learning_rate": 1e-3, "loss": 2.0 / epoch}
    ious = {f"iou_{name}": 0.9 - 0.1 * i for i, name in enumerate(classes)}
    ending = {"data_wait": 0.013, "seconds": 60.0}
    values = start | {"student": 1.0, "teacher": 0.5, "miou": miou} | ious | ending | more
    return EpochRecord.from_row(values)


def test_what_columns_mean():
    rows = [row(1), row(2, lovasz=0.1)]
    assert loss_names(rows) == ["loss", "student", "teacher", "lovasz"]
    assert columns(rows)[-2:] == ["seconds", "lovasz"]
    names = ("epoch", "learning_rate", "iou_seconds", "data_wait")
    assert [group(name) for name in names] == ["", "train", "validation", "engine"]


def test_a_log_file():
    table = EpochTable(120, 100)
    lines = [*table.lines(row(1, 0.5)), *table.lines(row(2, 0.4)), *table.lines(row(3, 0.6))]
    start, end = ([line[part] for line in lines] for part in (slice(46), slice(54, None)))
    assert start == [
        "epoch    loss  student  teacher   mIoU  ground",
        " 1/10  2.0000   1.0000   0.5000  0.500    0.90",
        " 2/10  1.0000   1.0000   0.5000  0.400    0.90",
        " 3/10  0.6667   1.0000   0.5000  0.600    0.90",
    ]
    assert end == [
        "tion  building  water  wait   time   left",
        "0.80      0.70   0.60  1.3%    60s   9m00  best",
        "0.80      0.70   0.60  1.3%    60s   8m00",
        "0.80      0.70   0.60  1.3%    60s   7m00  best",
    ]


def test_a_narrow_terminal_cuts_names_first():
    header, line = EpochTable(80, 100).lines(row(1))
    assert "student" not in header
    assert "ground  veget…  build…  water" in header
    assert line.split()[3:7] == ["0.90", "0.80", "0.70", "0.60"]


def test_many_classes_show_the_worst():
    names = [f"class {i}" for i in range(40)]
    table = EpochTable(100, 100)
    header, first = table.lines(row(1, classes=names))
    assert "worst classes" in header
    assert "class 39 -3.00, class 38 -2.90" in first
    (second,) = table.lines(row(2, classes=names, **{"iou_class 7": -9.0}))
    assert "class 7 -9.00, class 39 -3.00" in second


def test_names_that_are_alike_when_cut_show_the_worst():
    names = [f"a forest of kind {i}" for i in range(3)]
    header, line = EpochTable(80).lines(row(1, classes=names))
    assert "worst classes" in header
    assert "a forest of kin… 0.70" in line


def test_without_validation():
    plain = EpochRecord(epoch=1, step=5, losses={"loss": 1.25})
    assert EpochTable(80, 10).lines(plain) == ["epoch    loss", "  1/2  1.2500"]


def test_the_engine_knows_better_which_is_best():
    table = EpochTable(120)
    assert not table.lines(row(5, 0.4), best=False)[-1].endswith("best")
    assert table.lines(row(6, 0.3), best=True)[-1].endswith("best")


def test_a_score_that_is_nan_is_not_the_best():
    table = EpochTable(120)
    assert not table.lines(row(1, math.nan))[-1].endswith("best")
    assert table.lines(row(2, 0.1))[-1].endswith("best")
    assert not table.lines(row(3, 0.05))[-1].endswith("best")


def test_time_left_of_a_resumed_run():
    table = EpochTable(120, 100)
    assert "4m00" in table.lines(row(6))[-1]
    assert "3m00" in table.lines(row(7))[-1]


names = st.lists(st.text(min_size=1, max_size=30), max_size=12, unique=True)


@given(names, st.integers(70, 200), st.integers(0, 5000))
def test_lines_are_aligned_and_fit(classes, width, total):
    table = EpochTable(width, total)
    lines = [line for e in range(1, 4) for line in table.lines(row(e, e / 10, classes))]
    header, *rest = lines
    assert {cell_len(line) for line in rest} == {cell_len(header) + len("  best")}
    assert cell_len(rest[0]) <= width


def test_wide_characters():
    assert (cell_len("water"), cell_len("水面"), cell_len("a\u0301")) == (5, 4, 1)
    header, line = EpochTable(120).lines(row(1, classes=("水面", "ground")))
    assert cell_len(header) + len("  best") == cell_len(line)


def test_the_display_prints_a_header_once(capsys):
    log = logging.getLogger("cafe")
    before = log.level
    log.setLevel(logging.INFO)
    try:
        with console.training_display() as (on_step, on_epoch):
            on_step(10, 20, 1.0)
            on_epoch(row(1))
            on_epoch(row(2, 0.6), True)
    finally:
        log.setLevel(before)
    lines = [line for line in capsys.readouterr().err.splitlines() if line.strip()]
    assert [line.split()[0] for line in lines] == ["epoch", "1/2", "2/2"]


def test_the_display_is_silent_when_asked(capsys):
    log = logging.getLogger("cafe")
    before = log.level
    log.setLevel(logging.ERROR)
    try:
        with console.training_display() as (_, on_epoch):
            on_epoch(row(1))
    finally:
        log.setLevel(before)
    assert capsys.readouterr().err.strip() == ""
