from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cafe_cli.training.report.markup import Markup, element, join


class Reader(HTMLParser):
    """Collects what an HTML parser sees."""

    def __init__(self):
        super().__init__()
        self.tags, self.text = [], ""

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data


def read(markup: str) -> Reader:
    reader = Reader()
    reader.feed(markup)
    reader.close()
    return reader


def test_elements():
    cell = element("td", "a", element("b", 1.5), None, class_="x", aria_label="y", title=None)
    assert cell == '<td class="x" aria-label="y">a<b>1.5</b></td>'
    assert element("img", src="s", alt="") == '<img src="s" alt="">'
    assert element("p") == "<p></p>"


# A parser takes a carriage return for the end of a line, and NUL for nothing.
anything = st.text().map(lambda text: text.replace("\r", "").replace("\0", ""))


@given(anything, anything)
def test_text_stays_text(text, value):
    seen = read(element("p", text, title=value))
    assert seen.tags == [("p", {"title": value})]
    assert seen.text == text


@pytest.mark.parametrize("text", ["<script>alert(1)</script>", "a & b", '"><img src=x>', "&lt;"])
def test_only_markup_is_markup(text):
    assert read(join(text)).tags == []
    assert read(join("<b>", element("i", "x"))).tags == [("i", {})]
    assert read(join(f"{element('i')}")).tags == []
    assert join(Markup(text)) == text
