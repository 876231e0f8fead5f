"""docs/architecture.md: its pictures show the code as it is."""

import importlib.util
import re
from pathlib import Path
from xml.etree import ElementTree

import cafe_cli

ROOT = Path(__file__).parents[2]
PACKAGE = Path(cafe_cli.__file__).parent

_spec = importlib.util.spec_from_file_location("architecture", ROOT / "docs" / "architecture.py")
assert _spec is not None
assert _spec.loader is not None
pictures = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(pictures)


def words(picture: str) -> list[str]:
    return [node.text or "" for node in ElementTree.fromstring(picture).iter() if node.text]


def test_the_pictures_are_up_to_date():
    for name, drawn in (
        ("rooms.svg", pictures.draw_rooms()),
        ("pixel.svg", pictures.draw_way_of_a_pixel()),
    ):
        kept = (ROOT / "docs" / name).read_text(encoding="utf-8")
        assert kept == drawn, f"{name}: run python docs/architecture.py"


def test_every_room_is_in_the_picture_and_explained():
    shown = words(pictures.draw_rooms())
    there = {path.stem for path in PACKAGE.iterdir() if not path.name.startswith(("_", "py."))}
    assert there <= set(shown)
    assert there <= set(pictures.read_meanings())


def test_every_station_of_a_pixel_is_a_file():
    stations = pictures.read_stations()
    assert [name for name, *_ in stations] == [
        "files", "scene", "window", "network", "blend", "strip", "map",
    ]  # fmt: skip
    assert [file for _, _, file, _ in stations if not (PACKAGE / file).is_file()] == []
    shown = " ".join(words(pictures.draw_way_of_a_pixel()))
    assert not re.search(r"[`*]", shown)
