"""docs/troubleshooting.md quotes messages that the program has."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import cafe_cli

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
QUOTED = re.findall(r"^\| `([^`]+)` \|", PAGE, re.M)


def texts(tree: ast.AST) -> Iterator[str]:
    """Yield every string of a module, with … for what is filled in."""
    parts = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            parts |= {id(part) for part in node.values}
            yield "".join(
                str(part.value) if isinstance(part, ast.Constant) else "…" for part in node.values
            )
        elif isinstance(node, ast.Constant) and id(node) not in parts:
            yield str(node.value)


@pytest.fixture(scope="module")
def messages():
    files = Path(cafe_cli.__file__).parent.rglob("*.py")
    return [text for file in files for text in texts(ast.parse(file.read_text(encoding="utf-8")))]


def test_there_are_enough():
    assert len(QUOTED) >= 40


@pytest.mark.parametrize("quoted", QUOTED)
def test_a_quoted_message_is_in_the_code(messages, quoted):
    assert [text for text in messages if quoted.removesuffix(" …").rstrip("…") in text]
