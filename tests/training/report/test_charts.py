import math
import re
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cafe_cli.training.report.charts import Line, _readable, _ticks, line_chart
from tests.training.report.test_markup import read

NAN = math.nan


def parts(chart: str, tag: str, kind: str) -> list[dict]:
    return [attrs for name, attrs in read(chart).tags if name == tag and attrs.get("class") == kind]


def points(path: str) -> list[tuple[float, float]]:
    return [tuple(map(float, pair.split())) for pair in re.findall(r"[ML]([\d. -]+)", path)]


def test_lines():
    chart = line_chart("loss", [1, 2, 3], [Line("a", [3, 2, 1]), Line("b", [1, 1, 1])])
    first, second = (points(p["d"]) for p in parts(chart, "path", "line"))
    assert [x for x, _ in first] == [x for x, _ in second]
    assert [y for _, y in first] == sorted(y for _, y in first)  # falls: y grows downwards
    assert first[-1] == second[-1]
    assert read(chart).text.count("a ") >= 3
    assert "epoch 2\na 2\nb 1" in read(chart).text


def test_the_scale_is_written_at_its_height():
    chart = line_chart("iou", [1, 2], [Line("a", [0.5, 1.0])], top=1)
    ticks = dict(re.findall(r'y="([\d.]+)" text-anchor="end">([\d.]+)<', chart))
    (_, low), (_, high) = points(parts(chart, "path", "line")[0]["d"])
    assert {ticks[str(low + 4)], ticks[str(high + 4)]} == {"0.5", "1"}


def test_a_gap_breaks_a_line_and_a_lone_point_is_a_dot():
    chart = line_chart("loss", range(1, 7), [Line("a", [1, 2, NAN, 3, NAN, NAN])])
    (line,) = parts(chart, "path", "line")
    assert (line["d"].count("M"), line["d"].count("L")) == (2, 1)
    assert chart.count("<circle") == 1


@pytest.mark.parametrize("values", [[], [NAN], [math.inf]])
def test_nothing_to_draw(values):
    assert line_chart("x", range(len(values)), [Line("a", values)] * bool(values)) == ""


def test_one_epoch():
    chart = line_chart("x", [4], [Line("a", [0.0])], mark=4)
    assert chart.count("<circle") == 1
    assert "nan" not in chart
    assert len(parts(chart, "line", "mark")) == 1


def test_a_long_run_is_thinned_out_and_ends_where_it_ends():
    epochs = range(1, 5002)
    chart = line_chart("x", epochs, [Line("a", [1 / e for e in epochs])])
    columns = parts(chart, "rect", "column")
    assert 300 < len(columns) <= 401
    assert "epoch 5001" in read(chart).text
    assert len(chart) < 100_000


def test_columns_lie_side_by_side():
    chart = line_chart("x", [1, 2, 4], [Line("a", [1, 2, 3])])
    columns = parts(chart, "rect", "column")
    ends = [float(c["x"]) + float(c["width"]) for c in columns]
    assert ends[:-1] == pytest.approx([float(c["x"]) for c in columns[1:]], abs=0.2)


def test_lines_differ_without_colours():
    chart = line_chart("x", [1, 2], [Line(n, [1, 2]) for n in "abcd"])
    styles = [p.get("stroke-dasharray") for p in parts(chart, "path", "line")]
    assert len(set(styles)) == 4


def test_who_cannot_see_is_told():
    chart = line_chart("<loss>", [1, 9], [Line("a & b", [2.5, 0.5])])
    (drawing,) = [attrs for tag, attrs in read(chart).tags if "aria-label" in attrs]
    assert drawing["aria-label"] == "<loss>, epochs 1 to 9: a & b from 2.5 to 0.5"
    assert "<loss>" not in chart


@pytest.mark.parametrize("color", ["#ffffff", "#000000", "#ffff33", "#2e8b3d"])
def test_colours_are_seen_on_white_and_on_black(color):
    rgb = bytes.fromhex(_readable(color)[1:])
    assert 100 < (max(rgb) + min(rgb)) / 2 < 155


@given(st.floats(-1e6, 1e6), st.floats(0, 1e6))
def test_ticks_enclose_what_is_drawn(low, width):
    ticks = _ticks(low, low + width)
    steps = {round((b - a) / (ticks[1] - ticks[0]), 3) for a, b in pairwise(ticks)}
    assert 2 <= len(ticks) <= 12
    assert steps == {1.0}
    slack = 1e-6 * (abs(low) + width + 1)
    assert ticks[0] <= low + slack
    assert ticks[-1] >= low + width - slack
