"""CONTRIBUTING.md names what is there."""

import re
from pathlib import Path

import cafe_cli

ROOT = Path(__file__).parents[1]
PACKAGE = Path(cafe_cli.__file__).parent
TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in TEXT.splitlines()
    if line.startswith("|")
]


def test_every_package_and_module_is_on_the_map():
    named = {name for first, *_ in ROWS for name in re.findall(r"`(\w+)`", first)}
    there = {path.stem for path in PACKAGE.iterdir() if not path.name.startswith(("_", "py."))}
    assert there <= named
    assert named <= there


def test_front_doors_are_where_the_map_says():
    doors = [(first.strip("`"), last) for first, *_, last in ROWS if len(_) == 1]
    found = 0
    for package, names in doors:
        for name in re.findall(r"`(\w+)`", names):
            folder = PACKAGE / package
            assert (folder / f"{name}.py").exists() or folder.with_suffix(".py").exists()
            found += 1
    assert found > 10


def test_a_stranger_finds_the_file():
    answers = [last.strip("`") for _, last in (row for row in ROWS if len(row) == 2)]
    files = [answer for answer in answers if answer.endswith(".py")]
    assert len(files) >= 12
    assert [file for file in files if not (PACKAGE / file).exists()] == []
