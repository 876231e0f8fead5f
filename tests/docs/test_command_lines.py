"""Every command line of the documentation runs as it is printed, page by page."""

import re
import shlex
import tempfile
from pathlib import Path

import pytest

from cafe_cli.cli.main import cli
from tests.support.documentation import PAGES, Stage, blocks, steps

TEXTS = {page.stem: page.read_text(encoding="utf-8") for page in PAGES}
RUN = [name for name, text in TEXTS.items() if any(s.kind == "run" for s in steps(text))]
INLINE = re.compile(r"`(cafe [^`]+)`")


@pytest.fixture(scope="module")
def stage():
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:  # a short path, for a socket is in it
        prepared = Stage(Path(folder))
        try:
            prepared.start()
            yield prepared
        finally:
            prepared.stop()


@pytest.mark.slow
@pytest.mark.parametrize("name", RUN)
def test_the_commands_of_a_page_run(stage, tmp_path, name):
    stage.follow(TEXTS[name], tmp_path)


@pytest.mark.parametrize("name", TEXTS)
def test_commands_are_in_blocks_that_are_run(name):
    """A block of another language, or without one, would hide a command line from the test."""
    hidden = [
        block.line
        for block in blocks(TEXTS[name])
        if block.language != "sh" and re.search(r"^\s*\$? ?(cafe|torchrun) ", block.text, re.M)
    ]
    assert hidden == []


@pytest.mark.parametrize("name", TEXTS)
def test_blocks_that_are_not_run_say_why(name):
    reasons = [b.before[1] for b in blocks(TEXTS[name]) if b.before[0] == "not run"]
    assert [reason for reason in reasons if len(reason.split()) < 3] == []


@pytest.mark.parametrize("name", TEXTS)
def test_options_in_the_prose_exist(name):
    """Of `cafe COMMAND --option` in a sentence, command and options are those of the program."""
    for words in map(words_of, INLINE.findall(TEXTS[name])):
        if len(words) < 2 or not re.match("[a-z]", words[1]):
            continue
        command = cli.commands.get(words[1])
        assert command is not None, words
        known = {o for p in command.params for o in (*p.opts, *p.secondary_opts)} | {"--help", "-h"}
        assert {w.partition("=")[0] for w in words if re.match("--?[a-z]", w)} <= known, words


def words_of(line: str) -> list[str]:
    try:
        return shlex.split(line)
    except ValueError:  # a quotation mark that the sentence goes on after
        return line.split()


def test_the_reader_of_pages_sees_what_there_is():
    page = """
<!-- needs: map.tif town.tif=ortho.tif -->
```toml title="site.toml"
[tile]
```
<!-- not run: it would take an hour -->
```sh
cafe demo
```
<!-- by hand: by-hand interpret a b -->
<!-- runs with: gdalwarp -->
```sh
cafe info map.tif  # a comment
cafe info \\
  town.tif
```
"""
    found = [(s.kind, s.line, s.name, s.text) for s in steps(page)]
    assert found == [
        ("copy", 2, "", "map.tif town.tif=ortho.tif"),
        ("write", 3, "site.toml", "[tile]\n"),
        ("run", 10, "", "by-hand interpret a b"),
        ("run", 12, "gdalwarp", "cafe info map.tif  # a comment\ncafe info \\\n  town.tif\n"),
    ]


@pytest.mark.slow
def test_a_command_that_fails_fails_the_page(stage, tmp_path):
    page = "```sh\ncafe info nothing.tif\ncafe --version\n```\n"
    with pytest.raises(AssertionError, match=r"nothing\.tif"):
        stage.follow(page, tmp_path)
