"""The templates lay plain values out, and no value becomes markup."""

from importlib.resources import files

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jinja2 import UndefinedError

from cafe_cli.pages.tables import Cell, Table
from cafe_cli.training.curves import Chart, Line
from cafe_cli.training.report.page import templates
from tests.support.pages import Page

macros = templates().get_template("macros.html.jinja").module
chart_macros = templates().get_template("charts.html.jinja").module

# A parser takes a carriage return for the end of a line, and NUL for nothing.
anything = st.text().map(lambda text: text.replace("\r", "").replace("\0", ""))


def test_tables():
    cells = ["a", Cell("b", "#ff0000", " c"), Cell("50 %", note="1", share=0.5, kind="wrong")]
    found = Page(macros.table(Table("all", ["x", "y", "z"], [cells], "Look:", kind="matrix")))
    assert (found.open, found.wrong) == ([], [])
    assert "".join(found.text.split("\n")) == "Look:allxyzab c50 %1"
    assert found.of("td")[1] == {"class": "wrong", "style": "--share:0.500"}
    assert found.of("table") == [{"class": "numbers matrix"}]
    assert [attrs["style"] for attrs in found.of("span")] == ["background:#ff0000"]


@given(anything, anything)
def test_text_stays_text(text, note):
    cells = [text, Cell(text, note=note), Cell(text, note=note, share=1, kind="right")]
    found = Page(macros.table(Table(text, [text] * 3, [cells])))
    tags = ["div", "table", "caption", "thead", "tr", "th", "th", "th"]
    tags += ["tbody", "tr", "th", "td", "td", "b", "small"]
    assert [tag for tag, _ in found.elements] == tags
    assert found.elements[0][1]["aria-label"] == text
    assert found.text.count(text) >= 7


@pytest.mark.slow
@pytest.mark.parametrize("text", ["<script>alert(1)</script>", "a & b", '"><img src=x>', "&lt;"])
def test_names_of_lines_stay_text(text):
    plain, named = (
        Page(chart_macros.charts([Chart(name, [1, 2], [Line(name, [1, 2]), Line("b", [2, 1])])]))
        for name in ("a", text)
    )
    assert [tag for tag, _ in named.elements] == [tag for tag, _ in plain.elements]
    assert named.text.count(text) == 2  # title and legend


@pytest.mark.parametrize("text", ["<script>alert(1)</script>", "a & b", '"><img src=x>', "&lt;"])
def test_names_of_tiles_stay_text(text):
    panel = {"title": text, "note": text, "source": "data:image/png;base64,", "width": 1}
    tile = {"name": text, "mistake": text, "place": text, "panels": [panel | {"height": 1}]}
    found = Page(macros.pictures(tile, "tile " + text))
    assert [tag for tag, _ in found.elements] == [
        "figure", "figcaption", "small", "small", "div", "div", "img",
    ]  # fmt: skip
    assert found.of("img")[0]["alt"] == f"{text} of tile {text}"
    assert found.text.count(text) == 5


def test_a_chart_without_values_is_left_out():
    chart = Chart("loss", [1, 2], [Line("a", [float("nan")] * 2)])
    assert Page(chart_macros.charts([chart])).elements == [("div", {"class": "charts"})]


def test_a_value_that_is_missing_is_an_error():
    with pytest.raises(UndefinedError, match="'title' is undefined"):
        templates().get_template("page.html.jinja").render()


@pytest.mark.parametrize(
    ("package", "name"),
    [
        ("training.report", "page.html.jinja"), ("training.report", "charts.html.jinja"),
        ("pages", "base.html.jinja"), ("pages", "macros.html.jinja"), ("pages", "page.css"),
    ],
)  # fmt: skip
def test_templates_belong_to_the_packages(package, name):
    assert files(f"cafe_cli.{package}").joinpath(name).is_file()
    assert name in templates().list_templates()
