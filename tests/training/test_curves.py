import errno
import math
import os
import re
import warnings
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from matplotlib import image as reader

from cafe_cli.classes import ClassTable, LandClass
from cafe_cli.errors import OutputError
from cafe_cli.training.curves import Chart, Line, draw_curves, lines_of, to_svg, write_history
from cafe_cli.training.history import EpochRecord
from tests.support.rasters import TABLE
from tests.test_plotting import check, inked

NAN = math.nan


def records(rows) -> list[EpochRecord]:
    return [EpochRecord.from_row(row) for row in rows]


def rows(count: int, **changes) -> list[dict[str, float]]:
    names = ["loss", "student", "teacher", "distillation", "miou", "mean_f1", "overall_accuracy"]
    names += [f"{kind}_{name}" for kind in ("iou", "f1") for name in TABLE.names]
    values = {name: 0.1 + 0.05 * k for k, name in enumerate(names)}  # no line covers another
    return [{"epoch": i + 1, "step": 3 * i, **values, **changes} for i in range(count)]


BLUE = "#1f77b4"  # the first line of a panel


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 2, 30])
def test_curves(tmp_path, count):
    draw_curves(records(rows(count)), TABLE, tmp_path / "curves.png")
    pixels = check(tmp_path / "curves.png", 1320, 440)
    if count > 1:
        for first in (0, 440):
            assert inked(pixels[:, first : first + 440], BLUE) > 300


def test_curves_of_one_epoch_have_a_point(tmp_path):
    draw_curves(records(rows(1)), TABLE, tmp_path / "one.png")
    draw_curves(records(rows(1, loss=math.nan)), TABLE, tmp_path / "none.png")
    drawn = [inked(reader.imread(tmp_path / name)[:, :440, :3], BLUE) for name in
             ("one.png", "none.png")]  # fmt: skip
    assert drawn[0] > drawn[1]


def test_curves_with_nan(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        draw_curves(records(rows(3, iou_tree=math.nan)), TABLE, tmp_path / "curves.png")
        draw_curves(records(rows(2, miou=math.nan, loss=math.nan)), TABLE, tmp_path / "empty.png")
    check(tmp_path / "curves.png", 1320, 440)
    check(tmp_path / "empty.png", 1320, 440)


def test_curves_without_validation(tmp_path):
    history = [{k: row[k] for k in ("epoch", "step", "loss", "student")} for row in rows(4)]
    draw_curves(records(history), TABLE, tmp_path / "curves.png")
    pixels = check(tmp_path / "curves.png", 1320, 440)
    assert inked(pixels[:, :440], BLUE) > 100
    assert inked(pixels[:, 440:], BLUE) == 0


@pytest.mark.slow
def test_a_picture_is_complete_or_not_there(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match=r"file is a file, so .* cannot be in it"):
        draw_curves(records(rows(2)), TABLE, tmp_path / "file" / "curves.png")
    draw_curves(records(rows(2)), TABLE, tmp_path / "curves.png")
    draw_curves(records(rows(3)), TABLE, tmp_path / "curves.png")
    assert sorted(os.listdir(tmp_path)) == ["curves.png", "file"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["$\\frac{$", "_hidden", "$x$ & <y>", "100 % {a}"])
def test_class_names_are_shown_as_they_are(tmp_path, name):
    table = ClassTable((LandClass(0, name, "#1f77b4"), *TABLE.classes[1:]))
    history = [row | {f"iou_{name}": 0.9} for row in rows(3)]
    draw_curves(records(history), table, tmp_path / "named.png")
    pixels = check(tmp_path / "named.png", 1320, 440)
    assert inked(pixels[:, 880:], BLUE) > 300


def test_columns_that_come_later_are_drawn(tmp_path):
    history = [{"epoch": 1, "step": 3, "loss": 0.2}, *rows(5)[1:]]
    draw_curves(records(history), TABLE, tmp_path / "curves.png")
    pixels = check(tmp_path / "curves.png", 1320, 440)
    assert inked(pixels[:, 440:880], BLUE) > 200
    (miou,) = lines_of(records(history), ["miou", "unknown"])
    assert (miou.name, math.isnan(miou.values[0])) == ("mIoU", True)


# --- as SVG ------------------------------------------------------------------------------------


def parts(svg: str, tag: str, kind: str) -> list[dict[str, str]]:
    return [e.attrib for e in ElementTree.fromstring(svg).iter(tag) if e.get("class") == kind]


def points(path: str) -> list[tuple[float, float]]:
    numbers = [float(part) for part in path.split() if part not in "ML"]
    return list(zip(numbers[::2], numbers[1::2], strict=True))


def ticks(svg: str) -> dict[float, float]:
    """Return the numbers beside the y axis, and the places of their baselines."""
    texts = ElementTree.fromstring(svg).iter("text")
    return {
        float(e.text.replace("\N{MINUS SIGN}", "-")): float(e.get("y"))
        for e in texts
        if e.get("text-anchor") == "end"
    }


def test_lines():
    svg = to_svg(Chart("loss", [1, 2, 3], [Line("a", [3, 2, 1]), Line("b", [1, 1, 1])]))
    first, second = (points(p["d"]) for p in parts(svg, "path", "line"))
    assert len(first) == 3
    assert [y for _, y in first] == sorted(y for _, y in first)  # falls: y grows downwards
    assert first[-1] == second[-1]
    assert first[0][0] == second[0][0]


def test_the_scale_is_written_at_its_height():
    svg = to_svg(Chart("iou", [1, 2], [Line("a", [0.5, 1.0])], top=1))
    (_, low), (_, high) = points(parts(svg, "path", "line")[0]["d"])
    found = ticks(svg)
    assert max(found) == 1
    assert 0 < found[1] - high < 6
    slope = (found[0.6] - found[1]) / 0.4
    assert low - high == pytest.approx(0.5 * slope, abs=0.1)
    assert len(parts(svg, "path", "grid")) == len(found)


@pytest.mark.parametrize("values", [[1, 2, 3], [0.5, 0.4], [-2, 5], [7]])
def test_zero_is_on_the_scale(values):
    assert 0 in ticks(to_svg(Chart("x", range(len(values)), [Line("a", values)])))


def test_a_gap_breaks_a_line_and_a_lone_point_is_a_dot():
    svg = to_svg(Chart("loss", range(1, 7), [Line("a", [1, 2, NAN, 3, NAN, NAN])]))
    (line,) = parts(svg, "path", "line")
    (dot,) = parts(svg, "circle", "dot")
    assert line["d"].count("L") == 1
    assert float(dot["cx"]) > points(line["d"])[1][0]


@pytest.mark.parametrize("values", [[], [NAN], [math.inf]])
def test_nothing_to_draw(values):
    assert Chart("x", range(len(values)), [Line("a", values)] * bool(values)).is_empty


def test_infinite_values_are_gaps():
    svg = to_svg(Chart("x", range(4), [Line("a", [1, math.inf, 2, -math.inf])]))
    assert len(parts(svg, "circle", "dot")) == 2
    assert "inf" not in svg.partition(">")[2]


def test_one_epoch():
    svg = to_svg(Chart("x", [4], [Line("a", [0.0])], mark=4))
    assert len(parts(svg, "circle", "dot")) == 1
    assert "nan" not in svg
    assert len(parts(svg, "path", "mark")) == 1
    assert [e.text for e in ElementTree.fromstring(svg).iter("text")][:2] == ["4", "epoch"]


def test_a_long_run_is_thinned_out_and_ends_where_it_ends():
    epochs = range(1, 5002)
    values = np.random.default_rng(0).random(5001).tolist()
    svg = to_svg(Chart("x", epochs, [Line("a", values)], top=1))
    found = points(parts(svg, "path", "line")[0]["d"])
    assert 300 < len(found) <= 401
    ends = to_svg(Chart("x", epochs[::5000], [Line("a", values[::5000])], top=1))
    (left, _), (right, _) = points(parts(ends, "path", "line")[0]["d"])
    assert (found[0][0], found[-1][0]) == pytest.approx((left, right), abs=9)
    assert len(svg) < 20_000


def test_lines_differ_without_colours():
    chart = Chart("x", [1, 2], [Line(n, [1, 2]) for n in "abcd"])
    lines = parts(to_svg(chart), "path", "line")
    drawn = {re.sub(r"stroke: #\w+", "", line["style"]) for line in lines}
    assert len(drawn) == len({dashes for _, dashes in chart.styles}) == 4


def test_the_legend_has_the_colours_and_dashes_of_the_lines():
    chart = Chart("x", [1, 2], [Line(n, [1, 2]) for n in "abcdefghi"])
    drawn = parts(to_svg(chart), "path", "line")
    for line, (color, dashes) in zip(drawn, chart.styles, strict=True):
        assert f"stroke: {color}" in line["style"]
        found = re.search(r"stroke-dasharray: ([\d.,]+)", line["style"])
        assert tuple(map(float, found[1].split(",") if found else ())) == pytest.approx(dashes)


def test_who_cannot_see_is_told():
    chart = Chart("<loss>", [1, 9], [Line("a & b", [2.5, 0.5])])
    svg = to_svg(chart)
    label = ElementTree.fromstring(svg).get("aria-label")
    assert label == chart.description == "<loss>, epochs 1 to 9: a & b from 2.5 to 0.5"
    assert "<loss>" not in svg


@settings(max_examples=10, deadline=None)
@given(st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=1))
def test_names_stay_text(name):
    svg = to_svg(Chart(name, [1, 2], [Line(name, [1, 2]), Line(name, [3, NAN])]))
    root = ElementTree.fromstring(svg)
    assert root.get("aria-label").startswith(f"{name}, epochs 1 to 2: {name} from 1 to 2")
    assert {e.tag for e in root.iter()} == {"svg", "text", "path", "circle"}


def test_drawings_share_a_page():
    """No ids that could be there twice, no reference to another place, the same bytes again."""
    chart = Chart("x", [1, 2, 3], [Line("a", [1, 2, NAN]), Line("b", [NAN, NAN, 1])], mark=2)
    svg = to_svg(chart)
    assert svg == to_svg(chart)
    known = {"class", "d", "style", "x", "y", "text-anchor", "cx", "cy", "r"}
    first, *rest = ElementTree.fromstring(svg).iter()
    assert set(first.attrib) == {"viewBox", "role", "aria-label"}
    assert {name for e in rest for name in e.attrib} <= known
    assert "url(" not in svg


def luminance(color: str) -> float:
    """Relative luminance by WCAG 2.1."""
    rgb = [v / 255 for v in bytes.fromhex(color[1:])]
    linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in rgb]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("paper", ["#ffffff", "#15181c"])
@given(st.binary(min_size=3, max_size=3))
@example(b"\xff\xff\x33")
@example(b"\x00\x00\x00")
@example(b"\xff\xff\xff")
@example(b"\x00vL")
def test_colours_are_seen_on_white_and_on_black(paper, rgb):
    ((found, _),) = Chart("x", [1], [Line("a", [1], f"#{rgb.hex()}")]).styles
    light, dark = sorted((luminance(found), luminance(paper)), reverse=True)
    assert (light + 0.05) / (dark + 0.05) >= 3
    ((again, _),) = Chart("x", [1], [Line("a", [1], found)]).styles
    assert again == found


def test_default_colours_are_readable_as_they_are():
    lines = [Line(n, [1]) for n in "abcdefgh"]
    assert len({color for color, _ in Chart("x", [1], lines).styles}) == 8
    assert Chart("x", [1], lines).styles[0][0] == BLUE


@pytest.mark.parametrize("color", ["#1f77b4", "#2e8b3d", "#7f7f7f"])
def test_readable_colours_of_classes_stay(color):
    assert Chart("x", [1], [Line("a", [1], color)]).styles == [(color, ())]


@pytest.mark.slow
@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC, errno.EDQUOT])
def test_tensorboard_that_cannot_write_is_one_error(tmp_path, monkeypatch, capfd, number):
    def fail(self, content):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("tensorboard.summary.writer.record_writer.RecordWriter.write", fail)
    with pytest.raises(OutputError, match=f"cannot write .*tensorboard: {os.strerror(number)}$"):
        write_history(tmp_path, records(rows(2)), TABLE, {})
    assert "Traceback" not in capfd.readouterr().err
    assert not (tmp_path / "history.csv").exists()
