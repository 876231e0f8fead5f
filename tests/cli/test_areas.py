"""``cafe areas`` prints and writes tables of a map, or of zones in it."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import shapely
from pyogrio.raw import write as write_vectors

from tests.support.rasters import grid, write

pytest_plugins = ["tests.support.fixtures"]

CONFIG = """
classes = [
  { id = 0, name = "ground", color = "#ffffff" },
  { id = 1, name = "tree", color = "#00ff00" },
]
"""
IDS = np.repeat([[0], [1]], 20, axis=0).repeat(30, axis=1).astype(np.uint8)


@pytest.fixture
def files(tmp_path):
    where = grid(30, 40, pixel=2)
    (tmp_path / "c.toml").write_text(CONFIG)
    corners = [where.transform * corner for corner in ((0, 0), (10, 25.5))]
    zone = shapely.to_wkb(shapely.box(*corners[0], *corners[1]))
    write_vectors(
        str(tmp_path / "z.gpkg"), np.array([zone], object), [np.array(["north"], object)],
        ["parcel"], geometry_type="Polygon", crs="EPSG:25832",
    )  # fmt: skip
    return write(tmp_path / "map.tif", IDS, where), "-c", tmp_path / "c.toml"


def test_a_map(invoke, files, tmp_path):
    output = tmp_path / "areas.csv"
    code, said = invoke("areas", *files, "-o", output)
    assert code == 0
    assert "2,400" in said.err
    assert [row["square_metres"] for row in csv.DictReader(output.read_text().splitlines())] == [
        "2400.0"
    ] * 2
    code, said = invoke("areas", *files, "-o", output)
    assert code == 1
    assert "exists" in said.err


def test_zones(invoke, files, tmp_path):
    words = ("areas", *files, "--zones", tmp_path / "z.gpkg", "--zone-name", "parcel")
    code, said = invoke(*words, "-o", tmp_path / "areas.json", "--json")
    assert code == 0
    (zone,) = json.loads(said.out)["zones"]
    assert zone == json.loads((tmp_path / "areas.json").read_text())["zones"][0]
    assert zone["name"] == "north"
    assert zone["classes"]["ground"]["square_metres"] == pytest.approx(10 * 20 * 4, rel=1e-4)
    assert zone["classes"]["tree"]["square_metres"] == pytest.approx(10 * 5.5 * 4, rel=1e-4)
    code, said = invoke(*words)
    assert (code, said.out) == (0, "")
    assert [word for word in ("north", "800", "220") if word not in said.err] == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--zone-name", "parcel"), "--zone-name needs --zones"),
        (("-o", "areas.txt"), "name a .csv or .json file"),
        (("--zones", "missing.gpkg"), "missing.gpkg"),
        (("--zones", "z.gpkg", "-o", "z.gpkg", "--overwrite"), "name a .csv or .json"),
    ],
)
def test_mistakes(invoke, files, monkeypatch, words, message):
    monkeypatch.chdir(Path(files[0]).parent)
    code, said = invoke("areas", *files, *words)
    assert code in (1, 2)
    assert message in said.err
    assert len(said.err.strip().splitlines()) == 1
