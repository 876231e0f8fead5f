"""docs/api.md: the functions that scripts may import are there, and say what they take."""

import inspect
import re
from importlib import import_module
from pathlib import Path

import pytest

from cafe_cli.cli.main import cli
from tests.support.warm_cafe import SHORT

PAGE = (Path(__file__).parents[2] / "docs" / "api.md").read_text(encoding="utf-8")
NAMES = list(dict.fromkeys(re.findall(r"`(cafe_cli(?:\.\w+)+)`", PAGE)))
SCRIPTS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)

LONG = '{"train.epochs": 1}'
"""Settings of a script, in place of which the test takes those of the smallest training."""

NO_FUNCTION = {"completion", "config"}
"""Commands that are about the command line itself."""


def look_up(dotted: str) -> object:
    module, _, name = dotted.rpartition(".")
    return getattr(import_module(module), name)


def documented(doc: str) -> set[str]:
    """Return the parameters that a numpy docstring explains."""
    _, _, rest = doc.partition("Parameters\n----------\n")
    section = re.split(r"\n\n\w+\n-+\n", rest)[0]
    lines = re.findall(r"^(\w+(?:, \w+)*)(?: : .*)?$", section, re.MULTILINE)
    return {name for line in lines for name in line.split(", ")}


@pytest.mark.parametrize("dotted", NAMES)
def test_what_is_promised_is_there_and_explained(dotted):
    thing = look_up(dotted)
    doc = inspect.getdoc(thing) or ""
    assert doc.splitlines()[0].endswith((".", ";")), doc
    if not inspect.isclass(thing):
        assert callable(thing)
        signature = inspect.signature(thing)
        assert documented(doc) == set(signature.parameters)
        assert signature.return_annotation is not inspect.Signature.empty
        assert re.search(r"^Raises\n------$", doc, re.MULTILINE)


def test_every_command_has_its_function():
    rows = re.findall(r"^\| `(cafe_cli[\w.]+)` \| `(\w+)` \|", PAGE, re.MULTILINE)
    assert {command for _, command in rows} == set(cli.commands) - NO_FUNCTION


@pytest.mark.slow
def test_the_scripts_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert [script.count(LONG) for script in SCRIPTS] == [1, 0]
    for script in SCRIPTS:
        short = script.replace(LONG, repr({"tile.overlap": 0, **SHORT}))
        exec(compile(short, "docs/api.md", "exec"), {})
    assert re.search(r"mean IoU 0\.\d\d\n\(3, 256, 256\) \d", capsys.readouterr().out)
